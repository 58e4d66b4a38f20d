// SPDX-License-Identifier: Apache-2.0

package content_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/content"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// newSigner makes a key with a certificate of that serial number.
func newSigner(t *testing.T, serial int64) (*sign.Signer, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "module key"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	s, err := sign.New(key, cert, 0)
	require.NoError(t, err)
	return s, cert
}

func TestSigned(t *testing.T) {
	ours, cert := newSigner(t, 1)
	theirs, _ := newSigner(t, 2)
	anybody := &content.Signed{}
	byUs := &content.Signed{Cert: cert}
	aByUs := &content.Signed{Cert: cert, Match: func(path string) bool { return strings.HasSuffix(path, "/a.ko") }}
	sound := func(s *sign.Signer, m kmodtest.Spec) []byte {
		signed, err := s.Sign(kmodtest.Build(module(m)))
		require.NoError(t, err)
		return signed
	}
	a := kmodtest.Spec{Name: "a", Depends: []string{"b"}}
	b := kmodtest.Spec{Name: "b"}
	plainA, plainB := kmodtest.Build(module(a)), kmodtest.Build(module(b))
	changed := sound(ours, a)
	changed[64] ^= 1 // the first byte of its code
	cut := sound(ours, a)
	cut = append(cut[:len(cut)-60], cut[len(cut)-40:]...)
	// PKEY_ID_X509 is a kind that no kernel checks, and so as good as none.
	foreign := slices.Concat(plainA, []byte("junk\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x04~Module signature appended~\n"))
	packed, err := kmod.Compress("xz", foreign)
	require.NoError(t, err)
	const unusable = "error: a: the signature of " + inImage + "/a.ko can not be read (not PKCS#7 but type 1)"
	tests := []struct {
		name string
		a, b []byte
		want *content.Signed
		says string
	}{
		{"nobody asks", plainA, sound(ours, b), nil, ""},
		{"both", sound(ours, a), sound(theirs, b), anybody, ""},
		{"one is not", sound(ours, a), plainB, anybody, "error: b: " + inImage + "/b.ko is not signed (Signature)"},
		{"both by us", sound(ours, a), sound(ours, b), byUs, ""},
		{"one by another", sound(ours, a), sound(theirs, b), byUs, `error: b: the signature of ` + inImage + `/b.ko is not the one that was asked for: `},
		{"changed afterwards", changed, sound(ours, b), byUs, "error: a: the signature of"},
		{"not among the files to sign", sound(ours, a), plainB, aByUs, "warning: b: " + inImage + "/b.ko is not signed, and not among the files to sign"},
		{"signed by another, and not among the files to sign", sound(ours, a), sound(theirs, b), aByUs, ""},
		{"the one that is to be signed is not", plainA, sound(ours, b), aByUs, "error: a: " + inImage + "/a.ko is not signed"},
		{"damaged", cut, sound(ours, b), anybody, "error: a: its signature can not be read (not PKCS#7)"},
		{"of another kind", foreign, sound(ours, b), anybody, unusable},
		{"of another kind, by us", foreign, sound(ours, b), byUs, unusable},
		{"of another kind, packed", packed, sound(ours, b), anybody, unusable},
		{"of another kind, packed, by us", packed, sound(ours, b), byUs, unusable},
		{"of another kind, and nobody asks", foreign, sound(ours, b), nil, ""},
		{"of another kind, packed, and nobody asks", packed, sound(ours, b), nil, ""},
		{"damaged, and nobody asks", cut, sound(ours, b), nil, "error: a: its signature can not be read (not PKCS#7)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "a.ko"), tt.a, 0o644))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "b.ko"), tt.b, 0o644))
			r, err := content.Check(content.Files{ModulesDir: dir, Path: inImage}, content.Kernel{Release: release, Arch: "amd64"},
				content.Want{Modules: []string{"a"}, Signed: tt.want})
			require.NoError(t, err)
			said := report(r)
			assert.Equal(t, !strings.HasPrefix(tt.says, "error"), r.OK(), said)
			if tt.says == "" {
				assert.Empty(t, said)
			}
			assert.Contains(t, said, tt.says)
			assert.LessOrEqual(t, len(r.Findings), 1, said)
			assert.NotContains(t, said, dir, "paths are those in the image")
		})
	}
}
