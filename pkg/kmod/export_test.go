// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// WithoutDep is the tree as it would be without modules.dep.
func (t *Tree) WithoutDep() *Tree {
	return &Tree{dir: t.dir, builtin: t.builtin, softText: t.softText, aliasText: t.aliasText, infos: t.infos}
}

// ParseConfig parses one file of modprobe.d and a kernel command line.
func ParseConfig(file, cmdline string) *Config {
	c := &Config{}
	c.parse("local.conf", file)
	c.parseCmdline(cmdline)
	return c
}

// LimitCompared sets the limit for soft dependencies and aliases until undo is called.
func LimitCompared(n int) (undo func()) {
	old := maxCompared
	maxCompared = n
	return func() { maxCompared = old }
}

// Options are the lines of a configuration, "module options".
func (c *Config) Options() []string {
	var lines []string
	for _, o := range c.options {
		lines = append(lines, o.name+" "+o.value)
	}
	return lines
}

// Blacklists are the modules a configuration forbids.
func (c *Config) Blacklists() []string { return c.blacklists }

// ParseDep gives the modules in a modules.dep and all files they need.
func ParseDep(data string) map[string][]string {
	m := make(map[string][]string)
	for _, e := range parseDep(data) {
		m[e.name] = append(m[e.name], e.files()...)
	}
	return m
}

// Match and fnmatch, as a lookup in modules.alias does it.
func Match(pattern, name string) bool {
	var t aliasTable
	t.add(pattern, "x")
	return len(t.find(name)) > 0
}

var Fnmatch = fnmatch

// FindAliases gives the modules that the text of a modules.alias has for a name.
func FindAliases(text, name string) []string {
	var t aliasTable
	parseAliases(text, t.add)
	return modulesOf(t.find(name))
}

// FindBuiltinAliases is FindAliases for a modules.builtin.modinfo.
func FindBuiltinAliases(text, name string) []string {
	var t aliasTable
	parseBuiltinAliases(text, t.add)
	return modulesOf(t.findBuiltin(name))
}

func modulesOf(entries []aliasEntry) []string {
	var list []string
	for _, e := range entries {
		list = append(list, e.module)
	}
	return list
}

var (
	ParseBuiltin  = parseBuiltin
	ParseSoftdeps = parseSoftdeps
	ParseSymvers  = parseSymvers
	Normalize     = normalizeAlias
)

// NamesInSections reads a name out of each of n sections, all of the same size bytes of one file.
func NamesInSections(n int, size uint64) error {
	f := &elfFile{r: bytes.NewReader(append(make([]byte, size-2), "x\x00"...)), headers: make([]byte, (n+1)*sectionHeaderSize)}
	t := &symbolTable{f: f, symbols: make([]byte, (n+1)*symbolSize)}
	strings := stringSections{t: t, read: make(map[int][]byte)}
	for i := 1; i <= n; i++ {
		binary.LittleEndian.PutUint64(f.headers[i*sectionHeaderSize+32:], size)
		binary.LittleEndian.PutUint16(t.symbols[i*symbolSize+6:], uint16(i))
		for range 2 {
			name, err := strings.at(uint64(i), size-2)
			if err != nil {
				return err
			}
			if name != "x" {
				return fmt.Errorf("%q in section %d", name, i)
			}
		}
	}
	return nil
}
