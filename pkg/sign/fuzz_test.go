// SPDX-License-Identifier: Apache-2.0

package sign_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/sign"
)

// FuzzVerify reads whatever stands at the end of a file. What Verify takes it must
// have read, and the same bytes in front of a good signature do no harm.
func FuzzVerify(f *testing.F) {
	modules, err := filepath.Glob("testdata/hello.*ko")
	require.NoError(f, err)
	for _, path := range modules {
		data, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(data)
	}
	rsa, ecdsa := testCertificate(f, "rsa.crt"), testCertificate(f, "p256.crt")
	s := newSigner(f, testKey(f, "p256-pkcs8.pem"), ecdsa, 0)
	f.Fuzz(func(t *testing.T, data []byte) {
		signature, err := sign.Read(bytes.NewReader(data))
		require.NoError(t, err)
		for _, err := range []error{sign.Verify(data, rsa), sign.Verify(data, ecdsa)} {
			switch {
			case signature == nil:
				assert.ErrorIs(t, err, sign.ErrUnsigned)
			case signature.Problem != "":
				assert.ErrorIs(t, err, sign.ErrUnreadable)
			case err == nil:
				assert.Regexp(t, "^(rsaEncryption|ecdsa-with-SHA.*)$", signature.Algorithm)
				assert.False(t, signature.Attributes || signature.Attached)
			}
		}
		plain := sign.Strip(data)
		assert.True(t, bytes.HasPrefix(data, plain))
		assert.Equal(t, plain, sign.Strip(plain))
		if out, err := s.Sign(data); err == nil {
			assert.NoError(t, sign.Verify(out, ecdsa))
			assert.True(t, s.Signed(out))
			assert.True(t, bytes.HasPrefix(out, plain))
		}
	})
}

// FuzzReadKey gives no passphrase: what comes after the decryption is a matter of
// crypto/x509.
func FuzzReadKey(f *testing.F) {
	files, err := filepath.Glob("testdata/keys/*")
	require.NoError(f, err)
	for _, path := range files {
		data, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := sign.ReadKey(data, "")
		assert.Equal(t, err == nil, key != nil)
		cert, err := sign.ReadCertificate(data)
		assert.Equal(t, err == nil, cert != nil)
	})
}

// FuzzTamper changes a signed module anywhere: nobody takes it for signed then,
// unless what was signed is still the same. What is found without the key says the
// same.
func FuzzTamper(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00rest"), uint16(3), byte(1), uint8(0))
	f.Add([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00"), uint16(60), byte(0x80), uint8(1))
	f.Add([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00"), uint16(200), byte(0), uint8(2))
	cert := testCertificate(f, "p256.crt")
	s := newSigner(f, testKey(f, "p256-pkcs8.pem"), cert, 0)
	f.Fuzz(func(t *testing.T, module []byte, at uint16, with byte, how uint8) {
		out, err := s.Sign(module)
		if err != nil {
			assert.ErrorIs(t, err, sign.ErrNotModule)
			return
		}
		plain := sign.Strip(module)
		require.NoError(t, sign.Verify(out, cert))
		assert.True(t, bytes.Equal(plain, sign.Strip(out)))
		i := int(at) % len(out)
		switch how % 3 {
		case 0:
			out[i] ^= with
		case 1:
			out = append(out[:i:i], append([]byte{with}, out[i:]...)...)
		default:
			out = append(out[:i:i], out[i+1:]...)
		}
		e, err := sign.Examine(bytes.NewReader(out))
		require.NoError(t, err)
		signature, err := sign.Read(bytes.NewReader(out))
		require.NoError(t, err)
		assert.Equal(t, signature, e.Signature)
		if err := sign.Verify(out, cert); err == nil {
			assert.True(t, bytes.Equal(plain, sign.Strip(out)), "another module verifies")
			assert.True(t, signature.IsBy(cert))
		}
	})
}

func BenchmarkSign(b *testing.B) {
	module := append(testdata(b, "hello.ko"), make([]byte, 1<<20)...)
	for _, kind := range []string{"rsa", "p256"} {
		b.Run(kind, func(b *testing.B) {
			s := newSigner(b, testKey(b, kind+"-pkcs8.pem"), testCertificate(b, kind+".crt"), 0)
			b.SetBytes(int64(len(module)))
			b.ReportAllocs()
			for b.Loop() {
				signed(b, s, module)
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	module := append(testdata(b, "hello.ko"), make([]byte, 1<<20)...)
	cert := testCertificate(b, "rsa.crt")
	out := signed(b, newSigner(b, testKey(b, "rsa-pkcs8.pem"), cert, 0), module)
	b.SetBytes(int64(len(out)))
	for b.Loop() {
		require.NoError(b, sign.Verify(out, cert))
	}
}
