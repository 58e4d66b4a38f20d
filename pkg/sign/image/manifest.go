// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kmm-node/kmmd/pkg/images"
)

const (
	maxDepth    = 2       // an index in an index, as pkg/images
	maxChildren = 256     // manifests of an index
	maxConfig   = 4 << 20 // bytes of an image's configuration
)

// manifest is one of an image, with its blobs, or an index, with what is in it.
// It is what remote.Pusher takes.
type manifest struct {
	raw       []byte
	mediaType types.MediaType
	blobs     []v1.Layer // lowest first, the configuration last
	children  []*manifest
	changed   bool // not the source's
}

// RawManifest makes it a remote.Taggable.
func (m *manifest) RawManifest() ([]byte, error) { return m.raw, nil }

// MediaType says what raw is.
func (m *manifest) MediaType() (types.MediaType, error) { return m.mediaType, nil }

func (m *manifest) digest() v1.Hash { return hashOf(m.raw) }

func hashOf(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// parsed is what is looked at in a manifest or index.
type parsed struct {
	MediaType types.MediaType `json:"mediaType"`
	Config    v1.Descriptor   `json:"config"`
	Layers    []v1.Descriptor `json:"layers"`
	Manifests []v1.Descriptor `json:"manifests"`
}

// parse checks that raw is an image or an index, at a depth that is allowed.
func parse(raw []byte, depth int) (p parsed, index bool, err error) {
	if index, err = images.IsIndex(raw); err != nil {
		return p, false, err
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, false, fmt.Errorf("%w: parse manifest: %w", images.ErrUnsafe, err)
	}
	switch {
	case index && depth == maxDepth:
		return p, false, fmt.Errorf("%w: indexes nested more than %d deep", images.ErrLimit, maxDepth)
	case len(p.Manifests) > maxChildren:
		return p, false, fmt.Errorf("%w: an index of %d manifests, more than %d", images.ErrLimit, len(p.Manifests), maxChildren)
	case p.MediaType != "":
	case index:
		p.MediaType = types.OCIImageIndex
	case p.Config.MediaType == types.DockerConfigJSON:
		p.MediaType = types.DockerManifestSchema2
	default:
		p.MediaType = types.OCIManifestSchema1
	}
	return p, index, nil
}

// read takes in a manifest of the source, and all below it, as they are.
func read(ctx context.Context, src *images.Image, raw []byte, depth int) (*manifest, error) {
	p, index, err := parse(raw, depth)
	if err != nil {
		return nil, err
	}
	m := &manifest{raw: raw, mediaType: p.MediaType}
	if !index {
		m.blobs, err = sourceBlobs(ctx, src, p)
		return m, err
	}
	for _, desc := range p.Manifests {
		raw, err := src.Manifest(ctx, desc.Digest.String())
		if err != nil {
			return nil, err
		}
		child, err := read(ctx, src, raw, depth+1)
		if err != nil {
			return nil, err
		}
		m.children = append(m.children, child)
	}
	return m, nil
}

// sourceBlobs are all blobs of an image.
func sourceBlobs(ctx context.Context, src *images.Image, p parsed) ([]v1.Layer, error) {
	var out []v1.Layer
	for _, desc := range append(p.Layers, p.Config) {
		if !desc.MediaType.IsDistributable() {
			continue // not in the registry either (image-spec, layer.md)
		}
		b := &blob{src: src, desc: desc, ctx: ctx}
		if desc.Data != nil && hashOf(desc.Data) == desc.Digest {
			out = append(out, static.NewLayer(desc.Data, desc.MediaType))
			continue
		}
		out = append(out, b)
	}
	return out, nil
}

// blob is one of the source's. It is a v1.Layer as far as pushing one goes.
type blob struct {
	src  *images.Image
	desc v1.Descriptor
	ctx  context.Context // of the whole work: v1.Layer has no place for one
}

// sourceError is what went wrong with the source while something was written.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }

// Digest implements v1.Layer.
func (b *blob) Digest() (v1.Hash, error) { return b.desc.Digest, nil }

// DiffID implements v1.Layer; nobody asks.
func (b *blob) DiffID() (v1.Hash, error) {
	return v1.Hash{}, fmt.Errorf("layer %s is not unpacked", b.desc.Digest)
}

// Size implements v1.Layer.
func (b *blob) Size() (int64, error) { return b.desc.Size, nil }

// MediaType implements v1.Layer.
func (b *blob) MediaType() (types.MediaType, error) { return b.desc.MediaType, nil }

// Compressed implements v1.Layer. What it gives is verified by the end.
func (b *blob) Compressed() (io.ReadCloser, error) {
	r, err := b.src.Blob(b.ctx, b.desc)
	if err != nil {
		return nil, &sourceError{err}
	}
	return &blobReader{r}, nil
}

// Uncompressed implements v1.Layer; nobody asks.
func (b *blob) Uncompressed() (io.ReadCloser, error) {
	return nil, fmt.Errorf("layer %s is not unpacked", b.desc.Digest)
}

// blobReader marks the errors of the source.
type blobReader struct{ *images.Blob }

func (r *blobReader) Read(p []byte) (int, error) {
	n, err := r.Blob.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // io.Reader: EOF is never wrapped
		err = &sourceError{err}
	}
	return n, err
}
