// SPDX-License-Identifier: Apache-2.0

package sign_test

import (
	"bytes"
	"crypto"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/sign"
)

func hexOf(b []byte) string { return hex.EncodeToString(b) }

const mark = "~Module signature appended~\n"

// tail is the end of a signed file with another header.
func tail(der string, header ...byte) string { return der + string(header) + mark }

func TestDamagedSignatures(t *testing.T) {
	good := string(testdata(t, "hello.rsa-sha256.ko"))
	plain := string(testdata(t, "hello.ko"))
	der := good[len(plain) : len(good)-40]
	patched := func(at int, with string) string {
		return plain + der[:at] + with + der[at+len(with):] + good[len(good)-40:]
	}
	versions := bytes.Index([]byte(der), []byte{2, 1, 1}) + 2
	tests := []struct{ name, module, want string }{
		{"longer than the file", plain + tail("", 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0), "says to be 16777216 bytes long"},
		{"of all the file", plain + tail("", 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, byte(len(plain)>>8), byte(len(plain))), "says to be 1464 bytes long"},
		{"other type", plain + tail("abc", 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 3), "not PKCS#7 but type 1"},
		{"algorithm given", plain + tail("abc", 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3), "PKCS#7 signature info has unexpected non-zero params"},
		{"padding", plain + tail("abc", 0, 0, 2, 0, 0, 0, 0, 7, 0, 0, 0, 3), "PKCS#7 signature info has unexpected non-zero params"},
		{"larger than the kernel reads", plain + tail(string(make([]byte, 65536)), 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0), "of 65536 bytes, the kernel reads no more than 65535"},
		{"none", plain + tail("", 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0), "not PKCS#7"},
		{"no DER", plain + tail("hello", 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 5), "not PKCS#7"},
		{"cut off", plain + tail(der[:len(der)-4], 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, byte((len(der)-4)>>8), byte(len(der)-4)), "not PKCS#7"},
		{"other object", patched(bytes.Index([]byte(der), []byte{1, 7, 2})+2, "\x03"), "PKCS#7 without signed data"},
		{"other content", patched(bytes.Index([]byte(der), []byte{1, 7, 1})+2, "\x06"), "PKCS#7 of content type 1.2.840.113549.1.7.6, want data"},
		{"other version", patched(versions, "\x02"), "PKCS#7 of version 02 with a signer of version 01"},
		{"version of a key identifier", patched(versions, "\x03"), "PKCS#7 of version 03 with a signer of version 01"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, &sign.Signature{Problem: tt.want}, readSignature(t, []byte(tt.module)))
			err := sign.Verify([]byte(tt.module), testCertificate(t, "rsa.crt"))
			assert.ErrorIs(t, err, sign.ErrUnreadable)
			assert.ErrorContains(t, err, tt.want)
			s := newSigner(t, testKey(t, "rsa-pkcs8.pem"), testCertificate(t, "rsa.crt"), 0)
			assert.NoError(t, sign.Verify(signed(t, s, []byte(tt.module)), testCertificate(t, "rsa.crt")), "signed again")
		})
	}
}

func TestUnsigned(t *testing.T) {
	plain, cert := testdata(t, "hello.ko"), testCertificate(t, "rsa.crt")
	for name, module := range map[string][]byte{
		"plain": plain, "empty": nil, "short": []byte("ELF"), "mark alone": []byte(mark),
		"something behind it": append(testdata(t, "hello.rsa-sha256.ko"), 0), "cut": testdata(t, "hello.rsa-sha256.ko")[:1953],
	} {
		got, err := sign.Read(bytes.NewReader(module))
		require.NoError(t, err, name)
		assert.Nil(t, got, name)
		assert.ErrorIs(t, sign.Verify(module, cert), sign.ErrUnsigned, name)
		assert.Equal(t, module, sign.Strip(module), name)
	}
}

func TestRead(t *testing.T) {
	path := filepath.Join("testdata", "hello.rsa-sha256.ko")
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	s, err := sign.Read(f)
	require.NoError(t, err)
	assert.Equal(t, `"Acme: module key" serial 9f00a1b2c3`, s.String())

	_, err = sign.Read(struct{ io.ReaderAt }{f})
	assert.ErrorContains(t, err, "unknown kind of reader")
	gone := errors.New("disk gone")
	_, err = sign.Read(brokenFile{gone})
	assert.ErrorIs(t, err, gone)
	_, err = sign.Read(brokenFile{io.EOF})
	assert.ErrorIs(t, err, io.EOF, "it was cut while it was read")
}

type brokenFile struct{ err error }

func (b brokenFile) ReadAt([]byte, int64) (int, error) { return 0, b.err }
func (b brokenFile) Size() int64                       { return 1000 }

func TestSignRefuses(t *testing.T) {
	cert := testCertificate(t, "rsa.crt")
	s := newSigner(t, testKey(t, "rsa-pkcs8.pem"), cert, 0)
	executable, big := testdata(t, "hello.ko"), testdata(t, "hello.ko")
	executable[16] = 2
	for name, module := range map[string][]byte{"empty": nil, "text": []byte("hello world, hello world"), "gzip": []byte("\x1f\x8b\b\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), "executable": executable} {
		_, err := s.Sign(module)
		assert.ErrorIs(t, err, sign.ErrNotModule, name)
	}
	big[5], big[16], big[17] = 2, 0, 1 // s390
	assert.NoError(t, sign.Verify(signed(t, s, big), cert))

	_, err := sign.New(testKey(t, "rsa-pkcs8.pem"), cert, crypto.SHA1)
	assert.ErrorIs(t, err, sign.ErrUnsupported)
	_, err = sign.New(testKey(t, "p256-pkcs8.pem"), cert, 0)
	assert.ErrorIs(t, err, sign.ErrKeyMismatch)
	_, err = sign.New(brokenKey{testKey(t, "rsa-pkcs8.pem"), nil}, cert, 0)
	require.NoError(t, err)
	for _, hash := range []string{"", "sha1", "SHA256", "sha3-256"} {
		_, err = sign.ParseHash(hash)
		assert.ErrorIs(t, err, sign.ErrUnsupported, hash)
	}
}

// brokenKey is a key behind a device that fails, or makes something else.
type brokenKey struct {
	crypto.Signer
	err error
}

func (k brokenKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return make([]byte, 256), k.err
}

func TestBrokenKey(t *testing.T) {
	cert, hello := testCertificate(t, "rsa.crt"), testdata(t, "hello.ko")
	_, err := newSigner(t, brokenKey{testKey(t, "rsa-pkcs8.pem"), nil}, cert, 0).Sign(hello)
	assert.ErrorIs(t, err, sign.ErrMismatch)
	gone := errors.New("no such slot")
	_, err = newSigner(t, brokenKey{testKey(t, "rsa-pkcs8.pem"), gone}, cert, 0).Sign(hello)
	assert.ErrorIs(t, err, gone)
}

// TestSignLeavesItsInput: a module that lies in a larger buffer.
func TestSignLeavesItsInput(t *testing.T) {
	hello := testdata(t, "hello.rsa-sha512.ko")
	buffer := append(bytes.Clone(hello), make([]byte, 4096)...)
	s := newSigner(t, testKey(t, "rsa-pkcs8.pem"), testCertificate(t, "rsa.crt"), 0)
	out := signed(t, s, buffer[:len(hello)])
	assert.Equal(t, hello, buffer[:len(hello)])
	assert.Equal(t, make([]byte, 4096), buffer[len(hello):])
	out[0] = 0
	assert.Equal(t, hello, buffer[:len(hello)])
}

// TestKeyName follows x509_fabricate_name.
func TestKeyName(t *testing.T) {
	tests := []struct {
		name pkix.Name
		want string
	}{
		{pkix.Name{CommonName: "Build time autogenerated kernel key"}, "Build time autogenerated kernel key"},
		{pkix.Name{Organization: []string{"Acme"}, CommonName: "key"}, "Acme: key"},
		{pkix.Name{Organization: []string{"Debian"}, CommonName: "Debian Secure Boot CA"}, "Debian Secure Boot CA"},
		{pkix.Name{Organization: []string{"Canonical Ltd."}, CommonName: "Canonical Kernel"}, "Canonical Kernel"},
		{pkix.Name{Organization: []string{"Acme"}}, "Acme"},
		{pkix.Name{Country: []string{"DE"}}, ""},
	}
	for _, tt := range tests {
		der, err := asn1.Marshal(tt.name.ToRDNSequence())
		require.NoError(t, err)
		assert.Equal(t, tt.want, sign.KeyName(der))
	}
	assert.Empty(t, sign.KeyName([]byte("x")))
}
