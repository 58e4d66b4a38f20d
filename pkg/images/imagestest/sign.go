// SPDX-License-Identifier: Apache-2.0

package imagestest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
)

// PredicateSign is what a bundle that is a signature is about.
const PredicateSign = "https://sigstore.dev/cosign/sign/v1"

const bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// Signer is a new key pair that signs as cosign does with a key.
type Signer struct {
	PEM []byte // the public key
	key crypto.Signer
}

// NewSigner makes a key: "p224", "p256", "p384", "p521", "rsa1024", "rsa2048" or
// "ed25519".
func NewSigner(t testing.TB, kind string) *Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "p224":
		key, err = ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	case "p256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "p521":
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "rsa1024":
		key, err = rsa.GenerateKey(rand.Reader, 1024)
	case "rsa2048":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		require.Fail(t, "unknown key", kind)
	}
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	require.NoError(t, err)
	return &Signer{PEM: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), key: key}
}

// Sign signs message, after hashing it with hash; Ed25519 takes it as it is with
// hash 0.
func (s *Signer) Sign(t testing.TB, message []byte, hash crypto.Hash) []byte {
	t.Helper()
	if hash != 0 {
		h := hash.New()
		h.Write(message)
		message = h.Sum(nil)
	}
	sig, err := s.key.Sign(rand.Reader, message, hash)
	require.NoError(t, err)
	return sig
}

// hash is what cosign hashes with for this key.
func (s *Signer) hash() crypto.Hash {
	if _, ok := s.key.(ed25519.PrivateKey); ok {
		return 0
	}
	return crypto.SHA256
}

// Simple is a classic payload about the image digest, with its signature.
func (s *Signer) Simple(t testing.TB, digest string) (payload, signature []byte) {
	t.Helper()
	payload = fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"registry.example/kmod"},`+
		`"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, digest)
	return payload, s.Sign(t, payload, s.hash())
}

// Bundle is a sigstore bundle about the image digest; with another predicate
// than PredicateSign it is an attestation.
func (s *Signer) Bundle(t testing.TB, digest, predicate string) []byte {
	t.Helper()
	statement := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q},"annotations":{}}],`+
		`"predicateType":%q,"predicate":{}}`, strings.TrimPrefix(digest, "sha256:"), predicate)
	return s.Envelope(t, "application/vnd.in-toto+json", statement)
}

// Envelope is a bundle of any document.
func (s *Signer) Envelope(t testing.TB, payloadType string, payload []byte) []byte {
	t.Helper()
	signed := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
	return s.bundle(t, "dsseEnvelope", map[string]any{
		"payload": payload, "payloadType": payloadType,
		"signatures": []any{map[string]any{"sig": s.Sign(t, signed, s.hash())}},
	})
}

// MessageBundle is a bundle with a signature of the manifest itself.
func (s *Signer) MessageBundle(t testing.TB, manifest []byte) []byte {
	t.Helper()
	hash := s.hash()
	if hash == 0 {
		hash = crypto.SHA512 // Ed25519ph
	}
	sum := sha256.Sum256(manifest)
	return s.bundle(t, "messageSignature", map[string]any{
		"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": sum[:]},
		"signature":     s.Sign(t, manifest, hash),
	})
}

func (s *Signer) bundle(t testing.TB, field string, content any) []byte {
	t.Helper()
	block, _ := pem.Decode(s.PEM)
	hint := sha256.Sum256(block.Bytes)
	b, err := json.Marshal(map[string]any{
		"mediaType": bundleType,
		"verificationMaterial": map[string]any{
			"publicKey":   map[string]any{"hint": base64.StdEncoding.EncodeToString(hint[:])},
			"tlogEntries": []any{},
		},
		field: content,
	})
	require.NoError(t, err)
	return b
}

// SimpleImage is the image cosign pushes to the tag sha256-….sig.
func SimpleImage(t testing.TB, digest string, signers ...*Signer) v1.Image {
	t.Helper()
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	for _, s := range signers {
		payload, sig := s.Simple(t, digest)
		var err error
		img, err = mutate.Append(img, mutate.Addendum{
			Layer: static.NewLayer(payload, "application/vnd.dev.cosign.simplesigning.v1+json"),
			Annotations: map[string]string{
				"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig),
			},
		})
		require.NoError(t, err)
	}
	return img
}

// BundleImage is the artifact that refers to an image and has a bundle about it.
func BundleImage(t testing.TB, subject v1.Descriptor, bundle []byte, predicate string) v1.Image {
	t.Helper()
	return Artifact(t, Manifest{
		ArtifactType: bundleType, Subject: &subject,
		Annotations: map[string]string{
			"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": predicate,
		},
	}, Part{Data: bundle, Type: bundleType})
}

// PushSimple signs the image that ref stands for in the classic way.
func PushSimple(t testing.TB, ref string, signers ...*Signer) {
	t.Helper()
	desc, tag := describe(t, ref)
	to := tag.Context().Tag(strings.Replace(desc.Digest.String(), ":", "-", 1) + ".sig")
	require.NoError(t, remote.Write(to, SimpleImage(t, desc.Digest.String(), signers...), remote.WithContext(t.Context())))
}

// PushBundle attaches a bundle to the image that ref stands for.
func PushBundle(t testing.TB, ref string, bundle []byte, predicate string) {
	t.Helper()
	desc, tag := describe(t, ref)
	img := BundleImage(t, *desc, bundle, predicate)
	digest, err := img.Digest()
	require.NoError(t, err)
	require.NoError(t, remote.Write(tag.Context().Digest(digest.String()), img, remote.WithContext(t.Context())))
}

func describe(t testing.TB, ref string) (*v1.Descriptor, name.Reference) {
	t.Helper()
	tag, err := name.ParseReference(ref, name.Insecure)
	require.NoError(t, err)
	desc, err := remote.Head(tag, remote.WithContext(t.Context()))
	require.NoError(t, err)
	return &v1.Descriptor{MediaType: desc.MediaType, Size: desc.Size, Digest: desc.Digest}, tag
}
