// SPDX-License-Identifier: Apache-2.0

// Package image signs kernel modules where they are: in a container image. The
// image is read, layer by layer and no further than needed, the modules that
// patterns name are signed, and what comes out is the same image with one layer
// more, which has the signed files and nothing else. Nothing is unpacked and no file
// is written, but for an image that goes to a directory; what is held in memory is
// one module and the new layer.
//
// The same image, key and patterns give the same image again. An image in which all
// is signed already is left as it is.
package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/credentials"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// What can go wrong, for callers that branch on it; the other errors are those of
// pkg/images (ErrInvalidRef, ErrNotFound, ErrUnauthorized, ErrUnreachable, ErrDigest,
// ErrUnsafe, ErrLimit, ErrNotFile) and of pkg/sign.
var (
	// ErrNoMatch is a pattern that no file of the image matches.
	ErrNoMatch = errors.New("no such file in the image")
)

// WriteError is that an image was made, and could not be put into its place.
type WriteError struct {
	Ref string
	Err error
}

func (e *WriteError) Error() string { return fmt.Sprintf("write %s: %v", e.Ref, e.Err) }
func (e *WriteError) Unwrap() error { return e.Err }

// Place is where an image is, or goes to.
type Place struct {
	// Ref is an image of a registry, or "oci:/path[:tag]", a directory with an OCI
	// image layout; as a source also "oci-archive:/path". A source without a tag has
	// to be the only image of its layout; a target without a tag becomes it.
	Ref string
	// Insecure allows plain http, SkipTLSVerify any certificate.
	Insecure, SkipTLSVerify bool
}

// Options say which image is worked on.
type Options struct {
	From, To Place
	// Keyring has the credentials for both; nil is none.
	Keyring *credentials.Keyring

	// What a test lowers; 0 is what is usual.
	retryDelay time.Duration // before the first repetition
	moduleSize int64         // bytes of a module
}

// Result says what became of an image.
type Result struct {
	// Image is the reference it was written to, Digest what that stands for now.
	Image  string `json:"image"`
	Digest string `json:"digest"`
	// Signed is how many files were signed now; those that were signed already do
	// not count.
	Signed int `json:"signed"`
	// Unchanged says that it is the source's image, as it was.
	Unchanged bool `json:"unchanged"`
}

// Copy writes the image, or the index and all its images, to another place.
func Copy(ctx context.Context, o Options) (*Result, error) {
	to, err := parseTarget(o.To)
	if err != nil {
		return nil, err
	}
	src, err := o.open(ctx)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	m, err := read(ctx, src, src.Raw, 0)
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", o.From.Ref, err)
	}
	return o.write(ctx, to, m, 0)
}

// Sign signs the files that the globs stand for, those that the signer has signed
// already excepted, and writes the image to its new place. Of an index each image is
// signed; a glob has to match in one of them. ErrNoMatch when one matches nowhere;
// sign.ErrNotModule for a file that is no module. Modules packed with gzip, xz or
// zstd are unpacked, signed, and packed again. Nothing is written when there is an
// error before the end.
func Sign(ctx context.Context, o Options, signer *sign.Signer, globs []images.Glob) (*Result, error) {
	to, err := parseTarget(o.To)
	if err != nil {
		return nil, err
	}
	src, err := o.open(ctx)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	r := &resigner{src: src, signer: signer, globs: globs, found: make([]images.Found, len(globs)), moduleSize: cmp.Or(o.moduleSize, maxModule)}
	m, err := r.manifest(ctx, src.Raw, 0)
	if err == nil {
		err = r.unmatched()
	}
	if err != nil {
		return nil, fmt.Errorf("sign the modules of %s: %w", o.From.Ref, err)
	}
	return o.write(ctx, to, m, r.signed)
}

func (o *Options) open(ctx context.Context) (*images.Image, error) {
	return images.OpenImage(ctx, images.Request{
		Ref: o.From.Ref, Insecure: o.From.Insecure, InsecureSkipTLSVerify: o.From.SkipTLSVerify,
	}, images.Options{Keyring: o.Keyring})
}

// write writes m to its place, unless it is there.
func (o *Options) write(ctx context.Context, to target, m *manifest, signed int) (*Result, error) {
	out := &Result{Image: o.To.Ref, Digest: m.digest().String(), Signed: signed, Unchanged: !m.changed}
	if out.Unchanged && to.is(o.From) {
		return out, nil
	}
	if err := to.write(ctx, o, m); err != nil {
		return nil, &WriteError{o.To.Ref, err}
	}
	return out, nil
}

// target is a place to write to.
type target interface {
	// is says whether an image that was read from p is there already.
	is(p Place) bool
	write(ctx context.Context, o *Options, m *manifest) error
}

func parseTarget(p Place) (target, error) {
	path, tag, ok, err := images.Layout(p.Ref)
	if err != nil {
		return nil, err
	}
	if ok {
		return layout{path, tag}, nil
	}
	return parseRegistry(p)
}

// unmatched is the error about globs that matched nothing anywhere.
func (r *resigner) unmatched() error {
	var problems []error
	for i, f := range r.found {
		if len(f.Files) > 0 {
			continue
		}
		near := "the image has no modules at all: check that this is the right image"
		if len(f.Near) > 0 {
			near = "modules it has are " + strings.Join(f.Near, ", ")
		}
		problems = append(problems, fmt.Errorf("%w: %q matches nothing; %s", ErrNoMatch, r.globs[i], near))
	}
	return errors.Join(problems...)
}
