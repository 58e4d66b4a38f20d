// SPDX-License-Identifier: Apache-2.0

package kmodtest

import (
	"bytes"
	"crypto/sha1"
	"debug/elf"
	"encoding/binary"
	"slices"
	"strings"
)

const (
	// moduleNameOffset is where the name is in struct module on 64-bit
	// machines: after the state (padded) and the list head.
	moduleNameOffset = 24
	moduleSize       = 512
)

type section struct {
	name    string
	typ     elf.SectionType
	flags   elf.SectionFlag
	data    []byte
	link    uint32
	info    uint32
	entsize uint64
	align   uint64
}

func build(s Spec) []byte {
	info := modinfo(s)
	id := s.BuildID
	if id == nil {
		sum := sha1.Sum([]byte(string(info) + strings.Join(s.Imports, " ") + "/" + strings.Join(s.Exports, " ")))
		id = sum[:]
	}
	this := make([]byte, moduleSize)
	copy(this[moduleNameOffset:moduleNameOffset+55], s.Name)
	syms, strs := symbols(s)
	const alloc = elf.SHF_ALLOC
	sections := []section{
		{},
		{name: ".text", typ: elf.SHT_PROGBITS, flags: alloc | elf.SHF_EXECINSTR, data: []byte{0x31, 0xc0, 0xc3}, align: 16},
		{name: ".modinfo", typ: elf.SHT_PROGBITS, flags: alloc, data: info, align: 1},
		{name: versionsName(s), typ: elf.SHT_PROGBITS, flags: alloc, data: versions(s), align: 32},
		{name: ".gnu.linkonce.this_module", typ: elf.SHT_PROGBITS, flags: alloc | elf.SHF_WRITE, data: this, align: 64},
		{name: "__ksymtab_strings", typ: elf.SHT_PROGBITS, flags: alloc | elf.SHF_MERGE | elf.SHF_STRINGS, data: exported(s), align: 1, entsize: 1},
		{name: ".symtab", typ: elf.SHT_SYMTAB, data: syms, align: 8, entsize: elf.Sym64Size, info: 1},
		{name: ".strtab", typ: elf.SHT_STRTAB, data: strs, align: 1},
	}
	const symtab, strtab = 6, 7
	sections[symtab].link = strtab
	if len(s.Params) > 0 {
		names, params, rela := kernelParams(s.Params, len(syms)/elf.Sym64Size)
		syms = appendSymbol(syms, elf.Sym64{Info: elf.ST_INFO(elf.STB_LOCAL, elf.STT_SECTION), Shndx: uint16(len(sections))})
		sections[symtab].data = syms
		sections = append(sections,
			section{name: ".rodata", typ: elf.SHT_PROGBITS, flags: alloc, data: names, align: 8},
			section{name: "__param", typ: elf.SHT_PROGBITS, flags: alloc, data: params, align: 8},
			section{name: ".rela__param", typ: elf.SHT_RELA, data: rela, align: 8, entsize: 24, link: symtab, info: uint32(len(sections) + 1)})
	}
	sections = appendExports(sections, s, symtab)
	sections = appendExtVersions(sections, s)
	if len(id) > 0 {
		sections = append(sections, section{name: ".note.gnu.build-id", typ: elf.SHT_NOTE, flags: alloc, data: note(id), align: 4})
	}
	return append(assemble(sections), s.Signature...)
}

func modinfo(s Spec) []byte {
	var b bytes.Buffer
	put := func(key, value string) {
		b.WriteString(key + "=" + value)
		b.WriteByte(0)
	}
	putAll := func(key string, values []string) {
		for _, v := range values {
			put(key, v)
		}
	}
	putSet := func(key, value string) {
		if value != "" {
			put(key, value)
		}
	}
	license := s.License
	if license == "" {
		license = "GPL"
	}
	put("license", license)
	putSet("version", s.Version)
	putSet("srcversion", s.SrcVersion)
	putAll("alias", s.Aliases)
	putAll("softdep", s.Softdeps)
	putAll("firmware", s.Firmware)
	putAll("import_ns", s.ImportNS)
	for _, p := range s.Params {
		if p.Desc != "" {
			put("parm", p.Name+":"+p.Desc)
		}
		if p.Type != "" {
			put("parmtype", p.Name+":"+p.Type)
		}
	}
	put("depends", strings.Join(s.Depends, ","))
	if s.InTree {
		put("intree", "Y")
	}
	putSet("name", s.Name)
	putSet("vermagic", s.Vermagic)
	for _, e := range s.Extra {
		b.WriteString(e)
		b.WriteByte(0)
	}
	return b.Bytes()
}

func note(id []byte) []byte {
	out := binary.LittleEndian.AppendUint32(nil, 4)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(id)))
	out = binary.LittleEndian.AppendUint32(out, 3) // NT_GNU_BUILD_ID
	out = append(out, "GNU\x00"...)
	out = append(out, id...)
	for len(out)%4 != 0 {
		out = append(out, 0)
	}
	return out
}

// symbols gives .symtab and .strtab: imports are undefined, an export S is
// marked by a symbol __ksymtab_S, as EXPORT_SYMBOL makes it.
func symbols(s Spec) (syms, strs []byte) {
	strs = []byte{0}
	add := func(name string, bind elf.SymBind, shndx uint16) {
		syms = appendSymbol(syms, elf.Sym64{Name: uint32(len(strs)), Info: elf.ST_INFO(bind, elf.STT_NOTYPE), Shndx: shndx})
		strs = append(strs, name...)
		strs = append(strs, 0)
	}
	syms = appendSymbol(syms, elf.Sym64{})
	for _, name := range s.Imports {
		bind := elf.STB_GLOBAL
		if slices.Contains(s.Weak, name) {
			bind = elf.STB_WEAK
		}
		add(name, bind, uint16(elf.SHN_UNDEF))
	}
	for _, name := range s.Exports {
		add(name, elf.STB_GLOBAL, 1)
		add("__ksymtab_"+name, elf.STB_GLOBAL, 1)
	}
	return syms, strs
}

func appendSymbol(syms []byte, sym elf.Sym64) []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, sym) // a bytes.Buffer takes everything
	return append(syms, b.Bytes()...)
}

// kernelParams gives the names of parameters, the array of struct kernel_param
// (40 bytes each) and the relocations of its name pointers, against symbol.
func kernelParams(list []Param, symbol int) (names, params, rela []byte) {
	const structSize, absolute = 40, 1 // R_X86_64_64
	for i, p := range list {
		rela = binary.LittleEndian.AppendUint64(rela, uint64(i*structSize))
		rela = binary.LittleEndian.AppendUint64(rela, uint64(symbol)<<32|absolute)
		rela = binary.LittleEndian.AppendUint64(rela, uint64(len(names)))
		names = append(names, p.Name...)
		names = append(names, 0)
	}
	return names, make([]byte, len(list)*structSize), rela
}

// assemble lays out header, sections, section names and section headers.
func assemble(sections []section) []byte {
	names := []byte{0}
	sections = append(sections, section{name: ".shstrtab", typ: elf.SHT_STRTAB, align: 1})
	offsets := make([]uint32, len(sections))
	for i, s := range sections[1:] {
		offsets[i+1] = uint32(len(names))
		names = append(names, s.name...)
		names = append(names, 0)
	}
	sections[len(sections)-1].data = names

	out := make([]byte, 64)
	headers := make([]elf.Section64, len(sections))
	for i, s := range sections[1:] {
		for uint64(len(out))%s.align != 0 {
			out = append(out, 0)
		}
		headers[i+1] = elf.Section64{Name: offsets[i+1], Type: uint32(s.typ), Flags: uint64(s.flags), Off: uint64(len(out)),
			Size: uint64(len(s.data)), Link: s.link, Info: s.info, Addralign: s.align, Entsize: s.entsize}
		out = append(out, s.data...)
	}
	for len(out)%8 != 0 {
		out = append(out, 0)
	}
	header := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: uint64(len(out)),
		Ehsize: 64, Shentsize: 64, Shnum: uint16(len(sections)), Shstrndx: uint16(len(sections) - 1)}
	copy(header.Ident[:], "\x7fELF\x02\x01\x01")
	var head, tail bytes.Buffer
	_ = binary.Write(&head, binary.LittleEndian, header)
	_ = binary.Write(&tail, binary.LittleEndian, headers)
	copy(out, head.Bytes())
	return append(out, tail.Bytes()...)
}
