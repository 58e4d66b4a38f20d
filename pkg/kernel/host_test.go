// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain makes this binary fit to be the child.
func TestMain(m *testing.M) {
	RunChild()
	os.Exit(m.Run())
}

// The trees below testdata are copies from Debian 12 in a VM with the modules of test/modules.
const (
	debian61  = "6.1.0-56-cloud-amd64"
	debian612 = "6.12.117+deb12-cloud-amd64"
)

func openTree(t *testing.T, release string) *Host {
	t.Helper()
	h, err := Open(filepath.Join("testdata", release))
	require.NoError(t, err)
	return h
}

// emptyTree returns a host below a directory of its own, with the least that Open wants.
func emptyTree(t *testing.T) *Host {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "proc/sys/kernel/osrelease"), "6.1.0\n")
	write(t, filepath.Join(dir, "proc/sys/kernel/random/boot_id"), "e450c542-fb22-49e7-9d39-035e2c0712b8\n")
	h, err := Open(dir)
	require.NoError(t, err)
	return h
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

func TestOpen(t *testing.T) {
	tests := []struct{ release, bootID, compression string }{
		{debian61, "e450c542-fb22-49e7-9d39-035e2c0712b8", ""},
		{debian612, "a81167df-4229-483d-aba7-e9e749b812fb", "xz"},
	}
	for _, tt := range tests {
		t.Run(tt.release, func(t *testing.T) {
			h := openTree(t, tt.release)
			assert.Equal(t, tt.release, h.Release())
			assert.Equal(t, tt.bootID, h.BootID())
			assert.Contains(t, h.Cmdline(), "console=ttyS0 quiet")
			assert.Equal(t, tt.compression, h.Compression())
		})
	}
	assert.Empty(t, emptyTree(t).Cmdline())
	_, err := Open(t.TempDir())
	require.ErrorIs(t, err, fs.ErrNotExist)
	h, err := Open("")
	require.NoError(t, err)
	assert.NotEmpty(t, h.Release())
}
