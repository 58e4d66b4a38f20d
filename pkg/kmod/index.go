// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Index answers what modprobe answers from the files of one lib/modules/<release>
// directory: which modules a name or alias stands for, and what has to be loaded
// for them. It is read once, does not change, and may be used by several
// goroutines.
type Index struct {
	dir            string
	dep            map[string]depEntry
	softdeps       map[string]Softdep
	builtin        map[string]struct{}
	aliases        aliasTable
	symbols        aliasTable
	builtinAliases aliasTable
}

// Line is one line of `modprobe --show-depends`.
type Line struct {
	Action  string // "insmod", "builtin" or "install"
	Module  string
	Target  string // the file to insmod, the builtin module, the command to run
	Options string // from options lines and the kernel command line
}

// String is the line exactly as modprobe prints it, without the newline. insmod
// and install lines have a blank at the end, two when there are options.
func (l Line) String() string {
	s := l.Action + " " + l.Target
	if l.Action == "builtin" {
		return s
	}
	s += " " + l.Options
	if l.Options != "" {
		s += " "
	}
	return s
}

// Parameters are the words of Options: as the kernel does (lib/cmdline.c, next_arg), it splits them at blanks that are not quoted.
func (l Line) Parameters() []string {
	var words []string
	quoted, start := false, 0
	for i := 0; i <= len(l.Options); i++ {
		switch {
		case i == len(l.Options), !quoted && kernelSpace(l.Options[i]):
			if i > start {
				words = append(words, l.Options[start:i])
			}
			start = i + 1
		case l.Options[i] == '"':
			quoted = !quoted
		}
	}
	return words
}

// OpenIndex reads the index files in dir, a lib/modules/<release> directory;
// ErrNotFound when there is none. Without modules.dep it reads each module file
// and works out what depmod would have written.
func OpenIndex(dir string) (*Index, error) {
	root, err := openDir(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open index %s: %w", dir, err)
	}
	x := &Index{dir: abs}
	var text [6]string
	for i, name := range [...]string{"modules.dep", softdepFile, "modules.builtin", "modules.alias", "modules.symbols", "modules.builtin.modinfo"} {
		if text[i], err = readIndexFile(root, name); err != nil {
			return nil, fmt.Errorf("open index %s: %w", dir, err)
		}
	}
	x.builtin = parseBuiltin(text[2])
	parseBuiltinAliases(text[5], x.builtinAliases.add)
	if text[0] == "" {
		x.scan()
		return x, nil
	}
	x.dep = depMap(parseDep(text[0]))
	x.softdeps = parseSoftdeps(text[1])
	parseAliases(text[3], x.aliases.add)
	parseAliases(text[4], x.symbols.add)
	return x, nil
}

// openDir opens a module directory; nothing read through it can be outside.
func openDir(dir string) (*os.Root, error) {
	root, err := os.OpenRoot(dir)
	if os.IsNotExist(err) {
		return nil, fmt.Errorf("open module directory %s: %w", dir, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open module directory: %w", err)
	}
	return root, nil
}

// depMap keys the lines of modules.dep by module. The first line of a name counts.
func depMap(entries []depEntry) map[string]depEntry {
	m := make(map[string]depEntry, len(entries))
	for _, e := range entries {
		if _, ok := m[e.name]; !ok {
			m[e.name] = e
		}
	}
	return m
}

// parseSoftdeps reads modules.softdep, which has the form of a modprobe.d file.
// The first line of a module counts.
func parseSoftdeps(data string) map[string]Softdep {
	var c Config
	c.parse(softdepFile, data)
	m := make(map[string]Softdep, len(c.softdeps))
	for _, s := range c.softdeps {
		if _, ok := m[s.name]; !ok {
			m[s.name] = s.value
		}
	}
	return m
}

// found is a module that a lookup gave. modprobe holds the ones found through
// different aliases, and the one found by name, for different modules.
type found struct {
	name    string
	alias   string
	builtin bool   // found as builtin; others are looked up when it matters
	install string // the command it was found by
}

// lookup resolves a name as kmod_module_new_from_lookup does: the first source
// that knows it counts.
func (x *Index) lookup(cfg *Config, request string) []found {
	name, ok := normalizeAlias(request)
	if !ok {
		return nil
	}
	if list := lookupConfig(cfg, name); list != nil {
		return list
	}
	if _, ok := x.dep[name]; ok && !strings.Contains(name, ":") {
		return []found{{name: name}}
	}
	if strings.HasPrefix(name, "symbol:") {
		if list := byAlias(x.symbols.find(name), name, false); list != nil {
			return list
		}
	}
	if command, ok := cfg.command(name); ok {
		return []found{{name: cutName(name), install: command}}
	}
	if list := byAlias(x.aliases.find(name), name, false); list != nil {
		return list
	}
	if _, ok := x.builtin[name]; ok {
		return []found{{name: name, builtin: true}}
	}
	return byAlias(x.builtinAliases.findBuiltin(name), name, true)
}

func lookupConfig(cfg *Config, name string) []found {
	if cfg == nil {
		return nil
	}
	var list []found
	for _, a := range cfg.aliases {
		if fnmatch(a.name, name) {
			list = append(list, found{name: a.value, alias: a.name})
		}
	}
	return list
}

func byAlias(entries []aliasEntry, alias string, builtin bool) []found {
	var list []found
	for _, e := range entries {
		list = append(list, found{name: e.module, alias: alias, builtin: builtin})
	}
	return list
}

// command tells whether an install or remove line names exactly this module, and
// gives the install command.
func (c *Config) command(name string) (install string, ok bool) {
	if c == nil {
		return "", false
	}
	named := func(l configLine) bool { return l.name == name }
	if i := slices.IndexFunc(c.installs, named); i >= 0 {
		return c.installs[i].value, true
	}
	return "", slices.ContainsFunc(c.removes, named)
}

// ShowDepends gives the lines of `modprobe --show-depends REQUEST` of kmod 30 for
// a module name or an alias. There are none when the alias leads only to
// blacklisted modules. ErrNotFound when nothing knows the name. cfg may be nil.
func (x *Index) ShowDepends(cfg *Config, request string) ([]Line, error) {
	list := x.lookup(cfg, request)
	if list == nil {
		return nil, &MissingError{Module: request, Dirs: []string{x.dir}}
	}
	var lines []Line
	for _, m := range list {
		if m.alias != "" && cfg.blacklisted(m.name) {
			continue
		}
		p := probe{index: x, cfg: cfg, visited: make(map[found]bool)}
		p.module(m)
		lines = append(lines, p.lines...)
	}
	return lines, nil
}
