// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// layout is an OCI image layout (image-spec, image-layout.md), a directory or
// an archive of one. It is a source. Whoever could write to it is trusted no
// more than a registry.
type layout struct {
	ref   localRef
	files layoutFiles
	index *v1.IndexManifest // index.json
}

// layoutFiles are the files of a layout by their path in it.
type layoutFiles interface {
	// open returns a regular file. The caller closes it.
	open(name string) (*layoutFile, error)
	Close() error
}

// layoutFile is an open file; closer is nil when there is nothing to close.
type layoutFile struct {
	*io.SectionReader
	closer io.Closer
}

// Close lets go of the file.
func (f *layoutFile) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// openLayout opens what ref names. A path that is not there may be one that is
// not mounted yet: that is ErrUnreachable, as a registry that is down.
func openLayout(ctx context.Context, ref localRef) (*layout, error) {
	info, err := os.Stat(ref.path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w: check the path, and that its file system is mounted", ErrUnreachable, err)
	}
	l := &layout{ref: ref}
	switch {
	case ref.scheme == schemeLayout && !info.IsDir():
		return nil, fmt.Errorf("%w: %s is no directory: an archive is named oci-archive:%s", ErrInvalidRef, ref.path, ref.path)
	case ref.scheme == schemeArchive && !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is no regular file: a directory is named oci:%s", ErrInvalidRef, ref.path, ref.path)
	case ref.scheme == schemeLayout:
		l.files, err = openDirectory(ref.path)
	default:
		l.files, err = openArchive(ctx, ref.path)
	}
	if err != nil {
		return nil, err
	}
	if err := l.readIndex(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close lets go of the directory or the archive.
func (l *layout) Close() { _ = l.files.Close() }

// readIndex reads the two files that make a directory a layout.
func (l *layout) readIndex() error {
	raw, err := l.read(v1LayoutFile, maxLayoutFile)
	var version struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err == nil && (json.Unmarshal(raw, &version) != nil || version.Version != "1.0.0") {
		err = fmt.Errorf("%w: %s does not say imageLayoutVersion 1.0.0", ErrUnsafe, v1LayoutFile)
	}
	if err == nil {
		raw, err = l.read("index.json", maxManifest)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is no OCI image layout: %w: make one with skopeo copy … %s:%s:TAG",
			ErrNotFound, l.ref.path, err, l.ref.scheme, l.ref.path)
	}
	if err != nil {
		return err
	}
	l.index, err = v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("%w: parse index.json: %w", ErrUnsafe, err)
	}
	return nil
}

const (
	v1LayoutFile  = "oci-layout"
	maxLayoutFile = 1 << 10 // bytes of that file
)

// read returns a whole file of at most limit bytes.
func (l *layout) read(name string, limit int64) ([]byte, error) {
	f, err := l.files.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Size() > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, more than %d", ErrLimit, name, f.Size(), limit)
	}
	b := make([]byte, f.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, onDisk(fmt.Errorf("read %s of %s: %w", name, l.ref.path, err))
	}
	return b, nil
}

// manifest implements source. The empty identifier is the only image.
func (l *layout) manifest(_ context.Context, identifier string) ([]byte, string, error) {
	digest := identifier
	if !isDigest(identifier) {
		desc, err := l.find(identifier)
		if err != nil {
			return nil, "", err
		}
		digest = desc.Digest.String()
	}
	if !isDigest(digest) {
		return nil, "", fmt.Errorf("%w: index.json has the digest %q, which is not sha256", ErrUnsafe, digest)
	}
	raw, err := l.read(blobPath(digest), maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", l.lacks("manifest", digest)
	}
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(raw)
	if got := "sha256:" + hex.EncodeToString(sum[:]); got != digest {
		return nil, "", fmt.Errorf("%w: the file %s has content that is %s", ErrDigest, blobPath(digest), got)
	}
	return raw, digest, nil
}

// blob implements source.
func (l *layout) blob(_ context.Context, desc v1.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	f, err := l.files.open(blobPath(desc.Digest.String()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, l.lacks("layer", desc.Digest.String())
	}
	if err != nil {
		return nil, 0, err
	}
	if f.Size() != desc.Size {
		defer f.Close()
		return nil, 0, fmt.Errorf("%w: layer %s has %d bytes, the manifest says %d", ErrDigest, desc.Digest, f.Size(), desc.Size)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		defer f.Close()
		return nil, 0, onDisk(err)
	}
	return f, offset, nil
}

// distrust implements source.
func (l *layout) distrust(v1.Descriptor) {}

// elsewhere implements source: there is one place only.
func (l *layout) elsewhere() bool { return false }

func (l *layout) lacks(what, digest string) error {
	return fmt.Errorf("%w: %s lacks the %s %s: copy the whole image there again", ErrNotFound, l.ref.path, what, digest)
}

// blobPath is where a layout has the blob of a sha256 digest.
func blobPath(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }

const (
	annotationRefName = "org.opencontainers.image.ref.name" // image-spec, annotations.md
	annotationKind    = "kind"                              // of `cosign save`
	kindSignatures    = "dev.cosignproject.cosign/sigs"     // the signatures of the image beside it
)

// find returns the entry of index.json that tag names, or the only one. A name
// that is a whole reference (`cosign save`) counts by the tag at its end.
func (l *layout) find(tag string) (v1.Descriptor, error) {
	var found, images []v1.Descriptor
	var tags []string
	for _, desc := range l.index.Manifests {
		name := desc.Annotations[annotationRefName]
		if name == tag && isCosignTag(tag) {
			return desc, nil
		}
		if !isImageEntry(desc) {
			continue
		}
		images = append(images, desc)
		if name != "" {
			tags = append(tags, name)
		}
		if tag != "" && (name == tag || strings.HasSuffix(name, ":"+tag)) {
			found = append(found, desc)
		}
	}
	if tag == "" {
		found = images
	}
	found = slices.CompactFunc(found, func(a, b v1.Descriptor) bool { return a.Digest == b.Digest })
	if len(tags) > 8 {
		tags = append(tags[:8], "…")
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case tag == "" && len(found) > 1:
		return v1.Descriptor{}, fmt.Errorf("%w: %s has %d images: name one of the tags %q, or a digest",
			ErrNotFound, l.ref.path, len(found), tags)
	case len(found) > 1:
		return v1.Descriptor{}, fmt.Errorf("%w: %s has the tag %s for %d images", ErrUnsafe, l.ref.path, tag, len(found))
	case tag == "":
		return v1.Descriptor{}, fmt.Errorf("%w: %s has no image", ErrNotFound, l.ref.path)
	}
	return v1.Descriptor{}, fmt.Errorf("%w: %s has no tag %s: it has %q", ErrNotFound, l.ref.path, tag, tags)
}

// isImageEntry leaves out what only says something about an image: entries of
// `cosign save`, and those with the tags cosign uses in a registry.
func isImageEntry(desc v1.Descriptor) bool {
	kind := desc.Annotations[annotationKind]
	if strings.HasPrefix(kind, "dev.cosignproject.cosign/") && !strings.HasPrefix(kind, "dev.cosignproject.cosign/image") {
		return false
	}
	return !isCosignTag(desc.Annotations[annotationRefName]) && !strings.Contains(desc.ArtifactType, "dev.sigstore.bundle")
}

// isCosignTag says whether a tag is that of something about an image, sha256-….
func isCosignTag(tag string) bool { return strings.HasPrefix(tag, "sha256-") }

// directory is a layout in a directory. Symlinks in it lead nowhere.
type directory struct{ root *os.Root }

func openDirectory(path string) (*directory, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, onDisk(err)
	}
	return &directory{root}, nil
}

// Close implements layoutFiles.
func (d *directory) Close() error { return d.root.Close() }

// open implements layoutFiles. It never waits for a pipe.
func (d *directory) open(name string) (*layoutFile, error) {
	before, err := d.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, d.refuse(name, err)
	}
	if !before.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s of the layout is no regular file: copy it there instead of linking it", ErrUnsafe, name)
	}
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, d.refuse(name, err)
	}
	info, err := f.Stat()
	if err != nil || !os.SameFile(before, info) {
		defer f.Close()
		return nil, onDisk(errors.Join(err, fmt.Errorf("open %s: somebody is changing the layout", name)))
	}
	return &layoutFile{io.NewSectionReader(f, 0, info.Size()), f}, nil
}

// refuse tells a path that leads out of the layout, for which os.Root has no
// sentinel, or in circles, from an error of the disk.
func (d *directory) refuse(name string, err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) && errno != unix.ENOTDIR && errno != unix.ELOOP {
		return onDisk(err)
	}
	return fmt.Errorf("%w: %s of the layout: %w", ErrUnsafe, name, err)
}
