// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unique"
)

const (
	kernelSymbolSize = 12      // struct kernel_symbol, three 32-bit distances (since Linux 5.4 on amd64 and arm64)
	maxExportTable   = 1 << 20 // bytes; Debian's have 56 KiB
	maxExportNames   = 8 << 20 // Debian's have 200 KiB
	maxExportName    = 512     // KSYM_NAME_LEN
)

// readExports fills in what the tables in the kernel's memory hold: first which symbols are for GPL modules only, which
// the addresses tell, then names of namespaces and CRCs. The tables of a kernel that has them otherwise are found
// out by comparing all names with those of /proc/kallsyms; then nothing is filled in.
func (h *Host) readExports(s *Symbols, t *exportTables) error {
	parts := [...]struct {
		suffix string
		gpl    bool
	}{{"", false}, {"_gpl", true}}
	for _, p := range parts {
		start, stop := t.bounds["__start___ksymtab"+p.suffix], t.bounds["__stop___ksymtab"+p.suffix]
		if start == 0 || stop < start || stop-start > maxExportTable {
			return errors.New("/proc/kallsyms does not say where the tables of exported symbols are")
		}
		for a := start; a < stop; a += kernelSymbolSize {
			name, ok := t.entries[a]
			if !ok {
				return fmt.Errorf("the table of exported symbols has an unknown layout (at %#x)", a)
			}
			e := s.Kernel[name]
			e.GPL, e.GPLKnown = p.gpl, true
			s.Kernel[name] = e
		}
	}
	f, err := os.Open(h.path("proc/kcore"))
	if err != nil {
		return fmt.Errorf("read kernel memory: %w", err)
	}
	defer f.Close()
	core, err := elf.NewFile(f)
	if err != nil {
		return fmt.Errorf("read kernel memory: %w", err)
	}
	memory := kernelMemory{core}
	read := make(map[string]Export, len(s.Kernel))
	for _, p := range parts {
		if err := memory.table(s, t, p.suffix, read); err != nil {
			return fmt.Errorf("read kernel memory: %w", err)
		}
	}
	for name, e := range read {
		s.Kernel[name] = e
	}
	return nil
}

// kernelMemory is /proc/kcore, an ELF core file of the running kernel (fs/proc/kcore.c).
type kernelMemory struct{ core *elf.File }

// at reads memory at a virtual address.
func (m kernelMemory) at(address, size uint64) ([]byte, error) {
	for _, p := range m.core.Progs {
		if p.Type == elf.PT_LOAD && address >= p.Vaddr && address-p.Vaddr+size <= p.Filesz {
			b := make([]byte, size)
			if _, err := p.ReadAt(b, int64(address-p.Vaddr)); err != nil {
				return nil, err
			}
			return b, nil
		}
	}
	return nil, fmt.Errorf("address %#x is not in /proc/kcore", address)
}

// table reads one of the two tables of exported symbols, with its CRCs.
func (m kernelMemory) table(s *Symbols, t *exportTables, suffix string, read map[string]Export) error {
	start, stop := t.bounds["__start___ksymtab"+suffix], t.bounds["__stop___ksymtab"+suffix]
	if start == stop {
		return nil
	}
	entries, err := m.at(start, stop-start)
	if err != nil {
		return err
	}
	n := len(entries) / kernelSymbolSize
	var crcs []byte
	if s.Modversions {
		first, last := t.bounds["__start___kcrctab"+suffix], t.bounds["__stop___kcrctab"+suffix]
		if last-first != uint64(n)*4 {
			return fmt.Errorf("%d exported symbols, %d bytes of CRCs", n, last-first)
		}
		if crcs, err = m.at(first, last-first); err != nil {
			return err
		}
	}
	names, err := m.names(start, entries)
	if err != nil {
		return err
	}
	for i := range n {
		name, _ := names.string(start, entries, i, 4)
		e, ok := s.Kernel[name]
		if !ok || t.entries[start+uint64(i)*kernelSymbolSize] != name {
			return fmt.Errorf("entry %d of the exported symbols is %.80q, /proc/kallsyms says otherwise", i, name)
		}
		namespace, ok := names.string(start, entries, i, 8)
		if !ok {
			return fmt.Errorf("namespace of %s can not be read", name)
		}
		e.Namespace = unique.Make(namespace).Value() // there are some hundred
		if s.Modversions {
			e.CRC = binary.LittleEndian.Uint32(crcs[i*4:])
		}
		e.Read = true
		read[name] = e
	}
	return nil
}

// nameMemory is the piece of memory that holds the names of a table.
type nameMemory struct {
	start uint64
	data  []byte
}

// names reads all strings the table points to, in one piece: the linker puts them into one section.
func (m kernelMemory) names(start uint64, entries []byte) (nameMemory, error) {
	low, high := ^uint64(0), uint64(0)
	for i := range len(entries) / kernelSymbolSize {
		for _, field := range [...]int{4, 8} {
			if a, ok := target(start, entries, i, field); ok {
				low, high = min(low, a), max(high, a)
			}
		}
	}
	if low > high || high-low > maxExportNames {
		return nameMemory{}, errors.New("the names of the exported symbols do not lie together")
	}
	data, err := m.at(low, high-low+maxExportName)
	return nameMemory{low, data}, err
}

// target is the address a field of an entry points to; a distance of 0 is a NULL pointer (kernel_symbol_namespace).
func target(start uint64, entries []byte, i, field int) (uint64, bool) {
	offset := i*kernelSymbolSize + field
	distance := int32(binary.LittleEndian.Uint32(entries[offset:]))
	return start + uint64(offset) + uint64(int64(distance)), distance != 0
}

// string gives the string a field of an entry points to.
func (n nameMemory) string(start uint64, entries []byte, i, field int) (string, bool) {
	a, ok := target(start, entries, i, field)
	if !ok {
		return "", true
	}
	b, _, ok := bytes.Cut(n.data[a-n.start:], []byte{0})
	return string(b), ok
}
