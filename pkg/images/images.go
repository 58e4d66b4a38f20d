// SPDX-License-Identifier: Apache-2.0

// Package images turns a reference to a container image into the few files a
// kernel module needs: it resolves the name in a registry, fetches the layers,
// verifies each digest and size to the end, and only then takes the regular
// files of one lib/modules directory and of one firmware directory into a
// store on disk. Layers are read newest first, and none that can not matter. A
// store that has an image needs no registry any more.
//
// It never runs anything out of an image, never asks a credential helper,
// never writes outside its store, and knows nothing of Kubernetes or of the
// running kernel. Where to ask and with which credentials is what the files of
// the node say, as the container runtime reads them: see registries and
// credentials.
package images

import (
	"context"
	"errors"

	"github.com/kmm-node/kmmd/pkg/images/credentials"
	"github.com/kmm-node/kmmd/pkg/images/registries"
)

// The pull policies of Kubernetes (core/v1 PullPolicy).
const (
	PullAlways       = "Always"
	PullIfNotPresent = "IfNotPresent"
	PullNever        = "Never"
)

// DefaultDirName is where the modules of an image are when Request.DirName is
// empty.
const DefaultDirName = "/opt"

// DefaultQuota is the bytes a store may keep when Options.Quota is 0: some thirty
// of the largest sets of modules and firmware measured.
const DefaultQuota = 2 << 30

// What can go wrong, for callers that branch on it. Every error of this
// package names the reference and says what to do about it.
var (
	// ErrInvalidRef is a reference or request that can not be meant: no tag and
	// no digest, a digest that is not sha256, an unknown pull policy.
	ErrInvalidRef = errors.New("invalid image reference")
	// ErrNotFound is a registry that answers, but has no such image, tag or
	// layer, or none for this machine's architecture.
	ErrNotFound = errors.New("image not found")
	// ErrUnauthorized is a registry that takes none of the credentials there are
	// (many also say so for an image that does not exist).
	ErrUnauthorized = errors.New("registry refuses access")
	// ErrUnreachable is a registry that can not be talked to now: no
	// connection, no valid certificate, plain http where that is not allowed,
	// a stalled transfer, an answer in the 500s. Worth a retry.
	ErrUnreachable = errors.New("registry unreachable")
	// ErrDigest is content that differs from its digest, in the registry's
	// answer or on disk.
	ErrDigest = errors.New("digest mismatch")
	// ErrNoModules is an image without <dirName>/lib/modules/<release>.
	ErrNoModules = errors.New("no modules for this kernel in the image")
	// ErrNoFirmware is an image without the firmware directory asked for.
	ErrNoFirmware = errors.New("no such firmware directory in the image")
	// ErrNotFile is a Glob that stands for something that is no regular file.
	ErrNotFile = errors.New("not a file")
	// ErrUnsafe is an image that is malformed, or made to be read in two ways
	// or to write outside its directory.
	ErrUnsafe = errors.New("unsafe or malformed image")
	// ErrManifest comes with ErrUnsafe or ErrLimit when what the registry answers for a
	// tag is no manifest that can be used. No digest says that it is the image's: it may
	// be damaged, or of a proxy, and another one the next time. Worth a retry.
	ErrManifest = errors.New("answer for a tag")
	// ErrLimit is an image larger than the limits of this package.
	ErrLimit = errors.New("image exceeds a limit")
	// ErrNotCached is an image that is not in the store while the pull policy
	// is Never.
	ErrNotCached = errors.New("image not in the store")
	// ErrNoSpace is a quota, or a disk, that has no room for what is to be kept.
	ErrNoSpace = errors.New("no space in the image store")
	// ErrPinned is an image that can not be removed because somebody needs it.
	ErrPinned = errors.New("image is pinned")
	// ErrBlocked is an image that the node's registries.conf forbids to pull.
	ErrBlocked = registries.ErrBlocked
)

// Options of a store. The zero value is a store of the default quota.
type Options struct {
	// Quota is how many bytes the store may keep; 0 is DefaultQuota. To make room,
	// images that are not pinned are removed, the least recently used first. A
	// pull may use as much again while it lasts.
	Quota int64
	// Policy is about the images that may be used at all.
	Policy Policy
	// Registries say where images are asked for on this node; nil asks each
	// registry itself.
	Registries *registries.Config
	// Keyring has the node's own credentials; nil is none.
	Keyring *credentials.Keyring
	// Progress is told how far a pull is, often, and by one goroutine at a time
	// for each pull. It must not block. nil is nobody.
	Progress func(Progress)
	// VerifiedFile is where is kept which files of the store have been compared with
	// their digests in this boot, whose id is BootID. It must not outlive the boot.
	// With "" that is known to this process only.
	VerifiedFile, BootID string
}

// Request says which files of which image are wanted.
type Request struct {
	// Ref is the image, with a tag or a digest (or both: the digest counts), in
	// a registry; or "oci:/path[:tag]", a directory of this machine with an OCI
	// image layout; or "oci-archive:/path.tar[:tag]", the same in a tar.
	Ref string
	// Digest is what the tag of Ref stands for, from whoever knows better than
	// the registry: the image is the one of this digest. Empty is whatever the tag
	// stands for; beside a Ref with a digest it does not count. Policy.RequireDigest is
	// about Ref alone.
	Digest string
	// PullPolicy is Always, IfNotPresent or Never; empty is Kubernetes'
	// default: Always for the tag latest, else IfNotPresent. A layout named
	// without a tag counts as latest.
	PullPolicy string
	// DirName is the directory in the image that has lib/modules below it;
	// empty is DefaultDirName.
	DirName string
	// Releases are the names to try below lib/modules; the first that is a
	// directory of the image is taken.
	Releases []string
	// FirmwarePath is the directory in the image that holds firmware; empty
	// asks for none.
	FirmwarePath string
	// Modules are the names, with "-" or "_", of the modules that are wanted with
	// all they need. Empty is all of the directory.
	Modules []string
	// Closure returns the files below dir that modules need, and whether these
	// are all, so that nothing which may be missing in dir could add to them:
	// layers older than that are then not fetched. It must follow no link in
	// dir. nil is: all files of the directory, and no proof. kmod.Closure is one.
	Closure func(dir string, modules []string) (files []string, complete bool, err error)
	// Firmware returns the names of the firmware files that these module files
	// below dir declare. kmod.Firmware is one; nil is no knowledge of it.
	Firmware func(dir string, files []string) (names []string, err error)
	// DeclaredFirmware says that all firmware has been found once FirmwarePath
	// has each name that Firmware returns, and at least one. Without it older
	// layers are read for further files as far down as they could have some.
	DeclaredFirmware bool
	// PullSecrets gives the image pull secrets, whose credentials are tried before
	// those of the node. It is called with the pull's context, and only when a
	// registry is about to be asked. nil is none.
	PullSecrets func(context.Context) []PullSecret
	// Insecure allows plain http to this registry, but not to its mirrors.
	Insecure bool
	// InsecureSkipTLSVerify takes any certificate of this registry, but not of
	// its mirrors.
	InsecureSkipTLSVerify bool
}

// PullSecret is one image pull secret, or why it could not be had.
type PullSecret struct {
	// Name says which one it is, for a person.
	Name string
	// Data is as a Secret of type kubernetes.io/dockerconfigjson, or the older
	// kubernetes.io/dockercfg, has it.
	Data []byte
	// Err is why there is no Data. It does not stop the pull: nobody's or the
	// node's credentials may do. It is told when the pull fails.
	Err error
}

// Tree is what the store has for one Request. Its directories are absolute,
// belong to the store, and hold regular files only; they must not be changed.
type Tree struct {
	// Ref is the reference asked for.
	Ref string
	// Digest is what Ref stands for, "sha256:…": the digest of the manifest,
	// or of the index when the image is built for several platforms.
	Digest string
	// Release is the one of Request.Releases that the image has.
	Release string
	// ModulesDir ends in lib/modules/<Release>.
	ModulesDir string
	// FirmwareDir is empty when no firmware was asked for.
	FirmwareDir string
	// Stale says that the registry should have been asked (policy Always) but
	// could not be reached: this is what Ref stood for the last time.
	Stale bool

	dir     string
	files   map[string]record // by slash-separated path below dir
	layers  []string          // digests
	modules []string          // names of all modules in the image's directory, sorted

	verified *verified // what need not be read again; nil reads all
}
