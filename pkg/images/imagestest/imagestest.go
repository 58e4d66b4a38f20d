// SPDX-License-Identifier: Apache-2.0

// Package imagestest makes container images for tests and pushes them to a
// registry: layers out of a map of files, or entry by entry where the order
// and the oddities of a tar stream are what the test is about. Tests only.
package imagestest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"runtime"
	"sort"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// The compressions of a layer.
const (
	None = "none"
	Gzip = "gzip"
	Zstd = "zstd"
)

// Blob is one layer: what the registry stores, and what the manifest says it
// is. It is a v1.Layer.
type Blob struct {
	Data  []byte          // compressed
	Type  types.MediaType // as the manifest has it
	plain []byte
}

var _ v1.Layer = (*Blob)(nil)

// Layer is a gzip layer of regular files, mode 0644, by their path in the
// image, each with the directories above it as explicit entries, sorted.
func Layer(t testing.TB, files map[string]string) *Blob {
	t.Helper()
	return Compress(t, Tar(t, Files(files)...), Gzip)
}

// Entries is a gzip layer of exactly these entries in this order.
func Entries(t testing.TB, entries ...Entry) *Blob {
	t.Helper()
	return Compress(t, Tar(t, entries...), Gzip)
}

// Compress makes a layer of any bytes; a tar stream, if the test is a kind one.
func Compress(t testing.TB, plain []byte, compression string) *Blob {
	t.Helper()
	var b bytes.Buffer
	blob := &Blob{plain: plain}
	switch compression {
	case None:
		b.Write(plain)
		blob.Type = types.OCIUncompressedLayer
	case Gzip:
		w := gzip.NewWriter(&b)
		_, err := w.Write(plain)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		blob.Type = types.OCILayer
	case Zstd:
		w, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
		require.NoError(t, err)
		_, err = w.Write(plain)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		blob.Type = types.OCILayerZStd
	default:
		require.Fail(t, "unknown compression", compression)
	}
	blob.Data = b.Bytes()
	return blob
}

// Raw makes a layer of bytes that are compressed already, or say so.
func Raw(data []byte, mediaType types.MediaType) *Blob {
	return &Blob{Data: data, Type: mediaType}
}

// Push builds an image for this machine's architecture out of layers, lowest
// first, pushes it to ref (plain http is fine) and returns its digest.
func Push(t testing.TB, ref string, layers ...*Blob) string {
	t.Helper()
	img := Image(t, layers...)
	tag, err := name.ParseReference(ref, name.Insecure)
	require.NoError(t, err)
	require.NoError(t, remote.Write(tag, img, remote.WithContext(t.Context())))
	digest, err := img.Digest()
	require.NoError(t, err)
	return digest.String()
}

// Image builds an image without pushing it.
func Image(t testing.TB, layers ...*Blob) v1.Image {
	t.Helper()
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	cfg, err := img.ConfigFile()
	require.NoError(t, err)
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	img, err = mutate.ConfigFile(img, cfg)
	require.NoError(t, err)
	adds := make([]mutate.Addendum, 0, len(layers))
	for _, l := range layers {
		adds = append(adds, mutate.Addendum{Layer: l, MediaType: l.Type})
	}
	img, err = mutate.Append(img, adds...)
	require.NoError(t, err)
	return img
}

// PushIndex pushes what Index makes, and returns the digest of the index.
func PushIndex(t testing.TB, ref string, images map[string]v1.Image) string {
	t.Helper()
	index := Index(t, images)
	tag, err := name.ParseReference(ref, name.Insecure)
	require.NoError(t, err)
	require.NoError(t, remote.WriteIndex(tag, index, remote.WithContext(t.Context())))
	digest, err := index.Digest()
	require.NoError(t, err)
	return digest.String()
}

// Index is an index of one image per platform ("linux/arm64", "linux/arm64/v8")
// and, as BuildKit does, an attestation for each.
func Index(t testing.TB, images map[string]v1.Image) v1.ImageIndex {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	platforms := make([]string, 0, len(images))
	for p := range images {
		platforms = append(platforms, p)
	}
	sort.Strings(platforms)
	for _, p := range platforms {
		index = mutate.AppendManifests(index, attestation(t, images[p]))
		platform, err := v1.ParsePlatform(p)
		require.NoError(t, err)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: images[p], Descriptor: v1.Descriptor{Platform: platform},
		})
	}
	return index
}

// attestation is what BuildKit adds to an index for each image.
func attestation(t testing.TB, of v1.Image) mutate.IndexAddendum {
	t.Helper()
	digest, err := of.Digest()
	require.NoError(t, err)
	return mutate.IndexAddendum{
		Add: Image(t, Layer(t, map[string]string{"attestation-of": digest.String()})),
		Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{
				"vnd.docker.reference.type":   "attestation-manifest",
				"vnd.docker.reference.digest": digest.String(),
			},
		},
	}
}

func hashOf(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// Digest is that of the compressed bytes.
func (b *Blob) Digest() (v1.Hash, error) { return hashOf(b.Data), nil }

// DiffID is the digest of the uncompressed bytes.
func (b *Blob) DiffID() (v1.Hash, error) { return hashOf(b.plain), nil }

// Compressed returns what is pushed.
func (b *Blob) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b.Data)), nil
}

// Uncompressed returns the tar stream.
func (b *Blob) Uncompressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b.plain)), nil
}

// Size is that of the compressed bytes.
func (b *Blob) Size() (int64, error) { return int64(len(b.Data)), nil }

// MediaType is Type.
func (b *Blob) MediaType() (types.MediaType, error) { return b.Type, nil }
