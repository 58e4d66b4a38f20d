// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// forest is a tree of modules made out of bytes, and what they need.
type forest struct {
	depends, soft map[string][]string
	builtin       []string
	files         map[string]string // index files
	specs         map[string]kmodtest.Spec
}

// names of modules; those behind the length of the code are not there.
const forestNames = "abcdefg"

// plant reads two bytes for each module: what it depends on, and what its softdeps
// name; one of the others may be builtin. Odd lengths have a modules.dep beside.
func plant(code []byte) *forest {
	fo := &forest{depends: map[string][]string{}, soft: map[string][]string{}, files: map[string]string{}, specs: map[string]kmodtest.Spec{}}
	bits := func(b byte) (names []string) {
		for i := range len(forestNames) {
			if b&(1<<i) != 0 {
				names = append(names, forestNames[i:i+1])
			}
		}
		return names
	}
	for i := 0; 2*i+1 < len(code) && i < len(forestNames); i++ {
		name := forestNames[i : i+1]
		deps, soft := bits(code[2*i]), bits(code[2*i+1])
		spec := kmodtest.Spec{Name: name, Depends: deps}
		if len(soft) > 0 {
			half := len(soft) / 2
			spec.Softdeps = []string{"pre: " + strings.Join(soft[:half], " ") + " post: " + strings.Join(soft[half:], " ")}
		}
		fo.depends[name], fo.soft[name], fo.specs[name+".ko"] = deps, soft, spec
	}
	if len(code)%2 == 0 || len(fo.specs) == 0 {
		return fo
	}
	last := code[len(code)-1]
	fo.builtin = bits(last & 0x60)
	fo.files["modules.builtin"] = "kernel/" + strings.Join(fo.builtin, ".ko\nkernel/") + ".ko\n"
	// A line that says more than the file of a module itself.
	var more []string
	for _, dep := range bits(last & 0x1f) {
		more = append(more, dep+".ko")
		fo.depends["a"] = append(fo.depends["a"], dep)
	}
	fo.files["modules.dep"] = "a.ko: " + strings.Join(more, " ") + "\n"
	return fo
}

// reach says whether all that a module can not do without is there, and whether
// that goes in a circle.
func (fo *forest) reach(name string, path []string, seen map[string]bool) (missing, cycle bool) {
	if slices.Contains(path, name) {
		return false, true
	}
	if seen[name] || len(path) > 0 && slices.Contains(fo.builtin, name) {
		return false, false
	}
	if _, there := fo.specs[name+".ko"]; !there {
		return true, false
	}
	for _, dep := range fo.depends[name] {
		m, c := fo.reach(dep, append(path, name), seen)
		missing, cycle = missing || m, cycle || c
	}
	seen[name] = true
	return missing, cycle
}

// FuzzLoadOrder makes trees of modules that need each other in any way. An order
// has each module once, after all it can not do without; there is none when
// something is missing or needs itself; and the closure has all files of it.
func FuzzLoadOrder(f *testing.F) {
	f.Add([]byte{0x02, 0x04, 0x00, 0x01, 0x08, 0x00, 0x00, 0x00})
	f.Add([]byte{0x02, 0x00, 0x01, 0x00, 0x00})
	f.Add([]byte{0x06, 0x7f, 0x04, 0x7f, 0x00, 0x7f, 0x60})
	f.Fuzz(func(t *testing.T, code []byte) {
		fo := plant(code)
		dir := t.TempDir()
		kmodtest.WriteTree(t, dir, fo.specs)
		writeFiles(t, dir, fo.files)
		tree, err := kmod.OpenTree(dir)
		require.NoError(t, err)
		items, err := kmod.LoadOrder("a", tree)
		missing, cycle := fo.reach("a", nil, map[string]bool{})
		if missing || cycle {
			require.Error(t, err)
			assert.True(t, missing && isMissing(err) || cycle && isCycle(err), "%v", err)
			return
		}
		require.NoError(t, err)
		files, _, err := kmod.Closure(dir, []string{"a"})
		require.NoError(t, err)
		var hard string
		at := map[string]int{}
		for i, item := range items {
			name := item.Info.Name
			_, twice := at[name]
			assert.False(t, twice, "%s twice", name)
			at[name] = i
			for _, dep := range fo.depends[name] {
				j, loaded := at[dep]
				assert.True(t, slices.Contains(fo.builtin, dep) || loaded && j < i, "%s before %s", name, dep)
			}
			assert.Contains(t, files, filepath.Base(item.Info.Path))
			if !item.Soft {
				hard = name
			}
		}
		assert.Equal(t, "a", hard, "the last that is not soft")
	})
}

func isMissing(err error) bool { return errors.Is(err, kmod.ErrNotFound) }

func isCycle(err error) bool { return errors.Is(err, kmod.ErrCycle) }
