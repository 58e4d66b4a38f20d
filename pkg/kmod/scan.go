// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"path/filepath"
	"slices"
	"strings"
)

// scan fills an index from the module files themselves, for a directory in which
// depmod never ran. A file that is no module is passed over, as depmod does. The
// order in which several modules of one alias come is that of their paths.
func (x *Index) scan() {
	t := &Tree{dir: x.dir, infos: make(map[string]known)}
	files := t.walk()
	x.dep = make(map[string]depEntry, len(files))
	x.softdeps = make(map[string]Softdep)
	infos := make(map[string]*Info, len(files))
	for name, file := range files {
		info, err := ReadInfo(filepath.Join(x.dir, file))
		if err != nil {
			continue
		}
		infos[name] = info
	}
	for _, name := range sortedByPath(files) {
		info := infos[name]
		if info == nil {
			continue
		}
		var deps []string
		closure(infos, info, map[string]bool{name: true}, &deps)
		for i := range deps {
			deps[i] = files[deps[i]]
		}
		slices.Reverse(deps) // in modules.dep the deepest is last
		key := pathName(files[name])
		x.dep[key] = depEntry{name: key, path: files[name], deps: strings.Join(deps, " ")}
		for _, alias := range info.Aliases {
			x.aliases.add(alias, key)
		}
		if len(info.Softdeps) > 0 {
			x.softdeps[key] = info.Softdeps[0]
		}
	}
}

func sortedByPath(files map[string]string) []string {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(files[a], files[b]) })
	return names
}

// closure appends what info needs, all of it, deepest first.
func closure(infos map[string]*Info, info *Info, seen map[string]bool, deps *[]string) {
	for _, name := range info.Depends {
		d := infos[name]
		if d == nil || seen[name] {
			continue
		}
		seen[name] = true
		closure(infos, d, seen, deps)
		*deps = append(*deps, name)
	}
}
