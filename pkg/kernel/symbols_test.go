// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fakeExport is a symbol in the memory of a kernel that never ran.
type fakeExport struct {
	name, namespace string
	crc             uint32
	gpl             bool
}

// writeKernel puts tables of exported symbols into proc/kallsyms and proc/kcore as Linux has them.
func writeKernel(t *testing.T, root string, exports []fakeExport) {
	t.Helper()
	const base = uint64(0xffffffff81000000)
	var lines, table, crcs, names bytes.Buffer
	tableSize := len(exports) * 12
	namesAt := tableSize + len(exports)*4
	bounds := map[string]int{"__start___ksymtab": 0, "__stop___ksymtab_gpl": tableSize, "__start___kcrctab": tableSize, "__stop___kcrctab_gpl": namesAt}
	gpl := 0
	for gpl < len(exports) && !exports[gpl].gpl {
		gpl++
	}
	bounds["__stop___ksymtab"], bounds["__start___ksymtab_gpl"] = gpl*12, gpl*12
	bounds["__stop___kcrctab"], bounds["__start___kcrctab_gpl"] = tableSize+gpl*4, tableSize+gpl*4
	le := binary.LittleEndian
	for i, e := range exports {
		fmt.Fprintf(&lines, "%016x r __ksymtab_%s\n%016x T %s\n", base+uint64(i)*12, e.name, base+0x100000+uint64(i), e.name)
		name := namesAt + names.Len()
		names.WriteString(e.name + "\x00")
		namespace := namesAt + names.Len()
		names.WriteString(e.namespace + "\x00")
		entry := make([]byte, 12)
		le.PutUint32(entry[4:], uint32(name-(i*12+4)))
		le.PutUint32(entry[8:], uint32(namespace-(i*12+8)))
		if e.namespace == "" {
			le.PutUint32(entry[8:], 0)
		}
		table.Write(entry)
		crcs.Write(le.AppendUint32(nil, e.crc))
	}
	for name, offset := range bounds {
		fmt.Fprintf(&lines, "%016x R %s\n", base+uint64(offset), name)
	}
	lines.WriteString("ffffffffc05a60f4 r __crc_register_virtio_driver\t[virtio]\nffffffffc05a60f4 t probe\t[virtio]\nffffffffc05a60f8 r __ksymtab_vring\t[virtio_ring]\n")
	write(t, root+"/proc/kallsyms", lines.String())

	memory := append(append(table.Bytes(), crcs.Bytes()...), names.Bytes()...)
	memory = append(memory, make([]byte, 1024)...)
	header := elf.Header64{Type: uint16(elf.ET_CORE), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(header.Ident[:], "\x7fELF\x02\x01\x01")
	var core bytes.Buffer
	require.NoError(t, binary.Write(&core, le, header))
	require.NoError(t, binary.Write(&core, le, elf.Prog64{Type: uint32(elf.PT_LOAD), Off: 4096, Vaddr: base, Filesz: uint64(len(memory)), Memsz: uint64(len(memory))}))
	core.Write(make([]byte, 4096-core.Len()))
	core.Write(memory)
	write(t, root+"/proc/kcore", core.String())
}

func fakeExports() []fakeExport {
	return []fakeExport{{"alpha", "", 1, false}, {"beta", "NS", 2, false}, {"gamma", "", 3, true}, {"omega", "module:kvm", 4, true}}
}

func TestSymbols(t *testing.T) {
	h := emptyTree(t)
	writeKernel(t, h.root, fakeExports())
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

	writeKernel(t, h.root, fakeExports())
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
	writeKernel(t, h.root, fakeExports())
	text, err := os.ReadFile(h.path("proc/kallsyms"))
	require.NoError(t, err)
	write(t, h.path("proc/kallsyms"), strings.ReplaceAll(string(text), "_alpha\n", "_aleph\n"))
	s, err := h.Symbols()
	require.NoError(t, err)
	require.ErrorContains(t, s.Unread, `entry 0 of the exported symbols is "alpha"`)
	for name, e := range s.Kernel {
		assert.False(t, e.Read, name)
	}
	write(t, h.path("proc/kallsyms"), strings.ReplaceAll(string(text), "ffffffff8100000c r", "ffffffff8100000a r"))
	s, err = h.Symbols()
	require.NoError(t, err)
	require.ErrorContains(t, s.Unread, "unknown layout")
}

func BenchmarkSymbols(b *testing.B) {
	t := &testing.T{}
	dir := b.TempDir()
	var exports []fakeExport
	for i := range 10000 {
		exports = append(exports, fakeExport{fmt.Sprintf("exported_symbol_%d", i), "", uint32(i), i > 5000})
	}
	writeKernel(t, dir, exports)
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
