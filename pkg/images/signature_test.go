// SPDX-License-Identifier: Apache-2.0

package images

import (
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/cosign"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

func signerKeys(t *testing.T, signers ...*imagestest.Signer) Policy {
	t.Helper()
	var p Policy
	for _, s := range signers {
		k, err := cosign.ParseKeys("cosign.pub", s.PEM)
		require.NoError(t, err)
		p.Keys = append(p.Keys, k...)
	}
	return p
}

// noReferrers makes a registry one without the referrers API.
func noReferrers(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if strings.Contains(r.URL.Path, "/referrers/") {
		http.NotFound(w, r)
		return
	}
	next.ServeHTTP(w, r)
}

// pageForReferrers answers as some registries do.
func pageForReferrers(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if strings.Contains(r.URL.Path, "/referrers/") {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>what?"))
		return
	}
	next.ServeHTTP(w, r)
}

func TestSignatures(t *testing.T) {
	good, stranger := imagestest.NewSigner(t, "p256"), imagestest.NewSigner(t, "ed25519")
	attestation := "https://slsa.dev/provenance/v1"
	tests := []struct {
		name  string
		sign  func(t *testing.T, ref, digest string)
		words string // of the refusal; empty: the image is taken
	}{
		{"none", func(*testing.T, string, string) {}, "has no signature: sign it"},
		{"classic", func(t *testing.T, ref, _ string) { imagestest.PushSimple(t, ref, good) }, ""},
		{"classic, second of two", func(t *testing.T, ref, _ string) { imagestest.PushSimple(t, ref, stranger, good) }, ""},
		{"classic by another key", func(t *testing.T, ref, _ string) { imagestest.PushSimple(t, ref, stranger) }, "another key"},
		{"bundle", func(t *testing.T, ref, digest string) {
			imagestest.PushBundle(t, ref, good.Bundle(t, digest, imagestest.PredicateSign), imagestest.PredicateSign)
		}, ""},
		{"bundle by another key", func(t *testing.T, ref, digest string) {
			imagestest.PushBundle(t, ref, stranger.Bundle(t, digest, imagestest.PredicateSign), imagestest.PredicateSign)
		}, "another key"},
		{"an attestation is none", func(t *testing.T, ref, digest string) {
			imagestest.PushBundle(t, ref, good.Bundle(t, digest, attestation), attestation)
		}, "has no signature: sign it"},
		{"an attestation that calls itself one", func(t *testing.T, ref, digest string) {
			imagestest.PushBundle(t, ref, good.Bundle(t, digest, attestation), imagestest.PredicateSign)
		}, "attestation of type"},
		{"of another image", func(t *testing.T, ref, _ string) {
			other := "sha256:" + strings.Repeat("a", 64)
			imagestest.PushBundle(t, ref, good.Bundle(t, other, imagestest.PredicateSign), imagestest.PredicateSign)
		}, "of the image sha256:aaaa"},
		{"too large", func(t *testing.T, ref, digest string) {
			b := good.Bundle(t, digest, imagestest.PredicateSign)
			imagestest.PushBundle(t, ref, append(b, strings.Repeat(" ", maxSignature)...), imagestest.PredicateSign)
		}, "has no signature: sign it"},
	}
	answers := map[string]func(http.ResponseWriter, *http.Request, http.Handler){
		"API": nil, "no API": noReferrers, "a page": pageForReferrers,
	}
	for api, answer := range answers {
		for _, tt := range tests {
			t.Run(tt.name+"/"+api, func(t *testing.T) {
				reg := imagestest.NewRegistry(t)
				s := withPolicy(t, openStore(t), signerKeys(t, good))
				reg.Handle(noReferrers) // so that the client that pushes keeps the index itself
				if api == "API" {
					reg.Handle(nil)
				}
				r := request(reg.Host + "/kmod:v1")
				digest := imagestest.Push(t, r.Ref, imagestest.Layer(t, testModules()))
				tt.sign(t, r.Ref, digest)
				reg.Handle(answer)
				reg.Requests()
				tree, err := s.Ensure(t.Context(), r)
				if tt.words == "" {
					require.NoError(t, err)
					assert.Equal(t, digest, tree.Digest)
					return
				}
				require.ErrorIs(t, err, ErrPolicy)
				require.NotErrorIs(t, err, ErrUnreachable)
				assert.ErrorContains(t, err, "policy signature_keys: "+digest)
				assert.ErrorContains(t, err, tt.words)
				assert.ErrorContains(t, err, r.Ref)
				assert.Empty(t, names(t, s.path("trees")))
				assert.NoDirExists(t, s.path("signatures"))
				layers, err := imagestest.Image(t, imagestest.Layer(t, testModules())).Layers()
				require.NoError(t, err)
				layer, err := layers[0].Digest()
				require.NoError(t, err)
				assert.NotContains(t, strings.Join(reg.Requests(), "\n"), layer.String(), "a layer of an image nobody signed was fetched")
			})
		}
	}
}

// TestSignatureOfAnIndex: what the tag stands for has to be signed, not the
// image for this machine in it.
func TestSignatureOfAnIndex(t *testing.T) {
	reg, key := imagestest.NewRegistry(t), imagestest.NewSigner(t, "p256")
	s := withPolicy(t, openStore(t), signerKeys(t, key))
	r := localRequest(reg.Host + "/kmod:v1")
	r.Insecure = true
	img := moduleImage(t, "signed")
	imagestest.PushIndex(t, r.Ref, map[string]v1.Image{"linux/" + runtime.GOARCH: img})
	digest, err := img.Digest()
	require.NoError(t, err)
	imagestest.PushSimple(t, reg.Host+"/kmod@"+digest.String(), key)
	_, err = s.Ensure(t.Context(), r)
	require.ErrorIs(t, err, ErrPolicy)
	imagestest.PushSimple(t, r.Ref, key)
	_, err = s.Ensure(t.Context(), r)
	assert.NoError(t, err)
}

func TestManySignatures(t *testing.T) {
	reg, key := imagestest.NewRegistry(t), imagestest.NewSigner(t, "p256")
	var crowd []*imagestest.Signer
	for range maxSignatures {
		crowd = append(crowd, imagestest.NewSigner(t, "ed25519"))
	}
	s := withPolicy(t, openStore(t), signerKeys(t, key))
	r := request(reg.Host + "/kmod:v1")
	imagestest.Push(t, r.Ref, imagestest.Layer(t, testModules()))
	imagestest.PushSimple(t, r.Ref, append(crowd, key)...)
	_, err := s.Ensure(t.Context(), r)
	require.ErrorIs(t, err, ErrPolicy)
	assert.ErrorContains(t, err, "and 60 more")
	imagestest.PushSimple(t, r.Ref, append(crowd[1:], key)...)
	_, err = s.Ensure(t.Context(), r)
	assert.NoError(t, err)
}

// TestRegistryFailsForSignatures: no answer is not "no signature".
func TestRegistryFailsForSignatures(t *testing.T) {
	for _, path := range []string{".sig", "/referrers/"} {
		reg, s := imagestest.NewRegistry(t), withPolicy(t, openStore(t), signerKeys(t, imagestest.NewSigner(t, "p256")))
		r := request(reg.Host + "/kmod:v1")
		imagestest.Push(t, r.Ref, imagestest.Layer(t, testModules()))
		reg.Handle(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if strings.Contains(req.URL.Path, path) {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			next.ServeHTTP(w, req)
		})
		_, err := s.Ensure(t.Context(), r)
		require.ErrorIs(t, err, ErrUnreachable, path)
		assert.NotErrorIs(t, err, ErrPolicy, path)
	}
}

func TestSignaturesInALayout(t *testing.T) {
	key := imagestest.NewSigner(t, "p256")
	img := moduleImage(t, "one")
	digest, err := img.Digest()
	require.NoError(t, err)
	raw, err := img.RawManifest()
	require.NoError(t, err)
	subject := v1.Descriptor{MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: digest, Size: int64(len(raw))}
	bundle := key.Bundle(t, digest.String(), imagestest.PredicateSign)
	other := subject
	other.Digest.Hex = strings.Repeat("a", 64)
	tests := []struct {
		name string
		add  func(dir string)
		ok   bool
	}{
		{"none", func(string) {}, false},
		{"tag of cosign", func(dir string) {
			imagestest.AddToLayout(t, dir, imagestest.SimpleImage(t, digest.String(), key), imagestest.Tagged("sha256-"+digest.Hex+".sig"))
		}, true},
		{"cosign save", func(dir string) {
			imagestest.AddToLayout(t, dir, imagestest.SimpleImage(t, digest.String(), key), map[string]string{
				annotationKind: kindSignatures, annotationRefName: "reg.example/kmod:v1",
			})
		}, true},
		{"referrer", func(dir string) {
			imagestest.AddToLayout(t, dir, imagestest.BundleImage(t, subject, bundle, imagestest.PredicateSign), nil)
		}, true},
		{"referrer of another image", func(dir string) {
			imagestest.AddToLayout(t, dir, imagestest.BundleImage(t, other, bundle, imagestest.PredicateSign), nil)
		}, false},
	}
	for _, tt := range tests {
		dir := filepath.Join(t.TempDir(), "layout")
		imagestest.AddToLayout(t, dir, img, imagestest.Tagged("v1"))
		tt.add(dir)
		imagestest.Archive(t, dir, dir+".tar")
		for _, ref := range []string{"oci:" + dir + ":v1", "oci-archive:" + dir + ".tar:v1"} {
			s := withPolicy(t, openStore(t), signerKeys(t, key))
			_, err := s.Ensure(t.Context(), localRequest(ref))
			if tt.ok {
				assert.NoError(t, err, tt.name)
			} else {
				assert.ErrorIs(t, err, ErrPolicy, tt.name)
			}
		}
	}
}
