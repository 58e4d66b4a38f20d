// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// maxTreeEntries bounds a walk through a module directory; a full distribution
// kernel has about 7000.
const maxTreeEntries = 200_000

// Tree is one lib/modules/<release> directory as it was when opened: an image's
// or the host's. In an image's only regular files that physically lie in it count; a
// link that leads out of it is not followed, and the file behind it is not there. In
// that of a host, see OpenHostTree, links are followed to wherever on that host they
// lead. It holds nothing open and may be used by several goroutines.
type Tree struct {
	dir     string
	stamps  [len(indexes)]stamp // of the index files when they were read
	dep     map[string]depEntry
	builtin map[string]struct{}

	softText, aliasText string // of modules.softdep, modules.alias; parsed when asked for

	whole bool   // module files are read whole
	root  string // of the host whose tree it is: module files may be links out of dir; "" for an image's

	mu       sync.Mutex
	walked   map[string]string // name to file, all module files; nil until needed; guarded by mu
	infos    map[string]known  // by file; guarded by mu
	softdeps map[string][]Softdep
	aliases  *aliasTable
}

// indexes are the files that OpenTree reads.
var indexes = [...]string{"modules.dep", "modules.builtin", softdepFile, "modules.alias"}

// stamp tells one state of a file from another; the zero one is that of a missing
// file.
type stamp struct {
	size     int64
	modified time.Time
}

func stampOf(path string) stamp {
	st, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{st.Size(), st.ModTime()}
}

// known is what a file has said, and its state then.
type known struct {
	info  *Info
	file  *File // nil where only that was read
	stamp stamp
}

// OpenTree reads the index files in dir that are there. Without modules.dep the
// dependencies are those the module files name; ErrNotFound when dir does not exist.
func OpenTree(dir string) (*Tree, error) {
	root, err := openDir(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open module directory %s: %w", dir, err)
	}
	t := &Tree{dir: abs, infos: make(map[string]known)}
	var text [len(indexes)]string
	for i, name := range indexes {
		t.stamps[i] = stampOf(filepath.Join(abs, name))
		if text[i], err = readIndexFile(root, name); err != nil {
			return nil, fmt.Errorf("open module directory %s: %w", dir, err)
		}
	}
	t.dep = depMap(parseDep(text[0]))
	t.builtin = parseBuiltin(text[1])
	t.softText, t.aliasText = text[2], text[3]
	return t, nil
}

// OpenWholeTree is OpenTree for a tree whose files are about to be loaded: when one is read for its dependencies, all that
// ReadFile reads is kept, and is in Item.File.
func OpenWholeTree(dir string) (*Tree, error) {
	t, err := OpenTree(dir)
	if err == nil {
		t.whole = true
	}
	return t, err
}

// OpenHostTree is OpenTree for the modules of a node itself, whose links lead to files of that node: RHEL and SLES have
// weak-updates/foo.ko -> /lib/modules/OLD/extra/foo.ko for a module that was built for an older kernel. When dir is
// ROOT/lib/modules/RELEASE, the node is below ROOT, and so is what such a link names. It is not for what comes out of an image.
func OpenHostTree(dir string) (*Tree, error) {
	t, err := OpenTree(dir)
	if err == nil {
		t.root = rootOf(t.dir)
	}
	return t, err
}

// Current reports whether OpenTree would give the same again: the index files are
// as they were, and know all modules that were asked for.
func (t *Tree) Current() bool {
	t.mu.Lock()
	walked := t.walked != nil
	t.mu.Unlock()
	return !walked && t.stamps[0] != (stamp{}) && !t.Changed()
}

// Changed reports whether an index file is not as it was when OpenTree read it: depmod has run since.
func (t *Tree) Changed() bool {
	for i, name := range indexes {
		if stampOf(filepath.Join(t.dir, name)) != t.stamps[i] {
			return true
		}
	}
	return false
}

// Dir is the absolute path of the directory.
func (t *Tree) Dir() string { return t.dir }

// Root is where the node is whose modules they are, of a tree that OpenHostTree has opened; else "".
func (t *Tree) Root() string { return t.root }

// Builtin tells whether modules.builtin says that the module is part of this
// tree's kernel.
func (t *Tree) Builtin(name string) bool {
	_, ok := t.builtin[Name(name)]
	return ok
}

// Find gives the file of a module: the one modules.dep names or, when that file is
// not in the tree or modules.dep does not know the module, the one a walk finds.
// Of several the walk prefers updates/, then extra/, then any other to kernel/. Of a
// host that is not at "/" it is the file behind all links, which can be opened here.
func (t *Tree) Find(name string) (path string, ok bool) {
	file, ok := t.find(Name(name))
	if !ok {
		return "", false
	}
	path, err := t.path(file)
	return path, err == nil
}

// path is where a file of the tree can be opened.
func (t *Tree) path(file string) (string, error) {
	path := filepath.Join(t.dir, file)
	if t.root == "" || t.root == "/" {
		return path, nil
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() {
		return path, nil
	}
	return behindLinks(t.root, path)
}

// find gives the path relative to the tree.
func (t *Tree) find(name string) (file string, ok bool) {
	if e, ok := t.dep[name]; ok && t.has(e.path) {
		return e.path, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.walked == nil {
		t.walked = t.walk()
	}
	file, ok = t.walked[name]
	return file, ok
}

// has tells whether the file is a regular one of the tree.
func (t *Tree) has(file string) bool {
	root, err := os.OpenRoot(t.dir)
	if err != nil {
		return false
	}
	defer root.Close()
	return t.regular(root, file)
}

// regular tells whether the file is one, behind links or not. Those of an image must not lead out of dir, which is the tree.
func (t *Tree) regular(dir *os.Root, file string) bool {
	stat := dir.Stat
	if t.root != "" {
		path, err := t.path(file)
		if err != nil {
			return false
		}
		stat = func(string) (fs.FileInfo, error) { return os.Stat(path) }
	}
	st, err := stat(file)
	return err == nil && st.Mode().IsRegular()
}

// walk finds all module files. What can not be read is not there.
func (t *Tree) walk() map[string]string {
	files := make(map[string]string)
	root, err := os.OpenRoot(t.dir)
	if err != nil {
		return files
	}
	defer root.Close()
	entries, top := 0, t.dir+"/" // which is gone into where it is a link
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if entries++; entries > maxTreeEntries {
			return fs.SkipAll
		}
		if err != nil || d.IsDir() || !isModuleFile(d.Name()) {
			return nil // what can not be read is skipped, the walk goes on
		}
		file := strings.TrimPrefix(path, top)
		if !utf8.ValidString(file) {
			return nil // the ledger, which is JSON, could not name it
		}
		if !d.Type().IsRegular() && !t.regular(root, file) {
			return nil
		}
		name := Name(file)
		if old, ok := files[name]; !ok || preferred(file, old) {
			files[name] = file
		}
		return nil
	})
	return files
}

// preferred tells whether the file a is to be taken when b has the same name.
func preferred(a, b string) bool {
	return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b)) < 0
}

func rank(file string) int {
	top, _, _ := strings.Cut(file, "/")
	switch top {
	case "updates":
		return 0
	case "extra":
		return 1
	case "kernel":
		return 3
	}
	return 2
}

// info reads a module file once, and again when it has changed.
func (t *Tree) info(file string) (known, error) {
	path, err := t.path(file)
	if err != nil {
		return known{}, err
	}
	t.mu.Lock()
	k, ok := t.infos[file]
	t.mu.Unlock()
	if ok && k.stamp == stampOf(path) {
		return k, nil
	}
	k = known{}
	if t.whole {
		// Of one with damaged symbols there may be dependencies all the same; what is wrong is found by who reads it whole.
		if whole, now, err := readStamped(path); err == nil {
			k = known{whole.Info, whole, now}
		}
	}
	if k.info == nil {
		k.stamp = stampOf(path)
		if k.info, err = ReadInfo(path); err != nil {
			return k, err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.infos[file] = k
	return k, nil
}

// depends gives the names a module needs, deepest first: those in the line of
// modules.dep that is about this file, then what the file itself says.
func (t *Tree) depends(name, file string, info *Info) []string {
	var names []string
	if e, ok := t.dep[name]; ok && e.path == file {
		for _, f := range e.files() {
			names = append(names, Name(f))
		}
	}
	return unique(append(names, info.Depends...))
}

// softdepsOf gives what modules.softdep has for a module, all lines of it.
func (t *Tree) softdepsOf(name string) []Softdep {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.softdeps == nil {
		t.softdeps = make(map[string][]Softdep)
		var c Config
		c.parse(softdepFile, t.softText)
		for _, s := range c.softdeps {
			t.softdeps[s.name] = append(t.softdeps[s.name], s.value)
		}
	}
	return t.softdeps[name]
}

// HasAlias tells whether a module has that alias, so that the kernel could ask for it: "crypto-sha512".
func (t *Tree) HasAlias(alias string) bool { return len(t.byAlias(alias)) > 0 }

// maxCompared bounds how often the soft dependencies of modules are compared with aliases, each with all: about a second.
// All modules of a distribution kernel need some millions.
var maxCompared = 100_000_000

// aliasCount is how many aliases modules.alias has.
func (t *Tree) aliasCount() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.aliasTable().count
}

// aliasTable parses modules.alias when it is first needed; mu is held.
func (t *Tree) aliasTable() *aliasTable {
	if t.aliases == nil {
		t.aliases = &aliasTable{}
		parseAliases(t.aliasText, t.aliases.add)
	}
	return t.aliases
}

// byAlias gives the modules that modules.alias has for a name.
func (t *Tree) byAlias(alias string) []string {
	name, ok := normalizeAlias(alias)
	if !ok {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var names []string
	for _, e := range t.aliasTable().find(name) {
		names = append(names, e.module)
	}
	return names
}
