// SPDX-License-Identifier: Apache-2.0

package web_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/web"
)

// write makes a certificate with a serial number, and its key.
func write(t *testing.T, cert, key string, serial int64) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	require.NoError(t, err)
	p, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p}), 0o600))
}

// TestCertificateReplaced: as a Secret's volume is, without a restart.
func TestCertificateReplaced(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	_, err := web.Certificate(cert, key)
	require.ErrorIs(t, err, os.ErrNotExist)
	synctest.Test(t, func(t *testing.T) {
		write(t, cert, key, 1)
		config, err := web.Certificate(cert, key)
		require.NoError(t, err)
		assert.Equal(t, uint16(tls.VersionTLS12), config.MinVersion)
		serial := func() int64 {
			c, err := config.GetCertificate(nil)
			require.NoError(t, err)
			return c.Leaf.SerialNumber.Int64()
		}
		write(t, cert, key, 2)
		assert.EqualValues(t, 1, serial(), "files are not read for every connection")
		time.Sleep(11 * time.Second)
		assert.EqualValues(t, 2, serial())
		require.NoError(t, os.WriteFile(cert, []byte("half"), 0o600))
		time.Sleep(11 * time.Second)
		assert.EqualValues(t, 2, serial(), "the last one serves on")
	})
}
