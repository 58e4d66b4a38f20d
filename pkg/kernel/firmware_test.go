// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFirmwarePath(t *testing.T) {
	h := emptyTree(t)
	_, err := h.FirmwarePath()
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, h.SetFirmwarePath("/x"), fs.ErrNotExist)

	tests := []struct{ shown, want string }{
		{"\n", ""},
		{"/var/lib/firmware\n", "/var/lib/firmware"},
		{"/var/lib/firmware\n\n", "/var/lib/firmware\n"}, // somebody echoed it on Linux 6.1, which then finds nothing
	}
	path := h.path(firmwareParam)
	for _, tt := range tests {
		write(t, path, tt.shown)
		got, err := h.FirmwarePath()
		require.NoError(t, err)
		assert.Equal(t, tt.want, got)
	}

	require.NoError(t, h.SetFirmwarePath("/new"))
	assert.Equal(t, "/new", read(t, path))
	require.NoError(t, h.SetFirmwarePath(""))
	assert.Equal(t, "\x00", read(t, path), "a write of nothing would change nothing")
	got, err := h.FirmwarePath()
	require.NoError(t, err)
	assert.Empty(t, got)

	for _, bad := range []string{strings.Repeat("x", 256), "/a\n", "/a\x00b"} {
		require.Error(t, h.SetFirmwarePath(bad))
	}
	require.NoError(t, h.SetFirmwarePath(strings.Repeat("x", 255)))
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}
