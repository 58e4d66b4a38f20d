// SPDX-License-Identifier: Apache-2.0

package images

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// TestSignaturesAreKept: with the registry gone a stored image is verified with
// what was found beside it, and with the keys of today.
func TestSignaturesAreKept(t *testing.T) {
	old, current := imagestest.NewSigner(t, "p384"), imagestest.NewSigner(t, "ed25519")
	for name, sign := range map[string]func(ref, digest string){
		"classic": func(ref, _ string) { imagestest.PushSimple(t, ref, old, current) },
		"bundle": func(ref, digest string) {
			for _, key := range []*imagestest.Signer{old, current} {
				imagestest.PushBundle(t, ref, key.Bundle(t, digest, imagestest.PredicateSign), imagestest.PredicateSign)
			}
		},
		"message": func(ref, digest string) {
			img := imagestest.Image(t, imagestest.Layer(t, testModules()))
			raw, err := img.RawManifest()
			require.NoError(t, err)
			for _, key := range []*imagestest.Signer{old, current} {
				imagestest.PushBundle(t, ref, key.MessageBundle(t, raw), imagestest.PredicateSign)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			reg, unsigned := imagestest.NewRegistry(t), openStore(t)
			r := request(reg.Host + "/kmod:v1")
			digest := imagestest.Push(t, r.Ref, imagestest.Layer(t, testModules()))
			_, err := unsigned.Ensure(t.Context(), r)
			require.NoError(t, err)
			s := withPolicy(t, unsigned, signerKeys(t, old))
			_, err = s.Ensure(t.Context(), r)
			require.ErrorIs(t, err, ErrPolicy, "an image that was stored before there was a rule")

			sign(r.Ref, digest)
			reg.Requests()
			_, err = s.Ensure(t.Context(), r)
			require.NoError(t, err)
			assert.NotContains(t, strings.Join(reg.Requests(), "\n"), "GET /v2/kmod/blobs/"+layerDigest(t), "fetched again")
			_, err = s.Ensure(t.Context(), r)
			require.NoError(t, err)
			assert.Empty(t, reg.Requests(), "signatures are in the store")
			r.PullPolicy = PullAlways
			_, err = s.Ensure(t.Context(), r)
			require.NoError(t, err)
			assert.NotContains(t, strings.Join(reg.Requests(), "\n"), "sha256-", "signatures are in the store")

			reg.Close()
			for _, policy := range []string{PullAlways, PullIfNotPresent, PullNever} {
				r.PullPolicy = policy
				for _, keys := range []Policy{signerKeys(t, old), signerKeys(t, current)} {
					tree, err := withPolicy(t, s, keys).Ensure(t.Context(), r)
					require.NoError(t, err)
					assert.Equal(t, policy == PullAlways, tree.Stale)
				}
				_, err = withPolicy(t, s, signerKeys(t, imagestest.NewSigner(t, "p256"))).Ensure(t.Context(), r)
				require.Error(t, err)
				if policy != PullAlways {
					assert.ErrorIs(t, err, ErrPolicy)
					assert.ErrorContains(t, err, "policy signature_keys: "+digest)
				}
			}
			r.PullPolicy = PullNever
			edit := s.signaturePath(digest)
			require.NoError(t, os.WriteFile(edit, []byte(`{"digest":"`), 0o600))
			_, err = s.Ensure(t.Context(), r)
			assert.ErrorIs(t, err, ErrPolicy, "damaged")
		})
	}
}

func layerDigest(t *testing.T) string {
	t.Helper()
	digest, err := imagestest.Layer(t, testModules()).Digest()
	require.NoError(t, err)
	return digest.String()
}

// TestSignatureOfAnotherStoredImage: the record is about the image it is named
// after, or about none.
func TestSignatureOfAnotherStoredImage(t *testing.T) {
	reg, key := imagestest.NewRegistry(t), imagestest.NewSigner(t, "p256")
	plain := openStore(t)
	s := withPolicy(t, plain, signerKeys(t, key))
	good, evil := request(reg.Host+"/kmod:good"), request(reg.Host+"/kmod:evil")
	digest := imagestest.Push(t, good.Ref, imagestest.Layer(t, testModules()))
	imagestest.PushSimple(t, good.Ref, key)
	evilDigest := imagestest.Push(t, evil.Ref, imagestest.Layer(t, testModules()), imagestest.Layer(t, map[string]string{"x": "y"}))
	_, err := plain.Ensure(t.Context(), evil)
	require.NoError(t, err)
	_, err = s.Ensure(t.Context(), good)
	require.NoError(t, err)
	b, err := os.ReadFile(s.signaturePath(digest))
	require.NoError(t, err)
	reg.Close()
	for _, text := range []string{string(b), strings.ReplaceAll(string(b), digest, evilDigest)} {
		require.NoError(t, os.WriteFile(s.signaturePath(evilDigest), []byte(text), 0o600))
		evil.PullPolicy = PullNever
		_, err = s.Ensure(t.Context(), evil)
		assert.ErrorIs(t, err, ErrPolicy)
	}
}

func TestSignaturesGoWithTheirImage(t *testing.T) {
	reg, key := imagestest.NewRegistry(t), imagestest.NewSigner(t, "p256")
	s := withPolicy(t, openStore(t), signerKeys(t, key))
	r := request(reg.Host + "/kmod:v1")
	digest := imagestest.Push(t, r.Ref, imagestest.Layer(t, testModules()))
	imagestest.PushSimple(t, r.Ref, key)
	_, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	long := time.Now().Add(-2 * pullTimeout)
	require.NoError(t, os.Chtimes(s.signaturePath(digest), long, long))
	_, _, err = s.Prune(PruneOptions{Unused: time.Hour})
	require.NoError(t, err)
	assert.FileExists(t, s.signaturePath(digest), "the image is there")

	under := "sha256:" + strings.Repeat("b", 64) // way
	b, err := json.Marshal(signed{Digest: under})
	require.NoError(t, err)
	require.NoError(t, s.writeFile(s.signaturePath(under), b))
	_, _, err = s.Prune(PruneOptions{})
	require.NoError(t, err)
	assert.NoFileExists(t, s.signaturePath(digest))
	assert.FileExists(t, s.signaturePath(under), "its image may be on its way")
}
