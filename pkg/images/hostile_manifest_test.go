// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// Registries that lie: about the bytes of a layer, or in the manifest.

// server is attack.serve.
type server = func(t *testing.T, image v1.Image, w http.ResponseWriter, r *http.Request, next http.Handler)

// lyingManifest answers a manifest that was changed after the push. It is asked
// for by tag, so that its digest does not give it away.
func lyingManifest(change func(m *v1.Manifest)) server {
	return func(t *testing.T, image v1.Image, w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			next.ServeHTTP(w, r)
			return
		}
		m, err := image.Manifest()
		if !assert.NoError(t, err) {
			return
		}
		m = m.DeepCopy()
		change(m)
		w.Header().Set("Content-Type", string(m.MediaType))
		assert.NoError(t, json.NewEncoder(w).Encode(m))
	}
}

// lyingBlob answers something else for the lowest layer.
func lyingBlob(answer func(w http.ResponseWriter, data []byte)) server {
	return func(t *testing.T, image v1.Image, w http.ResponseWriter, r *http.Request, next http.Handler) {
		layers, err := image.Layers()
		if !assert.NoError(t, err) {
			return
		}
		digest, err := layers[0].Digest()
		if !assert.NoError(t, err) {
			return
		}
		if !strings.HasSuffix(r.URL.Path, "/blobs/"+digest.String()) {
			next.ServeHTTP(w, r)
			return
		}
		answer(w, layers[0].(*imagestest.Blob).Data)
	}
}

func oneLayer() []layer { return []layer{{good()}} }

func TestWrongDigest(t *testing.T) {
	evil := imagestest.Entries(t, imagestest.File(mods+"a.ko", "evil"))
	attack{layers: oneLayer(), err: ErrDigest, serve: lyingBlob(func(w http.ResponseWriter, data []byte) {
		_, _ = w.Write(append(evil.Data, make([]byte, max(0, len(data)-len(evil.Data)))...)[:len(data)])
	})}.run(t)
}

// TestWrongDigestOfWhatWasReadAlready: what is wrong comes behind the end of the
// archive, when every file of it has been seen.
func TestWrongDigestOfWhatWasReadAlready(t *testing.T) {
	plain := append(imagestest.Tar(t, good()), make([]byte, 1<<20)...)
	attack{blobs: []*imagestest.Blob{imagestest.Compress(t, plain, imagestest.None)}, err: ErrDigest,
		serve: lyingBlob(func(w http.ResponseWriter, data []byte) {
			data = bytes.Clone(data)
			data[len(data)-1] = 1
			_, _ = w.Write(data)
		})}.run(t)
}

func TestTruncatedBlob(t *testing.T) {
	attack{layers: oneLayer(), err: ErrDigest, serve: lyingBlob(func(w http.ResponseWriter, data []byte) {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)/2))
		_, _ = w.Write(data[:len(data)/2])
	})}.run(t)
}

func TestTruncatedBlobOfUnknownLength(t *testing.T) {
	attack{layers: oneLayer(), err: ErrDigest, serve: lyingBlob(func(w http.ResponseWriter, data []byte) {
		_, _ = w.Write(data[:len(data)-1])
		w.(http.Flusher).Flush()
	})}.run(t)
}

// TestTruncatedLayer: the digest is right, the archive is not whole.
func TestTruncatedLayer(t *testing.T) {
	for _, compression := range []string{imagestest.None, imagestest.Gzip, imagestest.Zstd} {
		t.Run(compression, func(t *testing.T) {
			blob := imagestest.Compress(t, imagestest.Tar(t, good(), imagestest.File(mods+"b.ko", noise(8192))), compression)
			blob.Data = blob.Data[:4096]
			attack{blobs: []*imagestest.Blob{blob}, err: ErrUnsafe}.run(t)
		})
	}
}

// noise is n bytes that do not compress, always the same.
func noise(n int) string {
	var b []byte
	for sum := sha256.Sum256(nil); len(b) < n; sum = sha256.Sum256(sum[:]) {
		b = append(b, sum[:]...)
	}
	return string(b[:n])
}

func TestWrongSize(t *testing.T) {
	for _, by := range []int64{-1, 1, -100, 1 << 20} {
		t.Run(strconv.FormatInt(by, 10), func(t *testing.T) {
			attack{layers: oneLayer(), err: ErrDigest,
				serve: lyingManifest(func(m *v1.Manifest) { m.Layers[0].Size += by })}.run(t)
		})
	}
}

func TestEndlessBlob(t *testing.T) {
	attack{layers: oneLayer(), err: ErrDigest, serve: lyingBlob(func(w http.ResponseWriter, data []byte) {
		_, err := w.Write(data)
		for err == nil {
			_, err = w.Write(make([]byte, 1<<16))
		}
	})}.run(t)
}

func TestEndlessManifest(t *testing.T) {
	attack{layers: oneLayer(), err: ErrLimit, serve: func(_ *testing.T, _ v1.Image, w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			next.ServeHTTP(w, r)
			return
		}
		var err error
		for err == nil {
			_, err = w.Write(bytes.Repeat([]byte(" "), 1<<16))
		}
	}}.run(t)
}

// TestWrongLayerType: bytes are taken for what they are.
func TestWrongLayerType(t *testing.T) {
	for _, lie := range []types.MediaType{types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer, types.DockerLayer} {
		for _, compression := range []string{imagestest.None, imagestest.Gzip, imagestest.Zstd} {
			t.Run(string(lie)+" "+compression, func(t *testing.T) {
				blob := imagestest.Compress(t, imagestest.Tar(t, good()), compression)
				attack{blobs: []*imagestest.Blob{blob}, want: onlyGood(),
					serve: lyingManifest(func(m *v1.Manifest) { m.Layers[0].MediaType = lie })}.run(t)
			})
		}
	}
}

func TestUnknownLayerType(t *testing.T) {
	for _, lie := range []types.MediaType{"", types.OCIConfigJSON, types.OCIManifestSchema1, types.OCIImageIndex, types.DockerPluginConfig} {
		t.Run(string(lie), func(t *testing.T) {
			attack{layers: []layer{{good()}, {imagestest.File("etc/x", "")}}, err: ErrUnsafe,
				serve: lyingManifest(func(m *v1.Manifest) { m.Layers[0].MediaType = lie })}.run(t)
		})
	}
}

func TestWrongManifestType(t *testing.T) {
	for _, lie := range []types.MediaType{types.OCIImageIndex, types.DockerManifestList, types.OCILayer, types.DockerManifestSchema1} {
		t.Run(string(lie), func(t *testing.T) {
			attack{layers: oneLayer(), err: ErrUnsafe, serve: lyingManifest(func(m *v1.Manifest) { m.MediaType = lie })}.run(t)
		})
	}
}

// TestWrongContentType: the header is not covered by the digest and does not
// count.
func TestWrongContentType(t *testing.T) {
	for _, lie := range []types.MediaType{types.OCIImageIndex, types.DockerManifestSchema1Signed, "text/html"} {
		t.Run(string(lie), func(t *testing.T) {
			attack{layers: oneLayer(), want: onlyGood(),
				serve: func(t *testing.T, image v1.Image, w http.ResponseWriter, r *http.Request, next http.Handler) {
					if !strings.Contains(r.URL.Path, "/manifests/") {
						next.ServeHTTP(w, r)
						return
					}
					raw, err := image.RawManifest()
					assert.NoError(t, err)
					w.Header().Set("Content-Type", string(lie))
					_, _ = w.Write(raw)
				}}.run(t)
		})
	}
}

func TestThousandsOfLayers(t *testing.T) {
	attack{layers: oneLayer(), shipped: true, err: ErrLimit, serve: lyingManifest(func(m *v1.Manifest) {
		for range 5000 {
			m.Layers = append(m.Layers, m.Layers[0])
		}
	})}.run(t)
}

// TestThousandsOfTimesTheSameLayer: as many as are allowed of a layer that is
// large when it is unpacked.
func TestThousandsOfTimesTheSameLayer(t *testing.T) {
	big := imagestest.Entry{Name: "big", Body: strings.Repeat("0", 7<<20)}
	attack{layers: []layer{{good(), big}}, want: onlyGood(), serve: lyingManifest(func(m *v1.Manifest) {
		for len(m.Layers) < maxLayers {
			m.Layers = append(m.Layers, m.Layers[0])
		}
	})}.run(t)
}

func TestLayersOfTooManyBytes(t *testing.T) {
	attack{layers: oneLayer(), shipped: true, err: ErrLimit, serve: lyingManifest(func(m *v1.Manifest) {
		m.Layers[0].Size = maxImageSize/2 + 1
		m.Layers = append(m.Layers, m.Layers[0])
	})}.run(t)
}

// TestForeignLayer: nobody but the registry is asked for a layer.
func TestForeignLayer(t *testing.T) {
	elsewhere := imagestest.NewRegistry(t)
	attack{layers: oneLayer(), want: onlyGood(), serve: lyingManifest(func(m *v1.Manifest) {
		m.Layers[0].URLs = []string{"http://" + elsewhere.Host + "/evil", "file:///etc/passwd"}
	})}.run(t)
	assert.Empty(t, elsewhere.Requests())
}

func TestManifestOfManyLevels(t *testing.T) {
	attack{layers: oneLayer(), err: ErrUnsafe, serve: rawManifest(
		`{"schemaVersion":2,"layers":` + strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20) + `}`)}.run(t)
}

// rawManifest answers one text for each manifest asked for.
func rawManifest(text string) server {
	return func(_ *testing.T, _ v1.Image, w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			_, _ = w.Write([]byte(text))
			return
		}
		next.ServeHTTP(w, r)
	}
}

// indexOf is an index of one manifest, and its digest.
func indexOf(t *testing.T, mediaType types.MediaType, digest string, size int) (raw []byte, own string) {
	t.Helper()
	hash, err := v1.NewHash(digest)
	require.NoError(t, err)
	raw, err = json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex,
		Manifests: []v1.Descriptor{{MediaType: mediaType, Digest: hash, Size: int64(size)}}})
	require.NoError(t, err)
	sum := sha256.Sum256(raw)
	return raw, "sha256:" + hex.EncodeToString(sum[:])
}

// TestCyclicIndex: an index that names itself can have no right digest, so the
// registry must lie about one of them.
func TestCyclicIndex(t *testing.T) {
	raw, _ := indexOf(t, types.OCIImageIndex, "sha256:"+strings.Repeat("a", 64), 1)
	attack{layers: oneLayer(), err: ErrDigest, serve: rawManifest(string(raw))}.run(t)
}

// TestIndexOfIndexes: each digest is right, and there is no end to it.
func TestIndexOfIndexes(t *testing.T) {
	known := map[string][]byte{}
	raw, digest := []byte(nil), "sha256:"+strings.Repeat("a", 64)
	for range 50 {
		raw, digest = indexOf(t, types.OCIImageIndex, digest, len(raw))
		known[digest] = raw
	}
	asked := 0
	attack{layers: oneLayer(), err: ErrLimit, serve: func(_ *testing.T, _ v1.Image, w http.ResponseWriter, r *http.Request, next http.Handler) {
		_, what, ok := strings.Cut(r.URL.Path, "/manifests/")
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		asked++
		if b := known[what]; b != nil {
			_, _ = w.Write(b)
			return
		}
		_, _ = w.Write(raw)
	}}.run(t)
	assert.LessOrEqual(t, asked, maxIndexDepth+1)
}

// TestIndexThatCallsALayerAnImage: what is no manifest is none, whatever the
// index says.
func TestIndexThatCallsALayerAnImage(t *testing.T) {
	blob := imagestest.Entries(t, good())
	digest, err := blob.Digest()
	require.NoError(t, err)
	raw, _ := indexOf(t, types.OCIManifestSchema1, digest.String(), len(blob.Data))
	attack{layers: oneLayer(), err: ErrUnsafe, serve: func(_ *testing.T, _ v1.Image, w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch _, what, ok := strings.Cut(r.URL.Path, "/manifests/"); {
		case !ok:
			next.ServeHTTP(w, r)
		case what == digest.String():
			_, _ = w.Write(blob.Data)
		default:
			_, _ = w.Write(raw)
		}
	}}.run(t)
}
