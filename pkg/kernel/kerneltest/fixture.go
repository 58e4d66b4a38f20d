// SPDX-License-Identifier: Apache-2.0

package kerneltest

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// Fixture is a kernel for TestLoader and the module files to try on it.
type Fixture struct {
	Kernel Loader
	// Modules is a directory with the files of test/modules: kmm_base.ko (parameters, a symbol), kmm_dep.ko (uses it),
	// kmm_fail.ko (init fails with ENODEV), kmm_fw.ko (wants kmm/fw.bin), dummy.ko, and of dummy the variants
	// variants/{second,other-release,wrong-vermagic,unknown-symbol,truncated}/dummy.ko.
	Modules string
	// InTree is the kernel's own dummy.ko. It and the others are loaded as they are: not compressed.
	InTree string
	// Builtin is the name of a built-in module.
	Builtin string
	// Reference takes a reference to kmm_base, as an open file does, and returns how to give it back.
	Reference func(t *testing.T) (release func())
}

// file opens one of the module files until the test ends.
func (f Fixture) file(t *testing.T, path string) *os.File {
	t.Helper()
	if !filepath.IsAbs(path) {
		path = filepath.Join(f.Modules, path)
	}
	file, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { file.Close() })
	return file
}

// NewFixture returns a fake kernel and module files made for it, equal in name, parameters and fate to those of
// test/modules.
func NewFixture(t *testing.T) Fixture {
	t.Helper()
	const release = "6.1.0-56-cloud-amd64"
	k := New(release)
	k.AddBuiltin("ext4")
	k.SetCompression("xz")
	k.FailInit("kmm_fail", syscall.ENODEV, "kmm_fail: no such hardware (-19)")
	dir := t.TempDir()
	magic := Vermagic(release)
	dummy := func(change func(*kmodtest.Spec)) kmodtest.Spec {
		s := kmodtest.Spec{Name: "dummy", Vermagic: magic, Version: "1.0", Imports: []string{"register_netdev"},
			Params: []kmodtest.Param{{Name: "numdummies", Type: "int"}, {Name: "build", Type: "charp"}}}
		change(&s)
		return s
	}
	kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{
		"kmm_base.ko": {Vermagic: magic, Version: "1.0", SrcVersion: "454FEFEAF9767598015C2E7",
			Exports: []string{"kmm_base_hello"}, Params: baseParams()},
		"kmm_dep.ko": {Vermagic: magic, Depends: []string{"kmm_base"}, Imports: []string{"kmm_base_hello", "_printk"},
			Params: []kmodtest.Param{{Name: "seen", Type: "int"}}},
		"kmm_fail.ko":                      {Vermagic: magic, Params: []kmodtest.Param{{Name: "err", Type: "int"}}},
		"kmm_fw.ko":                        {Vermagic: magic, Firmware: []string{"kmm/fw.bin"}},
		"dummy.ko":                         dummy(func(*kmodtest.Spec) {}),
		"intree/dummy.ko":                  dummy(func(s *kmodtest.Spec) { s.InTree = true }),
		"variants/second/dummy.ko":         dummy(func(s *kmodtest.Spec) { s.Version = "2.0" }),
		"variants/other-release/dummy.ko":  dummy(func(s *kmodtest.Spec) { s.Vermagic = Vermagic("6.1.0-99-cloud-amd64") }),
		"variants/wrong-vermagic/dummy.ko": dummy(func(s *kmodtest.Spec) { s.Vermagic = release + " mod_unload " }),
		"variants/unknown-symbol/dummy.ko": dummy(func(s *kmodtest.Spec) { s.Imports = []string{"kmm_no_such_symbol"} }),
	})
	whole := kmodtest.Build(dummy(func(*kmodtest.Spec) {}))
	writeFile(t, filepath.Join(dir, "variants/truncated/dummy.ko"), whole[:len(whole)/2])
	return Fixture{
		Kernel:  k,
		Modules: dir,
		InTree:  filepath.Join(dir, "intree/dummy.ko"),
		Builtin: "ext4",
		Reference: func(*testing.T) func() {
			k.Hold("kmm_base", 1)
			return func() { k.Hold("kmm_base", 0) }
		},
	}
}

// baseParams are those of test/modules/kmm_base.c that sysfs shows.
func baseParams() []kmodtest.Param {
	return []kmodtest.Param{
		{Name: "level", Type: "int"}, {Name: "count", Type: "uint"}, {Name: "flag", Type: "bool"},
		{Name: "negated", Type: "invbool"}, {Name: "label", Type: "charp"}, {Name: "list", Type: "array of int"},
		{Name: "big", Type: "ulong"}, {Name: "octet", Type: "byte"}, {Name: "small", Type: "short"},
		{Name: "fixed", Type: "string"}, {Name: "secret", Type: "int"}, {Name: "bare", Type: "int"},
		{Name: "switched", Type: "bint"},
	}
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, content, 0o644))
}
