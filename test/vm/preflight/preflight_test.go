// SPDX-License-Identifier: Apache-2.0

// Package preflight holds what preflight says of module files against what a real kernel does with them.
package preflight

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/preflight/gather"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// modules is where the lab puts the test modules.
const modules = "/kmmd-test/modules/"

func TestMain(m *testing.M) {
	kernel.RunChild()
	if os.Getenv("KMMD_VM") == "" {
		os.Stdout.WriteString("skip: not in a VM of the lab, run it by -exec test/vm/exec\n")
		os.Exit(0)
	}
	// No configuration of the kernel is in the guest. This is what Debian's says.
	h, err := kernel.Open("")
	if err == nil {
		err = os.MkdirAll("/boot", 0o755)
	}
	if err == nil {
		err = os.WriteFile("/boot/config-"+h.Release(), []byte("CONFIG_MODULES=y\nCONFIG_MODULE_FORCE_LOAD=y\n"+
			"# CONFIG_MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS is not set\n"), 0o644)
	}
	if err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// node is the kernel of the VM, its modules, and a collector.
type node struct {
	*kernel.Host
	tree      *kmod.Tree
	collector *gather.Collector
	files     map[string]*kmod.File // that were read
}

func open(t *testing.T) *node {
	t.Helper()
	h, err := kernel.Open("")
	require.NoError(t, err)
	tree, err := kmod.OpenTree("/lib/modules/" + h.Release())
	require.NoError(t, err)
	return &node{h, tree, gather.New(h, runtime.GOARCH, ""), make(map[string]*kmod.File)}
}

// check gives the findings about files that are to be loaded one after the other.
func (n *node) check(t *testing.T, paths ...string) []preflight.Finding {
	t.Helper()
	var list []preflight.Module
	for _, path := range paths {
		if n.files[path] == nil {
			file, err := kmod.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, file.Examine())
			n.files[path] = file
		}
		m := preflight.Module{File: n.files[path]}
		if running, err := n.Module(m.File.Info.Name); err == nil {
			m.Loaded = running.BuildID == m.File.Info.BuildID
		}
		list = append(list, m)
	}
	k, err := n.collector.Kernel(n.tree, list, nil)
	require.NoError(t, err)
	return preflight.Check(list, k)
}

// load gives a file to the kernel, plain.
func (n *node) load(t *testing.T, path string) error {
	t.Helper()
	name := strings.ReplaceAll(kmod.Name(path), "-", "_")
	plain := filepath.Join(t.TempDir(), "plain.ko")
	w, err := os.Create(plain)
	require.NoError(t, err)
	require.NoError(t, kmod.Decompress(path, w))
	require.NoError(t, w.Close())
	f, err := os.Open(plain)
	require.NoError(t, err)
	defer f.Close()
	err = n.Load(t.Context(), kernel.LoadRequest{Name: name, File: f, Timeout: time.Minute})
	if err == nil {
		t.Cleanup(func() { assert.NoError(t, n.Unload(context.Background(), name, time.Minute)) })
	}
	return err
}

// reason is what preflight calls what the kernel did.
func reason(t *testing.T, err error) spec.Reason {
	t.Helper()
	switch cause := kernel.CauseOf(err); cause {
	case "":
		return ""
	case kernel.Vermagic, kernel.NotAModule:
		return spec.ReasonWrongKernel
	case kernel.Lockdown, kernel.Signature:
		return spec.ReasonSignature
	case kernel.Permission, kernel.Other:
		return spec.ReasonLoadFailed
	default:
		return spec.Reason(cause)
	}
}

// TestSymbols reads all exports of the running kernel out of its memory.
func TestSymbols(t *testing.T) {
	n := open(t)
	s, err := n.Symbols()
	require.NoError(t, err)
	require.NoError(t, s.Unread)
	assert.True(t, s.Known)
	assert.True(t, s.Modversions)
	assert.Greater(t, len(s.Kernel), 9000)
	namespaces := 0
	for name, e := range s.Kernel {
		require.True(t, e.Read && e.GPLKnown, name)
		if e.Namespace != "" {
			namespaces++
		}
	}
	assert.Greater(t, namespaces, 100)

	known, err := n.SymbolsAt(s.Tables)
	require.NoError(t, err)
	assert.Equal(t, s.Kernel, known.Kernel)
	assert.Equal(t, s.Modversions, known.Modversions)
}

// inTree lists the in-tree modules of the guest.
func inTree(t *testing.T, n *node) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(n.tree.Dir(), "modules.dep"))
	require.NoError(t, err)
	var paths []string
	for line := range strings.Lines(string(text)) {
		file, _, _ := strings.Cut(line, ":")
		paths = append(paths, filepath.Join(n.tree.Dir(), file))
	}
	require.Greater(t, len(paths), 50)
	return paths
}

// TestInTree has no finding for any in-tree module, with its dependencies, and
// really loads some. What the kernel's memory holds are the CRCs they were built with.
func TestInTree(t *testing.T) {
	n := open(t)
	s, err := n.Symbols()
	require.NoError(t, err)
	compared := 0
	for _, path := range inTree(t, n) {
		items, err := kmod.LoadOrder(kmod.Name(path), n.tree)
		require.NoError(t, err)
		var paths []string
		for _, item := range items {
			paths = append(paths, item.Info.Path)
		}
		assert.Empty(t, n.check(t, paths...), path)
		for name, crc := range n.files[path].Symbols.Versions {
			if e, ok := s.Kernel[name]; ok {
				require.Equal(t, crc, e.CRC, "%s in %s", name, path)
				compared++
			}
		}
		switch kmod.Name(path) {
		case "dummy", "vxlan", "veth", "bonding", "nbd", "macvlan":
			t.Run(kmod.Name(path), func(t *testing.T) {
				for _, p := range paths {
					if _, err := n.Module(kmod.Name(p)); err != nil {
						require.NoError(t, n.load(t, p))
					}
				}
			})
		}
	}
	assert.Greater(t, compared, 2000)
}
