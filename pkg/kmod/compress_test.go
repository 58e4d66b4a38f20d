// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"

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

func TestKernelUnpacks(t *testing.T) {
	plain := kmodtest.Build(fullSpec())
	zstd, err := kmod.Compress("zstd", plain)
	require.NoError(t, err)
	for _, tt := range []struct {
		name string
		file []byte
		want bool
	}{
		{"plain", plain, true},
		{"zstd", zstd, true},
		{"xz, no check", kmodtest.XZ(t, plain, xz.None), true},
		{"xz, CRC32", kmodtest.XZ(t, plain, xz.CRC32), true},
		{"xz, CRC64", kmodtest.XZ(t, plain, xz.CRC64), false},
		{"xz, SHA-256", kmodtest.XZ(t, plain, xz.SHA256), false},
		{"xz, cut", kmodtest.XZ(t, plain, xz.CRC32)[:7], false},
		{"nothing", nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, kmod.KernelUnpacks(bytes.NewReader(tt.file)))
		})
	}
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

// manyBlocks is a module packed as several xz blocks, and where their headers are.
func manyBlocks(t *testing.T) (data []byte, headers []int) {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.WriterConfig{CheckSum: xz.CRC32, DictCap: 4096, BlockSize: 512}.NewWriter(&b)
	require.NoError(t, err)
	_, err = w.Write(append(kmodtest.Build(fullSpec()), make([]byte, 40_000)...))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	data = b.Bytes()
	for at := 12; at+12 <= len(data); at += 4 {
		if bytes.HasPrefix(data[at:], []byte{2, 0, 0x21, 1}) && crc32.ChecksumIEEE(data[at:at+8]) == binary.LittleEndian.Uint32(data[at+8:]) {
			headers = append(headers, at)
		}
	}
	require.Greater(t, len(headers), 40)
	return data, headers
}

// TestHugeDictionary has xz streams that ask for much memory, in the header of any block.
func TestHugeDictionary(t *testing.T) {
	ask := func(data []byte, at int, bits byte) {
		data[at+4] = bits
		binary.LittleEndian.PutUint32(data[at+8:], crc32.ChecksumIEEE(data[at:at+8]))
	}
	const mib128, mib192, gib4 = 30, 31, 40
	tests := []struct {
		name   string
		change func(data []byte, headers []int)
		want   error
	}{
		{"little", func([]byte, []int) {}, nil},
		{"the first block", func(data []byte, headers []int) { ask(data, headers[0], gib4) }, kmod.ErrTooLarge},
		{"the second block", func(data []byte, headers []int) { ask(data, headers[1], mib192) }, kmod.ErrTooLarge},
		{"the last block", func(data []byte, headers []int) { ask(data, headers[len(headers)-1], mib192) }, kmod.ErrTooLarge},
		{"within a chunk, as its header says", func(data []byte, headers []int) {
			ask(data, headers[1], gib4)
			copy(data[headers[0]+12+3:], "\xff\xff") // its length; the decoder takes no more than it needs
		}, kmod.ErrTooLarge},
		{"as much as one may have", func(data []byte, headers []int) { ask(data, headers[1], mib128) }, nil},
		{"too much together", func(data []byte, headers []int) {
			for _, at := range headers {
				ask(data, at, mib128)
			}
		}, kmod.ErrTooLarge},
		{"a size there is none of", func(data []byte, headers []int) { ask(data, headers[1], gib4+1) }, kmod.ErrFormat},
		{"a wrong checksum", func(data []byte, headers []int) { data[headers[1]+4] = gib4 }, kmod.ErrFormat},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data, headers := manyBlocks(t)
			tt.change(data, headers)
			path := filepath.Join(t.TempDir(), "m.ko.xz")
			require.NoError(t, os.WriteFile(path, data, 0o600))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := kmod.ReadInfo(path)
			runtime.ReadMemStats(&after)
			require.ErrorIs(t, err, tt.want)
			assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(160<<20))
		})
	}
}
