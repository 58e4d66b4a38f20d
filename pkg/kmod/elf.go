// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Limits for a module file; the largest in distributions (amdgpu with debug
// information) stay well below.
const (
	maxSections    = 1 << 17
	maxSectionSize = 32 << 20
	// maxModuleSize bounds a module file after decompression.
	maxModuleSize = 512 << 20
)

const (
	elfHeaderSize     = 64
	sectionHeaderSize = 64
)

// elfFile is the section table of a 64-bit little-endian ELF relocatable: all a
// module file on amd64 and arm64 needs, at a tenth of the cost of debug/elf.
type elfFile struct {
	r       io.ReaderAt
	machine elf.Machine
	headers []byte // the section header table as it is in the file
	names   []byte // .shstrtab
}

type elfSection struct {
	index        int
	typ          elf.SectionType
	offset, size uint64
	link         uint32
	entsize      uint64
}

func openELF(r io.ReaderAt) (*elfFile, error) {
	var h [elfHeaderSize]byte
	if _, err := r.ReadAt(h[:], 0); err != nil {
		return nil, formatError("read header", err)
	}
	if string(h[:4]) != elf.ELFMAG || h[elf.EI_CLASS] != byte(elf.ELFCLASS64) || h[elf.EI_DATA] != byte(elf.ELFDATA2LSB) {
		return nil, fmt.Errorf("%w: no 64-bit little-endian ELF header", ErrFormat)
	}
	le := binary.LittleEndian
	if typ := elf.Type(le.Uint16(h[16:])); typ != elf.ET_REL {
		return nil, fmt.Errorf("%w: ELF type %v, want ET_REL", ErrFormat, typ)
	}
	shoff, shentsize := le.Uint64(h[40:]), le.Uint16(h[58:])
	if shentsize != sectionHeaderSize {
		return nil, fmt.Errorf("%w: section header size %d", ErrFormat, shentsize)
	}
	f := &elfFile{r: r, machine: elf.Machine(le.Uint16(h[18:]))}
	count, strndx := uint64(le.Uint16(h[60:])), uint64(le.Uint16(h[62:]))
	if count == 0 || strndx == uint64(elf.SHN_XINDEX) { // more than 65279 sections: the numbers are in section 0
		first, err := f.read(shoff, sectionHeaderSize)
		if err != nil {
			return nil, err
		}
		if count == 0 {
			count = le.Uint64(first[32:])
		}
		if strndx == uint64(elf.SHN_XINDEX) {
			strndx = uint64(le.Uint32(first[40:]))
		}
	}
	if count > maxSections {
		return nil, fmt.Errorf("read %d section headers: %w", count, ErrTooLarge)
	}
	var err error
	if f.headers, err = f.read(shoff, count*sectionHeaderSize); err != nil {
		return nil, err
	}
	if strndx >= count {
		return nil, fmt.Errorf("%w: no section names", ErrFormat)
	}
	if f.names, err = f.data(f.section(int(strndx))); err != nil {
		return nil, err
	}
	return f, nil
}

// arch is the machine the code is for, in Go's words.
func (f *elfFile) arch() string {
	switch f.machine {
	case elf.EM_X86_64:
		return "amd64"
	case elf.EM_AARCH64:
		return "arm64"
	}
	return f.machine.String()
}

func (f *elfFile) section(i int) elfSection {
	h := f.headers[i*sectionHeaderSize:][:sectionHeaderSize]
	le := binary.LittleEndian
	return elfSection{index: i, typ: elf.SectionType(le.Uint32(h[4:])), offset: le.Uint64(h[24:]), size: le.Uint64(h[32:]),
		link: le.Uint32(h[40:]), entsize: le.Uint64(h[56:])}
}

// find gives the first section of that name.
func (f *elfFile) find(name string) (elfSection, bool) {
	for i := range len(f.headers) / sectionHeaderSize {
		offset := int(binary.LittleEndian.Uint32(f.headers[i*sectionHeaderSize:]))
		if end := offset + len(name); offset > 0 && end < len(f.names) && f.names[end] == 0 && string(f.names[offset:end]) == name {
			return f.section(i), true
		}
	}
	return elfSection{}, false
}

// findData gives the bytes of the first section of that name, nil when there is none.
func (f *elfFile) findData(name string) ([]byte, error) {
	s, ok := f.find(name)
	if !ok {
		return nil, nil
	}
	b, err := f.data(s)
	if err != nil {
		return nil, fmt.Errorf("read section %s: %w", name, err)
	}
	return b, nil
}

func (f *elfFile) data(s elfSection) ([]byte, error) {
	if s.typ == elf.SHT_NOBITS {
		return nil, fmt.Errorf("%w: section without content", ErrFormat)
	}
	return f.read(s.offset, s.size)
}

func (f *elfFile) read(offset, size uint64) ([]byte, error) {
	if size > maxSectionSize {
		return nil, fmt.Errorf("read %d bytes: %w", size, ErrTooLarge)
	}
	if offset > maxModuleSize {
		return nil, fmt.Errorf("%w: offset %d outside of the file", ErrFormat, offset)
	}
	// A claimed size is believed only as far as there are bytes: 64 KiB at once.
	const step = 64 << 10
	if size <= step {
		b := make([]byte, size)
		if _, err := f.r.ReadAt(b, int64(offset)); err != nil {
			return nil, formatError("read section", err)
		}
		return b, nil
	}
	var b bytes.Buffer
	if n, err := io.Copy(&b, io.NewSectionReader(f.r, int64(offset), int64(size))); err != nil {
		return nil, formatError("read section", err)
	} else if uint64(n) != size {
		return nil, fmt.Errorf("%w: section ends after the file", ErrFormat)
	}
	return b.Bytes(), nil
}

// formatError turns an end of file into ErrFormat and keeps other read errors.
func formatError(verb string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %s: file is cut off", ErrFormat, verb)
	}
	return fmt.Errorf("%s: %w", verb, err)
}
