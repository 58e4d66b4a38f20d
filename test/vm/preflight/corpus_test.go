// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// sample is one set of files, to be loaded in this order.
type sample struct {
	name  string
	files []string
	cause kernel.Cause // why the kernel refuses the last, "" when it takes all
	text  string       // in preflight's finding
}

// corpus makes modules that are wrong in one way each, and some that are right.
func corpus(t *testing.T, n *node) []sample {
	t.Helper()
	s, err := n.Symbols()
	require.NoError(t, err)
	gplOnly := pick(t, s, func(e kernel.Export) bool { return e.GPL && e.Namespace == "" })
	open := pick(t, s, func(e kernel.Export) bool { return !e.GPL && e.Namespace == "" })
	inNamespace := pick(t, s, func(e kernel.Export) bool { return e.Namespace != "" })

	change := func(name string, edit func(*image)) string {
		m := readImage(t, modules+name+".ko")
		edit(m)
		return m.write(name)
	}
	twin := readImage(t, modules+"kmm_base.ko")
	twin.rename("kmm_base", "kmm_bas2")
	const base, dep, dummy = modules + "kmm_base.ko", modules + "kmm_dep.ko", modules + "dummy.ko"
	return []sample{
		{"good", []string{dummy}, "", ""},
		{"good, with its dependency", []string{base, dep}, "", ""},
		{"good, second build", []string{modules + "variants/second/dummy.ko"}, "", ""},
		{"other release", []string{modules + "variants/other-release/dummy.ko"}, "", ""},
		{"good, proprietary", []string{change("kmm_base", func(m *image) { m.license() })}, "", ""},
		{"good, another import", []string{change("kmm_base", func(m *image) { m.imports("nonseekable_open", open.Name, open.CRC) })}, "", ""},

		{"unknown symbol", []string{modules + "variants/unknown-symbol/dummy.ko"}, kernel.UnknownSymbol, "nobody exports: "},
		{"wrong CRC", []string{modules + "variants/wrong-crc/dummy.ko"}, kernel.SymbolVersion, "CRCs differ: register_netdev "},
		{"wrong layout", []string{modules + "variants/wrong-layout/dummy.ko"}, kernel.SymbolVersion, "CRCs differ: module_layout "},
		{"wrong version magic", []string{modules + "variants/wrong-vermagic/dummy.ko"}, kernel.Vermagic, "version magic "},
		{"wrong machine", []string{modules + "variants/wrong-machine/dummy.ko"}, kernel.NotAModule, "built for arm64"},
		{"renamed symbol", []string{change("kmm_base", func(m *image) { m.imports("misc_register", "misc_registex", 1) })},
			kernel.UnknownSymbol, "nobody exports: misc_registex"},
		{"wrong CRC of one of many", []string{change("kmm_base", func(m *image) { m.crc("misc_deregister") })},
			kernel.SymbolVersion, "CRCs differ: misc_deregister "},
		{"without its dependency", []string{dep}, kernel.UnknownSymbol, "nobody exports: kmm_base_hello"},
		{"wrong CRC of its dependency", []string{base, change("kmm_dep", func(m *image) { m.crc("kmm_base_hello") })},
			kernel.SymbolVersion, "kmm_base has 0x"},
		{"GPL-only symbol", []string{change("kmm_base", func(m *image) {
			m.license()
			m.imports("nonseekable_open", gplOnly.Name, gplOnly.CRC)
		})}, kernel.UnknownSymbol, "for GPL modules only, and its license is MIT: " + gplOnly.Name},
		{"GPL-only symbol of a module", []string{base, change("kmm_dep", func(m *image) { m.license() })},
			kernel.UnknownSymbol, "for GPL modules only, and its license is MIT: kmm_base_hello"},
		{"GPL-only symbol of a proprietary module", []string{change("kmm_base", func(m *image) { m.license() }), dep},
			kernel.UnknownSymbol, "also those of a proprietary module: kmm_base_hello of kmm_base"},
		{"namespace", []string{change("kmm_base", func(m *image) { m.imports("nonseekable_open", inNamespace.Name, inNamespace.CRC) })},
			kernel.UnknownSymbol, inNamespace.Name + " (of " + inNamespace.Namespace + ")"},
		{"export that is there", []string{base, twin.write("kmm_bas2")},
			kernel.Other, "exports what is there already: kmm_base_hello (of kmm_base)"},
		{"export of the kernel", []string{change("kmm_base", func(m *image) {
			m.replace("__ksymtab_strings", "kmm_base_hello", "kfree")
		})}, kernel.Other, "exports what is there already: kfree (of the kernel)"},
		{"all at once", []string{change("kmm_base", func(m *image) {
			m.license()
			m.crc("misc_deregister")
			m.imports("nonseekable_open", gplOnly.Name, gplOnly.CRC)
			m.imports("misc_register", "misc_registex", 1)
		})}, kernel.UnknownSymbol, "CRCs differ: misc_deregister "},
	}
}

// exported is a symbol of the kernel.
type exported struct {
	kernel.Export
	Name string
}

// pick takes a function of the kernel with a name short enough to put in place of another.
func pick(t *testing.T, s *kernel.Symbols, fits func(kernel.Export) bool) exported {
	t.Helper()
	var best exported
	for name, e := range s.Kernel {
		if len(name) <= len("nonseekable_open") && fits(e) && (best.Name == "" || name < best.Name) {
			best = exported{e, name}
		}
	}
	require.NotEmpty(t, best.Name)
	return best
}

// TestCorpus wants of every sample that preflight says what the kernel says.
func TestCorpus(t *testing.T) {
	n := open(t)
	broken := 0
	for _, c := range corpus(t, n) {
		if c.cause != "" {
			broken++
		}
		t.Run(c.name, func(t *testing.T) {
			findings := n.check(t, c.files...)
			t.Log(findings)
			var err error
			for i, path := range c.files {
				err = n.load(t, path)
				if i < len(c.files)-1 {
					require.NoError(t, err)
				}
			}
			require.Equal(t, c.cause, kernel.CauseOf(err), "%v", err)
			if c.cause == "" {
				assert.Empty(t, findings)
				return
			}
			require.True(t, preflight.Blocks(findings))
			last, err2 := kmod.ReadFile(c.files[len(c.files)-1])
			require.NoError(t, err2)
			var reasons []spec.Reason
			text := ""
			for _, f := range findings {
				assert.Equal(t, preflight.Error, f.Level)
				assert.Equal(t, last.Info.Name, f.Module)
				reasons = append(reasons, f.Reason)
				text += f.Text + "\n"
			}
			assert.Contains(t, reasons, reason(t, err))
			assert.Contains(t, text, c.text)
			if c.name == "all at once" {
				assert.Len(t, findings, 3)
			}
		})
	}
	assert.GreaterOrEqual(t, broken, 12)
}

// TestTruncated is refused before there is anything to judge.
func TestTruncated(t *testing.T) {
	n := open(t)
	path := modules + "variants/truncated/dummy.ko"
	_, err := kmod.ReadFile(path)
	require.ErrorIs(t, err, kmod.ErrFormat)
	assert.Equal(t, kernel.NotAModule, kernel.CauseOf(n.load(t, path)))
}

// TestReplaced does not count the exports of what the new file takes the place of.
func TestReplaced(t *testing.T) {
	n := open(t)
	require.NoError(t, n.load(t, modules+"kmm_base.ko"))
	assert.Empty(t, n.check(t, modules+"kmm_base.ko", modules+"kmm_dep.ko"))
	// The running one is used as it is: its file was seen.
	assert.Empty(t, n.check(t, modules+"kmm_dep.ko"))
	// One that never saw it knows what is in the kernel, and that is not all.
	findings := open(t).check(t, modules+"kmm_dep.ko")
	require.Len(t, findings, 2)
	assert.False(t, preflight.Blocks(findings))
	assert.Contains(t, findings[0].Text, "the kernel's CRC is not known of: kmm_base_hello")
	assert.Contains(t, findings[1].Text, "may be in a namespace that it does not import: kmm_base_hello")
	require.NoError(t, n.load(t, modules+"kmm_dep.ko"))
}
