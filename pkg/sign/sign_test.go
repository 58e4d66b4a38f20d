// SPDX-License-Identifier: Apache-2.0

package sign_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// module is one that is not signed.
func module() []byte { return kmodtest.Build(kmodtest.Spec{Name: "hello"}) }

func newRSA(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return key
}

func newECDSA(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	require.NoError(t, err)
	return key
}

// newCertificate makes one for the key, signed by itself.
func newCertificate(t testing.TB, key crypto.Signer, serial int64) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), SubjectKeyId: []byte{0xab, byte(serial)},
		Subject: pkix.Name{Organization: []string{"Acme"}, CommonName: "module key"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

func newSigner(t testing.TB, key crypto.Signer, cert *x509.Certificate, hash crypto.Hash) *sign.Signer {
	t.Helper()
	s, err := sign.New(key, cert, hash)
	require.NoError(t, err)
	return s
}

func signed(t testing.TB, s *sign.Signer, module []byte) []byte {
	t.Helper()
	b, err := s.Sign(module)
	require.NoError(t, err)
	return b
}

func TestSign(t *testing.T) {
	keys := []struct {
		name      string
		key       crypto.Signer
		algorithm func(hash string) string
	}{
		{"RSA", newRSA(t), func(string) string { return "rsaEncryption" }},
		{"P-256", newECDSA(t, elliptic.P256()), func(hash string) string { return "ecdsa-with-" + hash }},
		{"P-384", newECDSA(t, elliptic.P384()), func(hash string) string { return "ecdsa-with-" + hash }},
		{"P-521", newECDSA(t, elliptic.P521()), func(hash string) string { return "ecdsa-with-" + hash }},
	}
	hashes := []struct{ name, upper string }{{"sha256", "SHA256"}, {"sha384", "SHA384"}, {"sha512", "SHA512"}}
	plain := module()
	for _, k := range keys {
		cert, other := newCertificate(t, k.key, 0xa1b2), newCertificate(t, newECDSA(t, elliptic.P256()), 0xa1b2)
		for _, h := range hashes {
			t.Run(k.name+" "+h.name, func(t *testing.T) {
				hash, err := sign.ParseHash(h.name)
				require.NoError(t, err)
				s := newSigner(t, k.key, cert, hash)
				require.False(t, s.Signed(plain))
				b := signed(t, s, plain)

				assert.True(t, s.Signed(b))
				assert.NoError(t, sign.Verify(b, cert))
				assert.Equal(t, plain, sign.Strip(b))
				assert.Equal(t, b, signed(t, s, plain), "the same again")
				assert.Equal(t, b, signed(t, s, b), "the old signature goes")
				got, err := sign.Read(bytes.NewReader(b))
				require.NoError(t, err)
				assert.Equal(t, &sign.Signature{
					Hash: h.name, Algorithm: k.algorithm(h.upper), Issuer: "Acme: module key", RawIssuer: cert.RawIssuer, Serial: "a1b2",
				}, got)

				b[60]++
				assert.False(t, s.Signed(b))
				assert.ErrorIs(t, sign.Verify(b, cert), sign.ErrMismatch)
				_, err = sign.New(k.key, other, hash)
				assert.ErrorIs(t, err, sign.ErrKeyMismatch)
			})
		}
	}
}
