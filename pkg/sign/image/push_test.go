// SPDX-License-Identifier: Apache-2.0

package image

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/credentials"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

func nested(index v1.ImageIndex) v1.ImageIndex {
	return mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: index})
}

// oneModule is a lab whose in:v1 has a base and one module.
func oneModule(t testing.TB) *lab {
	t.Helper()
	return newLab(t, imagestest.Layer(t, map[string]string{"etc/base": strings.Repeat("x", 1000)}),
		imagestest.Layer(t, map[string]string{mods + "a.ko": module("a")}))
}

// unpublished asserts that nobody can pull out:v1.
func (l *lab) unpublished(t testing.TB) {
	t.Helper()
	l.Handle(nil)
	_, err := remote.Head(mustRef(t, l.Host+"/out:v1"))
	assert.ErrorContains(t, err, "404")
}

// TestManifestComesLast: what is pushed before can not be pulled by the tag.
func TestManifestComesLast(t *testing.T) {
	l := newLab(t)
	require.NoError(t, remote.WriteIndex(mustRef(t, l.Host+"/in:v1"), twoPlatforms(t)))
	l.Requests()
	_, err := l.sign(t, allMods)
	require.NoError(t, err)
	var writes []string
	for _, r := range l.Requests() {
		if !strings.HasPrefix(r, "GET ") && !strings.HasPrefix(r, "HEAD ") {
			writes = append(writes, r)
		}
	}
	for i, w := range writes {
		assert.Equal(t, i == len(writes)-1, strings.HasSuffix(w, "/manifests/v1"), w)
	}
}

// TestBlobsAreMounted: what the registry has is not sent through us again.
func TestBlobsAreMounted(t *testing.T) {
	l := oneModule(t)
	var mu sync.Mutex
	var mounts []string
	l.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/blobs/") {
			w.WriteHeader(http.StatusNotFound) // one repository's are not another's, as in a real registry
			return
		}
		if from := r.URL.Query().Get("from"); from != "" && r.Method == http.MethodPost {
			mu.Lock()
			mounts = append(mounts, from)
			mu.Unlock()
		}
		next.ServeHTTP(w, r)
	})
	o := l.options("in:v1", "team/out:v1")
	_, err := Sign(t.Context(), o, l.signer, globs(t, allMods))
	require.NoError(t, err)
	assert.Equal(t, []string{"in", "in"}, mounts, "the two layers of the source; ours and the configuration are new")
}

func TestRegistryFails(t *testing.T) {
	put := func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/out/manifests/")
	}
	upload := func(r *http.Request) bool { return r.Method == http.MethodPatch }
	start := func(r *http.Request) bool { return r.Method == http.MethodPost }
	answer := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	abort := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	tests := []struct {
		name  string
		where func(*http.Request) bool
		what  http.HandlerFunc
		times int32 // 0: always
		err   error
		says  string
	}{
		{"once at the manifest", put, answer(503), 1, nil, ""},
		{"once at a blob", upload, answer(500), 1, nil, ""},
		{"connection lost at a blob", upload, abort, 1, nil, ""},
		{"connection lost at the manifest", put, abort, 2, nil, ""},
		{"for good at the manifest", put, answer(503), 0, images.ErrUnreachable, "can not take it now"},
		{"for good at a blob", upload, answer(500), 0, images.ErrUnreachable, "can not take it now"},
		{"connections lost", upload, abort, 0, images.ErrUnreachable, "is up"},
		{"read only", start, answer(403), 0, images.ErrUnauthorized, "--authfile"},
		{"who are you", start, answer(401), 0, images.ErrUnauthorized, "--authfile"},
		{"no such repository", start, answer(404), 0, images.ErrNotFound, "before the first push"},
		{"bad request", put, answer(400), 0, images.ErrUnreachable, "does not take it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := oneModule(t)
			var times atomic.Int32
			l.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if tt.where(r) && (times.Add(1) <= tt.times || tt.times == 0) {
					tt.what(w, r)
					return
				}
				next.ServeHTTP(w, r)
			})
			_, err := l.sign(t, allMods)
			if tt.err == nil {
				require.NoError(t, err)
				wellFormed(t, l.image(t, "out:v1"))
				return
			}
			require.ErrorIs(t, err, tt.err)
			assert.ErrorContains(t, err, "write "+l.Host+"/out:v1: ")
			assert.ErrorContains(t, err, tt.says)
			assert.NotContains(t, err.Error(), "\n")
			l.unpublished(t)
		})
	}
}

// TestRegistryIsDown: between reading and writing.
func TestRegistryIsDown(t *testing.T) {
	l := oneModule(t)
	other := imagestest.NewRegistry(t)
	o := l.options("in:v1", "out:v1")
	o.To.Ref = other.Host + "/out:v1"
	other.Close()
	_, err := Sign(t.Context(), o, l.signer, globs(t, allMods))
	require.ErrorIs(t, err, images.ErrUnreachable)
	assert.ErrorContains(t, err, "connection refused")
	assert.ErrorContains(t, err, "that "+other.Host+" is up")
}

// TestSourceFailsWhilePushing: the error is about the source, and there is nothing at
// the target.
func TestSourceFailsWhilePushing(t *testing.T) {
	l := oneModule(t)
	base, err := l.image(t, "in:v1").Layers()
	require.NoError(t, err)
	digest, err := base[0].Digest()
	require.NoError(t, err)
	l.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, digest.String()) {
			_, _ = w.Write(make([]byte, 1000)) // other bytes than those asked for
			return
		}
		next.ServeHTTP(w, r)
	})
	target := imagestest.NewRegistry(t)
	o := l.options("in:v1", "out:v1")
	o.To.Ref = target.Host + "/out:v1"
	_, err = Sign(t.Context(), o, l.signer, globs(t, "/"+mods+"a.ko"))
	require.ErrorIs(t, err, images.ErrDigest)
	assert.ErrorContains(t, err, "in:v1")
	_, err = remote.Head(mustRef(t, o.To.Ref))
	assert.ErrorContains(t, err, "404")
}

func keyring(t testing.TB, name, user string) *credentials.Keyring {
	t.Helper()
	k, err := credentials.Parse(user, []byte(`{"auths": {"`+name+`": {"username": "`+user+`", "password": "hidden"}}}`))
	require.NoError(t, err)
	return k
}

// TestCredentials: whoever may push gets a turn, in the order of how well the name
// fits.
func TestCredentials(t *testing.T) {
	l := oneModule(t)
	var mu sync.Mutex
	var users []string
	l.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		user, _, _ := r.BasicAuth()
		mu.Lock()
		if user != "" && !slices.Contains(users, user) {
			users = append(users, user)
		}
		mu.Unlock()
		switch {
		case user == "":
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case user != "pusher" && r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.WriteHeader(http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
	o := l.options("in:v1", "out:v1")
	o.Keyring = credentials.Merge(keyring(t, l.Host, "host"), keyring(t, l.Host+"/out", "pusher"))
	_, err := Sign(t.Context(), o, l.signer, globs(t, allMods))
	require.NoError(t, err)
	assert.Equal(t, []string{"host", "pusher"}, users)

	o.Keyring = credentials.Merge(keyring(t, l.Host+"/out", "reader"), keyring(t, l.Host, "pusher"))
	o.To.Ref = l.Host + "/out:v2"
	_, err = Sign(t.Context(), o, l.signer, globs(t, allMods))
	require.NoError(t, err, "the second of those that fit")

	o.Keyring = keyring(t, l.Host, "reader")
	o.To.Ref = l.Host + "/out:v3"
	_, err = Sign(t.Context(), o, l.signer, globs(t, allMods))
	require.ErrorIs(t, err, images.ErrUnauthorized)
	assert.ErrorContains(t, err, "tried with reader ("+l.Host+")")
	assert.NotContains(t, err.Error(), "hidden")
}

func TestPlainHTTPAndCertificates(t *testing.T) {
	l := oneModule(t)
	o := l.options("in:v1", "out:v1")
	o.To.Insecure = false
	_, err := Sign(t.Context(), o, l.signer, globs(t, allMods))
	require.ErrorIs(t, err, images.ErrUnreachable)
	assert.ErrorContains(t, err, "--insecure-to")
	o.To.Insecure, o.From.Insecure = true, false
	_, err = Sign(t.Context(), o, l.signer, globs(t, allMods))
	require.ErrorIs(t, err, images.ErrUnreachable)

	secure := imagestest.NewTLSRegistry(t)
	o = l.options("in:v1", "out:v1")
	o.To = Place{Ref: secure.Host + "/out:v1"}
	_, err = Sign(t.Context(), o, l.signer, globs(t, allMods))
	require.ErrorIs(t, err, images.ErrUnreachable)
	assert.ErrorContains(t, err, "--skip-tls-verify-to")
	o.To.SkipTLSVerify = true
	_, err = Sign(t.Context(), o, l.signer, globs(t, allMods))
	require.NoError(t, err)
	_, err = Copy(t.Context(), Options{From: o.To, To: l.options("in:v1", "back:v1").To})
	require.NoError(t, err)
	wellFormed(t, l.image(t, "back:v1"))
}

func TestTargets(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("a", 64)
	for ref, ok := range map[string]bool{
		"reg.example/a:v1": true, "reg.example:5000/team/a:v1": true, "oci:/tmp/x": true, "oci:/tmp/x:v1": true,
		"": false, "reg.example/a": false, "reg.example:5000/a": false, "reg.example/a:v1" + digest: false, "reg.example/a" + digest: false,
		"oci:/tmp/x" + digest: false, "oci-archive:/tmp/x.tar": false, "oci:tmp/../x": false, "reg.example/A B:v1": false,
	} {
		_, err := parseTarget(Place{Ref: ref})
		if ok {
			assert.NoError(t, err, ref)
		} else {
			assert.ErrorIs(t, err, images.ErrInvalidRef, ref)
		}
	}
}
