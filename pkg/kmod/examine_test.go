// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// TestExamine: what is verified of a file is its content, packed or not.
func TestExamine(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "key"}, SubjectKeyId: []byte{1}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	signer, err := sign.New(key, cert, 0)
	require.NoError(t, err)
	plain := kmodtest.Build(kmodtest.Spec{Name: "mod"})
	signed, err := signer.Sign(plain)
	require.NoError(t, err)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = z.Write(signed)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	changed := bytes.Clone(signed)
	changed[len(plain)-1] ^= 1

	policy := &sign.Policy{
		SigEnforce: sign.Yes, Certificates: []sign.Certificate{{Source: "MOK", Certificate: cert}},
		Rings: []sign.Ring{{Name: ".secondary_trusted_keys", Known: true, Keys: []sign.Key{{Subject: "key", ID: "01"}}}},
	}
	for name, tt := range map[string]struct {
		content []byte
		answer  sign.Answer
	}{
		"a.ko": {signed, sign.Accepted}, "b.ko.gz": {packed.Bytes(), sign.Accepted}, "c.ko": {changed, sign.Refused}, "d.ko": {plain, sign.Refused},
	} {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, tt.content, 0o644))
		file, err := kmod.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, file.Examine())
		p := sign.Predict(file.Evidence, false, policy)
		assert.Equal(t, tt.answer, p.Answer, "%s: %s", name, p.Reason)
		assert.True(t, p.Certain, "%s: %s", name, p.Reason)
		require.NoError(t, os.Remove(path))
		require.NoError(t, file.Examine(), "once is enough")
	}
}
