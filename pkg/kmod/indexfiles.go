// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// maxIndexFile bounds one file written by depmod or the kernel build; the
// largest of a full distribution kernel, modules.alias, has 2 MiB.
const maxIndexFile = 64 << 20

// readIndexFile reads a file of a module directory; "" when it is not there. The
// root keeps a link in an image from leading elsewhere.
func readIndexFile(root *os.Root, name string) (string, error) {
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	var b strings.Builder
	if st, err := f.Stat(); err == nil {
		b.Grow(int(min(st.Size(), maxIndexFile)))
	}
	n, err := io.Copy(&b, io.LimitReader(f, maxIndexFile+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read %s: %w", name, err)
	case n > maxIndexFile:
		return "", fmt.Errorf("read %s: %w", name, ErrTooLarge)
	}
	return b.String(), nil
}

// depEntry is one line of modules.dep.
type depEntry struct {
	name string // as modprobe makes it from the path
	path string
	deps string // the paths after the colon, in the order of the file: deepest last
}

// parseDep reads modules.dep:
//
//	kernel/fs/lockd/lockd.ko: kernel/fs/nfs_common/grace.ko kernel/net/sunrpc/sunrpc.ko
func parseDep(data string) []depEntry {
	entries := make([]depEntry, 0, strings.Count(data, "\n"))
	for line := range strings.Lines(data) {
		file, deps, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		if !ok || file == "" || file[0] == '#' {
			continue
		}
		entries = append(entries, depEntry{name: pathName(file), path: file, deps: deps})
	}
	return entries
}

// files gives the dependencies in load order, deepest first.
func (e depEntry) files() []string {
	list := strings.FieldsFunc(e.deps, func(r rune) bool { return r == ' ' || r == '\t' })
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list
}

// pathName is the name libkmod gives the module in a file: without directory, up
// to the first '.', '-' as '_'.
func pathName(file string) string {
	return cutName(path.Base(file))
}

func cutName(s string) string {
	s, _, _ = strings.Cut(s, ".")
	return strings.ReplaceAll(s, "-", "_")
}

// parseBuiltin reads modules.builtin, one path a line as if they were files:
//
//	kernel/fs/ext4/ext4.ko
func parseBuiltin(data string) map[string]struct{} {
	names := make(map[string]struct{}, strings.Count(data, "\n"))
	for line := range strings.Lines(data) {
		line = strings.TrimSpace(line)
		if line == "" || !isLetter(line[0]) { // depmod skips such lines
			continue
		}
		names[pathName(line)] = struct{}{}
	}
	return names
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// parseAliases reads modules.alias and modules.symbols, in their order:
//
//	alias pci:v00008086d*sv*sd*bc*sc*i* e1000
//	alias symbol:nfs_file_operations nfs
//
// A pattern may hold spaces, a module name can not.
func parseAliases(data string, add func(pattern, module string)) {
	for line := range strings.Lines(data) {
		line, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), "alias ")
		if !ok {
			continue
		}
		if i := strings.LastIndexByte(line, ' '); i > 0 {
			add(line[:i], line[i+1:])
		}
	}
}

// parseBuiltinAliases reads the alias entries of modules.builtin.modinfo, NUL
// separated (since Linux 5.2):
//
//	ext4.alias=fs-ext4\0ext4.license=GPL\0
func parseBuiltinAliases(data string, add func(pattern, module string)) {
	for len(data) > 0 {
		var entry string
		entry, data, _ = strings.Cut(data, "\x00")
		module, rest, ok := strings.Cut(entry, ".")
		if !ok {
			continue
		}
		if pattern, ok := strings.CutPrefix(rest, "alias="); ok && pattern != "" {
			add(pattern, module)
		}
	}
}
