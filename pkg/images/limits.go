// SPDX-License-Identifier: Apache-2.0

package images

import "time"

// What an image may cost. They are far above real images (the largest
// driver-toolkit image measured: 0.45 GB fetched, 1.3 GB unpacked, 24 000
// entries, 500 modules) and far below what hurts a node.
const (
	maxManifest   = 4 << 20  // bytes of a manifest or an index
	maxIndexDepth = 2        // an index in an index
	maxLayers     = 128      // of an image
	maxImageSize  = 8 << 30  // compressed bytes of all layers
	maxUnpacked   = 32 << 30 // bytes of all tar streams
	maxEntries    = 400_000  // tar entries, and directories they imply
	maxPathLength = 4096     // bytes of a name or of a link's target, as PATH_MAX
	maxNameLength = 255      // bytes of one component, as NAME_MAX
	maxLinkHops   = 40       // symlinks on one path, as MAXSYMLINKS
	maxFiles      = 32_768   // files taken out of an image
	maxLinks      = 65_000   // names of a file, on ext4 (fs/ext4/ext4.h: EXT4_LINK_MAX)
	maxFileSize   = 1 << 30  // bytes of one of them
	maxSelected   = 4 << 30  // bytes of all of them
	maxZstdWindow = 128 << 20
	maxRedirects  = 10 // redirects of one request

	// Entries that may be merged only to find out whether older layers are
	// needed, each time anew; beyond that all layers are read.
	maxEarlyMerges = 4 * maxEntries
)

// Listings of layers that need not be fetched again.
const (
	maxListedEntries   = 100_000   // of a layer; one with more is not listed
	maxListing         = 8 << 20   // bytes of one
	maxUnpackedListing = 128 << 20 // the same as JSON
	maxListings        = 32 << 20  // bytes of all in a store
)

// What is held in memory of a blob that arrives, and how much of the next layer
// is taken in before it is known whether that layer is needed. The buffers on
// the way hold more: on a loopback interface another 4 MB. So a layer that is
// prefetchRatio times as large as all the newer ones is waited for.
const (
	readAhead     = 1 << 20
	readChunk     = 64 << 10
	prefetch      = 128 << 10
	prefetchRatio = 4
)

// How long things may take.
const (
	pullTimeout      = 30 * time.Minute // one Ensure that needs the registry
	dialTimeout      = 10 * time.Second
	headerTimeout    = 30 * time.Second // from the request to the first byte of the answer
	stallWindow      = 30 * time.Second // a body must make progress in each window of waiting …
	stallMinimum     = 16 << 10         // … of at least so many bytes
	retryAttempts    = 3                // of a request the registry asks to repeat
	retryDelay       = time.Second      // before the first repetition, then doubled
	maxRetryAfter    = time.Minute      // a registry that asks to wait for longer is given up
	opensPerEndpoint = 2                // times a blob is asked of one endpoint before another has a go
	resumeAttempts   = 5                // connections in a row …
	resumeProgress   = 1 << 20          // … that bring less than so many bytes of a layer
	parallelLayers   = 2                // the one that is read and the next
	parallelSyncs    = 4                // fsync at the same time
)

// limits are the numbers a test lowers.
type limits struct {
	imageSize, unpacked, fileSize, selected int64
	entries, files                          int
	stallWindow, retryDelay                 time.Duration
}

func defaultLimits() limits {
	return limits{
		imageSize: maxImageSize, unpacked: maxUnpacked, fileSize: maxFileSize, selected: maxSelected,
		entries: maxEntries, files: maxFiles,
		stallWindow: stallWindow, retryDelay: retryDelay,
	}
}
