// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHoldAutoload(t *testing.T) {
	h := emptyTree(t)
	require.NoError(t, h.HoldAutoload(nil))
	_, err := os.Stat(h.path("run"))
	require.ErrorIs(t, err, os.ErrNotExist, "nothing to say, nothing made")
	held, err := h.Held()
	require.NoError(t, err)
	assert.Empty(t, held)

	require.NoError(t, h.HoldAutoload([]string{"nouveau", "dummy", "nouveau"}))
	path := h.path("run/modprobe.d/00-kmmd.conf")
	assert.Equal(t, strings.TrimPrefix(`
# Written by kmmd: out-of-tree builds stand in for these modules. Do not edit; gone after a reboot.
softdep dummy pre: post:
install dummy /bin/false
blacklist dummy
softdep nouveau pre: post:
install nouveau /bin/false
blacklist nouveau
`, "\n"), read(t, path))
	held, err = h.Held()
	require.NoError(t, err)
	assert.Equal(t, []string{"dummy", "nouveau"}, held)

	before, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, h.HoldAutoload([]string{"dummy", "nouveau"}))
	after, err := os.Stat(path)
	require.NoError(t, err)
	assert.True(t, os.SameFile(before, after), "the same names write nothing")

	require.NoError(t, h.HoldAutoload([]string{"dummy"}))
	after, err = os.Stat(path)
	require.NoError(t, err)
	assert.False(t, os.SameFile(before, after), "other names replace the file in one step")
	assert.Equal(t, os.FileMode(0o644), after.Mode())
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	assert.Len(t, entries, 1, "nothing else stays behind")

	for _, bad := range []string{"", "a b", "a\nb", "*", "a[b]", "../x", strings.Repeat("x", 56)} {
		assert.Error(t, h.HoldAutoload([]string{"dummy", bad}), "%q", bad)
	}
	held, err = h.Held()
	require.NoError(t, err)
	assert.Equal(t, []string{"dummy"}, held)

	require.NoError(t, h.HoldAutoload([]string{}))
	_, err = os.Stat(path)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestHoldIsDamaged: a file that does not say just what it has to holds nothing for
// certain, wherever the damage is, and is written anew.
func TestHoldIsDamaged(t *testing.T) {
	h := emptyTree(t)
	names := []string{"dummy", "nouveau"}
	require.NoError(t, h.HoldAutoload(names))
	path := h.path(holdFile)
	whole := read(t, path)
	for i := range whole {
		damaged := []byte(whole)
		damaged[i] ^= 1
		require.NoError(t, os.WriteFile(path, damaged, 0o644))
		held, err := h.Held()
		require.NoError(t, err)
		require.Empty(t, held, "%s", damaged)
	}
	require.NoError(t, os.WriteFile(path, []byte(whole[:len(whole)-1]), 0o644))
	held, err := h.Held()
	require.NoError(t, err)
	require.Empty(t, held)
	require.NoError(t, h.HoldAutoload(names))
	held, err = h.Held()
	require.NoError(t, err)
	require.Equal(t, names, held)
}

// TestHoldAutoloadFails: what can not be read or written is an error and leaves the old state.
func TestHoldAutoloadFails(t *testing.T) {
	h := emptyTree(t)
	require.NoError(t, os.MkdirAll(h.path(holdFile), 0o755))
	require.Error(t, h.HoldAutoload([]string{"dummy"}))
	_, err := h.Held()
	require.Error(t, err)
}
