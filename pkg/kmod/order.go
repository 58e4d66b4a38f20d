// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"fmt"
	"slices"
	"strings"
)

// Item is one module file to load.
type Item struct {
	Info *Info
	File *File // all of it, of a tree that OpenWholeTree has opened; otherwise nil
	Tree int   // which of the trees given to LoadOrder has the file
	// Soft: only a soft dependency asks for it, so that its failure is no failure.
	Soft bool
}

// LoadOrder gives the files to load for a module, dependencies first, each once.
// The module itself is the last one that is not Soft; soft dependencies that want
// to be loaded afterwards follow it. For each name the first tree that has the
// file wins, so give the image before the host.
//
// A module needs what its own .modinfo and its line of modules.dep name. What is
// builtin in any tree is left out. Soft dependencies come from .modinfo and
// modules.softdep; those that are not there, or can not be loaded, are left out.
//
// Errors: *MissingError (ErrNotFound), ErrCycle, ErrBuiltin when the module itself
// is builtin and in no tree as a file, ErrTooLarge for more soft dependencies and
// aliases than can be compared, and those of ReadInfo.
func LoadOrder(name string, trees ...*Tree) ([]Item, error) {
	o := newOrder(trees)
	if _, err := o.all(Name(name)); err != nil {
		return nil, err
	}
	return o.items, nil
}

// OrderWithin is LoadOrder for an image whose host is not known. What the module
// can not do without and the tree does not have is in absent: the host has to
// have it, as a file or builtin.
func OrderWithin(name string, tree *Tree) (items []Item, absent []*MissingError, err error) {
	o := newOrder([]*Tree{tree})
	o.partial = true
	absent, err = o.all(Name(name))
	if err != nil {
		return nil, nil, err
	}
	return o.items, absent, nil
}

func newOrder(trees []*Tree) *order {
	return &order{trees: trees, nodes: make(map[string]*node), done: make(map[string]int), lacks: make(map[string]bool)}
}

// all orders everything, and returns what was hard to be without.
func (o *order) all(name string) (absent []*MissingError, err error) {
	chain, err := o.hardOrder(name, "")
	if err != nil {
		return nil, err
	}
	absent = o.absent
	if len(chain) == 0 {
		return nil, fmt.Errorf("order module %s: %w", name, ErrBuiltin)
	}
	o.emit(chain, false)
	for len(o.deferred) > 0 {
		next := o.deferred[0]
		o.deferred = o.deferred[1:]
		o.soft(next)
	}
	if o.compared > maxCompared {
		return nil, fmt.Errorf("order module %s: look for aliases of its soft dependencies: %w", name, ErrTooLarge)
	}
	return absent, nil
}

// node is a module file and what it needs.
type node struct {
	known
	tree    int
	depends []string
	pre     []string
	post    []string
}

type order struct {
	trees    []*Tree
	nodes    map[string]*node
	items    []Item
	done     map[string]int // index in items, -1 while its soft dependencies are put before it
	deferred []string       // wanted before a module that they need themselves

	partial bool // what is not there may be elsewhere, and is put in absent
	absent  []*MissingError
	lacks   map[string]bool // by the names in absent

	compared int // aliases with what soft dependencies name
}

// hardOrder lists a module after everything it can not do without. It is empty
// when the module is builtin.
func (o *order) hardOrder(name, neededBy string) ([]string, error) {
	var list []string
	state := make(map[string]bool) // false while on the way, true when listed
	var path []string
	var visit func(name, neededBy string) error
	visit = func(name, neededBy string) error {
		if listed, ok := state[name]; ok {
			if !listed {
				path = append(path[slices.Index(path, name):], name)
				return fmt.Errorf("order module %s: %w", strings.Join(path, " -> "), ErrCycle)
			}
			return nil
		}
		n, err := o.node(name, neededBy)
		if err != nil || n == nil {
			return err
		}
		state[name] = false
		path = append(path, name)
		for _, d := range n.depends {
			if err := visit(d, name); err != nil {
				return err
			}
		}
		path = path[:len(path)-1]
		state[name] = true
		list = append(list, name)
		return nil
	}
	err := visit(name, neededBy)
	return list, err
}

// node finds and reads a module; nil when it is builtin and so needs no file. A
// module that was asked for by name is looked for as a file first.
func (o *order) node(name, neededBy string) (*node, error) {
	if n, ok := o.nodes[name]; ok {
		return n, nil
	}
	if neededBy != "" && o.builtin(name) {
		return nil, nil
	}
	for i, t := range o.trees {
		file, ok := t.find(name)
		if !ok {
			continue
		}
		k, err := t.info(file)
		if err != nil {
			return nil, err
		}
		n := &node{known: k, tree: i, depends: t.depends(name, file, k.info)}
		for _, s := range slices.Concat(t.softdepsOf(name), k.info.Softdeps) {
			n.pre = append(n.pre, s.Pre...)
			n.post = append(n.post, s.Post...)
		}
		n.pre, n.post = unique(n.pre), unique(n.post)
		o.nodes[name] = n
		return n, nil
	}
	if o.builtin(name) {
		return nil, nil
	}
	missing := &MissingError{Module: name, NeededBy: neededBy}
	for _, t := range o.trees {
		missing.Dirs = append(missing.Dirs, t.dir)
	}
	if o.partial && neededBy != "" {
		if !o.lacks[name] {
			o.lacks[name] = true
			o.absent = append(o.absent, missing)
		}
		return nil, nil
	}
	return nil, missing
}

// unique leaves of each name the first one. An image may have very many, so that they are not compared with each other.
func unique(names []string) []string {
	seen := make(map[string]bool, len(names))
	return slices.DeleteFunc(names, func(name string) bool {
		again := seen[name]
		seen[name] = true
		return again
	})
}

func (o *order) builtin(name string) bool {
	return slices.ContainsFunc(o.trees, func(t *Tree) bool { return t.Builtin(name) })
}

// emit puts modules in the list, in this order, each between its soft
// dependencies.
func (o *order) emit(chain []string, soft bool) {
	for _, name := range chain {
		if i, ok := o.done[name]; ok {
			// A soft dependency of one before it may have brought it already.
			o.items[i].Soft = o.items[i].Soft && soft
			continue
		}
		o.done[name] = -1
		n := o.nodes[name]
		for _, s := range n.pre {
			o.soft(s)
		}
		o.done[name] = len(o.items)
		o.items = append(o.items, Item{Info: n.info, File: n.file, Tree: n.tree, Soft: soft})
		for _, s := range n.post {
			o.soft(s)
		}
	}
}

// soft adds what a soft dependency stands for, a module or an alias, as far as it
// can be loaded.
func (o *order) soft(wanted string) {
	for _, name := range o.resolve(wanted) {
		if i, ok := o.done[name]; ok && i >= 0 {
			continue
		}
		chain, err := o.hardOrder(name, wanted)
		if err != nil {
			continue
		}
		if slices.ContainsFunc(chain, func(n string) bool { i, ok := o.done[n]; return ok && i < 0 }) {
			// It needs a module that is on its turn already: afterwards then. If it
			// is that module itself there is nothing to do.
			if _, ok := o.done[name]; !ok {
				o.deferred = append(o.deferred, name)
			}
			continue
		}
		o.emit(chain, true)
	}
}

// resolve gives the modules a name stands for, as modprobe looks them up: a file,
// a builtin (nothing to load), an alias in the first tree that knows it.
func (o *order) resolve(wanted string) []string {
	name := Name(wanted)
	for _, t := range o.trees {
		if _, ok := t.find(name); ok {
			return []string{name}
		}
	}
	if o.builtin(name) {
		return nil
	}
	for _, t := range o.trees {
		if o.compared += t.aliasCount(); o.compared > maxCompared {
			return nil // the order ends in an error
		}
		if list := t.byAlias(wanted); list != nil {
			return list
		}
	}
	return nil
}
