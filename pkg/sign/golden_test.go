// SPDX-License-Identifier: Apache-2.0

package sign_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/sign"
)

// passphrase is that of all keys in testdata, which testdata/make made.
const passphrase = "secret"

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return b
}

func testKey(t testing.TB, name string) crypto.Signer {
	t.Helper()
	key, err := sign.ReadKey(testdata(t, "keys/"+name), passphrase)
	require.NoError(t, err)
	return key
}

func testCertificate(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	cert, err := sign.ReadCertificate(testdata(t, "keys/"+name))
	require.NoError(t, err)
	return cert
}

// testKeys are the files with a key of that kind.
func testKeys(t testing.TB, kind string) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/keys/" + kind + "-*")
	require.NoError(t, err)
	var names []string
	for _, path := range paths {
		names = append(names, filepath.Base(path))
	}
	require.NotEmpty(t, names)
	return names
}

var hashes = []struct {
	name string
	hash crypto.Hash
}{{"sha256", 0}, {"sha384", crypto.SHA384}, {"sha512", crypto.SHA512}}

// TestSameAsSignFile holds what is made with every encoding of the key and of the
// certificate against what sign-file of Linux 6.1 made.
func TestSameAsSignFile(t *testing.T) {
	hello := testdata(t, "hello.ko")
	for _, keyFile := range testKeys(t, "rsa") {
		key := testKey(t, keyFile)
		for _, certFile := range []string{"rsa.crt", "rsa.crt.der", "rsa-both.pem"} {
			for _, h := range hashes {
				s := newSigner(t, key, testCertificate(t, certFile), h.hash)
				assert.True(t, bytes.Equal(testdata(t, "hello.rsa-"+h.name+".ko"), signed(t, s, hello)), "%s %s %s", keyFile, certFile, h.name)
			}
		}
	}
}

// TestECDSASignedBySignFile has signatures that differ from ours only in the value,
// which is another one every time there.
func TestECDSASignedBySignFile(t *testing.T) {
	hello := testdata(t, "hello.ko")
	for _, kind := range []string{"p256", "p384", "p521"} {
		cert := testCertificate(t, kind+".crt")
		for _, keyFile := range testKeys(t, kind) {
			key := testKey(t, keyFile)
			for _, h := range hashes {
				t.Run(keyFile+" "+h.name, func(t *testing.T) {
					theirs := testdata(t, "hello."+kind+"-"+h.name+".ko")
					assert.NoError(t, sign.Verify(theirs, cert))
					s := newSigner(t, key, cert, h.hash)
					assert.True(t, s.Signed(theirs))
					ours := signed(t, s, theirs)
					assert.Equal(t, ours, signed(t, s, hello))
					assert.InDelta(t, len(theirs), len(ours), 6)
					assert.Equal(t, readSignature(t, theirs), readSignature(t, ours))
					other := newSigner(t, key, cert, crypto.SHA256)
					assert.Equal(t, h.name == "sha256", other.Signed(theirs))
				})
			}
		}
	}
}

func readSignature(t testing.TB, module []byte) *sign.Signature {
	t.Helper()
	s, err := sign.Read(bytes.NewReader(module))
	require.NoError(t, err)
	require.NotNil(t, s)
	return s
}

// TestForeignForms has signatures that OpenSSL makes and sign-file does not, or not
// without being asked.
func TestForeignForms(t *testing.T) {
	cert, other := testCertificate(t, "rsa.crt"), testCertificate(t, "p256.crt")
	const issuer = "Acme: module key"
	byName := sign.Signature{Hash: "sha256", Algorithm: "rsaEncryption", Issuer: issuer, RawIssuer: cert.RawIssuer, Serial: "9f00a1b2c3"}
	change := func(f func(*sign.Signature)) sign.Signature {
		s := byName
		f(&s)
		return s
	}
	tests := []struct {
		file string
		cert *x509.Certificate
		want sign.Signature
		err  error
		text string
	}{
		{"certificates", cert, change(func(s *sign.Signature) { s.Certificates = true }), nil, ""},
		{"sha1", cert, change(func(s *sign.Signature) { s.Hash = "sha1" }), nil, ""},
		{"keyid", cert, sign.Signature{Hash: "sha256", Algorithm: "rsaEncryption", KeyID: hexOf(cert.SubjectKeyId)}, nil, ""},
		{"keyid", other, sign.Signature{Hash: "sha256", Algorithm: "rsaEncryption", KeyID: hexOf(cert.SubjectKeyId)}, sign.ErrSigner,
			`signed by another certificate: by key id ` + hexOf(cert.SubjectKeyId) + `, not by "Acme: elliptic module key P-256" serial 0256`},
		{"rsa-sha256", other, byName, sign.ErrSigner, `by "Acme: module key" serial 9f00a1b2c3, not by "Acme: elliptic module key P-256" serial 0256`},
		{"attributes", cert, change(func(s *sign.Signature) { s.Attributes = true }), sign.ErrUnsupported, "a signature of attributes"},
		{"attached", cert, change(func(s *sign.Signature) { s.Attached = true }), sign.ErrUnsupported, "its own content"},
		{"pss", cert, change(func(s *sign.Signature) { s.Algorithm = "1.2.840.113549.1.1.10" }), sign.ErrUnsupported, "algorithm 1.2.840.113549.1.1.10"},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			module := testdata(t, "hello."+tt.file+".ko")
			assert.Equal(t, &tt.want, readSignature(t, module))
			assert.Equal(t, testdata(t, "hello.ko"), sign.Strip(module))
			err := sign.Verify(module, tt.cert)
			assert.ErrorIs(t, err, tt.err)
			if tt.text != "" {
				assert.ErrorContains(t, err, tt.text)
			}
			module[70]++
			if err := sign.Verify(module, tt.cert); tt.err == nil {
				assert.ErrorIs(t, err, sign.ErrMismatch)
			}
		})
	}
}

// TestSeveralSigners: in one message, and one behind the other.
func TestSeveralSigners(t *testing.T) {
	rsa, ecdsa := testCertificate(t, "rsa.crt"), testCertificate(t, "p256.crt")
	both := testdata(t, "hello.signers.ko")
	assert.NoError(t, sign.Verify(both, rsa))
	assert.NoError(t, sign.Verify(both, ecdsa))
	twice := testdata(t, "hello.twice.ko")
	assert.NoError(t, sign.Verify(twice, ecdsa))
	assert.ErrorIs(t, sign.Verify(twice, rsa), sign.ErrSigner, "the kernel looks at the last one alone")
	assert.Equal(t, testdata(t, "hello.ko"), sign.Strip(twice))
}
