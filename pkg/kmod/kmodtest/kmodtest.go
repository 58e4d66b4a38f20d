// SPDX-License-Identifier: Apache-2.0

// Package kmodtest makes small kernel module files for unit tests.
//
// The files are valid ELF relocatables with the sections a reader of module
// files looks at: .modinfo, the build-id note, struct module's name, __versions
// and the symbol table. They hold no code, and no kernel would accept them.
package kmodtest

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"

	"github.com/kmm-node/kmmd/pkg/kmod"
)

// Param is one module parameter: an entry in the section __param, a parmtype=
// entry when Type is set, a parm= entry when Desc is set.
type Param struct {
	Name string
	Type string // as in parmtype: "int", "bool", "charp", "array of int", ...
	Desc string
}

// Spec says what is in a module file. The zero value is a module without a
// name, GPL licensed, that needs nothing.
type Spec struct {
	Name       string // name= and struct module; WriteTree takes it from the file name when empty
	Vermagic   string // whole string: "6.1.0-56-cloud-amd64 SMP preempt mod_unload modversions "; empty: no entry
	License    string // empty: GPL
	Version    string
	SrcVersion string
	InTree     bool
	Depends    []string // direct dependencies; the depends= entry is always there
	Aliases    []string
	Firmware   []string
	Softdeps   []string // one softdep= entry each: "pre: a b post: c"
	ImportNS   []string
	Params     []Param
	BuildID    []byte   // nil: derived from everything else, so that two builds differ; empty: no note
	Imports    []string // undefined symbols, with an entry in __versions
	Exports    []string // exported symbols
	// More about symbols; all may be nil.
	GPL        []string          // those of Exports that are for GPL modules only
	Namespaces map[string]string // namespace of an export
	Weak       []string          // those of Imports that need not be there
	CRCs       map[string]uint32 // of imports and exports; by default it is made of the name
	Versions   string            // where the CRCs of imports are: "" __versions, "ext" the newer sections, "both", "none"
	Signature  []byte            // appended to the file
	Extra      []string          // further "key=value" entries of .modinfo
}

// Build returns the module file that s describes. Equal specs give equal bytes.
func Build(s Spec) []byte {
	return build(s)
}

var compressions = map[string]string{".gz": "gzip", ".xz": "xz", ".zst": "zstd"}

// WriteTree writes one module file for each entry of files below dir. The paths
// are relative and slash separated; ".ko.gz", ".ko.xz" and ".ko.zst" are
// compressed accordingly. It makes no index files (modules.dep and so on).
func WriteTree(t testing.TB, dir string, files map[string]Spec) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(files)) {
		s := files[path]
		if s.Name == "" {
			base, _, _ := strings.Cut(filepath.Base(path), ".")
			s.Name = strings.ReplaceAll(base, "-", "_")
		}
		data, err := kmod.Compress(compressions[filepath.Ext(path)], Build(s))
		if err != nil {
			t.Fatalf("compress %s: %v", path, err)
		}
		full := filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// XZ packs data with one of the checks of the format: xz.None, xz.CRC32 as kbuild has it, xz.CRC64 as xz(1) takes it
// unless told otherwise, xz.SHA256.
func XZ(t testing.TB, data []byte, check byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.WriterConfig{CheckSum: check, NoCheckSum: check == xz.None}.NewWriter(&out)
	if err == nil {
		_, err = w.Write(data)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		t.Fatalf("pack: %v", err)
	}
	return out.Bytes()
}
