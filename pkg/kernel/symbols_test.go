// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel/kcoretest"
)

func fakeExports() []kcoretest.Export {
	return []kcoretest.Export{
		{Name: "alpha", CRC: 1}, {Name: "beta", Namespace: "NS", CRC: 2},
		{Name: "gamma", CRC: 3, GPL: true}, {Name: "omega", Namespace: "module:kvm", CRC: 4, GPL: true},
	}
}

func TestSymbols(t *testing.T) {
	h := emptyTree(t)
	kcoretest.Write(t, h.root, fakeExports())
	s, err := h.Symbols()
	require.NoError(t, err)
	require.NoError(t, s.Unread)
	assert.True(t, s.Known && s.Modversions)
	assert.Equal(t, map[string]Export{
		"alpha": {CRC: 1, Read: true, GPLKnown: true},
		"beta":  {CRC: 2, Namespace: "NS", Read: true, GPLKnown: true},
		"gamma": {CRC: 3, GPL: true, Read: true, GPLKnown: true},
		"omega": {CRC: 4, GPL: true, Namespace: "module:kvm", Read: true, GPLKnown: true},
	}, s.Kernel)
	assert.Equal(t, map[string]string{"register_virtio_driver": "virtio", "vring": "virtio_ring"}, s.Modules)
}

// TestSymbolsPartly: of a kernel that does not show all, what it shows is taken and no more.
func TestSymbolsPartly(t *testing.T) {
	h := emptyTree(t)
	s, err := h.Symbols()
	require.NoError(t, err)
	require.Error(t, s.Unread)
	assert.Nil(t, s.Kernel)

	kcoretest.Write(t, h.root, fakeExports())
	text, err := os.ReadFile(h.path("proc/kallsyms"))
	require.NoError(t, err)
	require.NoError(t, os.Remove(h.path("proc/kcore")))
	s, err = h.Symbols()
	require.NoError(t, err)
	require.ErrorIs(t, s.Unread, fs.ErrNotExist)
	assert.True(t, s.Known && s.Modversions)
	assert.Equal(t, Export{GPL: true, GPLKnown: true}, s.Kernel["omega"])

	// kptr_restrict: all addresses are 0.
	var hidden strings.Builder
	for line := range strings.Lines(string(text)) {
		hidden.WriteString("0000000000000000" + line[16:])
	}
	write(t, h.path("proc/kallsyms"), hidden.String())
	s, err = h.Symbols()
	require.NoError(t, err)
	require.ErrorContains(t, s.Unread, "hides the addresses")
	assert.Equal(t, Export{}, s.Kernel["omega"])
	assert.False(t, s.Known)

	write(t, h.path("proc/kallsyms"), "ffffffff81000000 T alpha\n")
	s, err = h.Symbols()
	require.NoError(t, err)
	require.ErrorContains(t, s.Unread, "CONFIG_KALLSYMS_ALL")
	assert.Nil(t, s.Kernel)
}

// TestSymbolsElsewhere: a kernel with another layout, or another kernel's memory, is not believed.
func TestSymbolsElsewhere(t *testing.T) {
	h := emptyTree(t)
	kcoretest.Write(t, h.root, fakeExports())
	text, err := os.ReadFile(h.path("proc/kallsyms"))
	require.NoError(t, err)
	write(t, h.path("proc/kallsyms"), strings.ReplaceAll(string(text), "_alpha\n", "_aleph\n"))
	s, err := h.Symbols()
	require.NoError(t, err)
	require.ErrorContains(t, s.Unread, `the exported symbol at 0xffffffff81000000 is "alpha", /proc/kallsyms says otherwise`)
	for name, e := range s.Kernel {
		assert.False(t, e.Read, name)
	}
	write(t, h.path("proc/kallsyms"), strings.ReplaceAll(string(text), "ffffffff8100000c r", "ffffffff8100000a r"))
	s, err = h.Symbols()
	require.NoError(t, err)
	require.ErrorContains(t, s.Unread, "unknown layout")
}

// TestSymbolsAt: where the tables are known they are enough, and what lies elsewhere is not taken for them.
func TestSymbolsAt(t *testing.T) {
	h := emptyTree(t)
	kcoretest.Write(t, h.root, fakeExports())
	all, err := h.Symbols()
	require.NoError(t, err)
	require.NoError(t, os.Remove(h.path("proc/kallsyms")))
	s, err := h.SymbolsAt(all.Tables)
	require.NoError(t, err)
	assert.Empty(t, s.Modules)
	all.Modules = map[string]string{}
	assert.Equal(t, all, s)

	for want, move := range map[string]func(*Tables){
		"no table of exported symbols": func(t *Tables) { t.GPL.Start = 0 },
		"from 0xffffffff81000004":      func(t *Tables) { t.All.Start += 4 },
		"not in /proc/kcore":           func(t *Tables) { t.All.Start, t.All.Stop = t.All.Start-1200, t.All.Stop-1200 },
		"bytes of CRCs":                func(t *Tables) { t.All.Stop = t.GPL.Stop },
		"do not lie together":          func(t *Tables) { t.All = Table{Start: t.All.Start + 60, Stop: t.All.Stop + 60} },
	} {
		tables := all.Tables
		move(&tables)
		_, err := h.SymbolsAt(tables)
		require.ErrorContains(t, err, want)
	}
	unsorted := fakeExports()
	unsorted[0].Name = "delta"
	kcoretest.Write(t, h.root, unsorted)
	_, err = h.SymbolsAt(all.Tables)
	require.ErrorContains(t, err, `is "beta", after "delta"`)
	require.NoError(t, os.Remove(h.path("proc/kcore")))
	_, err = h.SymbolsAt(all.Tables)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func BenchmarkSymbols(b *testing.B) {
	dir := b.TempDir()
	var exports []kcoretest.Export
	for i := range 10000 {
		exports = append(exports, kcoretest.Export{Name: fmt.Sprintf("exported_symbol_%d", i), CRC: uint32(i), GPL: i > 5000})
	}
	kcoretest.Write(b, dir, exports)
	h := &Host{root: dir}
	for b.Loop() {
		if s, err := h.Symbols(); err != nil || s.Unread != nil {
			b.Fatal(err, s.Unread)
		}
	}
}

func FuzzKallsyms(f *testing.F) {
	f.Add("ffffffffb6dedee4 r __ksymtab_register_netdev\nffffffffc05a60f4 r __crc_x\t[virtio]\nffffffffb6df1c1c R __start___ksymtab_gpl\n")
	f.Fuzz(func(t *testing.T, text string) {
		s := &Symbols{Modules: make(map[string]string)}
		tables := &exportTables{entries: make(map[uint64]string), bounds: make(map[string]uint64)}
		if parseKallsyms(strings.NewReader(text), s, tables) != nil {
			return
		}
		for name := range s.Kernel {
			assert.Contains(t, text, "__ksymtab_"+name)
		}
		for _, name := range tables.entries {
			assert.Contains(t, s.Kernel, name)
		}
		for name, module := range s.Modules {
			assert.Contains(t, text, name+"\t")
			assert.Contains(t, text, module)
		}
		// One more line is one more symbol.
		before := len(s.Kernel)
		require.NoError(t, parseKallsyms(strings.NewReader("ffffffffb6dedee4 r __ksymtab_one_more_symbol\n"), s, tables))
		assert.Contains(t, s.Kernel, "one_more_symbol")
		assert.LessOrEqual(t, len(s.Kernel), before+1)
	})
}
