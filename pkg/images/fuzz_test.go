// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// memorySource is a source without a registry. manifest answers any name that
// is not known with other, if that is not nil.
type memorySource struct {
	manifests, blobs map[string][]byte
	other            []byte
}

var _ source = (*memorySource)(nil)

func sourceOf(t testing.TB, layers ...*imagestest.Blob) (*memorySource, *resolved) {
	t.Helper()
	image := imagestest.Image(t, layers...)
	raw, err := image.RawManifest()
	require.NoError(t, err)
	digest, err := image.Digest()
	require.NoError(t, err)
	s := &memorySource{manifests: map[string][]byte{digest.String(): raw}, blobs: map[string][]byte{}}
	for _, l := range layers {
		d, err := l.Digest()
		require.NoError(t, err)
		s.blobs[d.String()] = l.Data
	}
	return s, &resolved{digest: digest.String(), manifest: raw}
}

func (s *memorySource) manifest(_ context.Context, identifier string) ([]byte, string, error) {
	raw, ok := s.manifests[identifier]
	if !ok {
		raw = s.other
	}
	if raw == nil {
		return nil, "", ErrNotFound
	}
	sum := sha256.Sum256(raw)
	return raw, "sha256:" + hex.EncodeToString(sum[:]), nil
}

func (s *memorySource) blob(_ context.Context, desc v1.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	b, ok := s.blobs[desc.Digest.String()]
	if !ok {
		return nil, 0, ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(b[offset:])), offset, nil
}

func (s *memorySource) referrers(context.Context, string) ([]v1.Descriptor, error) { return nil, nil }

func (s *memorySource) Close() {}

func (*memorySource) distrust(v1.Descriptor) {}
func (*memorySource) elsewhere() bool        { return false }

// isOurs says whether an error is one that callers know.
func isOurs(err error) bool {
	for _, known := range []error{ErrNotFound, ErrDigest, ErrNoModules, ErrNoFirmware, ErrUnsafe, ErrLimit, ErrInvalidRef} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

func smallLimits() limits {
	l := defaultLimits()
	l.entries, l.files, l.unpacked, l.selected, l.fileSize = 1000, 100, 1<<20, 1<<17, 1<<16
	return l
}

// FuzzLayer feeds any bytes, compressed or not, as the only layer: what comes
// out is an error of ours, or files with clean names inside the modules
// directory, within the limits.
func FuzzLayer(f *testing.F) {
	l := smallLimits()
	q, err := parseRequest(Request{Ref: "reg.example/kmod:v1", Releases: []string{testRelease}})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, b []byte) {
		var entries []entry
		var unpacked int64
		budget := newBudget(l)
		err := readLayer(t.Context(), bytes.NewReader(b), budget, func(e entry, _ *tar.Header, content io.Reader) error {
			entries = append(entries, e)
			if e.kind != kindFile || e.size > l.fileSize {
				return nil
			}
			n, err := io.Copy(io.Discard, content)
			if unpacked += n; err == nil {
				assert.Equal(t, e.size, n, "%q", e.name)
			}
			return err
		})
		assert.LessOrEqual(t, len(entries), l.entries)
		assert.GreaterOrEqual(t, budget.bytes.Load(), int64(-1<<20), "read beyond the budget")
		if err != nil {
			assert.True(t, isOurs(err), "%v", err)
			return
		}
		m := newMerge(l.entries)
		if err := m.apply(0, entries); err != nil {
			assert.True(t, isOurs(err), "%v", err)
			return
		}
		sel, err := q.choose(m, l)
		if err != nil {
			assert.True(t, isOurs(err), "%v", err)
			return
		}
		assert.LessOrEqual(t, len(sel.picks()), l.files)
		assert.LessOrEqual(t, m.nodes, l.entries)
		for _, p := range sel.picks() {
			assert.True(t, filepath.IsLocal(p.path) && filepath.Clean(p.path) == p.path, "%q", p.path)
			assert.True(t, strings.HasPrefix(p.path, "lib/modules/"+testRelease+"/"), "%q", p.path)
		}
	})
}

// FuzzManifest feeds any bytes as the manifest, and others as what an index in
// it names.
func FuzzManifest(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw, other []byte) {
		l := defaultLimits()
		layers, err := readLayers(t.Context(), &memorySource{other: other}, &resolved{manifest: raw}, l)
		if err != nil {
			assert.True(t, isOurs(err), "%v", err)
			return
		}
		checkDescriptors(t, layers, l)
	})
}

// checkDescriptors is what the rest of this package relies on.
func checkDescriptors(t *testing.T, layers []v1.Descriptor, l limits) {
	t.Helper()
	assert.True(t, len(layers) > 0 && len(layers) <= maxLayers)
	var total int64
	for _, d := range layers {
		assert.True(t, isDigest(d.Digest.String()), "%s", d.Digest)
		assert.Positive(t, d.Size)
		total += d.Size
		assert.True(t, total > 0 && total <= l.imageSize, "%d", total)
	}
}

// FuzzArchive feeds any bytes as the file of oci-archive:.
func FuzzArchive(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		file := filepath.Join(t.TempDir(), "a.tar")
		require.NoError(t, os.WriteFile(file, b, 0o600))
		src, err := openLayout(t.Context(), localRef{scheme: schemeArchive, path: file})
		if err != nil {
			assert.True(t, isOurs(err), "%v", err)
			return
		}
		defer src.Close()
		raw, digest, err := src.manifest(t.Context(), "")
		if err != nil {
			assert.True(t, isOurs(err), "%v", err)
			return
		}
		layers, err := readLayers(t.Context(), src, &resolved{digest: digest, manifest: raw}, defaultLimits())
		if err != nil {
			assert.True(t, isOurs(err), "%v", err)
			return
		}
		checkDescriptors(t, layers, defaultLimits())
		for _, desc := range layers {
			body, _, err := src.blob(t.Context(), desc, 0)
			if err != nil {
				assert.True(t, isOurs(err), "%v", err)
				continue
			}
			n, err := io.Copy(io.Discard, body)
			assert.True(t, err != nil || n == desc.Size, "%d bytes, not %d", n, desc.Size)
			assert.NoError(t, body.Close())
		}
	})
}
