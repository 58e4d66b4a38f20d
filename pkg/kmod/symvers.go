// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Symver is a line of Module.symvers: a symbol that a kernel build exports.
type Symver struct {
	Export
	Module string // "" for the kernel itself, else the name of the module
}

// ReadSymvers reads a Module.symvers of any compression, by symbol: what the
// headers of a kernel hold, or /lib/modules/RELEASE/symvers.xz of Fedora and
// RHEL. An error that is fs.ErrNotExist when there is no such file, ErrFormat when
// it is something else.
func ReadSymvers(path string) (map[string]Symver, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read symbol versions: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("read symbol versions %s: %w: no regular file", path, ErrFormat)
	}
	var b limitedBuilder
	if err := Decompress(path, &b); err != nil {
		return nil, fmt.Errorf("read symbol versions: %w", err)
	}
	symvers, err := parseSymvers(b.String())
	if err != nil {
		return nil, fmt.Errorf("parse symbol versions %s: %w", path, err)
	}
	return symvers, nil
}

// limitedBuilder takes as much as an index file may have.
type limitedBuilder struct{ strings.Builder }

func (b *limitedBuilder) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxIndexFile {
		return 0, ErrTooLarge
	}
	return b.Builder.Write(p)
}

// parseSymvers reads (Documentation/kbuild/modules.rst; the order of the columns
// is that since Linux 5.8, the namespace column may be missing when empty):
//
//	0xe1efd2e5	vfio_device_fops	drivers/vfio/vfio	EXPORT_SYMBOL_GPL	VFIO
func parseSymvers(text string) (map[string]Symver, error) {
	symvers := make(map[string]Symver, strings.Count(text, "\n"))
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) < 4 || !strings.HasPrefix(f[3], "EXPORT_SYMBOL") {
			return nil, fmt.Errorf("%w: line %.80q", ErrFormat, line)
		}
		crc, err := strconv.ParseUint(f[0], 0, 32)
		if err != nil {
			return nil, fmt.Errorf("%w: CRC of %.80q", ErrFormat, f[1])
		}
		s := Symver{Export: Export{Name: f[1], GPL: strings.HasSuffix(f[3], "_GPL"), CRC: uint32(crc), Versioned: crc != 0}}
		if len(f) > 4 {
			s.Namespace = f[4]
		}
		if f[2] != "vmlinux" {
			s.Module = Name(f[2])
		}
		symvers[s.Name] = s
	}
	return symvers, nil
}

// SymbolOwners gives which module of the tree exports a symbol, for all of them,
// by what depmod wrote into modules.symbols; empty when that is not there.
func (t *Tree) SymbolOwners() (map[string]string, error) {
	root, err := os.OpenRoot(t.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read symbols of %s: %w", t.dir, err)
	}
	defer root.Close()
	text, err := readIndexFile(root, "modules.symbols")
	if err != nil {
		return nil, fmt.Errorf("read symbols of %s: %w", t.dir, err)
	}
	owners := make(map[string]string, strings.Count(text, "\n"))
	parseAliases(text, func(pattern, module string) {
		if symbol, ok := strings.CutPrefix(pattern, "symbol:"); ok {
			owners[symbol] = Name(module)
		}
	})
	return owners, nil
}
