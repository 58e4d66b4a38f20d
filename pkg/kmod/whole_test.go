// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// TestOpenWholeTree: files are read whole with the order; one whose symbols are damaged still has dependencies.
func TestOpenWholeTree(t *testing.T) {
	dir := t.TempDir()
	kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{
		"a.ko":    {Name: "a", Depends: []string{"b"}, Imports: []string{"of_b"}},
		"b.ko.xz": {Name: "b", Depends: []string{"c"}, Exports: []string{"of_b"}},
	})
	damaged := bytes.ReplaceAll(kmodtest.Build(kmodtest.Spec{Name: "c"}), []byte(".symtab\x00"), []byte(".symtax\x00"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "c.ko"), damaged, 0o644))
	order := func(open func(string) (*kmod.Tree, error)) []kmod.Item {
		tree, err := open(dir)
		require.NoError(t, err)
		items, err := kmod.LoadOrder("a", tree)
		require.NoError(t, err)
		require.Len(t, items, 3)
		return items
	}
	for _, item := range order(kmod.OpenTree) {
		assert.Nil(t, item.File, item.Info.Name)
	}
	whole := order(kmod.OpenWholeTree)
	assert.Nil(t, whole[0].File, "c")
	for _, item := range whole[1:] {
		want, err := kmod.ReadFile(item.Info.Path)
		require.NoError(t, err)
		assert.Equal(t, want, item.File)
		assert.Same(t, item.Info, item.File.Info)
	}
}

// TestReadOnce: a file is read once, and again when it has changed.
func TestReadOnce(t *testing.T) {
	for name, open := range map[string]func(string) (*kmod.Tree, error){"information": kmod.OpenTree, "whole": kmod.OpenWholeTree} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{"a.ko": {Version: "1"}})
			tree, err := open(dir)
			require.NoError(t, err)
			look := func() kmod.Item {
				items, err := kmod.LoadOrder("a", tree)
				require.NoError(t, err)
				return items[0]
			}
			first := look()
			assert.Same(t, first.Info, look().Info)
			kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{"a.ko": {Version: "1.1"}})
			assert.Equal(t, "1.1", look().Info.Version)
		})
	}
}

// TestLargeFile: what is read piece by piece says what is read at once.
func TestLargeFile(t *testing.T) {
	content := kmodtest.Build(kmodtest.Spec{Name: "a", Imports: []string{"x"}, Exports: []string{"y"}})
	path := filepath.Join(t.TempDir(), "a.ko")
	require.NoError(t, os.WriteFile(path, content, 0o644))
	want, err := kmod.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(content, make([]byte, 1<<20)...), 0o644))
	got, err := kmod.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, want, got)
}
