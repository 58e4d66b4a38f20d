// SPDX-License-Identifier: Apache-2.0

package cosign

import (
	"crypto"
	"crypto/rsa"
	_ "crypto/sha1" // one of the hashes that do not count
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

func testImage(content string) Image {
	sum := sha256.Sum256([]byte(content))
	return Image{Digest: "sha256:" + hex.EncodeToString(sum[:]), Manifest: []byte(content)}
}

func keys(t *testing.T, signers ...*imagestest.Signer) []Key {
	t.Helper()
	var out []Key
	for i, s := range signers {
		k, err := ParseKeys(fmt.Sprintf("key%d.pub", i), s.PEM)
		require.NoError(t, err)
		out = append(out, k...)
	}
	return out
}

// simple is the classic signature of s.
func simple(t *testing.T, s *imagestest.Signer, digest string) Signature {
	t.Helper()
	payload, sig := s.Simple(t, digest)
	return Signature{Payload: payload, Signature: sig}
}

func TestVerify(t *testing.T) {
	image, other := testImage(`{"schemaVersion":2}`), testImage(`{"schemaVersion":2,"layers":[]}`)
	for _, kind := range []string{"p256", "p384", "p521", "rsa2048", "ed25519"} {
		t.Run(kind, func(t *testing.T) {
			s, stranger := imagestest.NewSigner(t, kind), imagestest.NewSigner(t, kind)
			for name, sig := range map[string]Signature{
				"simple":  simple(t, s, image.Digest),
				"bundle":  {Bundle: s.Bundle(t, image.Digest, PredicateSign)},
				"message": {Bundle: s.MessageBundle(t, image.Manifest)},
			} {
				both := keys(t, stranger, s)
				k, err := sig.Verify(image, both)
				require.NoError(t, err, name)
				assert.Equal(t, both[1], k, name)
				_, err = sig.Verify(image, both[:1])
				require.ErrorIs(t, err, ErrSignature, name)
				assert.ErrorContains(t, err, "another key", name)
				_, err = sig.Verify(image, nil)
				require.ErrorIs(t, err, ErrSignature, name)
				_, err = sig.Verify(image, []Key{{}})
				require.ErrorIs(t, err, ErrSignature, name)
				_, err = sig.Verify(other, both)
				require.ErrorIs(t, err, ErrSignature, name)
				if name != "message" {
					assert.ErrorContains(t, err, "of the image "+image.Digest, name)
				}
				_, err = sig.Verify(Image{Digest: image.Digest, Manifest: other.Manifest}, both)
				require.ErrorIs(t, err, ErrSignature, name)
				assert.ErrorContains(t, err, "manifest is not that of")
			}
		})
	}
}

// TestVerifyHashes: what signed an image may have hashed with what it likes.
func TestVerifyHashes(t *testing.T) {
	image := testImage("{}")
	for _, kind := range []string{"p256", "p384", "rsa2048"} {
		s := imagestest.NewSigner(t, kind)
		payload, _ := s.Simple(t, image.Digest)
		for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			_, err := Signature{Payload: payload, Signature: s.Sign(t, payload, hash)}.Verify(image, keys(t, s))
			assert.NoError(t, err, "%s %s", kind, hash)
		}
		_, err := Signature{Payload: payload, Signature: s.Sign(t, payload, crypto.SHA1)}.Verify(image, keys(t, s))
		assert.ErrorIs(t, err, ErrSignature, kind)
	}
	// An Ed25519 key may have signed the manifest as it is.
	s := imagestest.NewSigner(t, "ed25519")
	b := strings.Replace(string(imagestest.NewSigner(t, "p256").MessageBundle(t, image.Manifest)), `"signature":"`, `"signature":"`, 1)
	i := strings.Index(b, `"signature":"`) + len(`"signature":"`)
	b = b[:i] + b64(s.Sign(t, image.Manifest, 0)) + b[i+strings.Index(b[i:], `"`):]
	_, err := Signature{Bundle: []byte(b)}.Verify(image, keys(t, s))
	assert.NoError(t, err)
}

func TestVerifyRefuses(t *testing.T) {
	image, s := testImage("{}"), imagestest.NewSigner(t, "p256")
	hex64 := strings.TrimPrefix(image.Digest, "sha256:")
	const inToto = "application/vnd.in-toto+json"
	statement := func(kind, predicate, subjects string) Signature {
		return Signature{Bundle: s.Envelope(t, inToto, fmt.Appendf(nil,
			`{"_type":%q,"subject":[%s],"predicateType":%q}`, kind, subjects, predicate))}
	}
	subject := `{"digest":{"sha256":"` + hex64 + `"}}`
	const v1 = "https://in-toto.io/Statement/v1"
	payload := func(text string) Signature {
		return Signature{Payload: []byte(text), Signature: s.Sign(t, []byte(text), crypto.SHA256)}
	}
	good := string(s.Bundle(t, image.Digest, PredicateSign))
	edited := func(old, new string) Signature {
		require.Contains(t, good, old)
		return Signature{Bundle: []byte(strings.Replace(good, old, new, 1))}
	}
	tampered := simple(t, s, image.Digest)
	tampered.Payload = append([]byte(" "), tampered.Payload...)
	tests := []struct {
		name  string
		sig   Signature
		words string // empty: it is accepted
	}{
		{"nothing", Signature{}, "another key"},
		{"payload was changed", tampered, "another key"},
		{"payload is no claim", payload("hello"), "no claim"},
		{"payload of another type", payload(`{"critical":{"type":"atomic container signature","image":{"docker-manifest-digest":"` + image.Digest + `"}}}`), "atomic"},
		{"payload without digest", payload(`{"critical":{"type":"cosign container image signature"}}`), "of the image"},
		{"bundle is no JSON", Signature{Bundle: []byte("{")}, "no sigstore bundle"},
		{"bundle of another type", edited("vnd.dev.sigstore.bundle.v0.3", "vnd.example"), "vnd.example"},
		{"keyless", edited(`"publicKey"`, `"certificate"`), "keyless"},
		{"bundle of nothing", edited(`"dsseEnvelope"`, `"other"`), "not both"},
		{"bundle of both", edited(`"dsseEnvelope"`, `"messageSignature":{},"dsseEnvelope"`), "not both"},
		{"envelope of another type", Signature{Bundle: s.Envelope(t, "application/json", []byte("{}"))}, `"application/json"`},
		{"envelope's type was changed", edited(inToto, "application/vnd.in_toto+json"), "another key"},
		{"envelope is no JSON", Signature{Bundle: s.Envelope(t, inToto, []byte("{"))}, "no statement"},
		{"many signatures", edited(`"signatures":[`, `"signatures":[`+strings.Repeat("{},", 9)), "more than 8"},
		{"second signature counts", edited(`"signatures":[`, `"signatures":[{},`), ""},
		{"one of two subjects", statement(v1, PredicateSign, `{"digest":{"sha256":"00"}},`+subject), ""},
		{"attestation", Signature{Bundle: s.Bundle(t, image.Digest, "https://slsa.dev/provenance/v1")}, "not a signature"},
		{"no predicate", statement(v1, "", subject), "not a signature"},
		{"statement of another type", statement("https://example/v9", PredicateSign, subject), "v9"},
		{"no subject", statement(v1, PredicateSign, ""), "of the image"},
		{"subject without digest", statement(v1, PredicateSign, "{}"), "of the image"},
		{"subject with another hash", statement(v1, PredicateSign, `{"digest":{"sha512":"`+hex64+`"}}`), "of the image"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.sig.Verify(image, keys(t, s))
			if tt.words == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrSignature)
			assert.ErrorContains(t, err, tt.words)
		})
	}
}

func TestParseKeys(t *testing.T) {
	p256, large := imagestest.NewSigner(t, "p256"), imagestest.NewSigner(t, "rsa2048")
	both, err := ParseKeys("both.pub", append(append([]byte("# ours\n"), p256.PEM...), large.PEM...))
	require.NoError(t, err)
	require.Len(t, both, 2)
	block, _ := pem.Decode(large.PEM)
	sum := sha256.Sum256(block.Bytes)
	assert.Equal(t, hex.EncodeToString(sum[:]), both[1].ID())
	assert.Equal(t, "both.pub (sha256:"+both[1].ID()[:12]+"…)", both[1].String())
	assert.Equal(t, "no key", Key{}.String())

	block.Type, block.Bytes = "RSA PUBLIC KEY", pkcs1(t, block.Bytes)
	old, err := ParseKeys("old.pub", pem.EncodeToMemory(block))
	require.NoError(t, err)
	assert.Equal(t, both[1].ID(), old[0].ID())

	retyped := func(kind string) []byte {
		return []byte(strings.ReplaceAll(string(p256.PEM), "PUBLIC KEY", kind))
	}
	tests := []struct {
		name  string
		data  []byte
		words string
	}{
		{"empty", nil, "BEGIN PUBLIC KEY"},
		{"no PEM", []byte("ssh-ed25519 AAAA"), "BEGIN PUBLIC KEY"},
		{"more after it", append(append([]byte(nil), p256.PEM...), "-----BEGIN"...), "nothing else"},
		{"private key", retyped("ENCRYPTED SIGSTORE PRIVATE KEY"), "no public key"},
		{"certificate", retyped("CERTIFICATE"), "x509"},
		{"damaged", []byte(strings.Replace(string(p256.PEM), "M", "A", 1)), "parse"},
		{"weak curve", imagestest.NewSigner(t, "p224").PEM, "P-224"},
		{"weak RSA", imagestest.NewSigner(t, "rsa1024").PEM, "1024 bits"},
		{"many", []byte(strings.Repeat(string(p256.PEM), maxKeys+1)), "more than"},
	}
	for _, tt := range tests {
		_, err := ParseKeys("cosign.pub", tt.data)
		require.Error(t, err, tt.name)
		assert.ErrorContains(t, err, tt.words, tt.name)
		assert.ErrorContains(t, err, "cosign.pub", tt.name)
	}
}

func FuzzVerify(f *testing.F) {
	image, s := testImage("{}"), imagestest.NewSigner(f, "p256")
	k, err := ParseKeys("cosign.pub", imagestest.NewSigner(f, "p256").PEM)
	require.NoError(f, err)
	payload, sig := s.Simple(f, image.Digest)
	f.Add(payload, sig, []byte(nil))
	f.Add([]byte(nil), []byte(nil), s.Bundle(f, image.Digest, PredicateSign))
	f.Add([]byte(nil), []byte(nil), s.MessageBundle(f, image.Manifest))
	f.Fuzz(func(t *testing.T, payload, sig, bundle []byte) {
		_, err := Signature{Payload: payload, Signature: sig, Bundle: bundle}.Verify(image, k)
		require.ErrorIs(t, err, ErrSignature)
	})
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func pkcs1(t *testing.T, pkix []byte) []byte {
	t.Helper()
	pub, err := x509.ParsePKIXPublicKey(pkix)
	require.NoError(t, err)
	key, ok := pub.(*rsa.PublicKey)
	require.True(t, ok)
	return x509.MarshalPKCS1PublicKey(key)
}
