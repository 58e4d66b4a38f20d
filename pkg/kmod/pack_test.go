// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPack(t *testing.T) {
	plain := bytes.Repeat([]byte("\x7fELF and more. "), 200_000)
	for _, kind := range []string{"", "gzip", "xz", "zstd"} {
		t.Run(kind, func(t *testing.T) {
			packed, err := Pack(plain, kind)
			require.NoError(t, err)
			again, err := Pack(plain, kind)
			require.NoError(t, err)
			assert.Equal(t, packed, again)

			got, was, err := Unpack(packed)
			require.NoError(t, err)
			assert.Equal(t, kind, was)
			assert.True(t, bytes.Equal(plain, got))

			file := filepath.Join(t.TempDir(), "a.ko")
			require.NoError(t, os.WriteFile(file, packed, 0o600))
			assert.Equal(t, kind, Compression(file))
			var b bytes.Buffer
			require.NoError(t, Decompress(file, &b))
			assert.True(t, bytes.Equal(plain, b.Bytes()))
		})
	}
	_, err := Pack(plain, "rar")
	assert.ErrorContains(t, err, "rar")
	_, _, err = Unpack([]byte("\x1f\x8bnothing"))
	assert.ErrorIs(t, err, ErrFormat)
}
