// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/kmm-node/kmmd/pkg/sign"
)

// Limits of one module file; amdgpu, the largest in distributions, has 3000
// undefined symbols in a table of 60000.
const (
	maxSymbols    = 1 << 20
	maxSymbolName = 512 // KSYM_NAME_LEN, since Linux 6.1
)

// Import is a symbol that a module file needs from elsewhere.
type Import struct {
	Name string
	Weak bool   // the module can do without it
	CRC  uint32 // of the symbol the module was built against
	// Versioned says that there is a CRC. A module file without any was built
	// without modversions; one that lacks this one has CRCs of others only.
	Versioned bool
}

// Export is a symbol that a module file offers to others.
type Export struct {
	Name      string
	Namespace string // EXPORT_SYMBOL_NS; "" for none
	GPL       bool   // EXPORT_SYMBOL_GPL
	CRC       uint32
	Versioned bool // there is a CRC
}

// Symbols are the symbols of a module file as the kernel's loader sees them
// (kernel/module/main.c: simplify_symbols, find_module_sections).
type Symbols struct {
	Imports []Import // in the order of the symbol table, in which the kernel resolves them
	Exports []Export
	// Versions are the CRCs the file was built against, by symbol: those of its
	// imports and of module_layout, which stands for struct module itself. Nil
	// when the file has none.
	Versions map[string]uint32
	// Basic says that it has the section __versions, not only the newer ones: what the kernel goes by when it compares
	// version magics (kernel/module/main.c, check_modinfo).
	Basic bool
}

// File is all that is read of one module file.
type File struct {
	Info      *Info
	Symbols   *Symbols
	Signature *sign.Signature // nil: none
	// Evidence is what the kernel checks of it, nil before Examine.
	Evidence *sign.Evidence
}

// Examine reads all of the file once more, for what the kernel checks of its signature. A file without one is not
// read, and neither is one that was examined. Errors are those of ReadFile.
func (f *File) Examine() error {
	if f.Evidence != nil {
		return nil
	}
	if f.Signature == nil {
		f.Evidence = f.Signature.Evidence()
		return nil
	}
	return withPlain(f.Info.Path, func(r io.ReaderAt) (err error) {
		f.Evidence, err = sign.Examine(r)
		return err
	})
}

// ReadFile reads the module file at path, of any compression. ErrFormat when it
// is no module, ErrTooLarge when it is beyond the limits.
func ReadFile(path string) (*File, error) {
	file, _, err := readStamped(path)
	return file, err
}

// readStamped is ReadFile, and gives the state of the file that was read.
func readStamped(path string) (file *File, now stamp, err error) {
	now, err = withPlainOf(path, func(r io.ReaderAt) (err error) {
		if file, err = ParseFile(path, r); err != nil {
			return err
		}
		if _, unpacked := r.(unpackedFile); unpacked { // Examine would have to do that again
			file.Evidence, err = sign.Examine(r)
		}
		return err
	})
	return file, now, err
}

// ParseFile reads the module in r, plain and not compressed; name is as for
// ParseInfo, and so are the errors.
func ParseFile(name string, r io.ReaderAt) (*File, error) {
	f, err := openELF(r)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	var file File
	if file.Info, err = parseInfo(name, f); err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	if file.Symbols, err = parseSymbols(f); err != nil {
		return nil, fmt.Errorf("parse symbols of %s: %w", name, err)
	}
	if file.Signature, err = sign.Read(r); err != nil {
		return nil, fmt.Errorf("parse signature of %s: %w", name, err)
	}
	return &file, nil
}

func parseSymbols(f *elfFile) (*Symbols, error) {
	s := &Symbols{}
	var err error
	if s.Versions, err = parseVersions(f); err != nil {
		return nil, err
	}
	_, s.Basic = f.find("__versions")
	t, err := f.symbolTable()
	if err != nil {
		return nil, err
	}
	s.Imports = t.imports(s.Versions)
	for _, section := range [...]struct {
		name string
		gpl  bool
	}{{"__ksymtab", false}, {"__ksymtab_gpl", true}} {
		exports, err := t.exports(section.name, section.gpl)
		if err != nil {
			return nil, err
		}
		s.Exports = append(s.Exports, exports...)
	}
	return s, nil
}

// symbolTable is .symtab with its strings.
type symbolTable struct {
	f       *elfFile
	symbols []byte
	strings []byte
}

func (f *elfFile) symbolTable() (*symbolTable, error) {
	s, ok := f.find(".symtab")
	if !ok {
		return nil, fmt.Errorf("%w: no symbol table", ErrFormat)
	}
	if s.size/symbolSize > maxSymbols {
		return nil, fmt.Errorf("read %d symbols: %w", s.size/symbolSize, ErrTooLarge)
	}
	if int(s.link) >= len(f.headers)/sectionHeaderSize {
		return nil, fmt.Errorf("%w: symbol table without names", ErrFormat)
	}
	t := &symbolTable{f: f}
	var err error
	if t.symbols, err = f.data(s); err != nil {
		return nil, fmt.Errorf("read symbol table: %w", err)
	}
	if t.strings, err = f.data(f.section(int(s.link))); err != nil {
		return nil, fmt.Errorf("read names of symbols: %w", err)
	}
	return t, nil
}

// imports lists the undefined symbols, as simplify_symbols goes through them.
func (t *symbolTable) imports(versions map[string]uint32) []Import {
	le := binary.LittleEndian
	var list []Import
	for i := symbolSize; i+symbolSize <= len(t.symbols); i += symbolSize { // the first is no symbol
		b := t.symbols[i:]
		if elf.SectionIndex(le.Uint16(b[6:])) != elf.SHN_UNDEF {
			continue
		}
		name := cString(t.strings, uint64(le.Uint32(b)))
		// gas before 2.37 leaves the second without a use; the kernel ignores it (ignore_undef_symbol, Linux 5.16).
		if name == "" || name == "_GLOBAL_OFFSET_TABLE_" {
			continue
		}
		crc, ok := versions[name]
		list = append(list, Import{Name: name, Weak: elf.ST_BIND(b[4]) == elf.STB_WEAK, CRC: crc, Versioned: ok})
	}
	return list
}

// cString is the NUL-terminated string at an offset, "" when there is none.
func cString(b []byte, offset uint64) string {
	if offset >= uint64(len(b)) {
		return ""
	}
	b = b[offset:]
	end := bytes.IndexByte(b[:min(len(b), maxSymbolName+1)], 0)
	if end < 0 {
		return ""
	}
	return string(b[:end])
}
