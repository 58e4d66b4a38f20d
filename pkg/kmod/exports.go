// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"encoding/binary"
	"fmt"
)

// struct kernel_symbol with CONFIG_HAVE_ARCH_PREL32_RELOCATIONS, as on amd64 and
// arm64 (include/linux/export-internal.h; namespaces since Linux 5.4): three
// 32-bit distances, to the symbol, to its name, to the name of its namespace.
const (
	ksymSize       = 12
	ksymName       = 4
	ksymNamespace  = 8
	ksymCRCSize    = 4
	kcrctabSuffix  = "__kcrctab"
	ksymtabSection = "__ksymtab"
)

// exports reads one of the two sections with exported symbols. In a module file
// the distances are relocations, so it is they that tell the names.
func (t *symbolTable) exports(section string, gpl bool) ([]Export, error) {
	s, ok := t.f.find(section)
	if !ok || s.size == 0 {
		return nil, nil
	}
	if s.size%ksymSize != 0 || s.size/ksymSize > maxSymbols {
		return nil, fmt.Errorf("%w: section %s has %d bytes", ErrFormat, section, s.size)
	}
	rela, err := t.f.findData(".rela" + section)
	if err != nil {
		return nil, err
	}
	count := s.size / ksymSize
	if count > uint64(len(rela)/relaSize) { // the size is a claim, the relocations were read
		return nil, fmt.Errorf("%w: section %s has %d exports and names for at most %d", ErrFormat, section, count, len(rela)/relaSize)
	}
	list := make([]Export, count)
	strings := stringSections{t: t, read: make(map[int][]byte)}
	le := binary.LittleEndian
	for ; len(rela) >= relaSize; rela = rela[relaSize:] {
		i, field := le.Uint64(rela)/ksymSize, le.Uint64(rela)%ksymSize
		if i >= uint64(len(list)) {
			return nil, fmt.Errorf("%w: relocation outside of %s", ErrFormat, section)
		}
		list[i].GPL = gpl
		switch field {
		case ksymName:
			list[i].Name, err = strings.at(le.Uint64(rela[8:])>>32, le.Uint64(rela[16:]))
		case ksymNamespace:
			list[i].Namespace, err = strings.at(le.Uint64(rela[8:])>>32, le.Uint64(rela[16:]))
		}
		if err != nil {
			return nil, err
		}
	}
	for i := range list {
		if list[i].Name == "" {
			return nil, fmt.Errorf("%w: export %d of %s has no name", ErrFormat, i, section)
		}
	}
	return list, t.exportCRCs(kcrctabSuffix+section[len(ksymtabSection):], list)
}

// exportCRCs adds the CRCs, which lie in a section of their own in the same
// order: plain numbers since Linux 5.19. Before, they were relocations; then
// they stay unknown.
func (t *symbolTable) exportCRCs(section string, list []Export) error {
	crcs, err := t.f.findData(section)
	if err != nil || len(crcs) != len(list)*ksymCRCSize {
		return err
	}
	if _, relocated := t.f.find(".rela" + section); relocated {
		return nil
	}
	for i := range list {
		list[i].CRC, list[i].Versioned = binary.LittleEndian.Uint32(crcs[i*ksymCRCSize:]), true
	}
	return nil
}

// stringSections reads each section that holds names once. Modules have one, and
// there is no end to the sections that may share the same bytes of a file.
type stringSections struct {
	t    *symbolTable
	read map[int][]byte
	size uint64 // of all that was read
}

// at gives the string a relocation points to: symbol's section and value, plus
// addend.
func (s *stringSections) at(symbol, addend uint64) (string, error) {
	if symbol >= uint64(len(s.t.symbols)/symbolSize) {
		return "", fmt.Errorf("%w: relocation against symbol %d", ErrFormat, symbol)
	}
	b := s.t.symbols[symbol*symbolSize:]
	le := binary.LittleEndian
	index, value := int(le.Uint16(b[6:])), le.Uint64(b[8:])
	data, ok := s.read[index]
	if !ok {
		if index == 0 || index >= len(s.t.f.headers)/sectionHeaderSize {
			return "", fmt.Errorf("%w: name of an export in section %d", ErrFormat, index)
		}
		section := s.t.f.section(index)
		if section.size > maxSectionSize-s.size {
			return "", fmt.Errorf("read names of exports in %d sections: %w", len(s.read)+1, ErrTooLarge)
		}
		var err error
		if data, err = s.t.f.data(section); err != nil {
			return "", err
		}
		s.read[index], s.size = data, s.size+section.size
	}
	return cString(data, value+addend), nil
}
