// SPDX-License-Identifier: Apache-2.0

// Package kcoretest is for tests: the memory of a kernel that never ran, as /proc tells of it.
package kcoretest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Export is a symbol in that memory.
type Export struct {
	Name, Namespace string
	CRC             uint32
	GPL             bool
}

// Write puts tables of exported symbols into proc/kallsyms and proc/kcore below root, as Linux has them: those for GPL
// modules come last in exports, each kind sorted by name. Two modules export something, too: virtio and virtio_ring.
func Write(t testing.TB, root string, exports []Export) {
	t.Helper()
	const base = uint64(0xffffffff81000000)
	var lines, table, crcs, names bytes.Buffer
	tableSize := len(exports) * 12
	namesAt := tableSize + len(exports)*4
	bounds := map[string]int{"__start___ksymtab": 0, "__stop___ksymtab_gpl": tableSize, "__start___kcrctab": tableSize, "__stop___kcrctab_gpl": namesAt}
	gpl := 0
	for gpl < len(exports) && !exports[gpl].GPL {
		gpl++
	}
	bounds["__stop___ksymtab"], bounds["__start___ksymtab_gpl"] = gpl*12, gpl*12
	bounds["__stop___kcrctab"], bounds["__start___kcrctab_gpl"] = tableSize+gpl*4, tableSize+gpl*4
	le := binary.LittleEndian
	for i, e := range exports {
		fmt.Fprintf(&lines, "%016x r __ksymtab_%s\n%016x T %s\n", base+uint64(i)*12, e.Name, base+0x100000+uint64(i), e.Name)
		name := namesAt + names.Len()
		names.WriteString(e.Name + "\x00")
		namespace := namesAt + names.Len()
		names.WriteString(e.Namespace + "\x00")
		entry := make([]byte, 12)
		le.PutUint32(entry[4:], uint32(name-(i*12+4)))
		le.PutUint32(entry[8:], uint32(namespace-(i*12+8)))
		if e.Namespace == "" {
			le.PutUint32(entry[8:], 0)
		}
		table.Write(entry)
		crcs.Write(le.AppendUint32(nil, e.CRC))
	}
	for name, offset := range bounds {
		fmt.Fprintf(&lines, "%016x R %s\n", base+uint64(offset), name)
	}
	lines.WriteString("ffffffffc05a60f4 r __crc_register_virtio_driver\t[virtio]\nffffffffc05a60f4 t probe\t[virtio]\nffffffffc05a60f8 r __ksymtab_vring\t[virtio_ring]\n")
	write(t, root, "kallsyms", lines.Bytes())

	memory := append(append(table.Bytes(), crcs.Bytes()...), names.Bytes()...)
	memory = append(memory, make([]byte, 1024)...)
	header := elf.Header64{Type: uint16(elf.ET_CORE), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(header.Ident[:], "\x7fELF\x02\x01\x01")
	var core bytes.Buffer
	require.NoError(t, binary.Write(&core, le, header))
	require.NoError(t, binary.Write(&core, le, elf.Prog64{Type: uint32(elf.PT_LOAD), Off: 4096, Vaddr: base, Filesz: uint64(len(memory)), Memsz: uint64(len(memory))}))
	core.Write(make([]byte, 4096-core.Len()))
	core.Write(memory)
	write(t, root, "kcore", core.Bytes())
}

func write(t testing.TB, root, name string, b []byte) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "proc"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "proc", name), b, 0o644))
}
