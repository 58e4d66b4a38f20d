// SPDX-License-Identifier: Apache-2.0

package content_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/content"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/spec"
)

const (
	release = "6.1.9-next"
	options = " SMP preempt mod_unload modversions "
	inImage = "/opt/lib/modules/" + release
)

type specs map[string]kmodtest.Spec

// module is one for the kernel that is asked about.
func module(s kmodtest.Spec) kmodtest.Spec {
	if s.Vermagic == "" {
		s.Vermagic = release + options
	}
	return s
}

func needs(names ...string) kmodtest.Spec { return kmodtest.Spec{Depends: names} }

func tree(t *testing.T, modules specs, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for path, s := range modules {
		kmodtest.WriteTree(t, dir, specs{path: module(s)})
	}
	for path, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644))
	}
	return dir
}

// report is the findings, one per line.
func report(r *content.Report) string {
	var out []string
	for _, f := range r.Findings {
		out = append(out, f.String())
	}
	return strings.Join(out, "\n")
}

func TestCheck(t *testing.T) {
	const other = "6.1.8-old" + options
	tests := []struct {
		name    string
		image   specs
		files   map[string]string // of the modules directory
		wanted  string            // default a
		want    content.Want
		release string // of the kernel; default release
		arch    string
		ok      bool
		looked  string // base names of the files looked at
		says    string // of the findings; nothing is no finding
	}{
		{name: "alone", image: specs{"a.ko": {}}, ok: true, looked: "a.ko"},
		{name: "compressed", image: specs{"x/a.ko.zst": {}}, ok: true, looked: "a.ko.zst"},
		{name: "with what it needs", image: specs{"a.ko": needs("b"), "b.ko.xz": {}, "c.ko": {}}, ok: true, looked: "b.ko.xz a.ko"},
		{name: "in the order given", image: specs{"a.ko": {}, "b.ko": {}}, wanted: "b a", ok: true, looked: "b.ko a.ko"},
		{name: "all of them", image: specs{"a.ko": {}, "b.ko": {}}, wanted: "-", ok: true, looked: "a.ko b.ko"},
		{name: "none at all", files: map[string]string{"modules.dep": ""}, wanted: "-", says: "error: " + release + ": " + inImage + " has no module (NoModules)"},

		{name: "not there", image: specs{"b.ko": {}}, says: "find module a in " + inImage + ": module not found (ModuleNotFound)"},
		{name: "no module", files: map[string]string{"a.ko": "text"}, says: "(ImageInvalid)"},
		{name: "a circle", image: specs{"a.ko": needs("b"), "b.ko": needs("a")}, says: "a -> b -> a: dependency cycle (ImageInvalid)"},
		{name: "needs the kernel's", image: specs{"a.ko": needs("mdio", "b"), "b.ko": needs("mdio")}, ok: true, looked: "b.ko a.ko",
			says: "unknown: a: needs mdio, which is not in the image: the kernel has to bring it (ModuleNotFound)"},

		{name: "of another kernel", image: specs{"a.ko": {Vermagic: other}}, looked: "a.ko",
			says: `error: a: the vermagic of ` + inImage + `/a.ko says "6.1.8-old", the kernel is "6.1.9-next": build it for this kernel (WrongKernel)`},
		{name: "a dependency of another kernel", image: specs{"a.ko": needs("b"), "b.ko": {Vermagic: other}}, looked: "b.ko a.ko", says: "error: b: the vermagic of"},
		{name: "of another kernel, without modversions", image: specs{"a.ko": {Vermagic: "6.1.8-old SMP "}}, looked: "a.ko", says: `says "6.1.8-old"`},
		{name: "of another kernel, by force", image: specs{"a.ko": {Vermagic: other}}, want: content.Want{IgnoreVermagic: true}, ok: true, looked: "a.ko"},
		{name: "without vermagic", image: specs{"a.ko": {Vermagic: " "}}, looked: "a.ko", says: "has no vermagic"},
		{name: "with a plus", image: specs{"a.ko": {Vermagic: release + "+" + options}}, ok: true, looked: "a.ko"},
		{name: "without a plus", image: specs{"a.ko": {}}, release: release + "+", looked: "a.ko", says: `the kernel is "6.1.9-next+"`},
		{name: "built with other options", image: specs{"a.ko": needs("b"), "b.ko": {Vermagic: release + " SMP mod_unload modversions "}}, looked: "b.ko a.ko",
			says: `error: b: version magic "6.1.9-next SMP mod_unload modversions " should be "6.1.9-next SMP preempt mod_unload modversions " (WrongKernel)`},
		{name: "of another machine", image: specs{"a.ko": {}}, arch: "arm64", looked: "a.ko", says: "error: a: built for amd64, this machine is arm64 (WrongKernel)"},

		{name: "a soft dependency", image: specs{"a.ko": {Softdeps: []string{"pre: b c"}}, "b.ko": {}}, ok: true, looked: "b.ko a.ko"},
		{name: "a soft dependency of another kernel", image: specs{"a.ko": {Softdeps: []string{"pre: b"}}, "b.ko": {Vermagic: other}}, ok: true, looked: "b.ko a.ko",
			says: "warning: b: the vermagic of " + inImage + `/b.ko says "6.1.8-old", the kernel is "6.1.9-next": build it for this kernel; only a softdep asks for it, so it is left out (WrongKernel)`},
		{name: "a soft dependency built with other options", image: specs{"a.ko": {Softdeps: []string{"pre: b"}}, "b.ko": {Vermagic: release + " SMP mod_unload modversions "}}, ok: true,
			looked: "b.ko a.ko", says: "warning: b: version magic"},
		{name: "soft for one, hard for the other", image: specs{"a.ko": {Softdeps: []string{"post: c"}}, "b.ko": needs("c"), "c.ko": {Vermagic: other}}, wanted: "a b", looked: "a.ko c.ko b.ko",
			says: "error: c: the vermagic"},

		{name: "parameters", image: specs{"a.ko": {Params: []kmodtest.Param{{Name: "level", Type: "int"}}}, "b.ko": {}}, wanted: "b a",
			want: content.Want{Parameters: []string{"level=3"}}, ok: true, looked: "b.ko a.ko"},
		{name: "a parameter that is gone", image: specs{"a.ko": {}}, want: content.Want{Parameters: []string{"level=3"}}, looked: "a.ko", says: "(InvalidParameter)"},

		{name: "built against each other", image: specs{"a.ko": {Depends: []string{"b"}, Imports: []string{"b_do"}}, "b.ko": {Exports: []string{"b_do"}}}, ok: true, looked: "b.ko a.ko"},
		{name: "not built against each other", image: specs{"a.ko": {Depends: []string{"b"}, Imports: []string{"b_do"}, CRCs: map[string]uint32{"b_do": 1}}, "b.ko": {Exports: []string{"b_do"}}},
			looked: "b.ko a.ko", says: "error: a: built against another kernel, CRCs differ: b_do (0x00000001, b has"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.wanted == "" {
				tt.wanted = "a"
			}
			tt.want.Modules = strings.Fields(strings.Trim(tt.wanted, "-"))
			k := content.Kernel{Release: release, Arch: "amd64"}
			if tt.release != "" {
				k.Release = spec.Release(tt.release)
			}
			if tt.arch != "" {
				k.Arch = tt.arch
			}
			r, err := content.Check(content.Files{ModulesDir: tree(t, tt.image, tt.files), Path: inImage}, k, tt.want)
			require.NoError(t, err)
			said := report(r)
			assert.Equal(t, tt.ok, r.OK(), said)
			if tt.says == "" {
				assert.Empty(t, said)
			}
			assert.Contains(t, said, tt.says)
			assert.Len(t, r.Findings, min(len(tt.says), 1), said)
			var looked []string
			for _, f := range r.Files {
				assert.True(t, strings.HasPrefix(f, inImage+"/"), f)
				looked = append(looked, filepath.Base(f))
			}
			assert.Equal(t, tt.looked, strings.Join(looked, " "))
		})
	}
	_, err := content.Check(content.Files{ModulesDir: filepath.Join(t.TempDir(), "none"), Path: inImage}, content.Kernel{Release: release}, content.Want{})
	assert.ErrorIs(t, err, kmod.ErrNotFound)
}

// TestKernelsOwnModules: with them it is known what the image may leave out.
func TestKernelsOwnModules(t *testing.T) {
	const symvers = "0x00000001\tmodule_layout\tvmlinux\tEXPORT_SYMBOL\t\n0x00000002\tprintk\tvmlinux\tEXPORT_SYMBOL_GPL\t\n0x00000003\tother_do\tkernel/other\tEXPORT_SYMBOL\t\n"
	crcs := map[string]uint32{"printk": 2, "module_layout": 1, "other_do": 3}
	host := specs{
		"kernel/mdio.ko.xz": {InTree: true, Exports: []string{"mdio_do"}, Depends: []string{"deep"}}, "kernel/deep.ko": {InTree: true},
		"kernel/other.ko": {InTree: true, Exports: []string{"other_do"}, CRCs: crcs},
	}
	needsMdio := kmodtest.Spec{Depends: []string{"mdio"}, Imports: []string{"mdio_do"}}
	tests := []struct {
		name  string
		image specs
		files map[string]string // of the kernel
		says  string
	}{
		{"the kernel has it", specs{"a.ko": needsMdio}, nil, ""},
		{"the kernel does not have it", specs{"a.ko": needs("gone")}, nil, "error: a: find module gone needed by a in " + inImage},
		{"it is builtin", specs{"a.ko": needs("ext4")}, map[string]string{"modules.builtin": "kernel/fs/ext4.ko\n"}, ""},
		{"it is builtin itself", specs{"a.ko": {}}, map[string]string{"modules.builtin": "kernel/a.ko\n"}, "error: a: it is part of the kernel image of 6.1.9-next, and can not be replaced (Builtin)"},
		{"other options than the kernel's", specs{"a.ko": {Vermagic: release + " SMP mod_unload modversions "}}, nil, "error: a: version magic"},
		{"a symbol of the kernel", specs{"a.ko": {Imports: []string{"printk", "module_layout"}, CRCs: crcs}}, map[string]string{"build/Module.symvers": symvers}, ""},
		{"a symbol that is gone", specs{"a.ko": {Imports: []string{"printk", "old"}, CRCs: crcs}}, map[string]string{"build/Module.symvers": symvers}, "error: a: nobody exports: old (UnknownSymbol)"},
		{"a symbol that has changed", specs{"a.ko": {Imports: []string{"printk"}}}, map[string]string{"build/Module.symvers": symvers}, "error: a: built against another kernel, CRCs differ: printk ("},
		{"a symbol of a module it does not name", specs{"a.ko": {Imports: []string{"other_do"}, CRCs: crcs}}, map[string]string{"build/Module.symvers": symvers}, "other_do (of other, which does not run and is not named"},
		{"a symbol for others", specs{"a.ko": {License: "Proprietary", Imports: []string{"printk"}, CRCs: crcs}}, map[string]string{"build/Module.symvers": symvers}, "for GPL modules only"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			own, err := kmod.OpenTree(tree(t, host, tt.files))
			require.NoError(t, err)
			r, err := content.Check(content.Files{ModulesDir: tree(t, tt.image, nil), Path: inImage},
				content.Kernel{Release: release, Arch: "amd64", Modules: own}, content.Want{Modules: []string{"a"}})
			require.NoError(t, err)
			said := report(r)
			assert.Equal(t, tt.says == "", r.OK(), said)
			if tt.says == "" {
				assert.Empty(t, said)
			}
			assert.Contains(t, said, tt.says)
			assert.LessOrEqual(t, len(r.Findings), 1, said)
			for _, f := range r.Files {
				assert.Contains(t, f, inImage, "not of the kernel's own")
			}
		})
	}
}

// TestByForce: a kernel that ignores the release needs no force, which it may not know.
func TestByForce(t *testing.T) {
	const symvers = "0x00000001\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n"
	own, err := kmod.OpenTree(tree(t, specs{"kernel/x.ko": {InTree: true}}, map[string]string{"build/Module.symvers": symvers}))
	require.NoError(t, err)
	for _, tt := range []struct {
		name string
		spec kmodtest.Spec
		says string
	}{
		{"of another kernel", kmodtest.Spec{Vermagic: "6.1.8-old" + options}, ""},
		{"built with other options", kmodtest.Spec{Vermagic: "6.1.8-old SMP mod_unload modversions "}, "unknown: a: it is to be loaded by force, and whether this kernel loads modules by force is not known"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.spec.Imports, tt.spec.CRCs = []string{"printk"}, map[string]uint32{"printk": 1}
			r, err := content.Check(content.Files{ModulesDir: tree(t, specs{"a.ko": tt.spec}, nil), Path: inImage},
				content.Kernel{Release: release, Arch: "amd64", Modules: own}, content.Want{Modules: []string{"a"}, IgnoreVermagic: true})
			require.NoError(t, err)
			assert.True(t, r.OK())
			said := report(r)
			assert.Contains(t, said, tt.says)
			assert.Equal(t, tt.says == "", !strings.Contains(said, "force"), said)
		})
	}
}

func TestFirmware(t *testing.T) {
	image := tree(t, specs{"a.ko": {Firmware: []string{"x/one.bin", "two.bin", "three.bin", "any-*.bin", "../../../etc/passwd"}}}, nil)
	fw := tree(t, nil, map[string]string{"x/one.bin": "1", "two.bin.xz": "2"})
	r, err := content.Check(content.Files{ModulesDir: image, Path: inImage, FirmwareDir: fw}, content.Kernel{Release: release, Arch: "amd64"}, content.Want{Modules: []string{"a"}})
	require.NoError(t, err)
	assert.True(t, r.OK())
	assert.Equal(t, "warning: a: may ask for firmware that the image does not have: three.bin, ../../../etc/passwd (FirmwareMissing)", report(r))
	require.Len(t, r.Findings, 1)
	assert.Equal(t, preflight.Warning, r.Findings[0].Level)
}
