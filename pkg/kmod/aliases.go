// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"cmp"
	"slices"
	"strings"
)

// wildcards start the part of an alias pattern that is matched by fnmatch; what
// stands before is compared byte by byte (libkmod: index_mm_searchwild).
const wildcards = "*?["

// aliasEntry is one line of modules.alias or its relatives.
type aliasEntry struct {
	pattern string // normalised
	wild    int    // where its first wildcard is
	module  string
	order   int // position in the file
}

// aliasTable finds the modules for an alias. Patterns are kept by their bus,
// what stands before the first ':', as a full kernel has some 20000 of them.
type aliasTable struct {
	buses map[string][]aliasEntry
	count int
}

// add takes a line; one with unbalanced brackets is left out, as by depmod.
func (t *aliasTable) add(pattern, module string) {
	pattern, ok := normalizeAlias(pattern)
	if !ok {
		return
	}
	if t.buses == nil {
		t.buses = make(map[string][]aliasEntry)
	}
	wild := strings.IndexAny(pattern, wildcards)
	if wild < 0 {
		wild = len(pattern)
	}
	bus := busOf(pattern[:wild])
	t.buses[bus] = append(t.buses[bus], aliasEntry{pattern: pattern, wild: wild, module: module, order: t.count})
	t.count++
}

func busOf(s string) string {
	i := strings.IndexByte(s, ':')
	return s[:i+1] // "" without a colon
}

// find gives the entries that match a normalised name, in the order of the file.
func (t *aliasTable) find(name string) []aliasEntry {
	var found []aliasEntry
	collect := func(bus string) {
		for _, e := range t.buses[bus] {
			if e.matches(name) {
				found = append(found, e)
			}
		}
	}
	collect("")
	if bus := busOf(name); bus != "" {
		collect(bus)
	}
	slices.SortStableFunc(found, func(a, b aliasEntry) int { return cmp.Compare(a.order, b.order) })
	return found
}

// findBuiltin is find in the order modprobe has for entries without priority,
// which is that of its search tree backwards: literal patterns first, then
// those that share the longest text with the name.
func (t *aliasTable) findBuiltin(name string) []aliasEntry {
	found := t.find(name)
	slices.SortStableFunc(found, func(a, b aliasEntry) int {
		if c := cmp.Compare(b.wild, a.wild); c != 0 {
			return c
		}
		if c := cmp.Compare(wildRank(b), wildRank(a)); c != 0 {
			return c
		}
		return cmp.Compare(treeKey(b.pattern), treeKey(a.pattern))
	})
	return found
}

func wildRank(e aliasEntry) int {
	if e.wild == len(e.pattern) {
		return len(wildcards)
	}
	return strings.IndexByte(wildcards, e.pattern[e.wild])
}

// treeKey makes a pattern sort after those it is the beginning of.
func treeKey(pattern string) string { return pattern + "\xff" }

func (e aliasEntry) matches(name string) bool {
	if e.wild == len(e.pattern) {
		return e.pattern == name
	}
	return strings.HasPrefix(name, e.pattern[:e.wild]) && fnmatch(e.pattern[e.wild:], name[e.wild:])
}

// normalizeAlias turns '-' into '_' except inside brackets. ok is false when the
// brackets are not balanced.
func normalizeAlias(s string) (normal string, ok bool) {
	if !strings.ContainsAny(s, "-[]") {
		return s, true
	}
	b := []byte(s)
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '-':
			b[i] = '_'
		case ']':
			return "", false
		case '[':
			end := strings.IndexByte(s[i:], ']')
			if end < 0 {
				return "", false
			}
			i += end
		}
	}
	return string(b), true
}
