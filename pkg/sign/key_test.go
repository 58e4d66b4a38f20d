// SPDX-License-Identifier: Apache-2.0

package sign_test

import (
	"bytes"
	"crypto/ecdsa"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/sign"
)

func TestReadKey(t *testing.T) {
	for _, kind := range []string{"rsa", "p256", "p384", "p521"} {
		want := testCertificate(t, kind+".crt").PublicKey
		for _, name := range testKeys(t, kind) {
			data := testdata(t, "keys/"+name)
			key, err := sign.ReadKey(data, passphrase)
			require.NoError(t, err, name)
			assert.Equal(t, want, key.Public(), name)

			encrypted := strings.Contains(name, "pbes2") || strings.Contains(name, "legacy")
			for _, wrong := range []string{"", "Secret"} {
				_, err = sign.ReadKey(data, wrong)
				if encrypted {
					assert.ErrorIs(t, err, sign.ErrPassphrase, name)
				} else {
					assert.NoError(t, err, name)
				}
			}
		}
	}
}

// TestWrongPassphrases: one in 256 leaves a good padding.
func TestWrongPassphrases(t *testing.T) {
	for _, name := range []string{"p256-pbes2.pem", "p256-legacy-aes128.pem"} {
		data := testdata(t, "keys/"+name)
		for i := range 600 {
			_, err := sign.ReadKey(data, strings.Repeat("x", i+1))
			require.ErrorIs(t, err, sign.ErrPassphrase, "%s %d", name, i)
		}
	}
}

func TestReadKeyRefuses(t *testing.T) {
	pbes2 := testdata(t, "keys/rsa-pbes2.der")
	iterations := bytes.Index(pbes2, []byte{2, 2, 8, 0}) // INTEGER 2048
	require.Positive(t, iterations)
	many := bytes.Clone(pbes2)
	many[iterations+2] |= 0x80
	tests := []struct {
		name string
		data []byte
		err  error
		text string
	}{
		{"scrypt", testdata(t, "keys/bad-scrypt.pem"), sign.ErrUnsupported, "scrypt: not supported: openssl pkcs8 -topk8"},
		{"PBES1", testdata(t, "keys/bad-pbes1.pem"), sign.ErrUnsupported, "key encrypted with algorithm 1.2.840.113549.1.12.1.3"},
		{"Camellia", testdata(t, "keys/bad-camellia.pem"), sign.ErrUnsupported, "key encrypted with cipher 1.2.392.200011.61.1.1.1.4"},
		{"Ed25519", testdata(t, "keys/bad-ed25519.pem"), sign.ErrUnsupported, "ed25519.PrivateKey: not supported: the kernel knows RSA and ECDSA"},
		{"public key", testdata(t, "keys/bad-public.pem"), nil, "PEM with PUBLIC KEY, but no PRIVATE KEY"},
		{"certificate", testdata(t, "keys/rsa.crt"), nil, "PEM with CERTIFICATE, but no PRIVATE KEY"},
		{"certificate in DER", testdata(t, "keys/rsa.crt.der"), nil, "this is a certificate"},
		{"damaged PEM", testdata(t, "keys/rsa-pkcs8.pem")[:900], nil, "damaged PEM"},
		{"damaged DER", testdata(t, "keys/rsa-pkcs8.der")[:900], nil, "read private key: asn1"},
		{"cut cipher text", changed(pbes2, func(b []byte) []byte { return b[:len(b)-16] }), nil, "read private key"},
		{"iterations below zero", many, sign.ErrUnsupported, "-30720 iterations"},
		{"nothing", nil, nil, "read private key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := sign.ReadKey(tt.data, passphrase)
			require.Error(t, err)
			assert.ErrorContains(t, err, tt.text)
			if tt.err != nil {
				assert.ErrorIs(t, err, tt.err)
			}
		})
	}
}

func changed(b []byte, f func([]byte) []byte) []byte { return f(bytes.Clone(b)) }

func TestReadCertificate(t *testing.T) {
	want := testCertificate(t, "rsa.crt.der")
	assert.Equal(t, want, testCertificate(t, "rsa.crt"))
	assert.Equal(t, want, testCertificate(t, "rsa-both.pem"), "with the key")
	chain := append(testdata(t, "keys/p256.crt"), testdata(t, "keys/rsa.crt")...)
	first, err := sign.ReadCertificate(chain)
	require.NoError(t, err)
	assert.IsType(t, &ecdsa.PublicKey{}, first.PublicKey, "the first of several")

	for name, text := range map[string]string{
		"bad-public.pem": "PEM with PUBLIC KEY, but no CERTIFICATE", "bad-public.der": "this is a bare public key",
		"rsa-pkcs8.pem": "PEM with PRIVATE KEY, but no CERTIFICATE", "rsa-pkcs8.der": "read certificate: x509",
	} {
		_, err := sign.ReadCertificate(testdata(t, "keys/"+name))
		assert.ErrorContains(t, err, text, name)
	}
	_, err = sign.ReadCertificate(nil)
	assert.Error(t, err)
}
