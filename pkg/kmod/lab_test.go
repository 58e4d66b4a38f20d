// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/test/debian"
)

// TestLabLoadOrderOfRealKernels holds LoadOrder, with and without modules.dep,
// against ShowDepends for every module.
func TestLabLoadOrderOfRealKernels(t *testing.T) {
	lab, releases := debian.Kernels(t)
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			dir := filepath.Join(lab, release, "lib/modules", release)
			tree, err := kmod.OpenTree(dir)
			require.NoError(t, err)
			x, err := kmod.OpenIndex(dir)
			require.NoError(t, err)
			bare := tree.WithoutDep()
			depends := dependsOfAll(t, dir)
			for _, line := range readLines(t, dir, "modules.dep") {
				file, _, _ := strings.Cut(line, ":")
				name := kmod.Name(file)
				items, err := kmod.LoadOrder(name, tree)
				require.NoError(t, err, name)
				checkOrder(t, name, items)
				assert.Equal(t, hardFiles(t, x, depends, name), files(items), name)
				bareItems, err := kmod.LoadOrder(name, bare)
				require.NoError(t, err, name)
				checkOrder(t, name, bareItems)
				assert.ElementsMatch(t, files(items), files(bareItems), name)
			}
		})
	}
}

// checkOrder requires that all items come after what they need, once, and that
// the module is the last that is not soft.
func checkOrder(t *testing.T, name string, items []kmod.Item) {
	t.Helper()
	seen := make(map[string]bool)
	last := ""
	for _, item := range items {
		for _, d := range item.Info.Depends {
			assert.True(t, seen[d], "%s: %s before %s", name, item.Info.Name, d)
		}
		assert.False(t, seen[item.Info.Name], "%s: %s twice", name, item.Info.Name)
		seen[item.Info.Name] = true
		if !item.Soft {
			last = item.Info.Name
		}
	}
	assert.Equal(t, name, last)
}

func files(items []kmod.Item) []string {
	var list []string
	for _, item := range items {
		if !item.Soft {
			list = append(list, item.Info.Path)
		}
	}
	return list
}

// dependsOfAll gives what each module file names as needed.
func dependsOfAll(t *testing.T, dir string) map[string][]string {
	t.Helper()
	depends := make(map[string][]string)
	for _, line := range readLines(t, dir, "modules.dep") {
		file, _, _ := strings.Cut(line, ":")
		info, err := kmod.ReadInfo(filepath.Join(dir, file))
		require.NoError(t, err)
		assert.Equal(t, kmod.Name(file), info.Name)
		assert.Equal(t, filepath.Base(dir), info.Release())
		assert.Len(t, info.BuildID, 40, file)
		assert.True(t, info.InTree, file)
		depends[info.Name] = info.Depends
	}
	return depends
}

// hardFiles are the files modprobe would insert, each once, without those that
// only come in through soft dependencies.
func hardFiles(t *testing.T, x *kmod.Index, depends map[string][]string, name string) []string {
	t.Helper()
	lines, err := x.ShowDepends(nil, name)
	require.NoError(t, err)
	required := map[string]bool{name: true}
	for queue := []string{name}; len(queue) > 0; queue = queue[1:] {
		for _, d := range depends[queue[0]] {
			required[d] = true
			queue = append(queue, d)
		}
	}
	var list []string
	for _, l := range lines {
		if l.Action == "insmod" && required[l.Module] && !slices.Contains(list, l.Target) {
			list = append(list, l.Target)
		}
	}
	return list
}

// TestLabUndeclaredParameters has parameters .modinfo does not tell of, in a plain
// and in a compressed module.
func TestLabUndeclaredParameters(t *testing.T) {
	lab, releases := debian.Kernels(t)
	for _, release := range releases {
		tree, err := kmod.OpenTree(filepath.Join(lab, release, "lib/modules", release))
		require.NoError(t, err)
		path, ok := tree.Find("kvm-intel")
		require.True(t, ok)
		info, err := kmod.ReadInfo(path)
		require.NoError(t, err)
		assert.NoError(t, info.CheckParameters([]string{"vmentry_l1d_flush=cond", "nested=1", "ept=Y"}))
		assert.ErrorContains(t, info.CheckParameters([]string{"vmentry_l1d_flus=cond"}), "unknown parameter vmentry_l1d_flus")
	}
}

// TestLabOutOfTreeModules reads the modules the lab built, broken ones included.
func TestLabOutOfTreeModules(t *testing.T) {
	lab, releases := debian.Kernels(t)
	for _, release := range releases {
		path := filepath.Join(lab, release, "modules-oot/dummy.ko")
		if _, err := os.Stat(path); err != nil {
			require.Fail(t, "the lab has no out-of-tree dummy.ko", err.Error())
		}
		info, err := kmod.ReadInfo(path)
		require.NoError(t, err)
		assert.Equal(t, "dummy", info.Name)
		assert.Equal(t, release, info.Release())
		assert.False(t, info.InTree)
		assert.Len(t, info.BuildID, 40)
	}
}
