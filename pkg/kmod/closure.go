// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Closure gives the files of a lib/modules/<release> directory that modules need,
// as far as they are there: their own, those of their dependencies and soft
// dependencies, and all modules.* files of the directory itself. Paths are
// relative to dir and sorted. Without modules it is the files of all modules; where
// depmod has run, of those it knows.
//
// complete means that files which may be missing in dir, because it is only the
// newest part of something, could change nothing: depmod has run (modules.dep,
// modules.softdep and modules.alias are there), it knows each of the modules,
// and every file it says they need is there. What it did not find, it takes for
// the host's, and so do we. A file that lies behind a symlink to a directory
// is the host's too: links are not followed.
//
// ErrNotFound when dir does not exist, ErrTooLarge for index files beyond the
// limits, and for more soft dependencies and aliases than can be compared. A file
// that is no module is no error: whoever loads it will say so.
func Closure(dir string, modules []string) (files []string, complete bool, err error) {
	t, err := OpenTree(dir)
	if err != nil {
		return nil, false, err
	}
	root, err := openDir(dir)
	if err != nil {
		return nil, false, err
	}
	defer root.Close()
	c := &closing{tree: t, root: root, seen: map[string]bool{}, looked: map[string]bool{}, complete: true}
	if err := c.indexFiles(); err != nil {
		return nil, false, err
	}
	c.want(modules)
	for len(c.todo) > 0 {
		name := c.todo[0]
		c.todo = c.todo[1:]
		c.module(name, len(modules) > 0)
		if c.compared > maxCompared {
			return nil, false, fmt.Errorf("look for aliases of the soft dependencies of %s: %w", name, ErrTooLarge)
		}
	}
	slices.Sort(c.files)
	return slices.Compact(c.files), c.complete, nil
}

// closing is a walk through what modules need.
type closing struct {
	tree     *Tree
	root     *os.Root
	seen     map[string]bool
	todo     []string // names
	files    []string
	complete bool

	looked   map[string]bool // for these aliases
	compared int             // aliases with what soft dependencies name
}

// indexFiles takes the modules.* files of the directory.
func (c *closing) indexFiles() error {
	entries, err := fs.ReadDir(c.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "modules.") && e.Type().IsRegular() {
			c.files = append(c.files, e.Name())
		}
	}
	for _, name := range []string{"modules.dep", softdepFile, "modules.alias"} {
		c.complete = c.complete && slices.Contains(c.files, name)
	}
	return nil
}

// want starts the walk.
func (c *closing) want(modules []string) {
	for _, name := range modules {
		_, known := c.tree.dep[Name(name)]
		c.complete = c.complete && known
		c.add(Name(name))
	}
	if len(modules) > 0 {
		return
	}
	if !c.complete { // depmod has not run
		c.tree.mu.Lock()
		c.tree.walked = c.tree.walk()
		for _, file := range c.tree.walked {
			c.files = append(c.files, file)
		}
		c.tree.mu.Unlock()
	}
	for name := range c.tree.dep {
		c.add(name)
	}
}

func (c *closing) add(name string) {
	if !c.seen[name] {
		c.seen[name] = true
		c.todo = append(c.todo, name)
	}
}

// module takes the file of one module and adds what that needs. What modules.dep
// does not know is followed by what the file says, if look is set.
func (c *closing) module(name string, look bool) {
	e, known := c.tree.dep[name]
	if known && !c.tree.has(e.path) && c.inside(e.path) {
		c.complete = false
	}
	file, ok := c.tree.find(name)
	if !ok {
		return
	}
	c.files = append(c.files, file)
	if known && e.path == file {
		for _, f := range e.files() {
			c.add(Name(f))
		}
	}
	softdeps := c.tree.softdepsOf(name)
	if look {
		if k, err := c.tree.info(file); err == nil {
			info := k.info
			for _, d := range info.Depends {
				c.add(d)
			}
			softdeps = slices.Concat(softdeps, info.Softdeps)
		}
	}
	for _, s := range softdeps {
		for _, wanted := range slices.Concat(s.Pre, s.Post) {
			c.soft(wanted)
		}
	}
}

// soft adds what a soft dependency stands for: a module, or else an alias.
func (c *closing) soft(wanted string) {
	name := Name(wanted)
	_, known := c.tree.dep[name]
	if _, found := c.tree.find(name); found || known {
		c.add(name)
		return
	}
	if c.looked[wanted] {
		return
	}
	c.looked[wanted] = true
	if c.compared += c.tree.aliasCount(); c.compared > maxCompared {
		return // it ends in an error
	}
	for _, m := range c.tree.byAlias(wanted) {
		c.add(m)
	}
}

// inside tells whether a path of modules.dep is one of this directory and not
// behind a link to another.
func (c *closing) inside(file string) bool {
	if !filepath.IsLocal(file) {
		return false
	}
	for dir := path.Dir(path.Clean(file)); dir != "."; dir = path.Dir(dir) {
		st, err := c.root.Lstat(dir)
		if err == nil && st.Mode()&fs.ModeSymlink != 0 {
			return false
		}
	}
	return true
}

// Firmware gives the names of the firmware files that module files declare in
// .modinfo, sorted, each once. The files are relative to dir, as Closure gives
// them; those that are no modules are passed over. Errors are of the disk.
func Firmware(dir string, files []string) ([]string, error) {
	var names []string
	for _, file := range files {
		if !isModuleFile(path.Base(file)) {
			continue
		}
		info, err := ReadInfo(filepath.Join(dir, file))
		var disk *fs.PathError
		if errors.As(err, &disk) {
			return nil, err
		}
		if err == nil {
			names = append(names, info.Firmware...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
