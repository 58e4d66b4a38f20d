// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

func TestPlainHTTPIsRefused(t *testing.T) {
	// go-containerregistry goes to http by itself for all of these.
	reg, s := imagestest.NewRegistry(t), openStore(t)
	port := reg.Host[strings.LastIndex(reg.Host, ":"):]
	imagestest.Push(t, reg.Host+"/kmod:v1", imagestest.Layer(t, testModules()))
	reg.Requests()
	for _, host := range []string{"127.0.0.1", "localhost"} {
		r := request(host + port + "/kmod:v1")
		r.Insecure = false
		_, err := s.Ensure(t.Context(), r)
		require.ErrorIs(t, err, ErrUnreachable)
		assert.ErrorContains(t, err, "registryTLS.insecure")
		assert.Empty(t, reg.Requests(), "something was sent in clear")
		r.Insecure = true
		_, err = s.Ensure(t.Context(), r)
		require.NoError(t, err)
		reg.Requests()
	}
}

// TestPlainHTTPBreaks: who allows plain http already is not told to.
func TestPlainHTTPBreaks(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	reg.Handle(func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) })
	_, err := s.Ensure(t.Context(), request(reg.Host+"/kmod:v1"))
	require.ErrorIs(t, err, ErrUnreachable)
	assert.ErrorContains(t, err, "check the network")
	assert.NotContains(t, err.Error(), "registryTLS.insecure")
}

func TestRedirectToPlainHTTPIsRefused(t *testing.T) {
	secure, plain, s := imagestest.NewTLSRegistry(t), imagestest.NewRegistry(t), openStore(t)
	secure.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path == "/v2/" {
			next.ServeHTTP(w, r)
			return
		}
		http.Redirect(w, r, "http://"+plain.Host+r.URL.Path, http.StatusTemporaryRedirect)
	})
	r := request(secure.Host + "/kmod:v1")
	r.Insecure, r.InsecureSkipTLSVerify = false, true
	_, err := s.Ensure(t.Context(), r)
	assert.ErrorIs(t, err, ErrPlainHTTP)
	assert.Empty(t, plain.Requests())
}

func TestCheckRedirect(t *testing.T) {
	tests := []struct {
		from, to string
		ok       bool
	}{
		{"https://reg.example/x", "https://cdn.example/x", true},
		{"https://reg.example/x", "https://10.0.0.5/x", true},
		{"https://reg.example/x", "https://169.254.169.254/latest", false},
		{"https://reg.example/x", "https://[fe80::1]/x", false},
		{"https://reg.example/x", "https://127.0.0.1:6443/x", false},
		{"https://reg.example/x", "https://[::ffff:127.0.0.1]/x", false},
		{"https://127.0.0.1:5000/x", "https://127.0.0.1:5001/x", true},
	}
	for _, tt := range tests {
		via := []*http.Request{httptest.NewRequest(http.MethodGet, tt.from, nil)}
		err := checkRedirect(httptest.NewRequest(http.MethodGet, tt.to, nil), via)
		assert.Equal(t, tt.ok, err == nil, "%s to %s: %v", tt.from, tt.to, err)
	}
}

func TestTLS(t *testing.T) {
	reg, s := imagestest.NewTLSRegistry(t), openStore(t)
	plain := imagestest.NewRegistry(t)
	imagestest.Push(t, plain.Host+"/kmod:v1", imagestest.Layer(t, testModules()))
	reg.Handle(func(w http.ResponseWriter, r *http.Request, _ http.Handler) { plain.ServeHTTP(w, r) })
	r := request(reg.Host + "/kmod:v1")
	r.Insecure = false
	_, err := s.Ensure(t.Context(), r)
	require.ErrorIs(t, err, ErrUnreachable)
	assert.ErrorContains(t, err, "registryTLS.insecureSkipTLSVerify")
	r.InsecureSkipTLSVerify = true
	_, err = s.Ensure(t.Context(), r)
	assert.NoError(t, err)
}

func TestAnswers(t *testing.T) {
	const denied = `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`
	tests := []struct {
		name   string
		status int
		body   string
		want   error
		words  string
	}{
		{"not found", 404, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`, ErrNotFound, "MANIFEST_UNKNOWN: manifest unknown"},
		{"unauthorized", 401, denied, ErrUnauthorized, "requested access to the resource is denied"},
		{"forbidden", 403, denied, ErrUnauthorized, "image pull secret"},
		{"bad day", 500, "<html>\n<h1>oh " + strings.Repeat("no ", 9000), ErrUnreachable, "500 Internal Server Error"}, // a page is none of a registry's answers
		{"long answer", 500, `{"errors":[{"code":"UNKNOWN","message":"oh` + strings.Repeat(" no", 9000) + `"}]}`, ErrUnreachable, "UNKNOWN: oh no no"},
		{"always too many", 429, "", ErrUnreachable, "429"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg, s := imagestest.NewRegistry(t), openStore(t)
			reg.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Path == "/v2/" {
					next.ServeHTTP(w, r)
					return
				}
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			})
			r := request(reg.Host + "/kmod:v1")
			_, err := s.Ensure(t.Context(), r)
			require.ErrorIs(t, err, tt.want)
			assert.ErrorContains(t, err, tt.words)
			assert.ErrorContains(t, err, r.Ref)
			assert.Less(t, len(err.Error()), 1000)
			assert.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestNobodyListens(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	reg.Close()
	_, err := s.Ensure(t.Context(), request(reg.Host+"/kmod:v1"))
	assert.ErrorIs(t, err, ErrUnreachable)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Ensure(ctx, request(reg.Host+"/kmod:v1"))
	assert.ErrorIs(t, err, context.Canceled)
	assert.NotErrorIs(t, err, ErrUnreachable)
}

func TestAnonymousToken(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	imagestest.Push(t, reg.Host+"/kmod:v1", imagestest.Layer(t, testModules()))
	reg.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch {
		case r.URL.Path == "/token":
			assert.Empty(t, r.Header.Get("Authorization"))
			assert.Equal(t, "repository:kmod:pull", r.URL.Query().Get("scope"))
			_, _ = w.Write([]byte(`{"token":"for-anybody"}`))
		case r.Header.Get("Authorization") != "Bearer for-anybody":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, reg.Host))
			w.WriteHeader(http.StatusUnauthorized)
		default:
			next.ServeHTTP(w, r)
		}
	})
	_, err := s.Ensure(t.Context(), request(reg.Host+"/kmod:v1"))
	assert.NoError(t, err)
}

func TestRetryWhenAskedTo(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	imagestest.Push(t, reg.Host+"/kmod:v1", imagestest.Layer(t, testModules()))
	count := map[string]int{}
	reg.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if count[r.URL.Path]++; count[r.URL.Path] < retryAttempts {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		next.ServeHTTP(w, r)
	})
	_, err := s.Ensure(t.Context(), request(reg.Host+"/kmod:v1"))
	assert.NoError(t, err)
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(1999, 12, 31, 23, 59, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "9999": 9999 * time.Second, "-1": 0, "99999999999999999999": 0, "soon": 0,
		"Fri, 31 Dec 1999 23:59:59 GMT": 59 * time.Second, "Fri, 31 Dec 1999 23:58:59 GMT": 0,
	} {
		assert.Equal(t, want, retryAfter(&http.Response{Header: http.Header{"Retry-After": {in}}}, now), in)
	}
}

func TestIndex(t *testing.T) {
	reg := imagestest.NewRegistry(t)
	image := func(what string) v1.Image {
		return imagestest.Image(t, imagestest.Layer(t, map[string]string{"opt/lib/modules/" + testRelease + "/a.ko": what}))
	}
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	tests := []struct {
		name   string
		images map[string]v1.Image
		err    error
	}{
		{"only ours, attested", map[string]v1.Image{"linux/" + runtime.GOARCH: image("right")}, nil},
		{"ours among others", map[string]v1.Image{
			"linux/" + other: image("wrong"), "linux/s390x": image("wrong"), "freebsd/" + runtime.GOARCH: image("wrong"),
			"linux/" + runtime.GOARCH: image("right")}, nil},
		{"not ours", map[string]v1.Image{"linux/" + other: image("wrong")}, ErrNotFound},
		{"too new a variant", map[string]v1.Image{"linux/" + runtime.GOARCH + "/v9": image("wrong")}, ErrNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t)
			r := request(reg.Host + "/kmod:" + strings.ReplaceAll(tt.name, " ", "-")[:8])
			r.FirmwarePath = ""
			digest := imagestest.PushIndex(t, r.Ref, tt.images)
			tree, err := s.Ensure(t.Context(), r)
			require.ErrorIs(t, err, tt.err)
			if tt.err == nil {
				assert.Equal(t, map[string]string{"a.ko": "right"}, contents(t, tree.ModulesDir))
				assert.Equal(t, digest, tree.Digest)
				r.Ref = reg.Host + "/kmod@" + digest
				reg.Requests()
				_, err = s.Ensure(t.Context(), r)
				assert.NoError(t, err)
				assert.Empty(t, reg.Requests(), "the digest of the index is known")
			}
		})
	}
}

// bigLayer has a blob that does not compress, so that there is a middle.
func bigLayer(t *testing.T) *imagestest.Blob {
	noise := make([]byte, 1<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	files := testModules()
	files["firmware/noise"] = string(noise)
	return imagestest.Layer(t, files)
}

// TestBadTransfers serves one blob in all the ways that go wrong.
func TestBadTransfers(t *testing.T) {
	blob := bigLayer(t)
	digest, err := blob.Digest()
	require.NoError(t, err)
	size := len(blob.Data)
	half := size / 2
	flipped := bytes.Clone(blob.Data)
	flipped[half] ^= 1
	rangeStart := func(r *http.Request) int {
		from, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")
		n, _ := strconv.Atoi(from)
		return n
	}
	drop := func(w http.ResponseWriter, b []byte, claimed int) {
		w.Header().Set("Content-Length", strconv.Itoa(claimed))
		_, _ = w.Write(b)
		panic(http.ErrAbortHandler)
	}
	part := func(w http.ResponseWriter, from int) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, size-1, size))
		w.WriteHeader(http.StatusPartialContent)
	}
	tests := []struct {
		name  string
		serve func(w http.ResponseWriter, r *http.Request)
		err   error
	}{
		{"good", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(blob.Data) }, nil},
		{"drops every quarter", func(w http.ResponseWriter, r *http.Request) {
			from := rangeStart(r)
			end := min(size, from+size/4)
			if from > 0 {
				w.Header().Set("Content-Length", strconv.Itoa(size-from))
				part(w, from)
			}
			drop(w, blob.Data[from:end], size-from)
		}, nil},
		{"drops once, no ranges", func(w http.ResponseWriter, r *http.Request) {
			if rangeStart(r) == 0 {
				drop(w, blob.Data[:half], size)
			}
			_, _ = w.Write(blob.Data)
		}, nil},
		{"drops, then another range", func(w http.ResponseWriter, r *http.Request) {
			if rangeStart(r) == 0 {
				drop(w, blob.Data[:half], size)
			}
			part(w, 7)
			_, _ = w.Write(blob.Data[7:])
		}, ErrDigest},
		{"drops always", func(w http.ResponseWriter, _ *http.Request) { drop(w, nil, size) }, ErrUnreachable},
		{"one bit", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(flipped) }, ErrDigest},
		{"short, said so", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(half))
			_, _ = w.Write(blob.Data[:half])
		}, ErrDigest},
		{"short, chunked", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(blob.Data[:half])
			w.(http.Flusher).Flush()
		}, ErrDigest},
		{"long", func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = w.Write(blob.Data)
			_, _ = w.Write(blob.Data)
		}, ErrDigest},
		{"stalls", func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(blob.Data[:half])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, ErrUnreachable},
		{"stalls once", func(w http.ResponseWriter, r *http.Request) {
			if from := rangeStart(r); from > 0 {
				part(w, from)
				_, _ = w.Write(blob.Data[from:])
				return
			}
			_, _ = w.Write(blob.Data[:half])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, nil},
		{"gone", http.NotFound, ErrNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg, s := imagestest.NewRegistry(t), openStore(t)
			s.l.stallWindow = time.Minute
			if strings.HasPrefix(tt.name, "stalls") {
				s.l.stallWindow = 500 * time.Millisecond
			}
			r := request(reg.Host + "/kmod:v1")
			imagestest.Push(t, r.Ref, blob)
			reg.Handle(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if strings.HasSuffix(req.URL.Path, "/blobs/"+digest.String()) {
					tt.serve(w, req)
					return
				}
				next.ServeHTTP(w, req)
			})
			tree, err := s.Ensure(t.Context(), r)
			require.ErrorIs(t, err, tt.err)
			assert.Empty(t, names(t, s.path("tmp")))
			if tt.err == nil {
				assert.NoError(t, tree.Verify())
				assert.FileExists(t, filepath.Join(tree.FirmwareDir, "noise"))
				return
			}
			assert.Empty(t, names(t, s.path("trees")))
			assert.ErrorContains(t, err, r.Ref)
		})
	}
}

func TestManifestIsNotTrusted(t *testing.T) {
	good := imagestest.NewRegistry(t)
	digest := imagestest.Push(t, good.Host+"/kmod:v1", imagestest.Layer(t, testModules()))
	layer := `{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:` + strings.Repeat("a", 64) + `","size":%s}`
	image := func(layers string) string {
		return `{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:` + strings.Repeat("b", 64) + `","size":1},"layers":[` + layers + `]}`
	}
	tests := []struct {
		name, tag, body string
		err             error
	}{
		{"another one", "@" + digest, image(fmt.Sprintf(layer, "1")), ErrDigest},
		{"no JSON", ":v1", "<html>", ErrUnsafe},
		{"no JSON, and its digest says so", "@sha256:b7d082ee12e91b756ea22e8513b8594eebcf5d39fab813da3cb55794dc888ad7", "<html>", ErrUnsafe},
		{"schema 1", ":v1", `{"schemaVersion":1,"fsLayers":[]}`, ErrUnsafe},
		{"image and index", ":v1", `{"schemaVersion":2,"manifests":[],"layers":[]}`, ErrUnsafe},
		{"index that says it is an image", ":v1",
			`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}`, ErrUnsafe},
		{"empty index", ":v1", `{"schemaVersion":2,"manifests":[]}`, ErrNotFound},
		{"no layers", ":v1", image(""), ErrLimit},
		{"too many layers", ":v1", image(strings.TrimSuffix(strings.Repeat(fmt.Sprintf(layer, "1")+",", maxLayers+1), ",")), ErrLimit},
		{"negative size", ":v1", image(fmt.Sprintf(layer, "-1")), ErrUnsafe},
		{"sizes that overflow", ":v1", image(fmt.Sprintf(layer, "1") + "," + fmt.Sprintf(layer, "9223372036854775807")), ErrLimit},
		{"no layer type", ":v1", image(strings.Replace(fmt.Sprintf(layer, "1"), "layer.v1.tar+gzip", "config.v1+json", 1)), ErrUnsafe},
		{"digest with a path", ":v1", image(strings.Replace(fmt.Sprintf(layer, "1"), "sha256:aa", "sha256:../", 1)), ErrUnsafe},
		{"huge", ":v1", strings.Repeat(" ", maxManifest+1), ErrLimit},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg, s := imagestest.NewRegistry(t), openStore(t)
			reg.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Path == "/v2/" {
					next.ServeHTTP(w, r)
					return
				}
				w.Header().Set("Docker-Content-Digest", digest)
				_, _ = w.Write([]byte(tt.body))
			})
			_, err := s.Ensure(t.Context(), request(reg.Host+"/kmod"+tt.tag))
			require.ErrorIs(t, err, tt.err)
			bad := errors.Is(err, ErrUnsafe) || errors.Is(err, ErrLimit)
			require.Equal(t, bad && !strings.HasPrefix(tt.tag, "@"), errors.Is(err, ErrManifest), "a tag may have another one the next time")
		})
	}
}

func TestIndexInIndexEnds(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	// The index names itself by any digest; the registry always answers it.
	body := `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","size":1,"digest":"sha256:` +
		strings.Repeat("a", 64) + `"}]}`
	reg.Handle(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { _, _ = w.Write([]byte(body)) })
	_, err := s.Ensure(t.Context(), request(reg.Host+"/kmod:v1"))
	assert.ErrorIs(t, err, ErrDigest)
}

func TestOwnDiskIsNotTheRegistrysFault(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	r := request(reg.Host + "/kmod:v1")
	imagestest.Push(t, r.Ref, imagestest.Layer(t, testModules()))
	require.NoError(t, os.RemoveAll(s.path("tmp")))
	_, err := s.Ensure(t.Context(), r)
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.NotErrorIs(t, err, ErrUnreachable)
	assert.NotErrorIs(t, err, ErrNotFound)
}
