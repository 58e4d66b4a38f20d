// SPDX-License-Identifier: Apache-2.0

package kmodtest

import (
	"debug/elf"
	"encoding/binary"
	"hash/crc32"
	"slices"
)

const (
	versionEntry = 64 // sizeof(struct modversion_info)
	ksymEntry    = 12 // sizeof(struct kernel_symbol)
)

// crc is the CRC of a symbol.
func crc(s Spec, name string) uint32 {
	if c, ok := s.CRCs[name]; ok {
		return c
	}
	return crc32.ChecksumIEEE([]byte(name))
}

// versionsName keeps the section at its place under another name when the module is to have none.
func versionsName(s Spec) string {
	if s.Versions == "" || s.Versions == "both" {
		return "__versions"
	}
	return ".unused"
}

func versions(s Spec) []byte {
	out := make([]byte, 0, len(s.Imports)*versionEntry)
	for _, name := range s.Imports {
		entry := make([]byte, versionEntry)
		binary.LittleEndian.PutUint64(entry, uint64(crc(s, name)))
		copy(entry[8:versionEntry-1], name)
		out = append(out, entry...)
	}
	return out
}

// appendExtVersions adds the sections of CONFIG_EXTENDED_MODVERSIONS.
func appendExtVersions(sections []section, s Spec) []section {
	if s.Versions != "ext" && s.Versions != "both" {
		return sections
	}
	var crcs, names []byte
	for _, name := range s.Imports {
		crcs = binary.LittleEndian.AppendUint32(crcs, crc(s, name))
		names = append(append(names, name...), 0)
	}
	return append(sections,
		section{name: "__version_ext_crcs", typ: elf.SHT_PROGBITS, flags: elf.SHF_ALLOC, data: crcs, align: 4},
		section{name: "__version_ext_names", typ: elf.SHT_PROGBITS, flags: elf.SHF_ALLOC, data: names, align: 1})
}

// exported gives the names EXPORT_SYMBOL puts in their own section, each with its namespace; depmod reads them there.
func exported(s Spec) []byte {
	var out []byte
	for _, name := range s.Exports {
		out = append(append(out, name...), 0)
		out = append(append(out, s.Namespaces[name]...), 0)
	}
	return out
}

// appendExports adds the tables of exported symbols, their relocations and CRCs: those for all modules, those for GPL
// modules only.
func appendExports(sections []section, s Spec, symtab int) []section {
	const strings = 5 // the section __ksymtab_strings
	if len(s.Exports) == 0 {
		return sections
	}
	symbol := len(sections[symtab].data) / elf.Sym64Size
	sections[symtab].data = appendSymbol(sections[symtab].data, elf.Sym64{Info: elf.ST_INFO(elf.STB_LOCAL, elf.STT_SECTION), Shndx: strings})
	for _, suffix := range [...]string{"", "_gpl"} {
		var table, rela, crcs []byte
		offset := 0
		for _, name := range s.Exports {
			if slices.Contains(s.GPL, name) == (suffix == "_gpl") {
				rela = appendRela(rela, len(table)+4, symbol, offset)
				rela = appendRela(rela, len(table)+8, symbol, offset+len(name)+1)
				table = append(table, make([]byte, ksymEntry)...)
				crcs = binary.LittleEndian.AppendUint32(crcs, crc(s, name))
			}
			offset += len(name) + len(s.Namespaces[name]) + 2
		}
		if len(table) == 0 {
			continue
		}
		sections = append(sections,
			section{name: "__ksymtab" + suffix, typ: elf.SHT_PROGBITS, flags: elf.SHF_ALLOC, data: table, align: 4},
			section{name: ".rela__ksymtab" + suffix, typ: elf.SHT_RELA, data: rela, align: 8, entsize: 24, link: uint32(symtab), info: uint32(len(sections))},
			section{name: "__kcrctab" + suffix, typ: elf.SHT_PROGBITS, flags: elf.SHF_ALLOC, data: crcs, align: 4})
	}
	return sections
}

func appendRela(rela []byte, offset, symbol, addend int) []byte {
	const pc32 = 2 // R_X86_64_PC32
	rela = binary.LittleEndian.AppendUint64(rela, uint64(offset))
	rela = binary.LittleEndian.AppendUint64(rela, uint64(symbol)<<32|pc32)
	return binary.LittleEndian.AppendUint64(rela, uint64(addend))
}
