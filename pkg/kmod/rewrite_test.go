// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/test/debian"
)

func TestRewrite(t *testing.T) {
	plain := kmodtest.Build(fullSpec())
	for _, kind := range []string{"", "gzip", "xz", "zstd"} {
		t.Run("kind "+kind, func(t *testing.T) {
			data, err := kmod.Compress(kind, plain)
			require.NoError(t, err)
			again, err := kmod.Compress(kind, plain)
			require.NoError(t, err)
			assert.Equal(t, data, again, "reproducible")
			if kind == "xz" {
				assert.Equal(t, []byte{0, 1}, data[6:8], "stream flags: a CRC32, the only check the kernel knows")
			}

			out, err := kmod.Rewrite(data, func(b []byte) ([]byte, error) {
				assert.Equal(t, plain, b)
				return append(bytes.Clone(b), "more"...), nil
			})
			require.NoError(t, err)
			path := filepath.Join(t.TempDir(), "m.ko")
			require.NoError(t, os.WriteFile(path, out, 0o600))
			assert.Equal(t, kind, kmod.Compression(path))
			var b bytes.Buffer
			require.NoError(t, kmod.Decompress(path, &b))
			assert.Equal(t, string(plain)+"more", b.String())

			wrong := errors.New("wrong")
			_, err = kmod.Rewrite(data, func([]byte) ([]byte, error) { return nil, wrong })
			assert.Equal(t, wrong, err)
			if kind != "" {
				_, err = kmod.Rewrite(data[:len(data)/2], func(b []byte) ([]byte, error) { return b, nil })
				assert.ErrorIs(t, err, kmod.ErrFormat)
			}
		})
	}
	_, err := kmod.Compress("lzma", plain)
	assert.ErrorContains(t, err, `"lzma"`)
}

// TestRewriteKeepsForeignStreams: what another program packed comes back as it
// was when nothing is to be changed.
func TestRewriteKeepsForeignStreams(t *testing.T) {
	data, err := kmod.Compress("gzip", kmodtest.Build(fullSpec()))
	require.NoError(t, err)
	data[9] = 3 // "made on Unix"
	out, err := kmod.Rewrite(data, func(b []byte) ([]byte, error) { return b, nil })
	require.NoError(t, err)
	assert.Equal(t, data, out)
}

// TestLabCompress unpacks what Compress made with the programs of the distribution.
func TestLabCompress(t *testing.T) {
	lab, releases := debian.Kernels(t)
	plain, err := os.ReadFile(filepath.Join(lab, releases[0], "modules-oot/dummy.ko"))
	require.NoError(t, err)
	for kind, program := range map[string]string{"gzip": "gzip", "xz": "xz"} {
		data, err := kmod.Compress(kind, plain)
		require.NoError(t, err)
		cmd := exec.CommandContext(t.Context(), program, "-dc")
		cmd.Stdin = bytes.NewReader(data)
		out, err := cmd.Output()
		require.NoError(t, err, program)
		assert.True(t, bytes.Equal(plain, out), program)
	}
}
