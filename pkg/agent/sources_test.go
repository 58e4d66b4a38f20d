// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// TestOrderOnce: an order that fails is not worked out again; by then it would not fail.
func TestOrderOnce(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "modules.dep"), []byte("a.ko:\n"), 0o600))
	tree, err := kmod.OpenTree(dir)
	require.NoError(t, err)
	from := sourcesOf(tree)
	_, err = from.order("a")
	require.ErrorIs(t, err, kmod.ErrNotFound)
	kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{"a.ko": {}})
	_, err = from.order("a")
	require.ErrorIs(t, err, kmod.ErrNotFound)
	_, err = kmod.LoadOrder("a", tree)
	require.NoError(t, err)
}
