// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
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
	for _, p := range s.Tables.both() {
		if !p.table.plausible() {
			return errors.New("/proc/kallsyms does not say where the tables of exported symbols are")
		}
		for a := p.table.Start; a < p.table.Stop; a += kernelSymbolSize {
			name, ok := t.entries[a]
			if !ok {
				return fmt.Errorf("the table of exported symbols has an unknown layout (at %#x)", a)
			}
			e := s.Kernel[name]
			e.GPL, e.GPLKnown = p.gpl, true
			s.Kernel[name] = e
		}
	}
	read, err := h.readTables(s.Tables, func(address uint64, name string) error {
		if _, ok := s.Kernel[name]; !ok || t.entries[address] != name {
			return fmt.Errorf("the exported symbol at %#x is %.80q, /proc/kallsyms says otherwise", address, name)
		}
		return nil
	})
	maps.Copy(s.Kernel, read)
	return err
}

// SymbolsAt reads what the kernel image exports out of the tables that Symbols found since the last boot, without
// /proc/kallsyms, which lists some 200,000 symbols: a tenth of the time. What modules export is not read: Modules is
// empty. Needs CAP_SYS_RAWIO, as Symbols does. An error, none of them for callers to tell from another, is for calling
// Symbols instead.
func (h *Host) SymbolsAt(t Tables) (*Symbols, error) {
	last := ""
	exports, err := h.readTables(t, func(address uint64, name string) error {
		if address == t.All.Start || address == t.GPL.Start {
			last = ""
		}
		if name <= last { // the kernel looks for a symbol by halving (kernel/module/main.c: find_exported_symbol_in_section)
			return fmt.Errorf("the exported symbol at %#x is %.80q, after %.80q", address, name, last)
		}
		last = name
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Symbols{Kernel: exports, Modules: make(map[string]string), Modversions: t.modversions(), Known: true, Tables: t}, nil
}

type gplTable struct {
	table Table
	gpl   bool
}

func (t Tables) both() [2]gplTable { return [...]gplTable{{t.All, false}, {t.GPL, true}} }

func (t Tables) modversions() bool { return t.All.CRCStart != t.All.CRCStop }

func (t Table) plausible() bool {
	return t.Start != 0 && t.Stop >= t.Start && t.Stop-t.Start <= maxExportTable && (t.Stop-t.Start)%kernelSymbolSize == 0
}

// readTables reads both tables out of the kernel's memory. Each entry is checked first, in the order of the tables.
func (h *Host) readTables(t Tables, check func(address uint64, name string) error) (map[string]Export, error) {
	f, err := os.Open(h.path("proc/kcore"))
	if err != nil {
		return nil, fmt.Errorf("read kernel memory: %w", err)
	}
	defer f.Close()
	core, err := elf.NewFile(f)
	if err != nil {
		return nil, fmt.Errorf("read kernel memory: %w", err)
	}
	var read map[string]Export
	for _, p := range t.both() {
		if !p.table.plausible() {
			return nil, fmt.Errorf("read kernel memory: no table of exported symbols from %#x to %#x", p.table.Start, p.table.Stop)
		}
		if read == nil {
			read = make(map[string]Export, 2*(p.table.Stop-p.table.Start)/kernelSymbolSize) // they are of about the same size
		}
		if err := (kernelMemory{core}).table(p, t.modversions(), check, read); err != nil {
			return nil, fmt.Errorf("read kernel memory: %w", err)
		}
	}
	return read, nil
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
func (m kernelMemory) table(p gplTable, modversions bool, check func(uint64, string) error, read map[string]Export) error {
	start, size := p.table.Start, p.table.Stop-p.table.Start
	if size == 0 {
		return nil
	}
	entries, err := m.at(start, size)
	if err != nil {
		return err
	}
	n := len(entries) / kernelSymbolSize
	var crcs []byte
	if modversions {
		first, last := p.table.CRCStart, p.table.CRCStop
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
		if err := check(start+uint64(i)*kernelSymbolSize, name); err != nil {
			return err
		}
		namespace, ok := names.string(start, entries, i, 8)
		if !ok {
			return fmt.Errorf("namespace of %s can not be read", name)
		}
		e := Export{Namespace: unique.Make(namespace).Value(), GPL: p.gpl, GPLKnown: true, Read: true} // there are some hundred
		if modversions {
			e.CRC = binary.LittleEndian.Uint32(crcs[i*4:])
		}
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
