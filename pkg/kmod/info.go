// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// Param is a parameter that a module declares (include/linux/moduleparam.h).
type Param struct {
	Name string
	Type string // as in parmtype=: "int", "uint", "bool", "invbool", "charp", "array of int", "string", ...; empty when the module does not tell
	Desc string
}

// Softdep names modules that ought to be loaded before and after a module, but
// need not be there (MODULE_SOFTDEP).
type Softdep struct{ Pre, Post []string }

// Info is what a module file says about itself.
type Info struct {
	Name       string // the kernel's name for it, canonical
	Path       string // the file; for ParseInfo the name it was given
	Vermagic   string
	Version    string
	SrcVersion string
	License    string
	BuildID    string // lower-case hex of .note.gnu.build-id, empty when there is none
	Arch       string // as runtime.GOARCH: "amd64", "arm64"; of others ELF's name for the machine
	InTree     bool
	Depends    []string // direct dependencies, canonical names
	Aliases    []string
	Firmware   []string
	ImportNS   []string
	Softdeps   []Softdep
	Params     []Param
}

// ParseInfo reads the module in elf, plain and not compressed; name stands in
// Info.Path and is the last resort for Info.Name. ErrFormat when that is no
// module, ErrTooLarge when a part of it is beyond the limits.
func ParseInfo(name string, elf io.ReaderAt) (*Info, error) {
	f, err := openELF(elf)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	info, err := parseInfo(name, f)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	return info, nil
}

func parseInfo(name string, f *elfFile) (*Info, error) {
	modinfo, err := f.findData(".modinfo")
	if err != nil {
		return nil, err
	}
	if modinfo == nil {
		return nil, fmt.Errorf("%w: no .modinfo section", ErrFormat)
	}
	info := &Info{Path: name, Arch: f.arch()}
	var params paramList
	parseModinfo(string(modinfo), info, &params)
	addUndeclaredParams(f, &params)
	info.Params = params.list
	note, err := f.findData(".note.gnu.build-id")
	if err != nil {
		return nil, err
	}
	info.BuildID = buildID(note)
	if info.Name == "" {
		if info.Name, err = structModuleName(f); err != nil {
			return nil, err
		}
	}
	if info.Name == "" {
		info.Name = Name(name)
	}
	return info, nil
}

// parseModinfo reads NUL separated entries:
//
//	license=GPL\0depends=a,b\0parmtype=level:int\0vermagic=6.1.0 SMP \0
func parseModinfo(data string, info *Info, params *paramList) {
	for len(data) > 0 {
		var entry string
		entry, data, _ = strings.Cut(data, "\x00")
		key, value, ok := strings.Cut(entry, "=")
		if !ok {
			continue
		}
		switch key {
		case "name":
			info.Name = strings.ReplaceAll(value, "-", "_")
		case "vermagic":
			info.Vermagic = value
		case "version":
			info.Version = value
		case "srcversion":
			info.SrcVersion = value
		case "license":
			if info.License == "" { // the kernel looks at the first (get_modinfo)
				info.License = value
			}
		case "intree":
			info.InTree = true
		case "depends":
			info.Depends = appendDepends(info.Depends, value)
		case "alias":
			info.Aliases = append(info.Aliases, value)
		case "firmware":
			info.Firmware = append(info.Firmware, value)
		case "import_ns":
			info.ImportNS = append(info.ImportNS, value)
		case "softdep":
			if s := parseSoftdep(strings.Fields(value)); len(s.Pre)+len(s.Post) > 0 {
				info.Softdeps = append(info.Softdeps, s)
			}
		case "parm", "parmtype":
			params.declare(key, value)
		}
	}
}

func appendDepends(list []string, value string) []string {
	for name := range strings.SplitSeq(value, ",") {
		if name != "" {
			list = append(list, strings.ReplaceAll(name, "-", "_"))
		}
	}
	return list
}

// paramList collects parameters by name; '-' and '_' are the same, as for the
// kernel (kernel/params.c: parameq).
type paramList struct {
	list  []Param
	index map[string]int // by canonical name
}

// named gives the parameter of that name, which is added when there is none.
func (l *paramList) named(name string) *Param {
	canonical := strings.ReplaceAll(name, "-", "_")
	i, ok := l.index[canonical]
	if !ok {
		if l.index == nil {
			l.index = make(map[string]int)
		}
		i = len(l.list)
		l.list, l.index[canonical] = append(l.list, Param{Name: name}), i
	}
	return &l.list[i]
}

// declare joins the two entries of one parameter, "level:how much" and "level:int".
func (l *paramList) declare(key, value string) {
	name, rest, ok := strings.Cut(value, ":")
	if !ok {
		return
	}
	if p := l.named(name); key == "parmtype" {
		p.Type = rest
	} else {
		p.Desc = rest
	}
}

// param finds a parameter.
func (i *Info) param(name string) *Param {
	name = strings.ReplaceAll(name, "-", "_")
	for k := range i.Params {
		if strings.ReplaceAll(i.Params[k].Name, "-", "_") == name {
			return &i.Params[k]
		}
	}
	return nil
}

// parseSoftdep reads the words "pre: a b post: c". Words before the first
// marker count for nothing, as in modprobe.
func parseSoftdep(words []string) Softdep {
	var s Softdep
	var list *[]string
	for _, w := range words {
		switch {
		case w == "pre:":
			list = &s.Pre
		case w == "post:":
			list = &s.Post
		case list != nil:
			*list = append(*list, w)
		}
	}
	return s
}

// Release is the kernel release the module was built for, the first word of its
// vermagic; empty when it has none.
func (i *Info) Release() string {
	release, _, _ := strings.Cut(i.Vermagic, " ")
	return release
}

// buildID finds the GNU build-id among ELF notes: namesz, descsz, type, then
// name and description, each padded to 4 bytes.
func buildID(note []byte) string {
	const ntGNUBuildID = 3
	for len(note) >= 12 {
		le := binary.LittleEndian
		namesz, descsz, typ := uint64(le.Uint32(note)), uint64(le.Uint32(note[4:])), le.Uint32(note[8:])
		desc := 12 + (namesz+3)&^3
		next := desc + (descsz+3)&^3
		if desc+descsz > uint64(len(note)) {
			return ""
		}
		if typ == ntGNUBuildID && bytes.Equal(note[12:12+namesz], []byte("GNU\x00")) {
			return hex.EncodeToString(note[desc : desc+descsz])
		}
		if next > uint64(len(note)) {
			return ""
		}
		note = note[next:]
	}
	return ""
}

// structModuleName reads struct module.name, which the linker script puts in its
// own section: the name for kernels before .modinfo had one (v4.13).
func structModuleName(f *elfFile) (string, error) {
	const offset, size = 24, 56 // after state and list; MODULE_NAME_LEN on 64-bit
	this, err := f.findData(".gnu.linkonce.this_module")
	if err != nil || len(this) < offset+size {
		return "", err
	}
	name, _, _ := bytes.Cut(this[offset:offset+size], []byte{0})
	return strings.ReplaceAll(string(name), "-", "_"), nil
}
