// SPDX-License-Identifier: Apache-2.0

package images

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// newerModules are testModules with another build of one.
func newerModules() map[string]string {
	files := testModules()
	files["opt/lib/modules/"+testRelease+"/a.ko"] = "module a, new"
	return files
}

// TestTagMoves: whenever in a pull the tag moves to another image, what comes is
// the one that the pull began with, whole.
func TestTagMoves(t *testing.T) {
	reg := imagestest.NewRegistry(t)
	push := func(tag string, files map[string]string) string {
		return imagestest.PushIndex(t, reg.Host+"/kmod:"+tag, map[string]v1.Image{
			"linux/" + runtime.GOARCH: imagestest.Image(t, imagestest.Layer(t, files)),
		})
	}
	before, after := push("v1", testModules()), push("v2", newerModules())
	for nth, more := int64(1), true; more && !t.Failed(); nth++ {
		t.Run(fmt.Sprintf("before request %d", nth), func(t *testing.T) {
			var requests, tagAsked atomic.Int64
			reg.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				n := requests.Add(1)
				if strings.HasSuffix(r.URL.Path, "/manifests/v1") {
					tagAsked.Store(n)
					if n >= nth {
						r.URL.Path = strings.TrimSuffix(r.URL.Path, "v1") + "v2"
					}
				}
				next.ServeHTTP(w, r)
			})
			tree, err := openStore(t).Ensure(t.Context(), request(reg.Host+"/kmod:v1"))
			require.NoError(t, err)
			more = requests.Load() >= nth
			digest, module := before, "module a"
			if tagAsked.Load() >= nth {
				digest, module = after, "module a, new"
			}
			assert.Equal(t, digest, tree.Digest)
			assert.Equal(t, module, contents(t, tree.ModulesDir)["a.ko"])
		})
	}
}

// TestOlderSignedImage: a signature has no end. A tag that is moved back to an
// image that was signed once is refused by require_digest only; a digest has no
// older image.
func TestOlderSignedImage(t *testing.T) {
	reg, key := imagestest.NewRegistry(t), imagestest.NewSigner(t, "p256")
	policy := signerKeys(t, key)
	s := withPolicy(t, openStore(t), policy)
	r := request(reg.Host + "/kmod:v1")
	r.PullPolicy = PullAlways
	push := func(files map[string]string) string {
		digest := imagestest.Push(t, r.Ref, imagestest.Layer(t, files))
		imagestest.PushSimple(t, r.Ref, key)
		return digest
	}
	old, current := push(testModules()), push(newerModules())
	tree, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, current, tree.Digest)

	push(testModules())
	tree, err = s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, old, tree.Digest, "by its tag and its signature it is as good")

	policy.RequireDigest = true
	s = withPolicy(t, s, policy)
	_, err = s.Ensure(t.Context(), r)
	require.ErrorIs(t, err, ErrPolicy)
	r.Ref = reg.Host + "/kmod:v1@" + current
	tree, err = s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, current, tree.Digest)
}
