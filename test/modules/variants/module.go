// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha1"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Offsets in an ELF64 little-endian file (elf(5)).
const (
	ehMachine      = 0x12
	ehSectionTable = 0x28
	shOffset       = 0x18
	shSize         = 0x20
	shEntrySize    = 0x40
)

// versionEntry is the size of one struct modversion_info {unsigned long crc; char name[56]} in section __versions
// (include/linux/module.h, unchanged since 2.6).
const versionEntry = 64

// module is a kernel module in memory that is edited in place.
type module struct {
	raw  []byte
	file *elf.File
}

// parse reads a module; raw is a copy of b.
func parse(b []byte) (*module, error) {
	raw := slices.Clone(b)
	file, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("parse module: %w", err)
	}
	if file.Class != elf.ELFCLASS64 || file.Data != elf.ELFDATA2LSB {
		return nil, errors.New("parse module: not a 64-bit little-endian file")
	}
	return &module{raw: raw, file: file}, nil
}

// section finds a section; index is its place in the section table.
func (m *module) section(name string) (index int, s *elf.Section, err error) {
	for i, s := range m.file.Sections {
		if s.Name == name {
			return i, s, nil
		}
	}
	return 0, nil, fmt.Errorf("module has no section %s", name)
}

// replace gives a section new content of any length: the content goes to the end of the file and the section header
// points there.
func (m *module) replace(name string, content []byte) error {
	index, s, err := m.section(name)
	if err != nil {
		return err
	}
	align := max(int(s.Addralign), 1)
	m.raw = append(m.raw, make([]byte, (align-len(m.raw)%align)%align)...)
	header := m.raw[int(binary.LittleEndian.Uint64(m.raw[ehSectionTable:]))+index*shEntrySize:]
	binary.LittleEndian.PutUint64(header[shOffset:], uint64(len(m.raw)))
	binary.LittleEndian.PutUint64(header[shSize:], uint64(len(content)))
	m.raw = append(m.raw, content...)
	return nil
}

// vermagic edits the line `vermagic=<release> SMP preempt …` of .modinfo: release, if not empty, replaces the first
// word and the space after it; drop, if not empty, is cut out.
func (m *module) vermagic(release, drop string) error {
	_, s, err := m.section(".modinfo")
	if err != nil {
		return err
	}
	content, err := s.Data()
	if err != nil {
		return err
	}
	const key = "vermagic="
	lines := strings.SplitAfter(string(content), "\x00")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, key) })
	if i < 0 {
		return errors.New("module has no vermagic")
	}
	_, rest, ok := strings.Cut(lines[i], " ")
	if release != "" && ok {
		lines[i] = key + release + rest
	}
	if drop != "" {
		if !strings.Contains(lines[i], drop) {
			return fmt.Errorf("vermagic %q has no %q", lines[i], drop)
		}
		lines[i] = strings.Replace(lines[i], drop, "", 1)
	}
	return m.replace(".modinfo", []byte(strings.Join(lines, "")))
}

// crc flips the recorded checksum of an imported symbol.
func (m *module) crc(symbol string) error {
	_, s, err := m.section("__versions")
	if err != nil {
		return err
	}
	for at := int(s.Offset); at+versionEntry <= int(s.Offset+s.Size); at += versionEntry {
		entry := m.raw[at : at+versionEntry]
		name, _, _ := bytes.Cut(entry[8:], []byte{0})
		if string(name) == symbol {
			entry[0] ^= 0xff
			return nil
		}
	}
	return fmt.Errorf("module does not import %s", symbol)
}

// machine sets the processor the file claims to be for.
func (m *module) machine(number uint16) error {
	binary.LittleEndian.PutUint16(m.raw[ehMachine:], number)
	return nil
}

// newBuildID replaces the build-id by one that depends on the old one and name.
func (m *module) newBuildID(name string) error {
	_, s, err := m.section(".note.gnu.build-id")
	if err != nil {
		return err
	}
	note := m.raw[s.Offset : s.Offset+s.Size]
	// Elf64_Nhdr is three words, then "GNU\0", then the 20 bytes of a SHA-1.
	if len(note) != 16+sha1.Size {
		return fmt.Errorf("build-id note has %d bytes", len(note))
	}
	id := sha1.Sum(append([]byte(name), note...))
	copy(note[16:], id[:])
	return nil
}
