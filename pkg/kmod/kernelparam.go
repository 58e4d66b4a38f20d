// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// Sizes in the section __param, an array of struct kernel_param
// (include/linux/moduleparam.h, 64-bit, since v3.17): the name is its first
// pointer, which in a module file is a relocation.
const (
	kernelParamSize = 40
	relaSize        = 24
	symbolSize      = 24
	maxParamName    = 128
	maxParams       = 4096
)

// addUndeclaredParams adds the parameters .modinfo does not tell of. There is no
// parmtype= for those made with module_param_cb and module_param_call, such as
// hashsize of nf_conntrack or vmentry_l1d_flush of kvm_intel. A file in which
// this can not be followed adds none.
func addUndeclaredParams(f *elfFile, params *paramList) {
	rela, err := f.findData(".rela__param")
	if err != nil {
		return
	}
	symtab, ok := f.find(".symtab")
	if !ok {
		return
	}
	le := binary.LittleEndian
	for n := 0; len(rela) >= relaSize && n < maxParams; rela = rela[relaSize:] {
		if le.Uint64(rela)%kernelParamSize != 0 {
			continue
		}
		n++
		name := f.stringAt(symtab, le.Uint64(rela[8:])>>32, le.Uint64(rela[16:]))
		if name != "" {
			params.named(name)
		}
	}
}

// stringAt reads the string a relocation points to: symbol's section and value,
// plus addend.
func (f *elfFile) stringAt(symtab elfSection, symbol, addend uint64) string {
	if symbol >= symtab.size/symbolSize {
		return ""
	}
	var sym [symbolSize]byte
	if _, err := f.r.ReadAt(sym[:], int64(symtab.offset+symbol*symbolSize)); err != nil {
		return ""
	}
	le := binary.LittleEndian
	index, value := int(le.Uint16(sym[6:])), le.Uint64(sym[8:])
	if index == 0 || index >= len(f.headers)/sectionHeaderSize {
		return ""
	}
	s := f.section(index)
	offset := value + addend
	if s.typ == elf.SHT_NOBITS || offset >= s.size || s.offset > maxModuleSize || s.size > maxModuleSize {
		return ""
	}
	b := make([]byte, min(maxParamName, s.size-offset))
	if _, err := f.r.ReadAt(b, int64(s.offset+offset)); err != nil {
		return ""
	}
	name, _, ok := bytes.Cut(b, []byte{0})
	if !ok {
		return ""
	}
	return string(name)
}
