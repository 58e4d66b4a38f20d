// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Image is an image, or an index of several, that is read where it is: in a
// registry or a layout, without a store. What it gives is verified. It is safe
// for concurrent use.
type Image struct {
	// Ref is the reference asked for.
	Ref string
	// Digest is what Ref stood for when it was opened; all that is read is of that.
	Digest string
	// Raw is the manifest or index of that digest.
	Raw []byte

	q *query
	f *fetcher
	l limits
}

// OpenImage asks what r.Ref stands for. Of r only what says where the image is
// and who asks counts. The errors are those of Store.Ensure. The caller closes
// the Image.
func OpenImage(ctx context.Context, r Request, o Options) (*Image, error) {
	q := &query{Request: r}
	if err := q.parseRef(); err != nil {
		return nil, err
	}
	l := defaultLimits()
	src, err := (&Store{o: o, l: l}).openSource(ctx, q)
	if err != nil {
		return nil, q.explain(ctx, err)
	}
	raw, digest, err := src.manifest(ctx, q.ref.Identifier())
	if err != nil {
		src.Close()
		return nil, q.explain(ctx, err)
	}
	return &Image{Ref: r.Ref, Digest: digest, Raw: raw, q: q, f: &fetcher{source: src, l: l}, l: l}, nil
}

// Close lets go of the registry or layout.
func (i *Image) Close() { i.f.Close() }

// Manifest returns the manifest or index of that digest.
func (i *Image) Manifest(ctx context.Context, digest string) ([]byte, error) {
	raw, _, err := i.f.manifest(ctx, digest)
	if err != nil {
		return nil, i.q.explain(ctx, err)
	}
	return raw, nil
}

// IsIndex tells the raw bytes of an index from those of an image's manifest;
// ErrUnsafe when they could be both or are neither.
func IsIndex(raw []byte) (bool, error) { return isIndex(raw) }

// Blob reads one blob. Connections that break are taken up again. Read returns
// io.EOF only after size and digest have been found right: what was read until
// then is not to be believed. The caller closes it, which ends the transfer.
type Blob struct {
	b   *blob
	i   *Image
	ctx context.Context // of the transfer, for the words about its errors
}

// Blob opens a blob of the image. It does not wait.
func (i *Image) Blob(ctx context.Context, desc v1.Descriptor) (*Blob, error) {
	if !isDigest(desc.Digest.String()) || desc.Size < 0 || desc.Size > i.l.imageSize {
		return nil, i.q.explain(ctx, fmt.Errorf("%w: %q of %d bytes is no blob that can be read", ErrUnsafe, desc.Digest, desc.Size))
	}
	b := i.f.open(ctx, desc)
	b.hurry()
	return &Blob{b: b, i: i, ctx: ctx}, nil
}

// Read implements io.Reader.
func (b *Blob) Read(p []byte) (int, error) {
	n, err := b.b.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.i.q.explain(b.ctx, err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *Blob) Close() error {
	b.b.Close()
	return nil
}

// ReadBlob returns a whole blob of at most limit bytes, verified.
func (i *Image) ReadBlob(ctx context.Context, desc v1.Descriptor, limit int64) ([]byte, error) {
	if desc.Size > limit {
		return nil, i.q.explain(ctx, fmt.Errorf("%w: blob %s has %d bytes, more than %d", ErrLimit, desc.Digest, desc.Size, limit))
	}
	b, err := i.Blob(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(b)
}

// Layout reads "oci:/path[:tag]" as a place to write to: the directory of an OCI
// image layout, and the tag the image gets there, which may be empty. ok is false for
// a reference of another kind; ErrInvalidRef for one that can not be written to.
func Layout(ref string) (path, tag string, ok bool, err error) {
	r, ok, err := parseLocal(ref)
	switch {
	case !ok || err != nil:
	case r.scheme != schemeLayout:
		err = fmt.Errorf("%w: %q: an archive can not be written to: name a directory, %s:/DIRECTORY", ErrInvalidRef, ref, schemeLayout)
	case r.digest != "":
		err = fmt.Errorf("%w: %q: what is written has the digest it gets: leave it out", ErrInvalidRef, ref)
	}
	return r.path, r.tag, ok, err
}
