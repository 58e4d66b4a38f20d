// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

func TestDecompress(t *testing.T) {
	dir := t.TempDir()
	kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{"m.ko": fullSpec(), "m.ko.gz": fullSpec(), "m.ko.xz": fullSpec(), "m.ko.zst": fullSpec()})
	for name, kind := range map[string]string{"m.ko": "", "m.ko.gz": "gzip", "m.ko.xz": "xz", "m.ko.zst": "zstd"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			assert.Equal(t, kind, kmod.Compression(path))
			var b bytes.Buffer
			require.NoError(t, kmod.Decompress(path, &b))
			assert.Equal(t, kmodtest.Build(fullSpec()), b.Bytes())
		})
	}
	assert.Empty(t, kmod.Compression(filepath.Join(dir, "nosuch")))
	require.ErrorIs(t, kmod.Decompress(filepath.Join(dir, "nosuch"), io.Discard), os.ErrNotExist)
}

func TestReadInfoRefuses(t *testing.T) {
	dir := t.TempDir()
	kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{"m.ko.gz": {}, "m.ko.xz": {}, "m.ko.zst": {}})
	for _, name := range []string{"m.ko.gz", "m.ko.xz", "m.ko.zst"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		for what, data := range map[string][]byte{"cut": data[:len(data)/2], "start": data[:8]} {
			path := filepath.Join(dir, what+name)
			require.NoError(t, os.WriteFile(path, data, 0o600))
			_, err = kmod.ReadInfo(path)
			require.ErrorIs(t, err, kmod.ErrFormat, path)
		}
	}
	_, err := kmod.ReadInfo(dir)
	require.ErrorIs(t, err, kmod.ErrFormat)
	_, err = kmod.ReadInfo(filepath.Join(dir, "nosuch"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestHugeDictionary has an xz stream that asks for 4 GiB of memory.
func TestHugeDictionary(t *testing.T) {
	dir := t.TempDir()
	kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{"m.ko.xz": {}})
	path := filepath.Join(dir, "m.ko.xz")
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	at := bytes.Index(data[12:], []byte{0x21, 0x01}) // the LZMA2 filter in the block header
	require.Positive(t, at)
	data[12+at+2] = 40
	require.NoError(t, os.WriteFile(path, data, 0o600))
	_, err = kmod.ReadInfo(path)
	require.ErrorIs(t, err, kmod.ErrTooLarge)
}
