// SPDX-License-Identifier: Apache-2.0

// Package file is the source of a bare node: Module documents in a directory
// or in one file, and the status in another file. It reads everything again on
// every change and knows nothing of kernels.
package file

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kmm-node/kmmd/pkg/spec"
)

// quiet is how long nothing must change before documents are read that may not be
// all that is to come.
const quiet = 200 * time.Millisecond

// retry is how often a path that can not be read is looked at again.
const retry = 5 * time.Second

// Source reads documents below Path and writes the status to Status.
type Source struct {
	Path   string // a directory, or one document
	Status string // where Report writes; "" writes nothing

	quiet time.Duration // another one than the constant; for tests

	known map[string]content // by path, of the last Read
}

// content is a file that was parsed, and what it holds.
type content struct {
	data    []byte
	modules []spec.Module
	ignored []string
	err     error
}

// Read reads all documents: every .yaml, .yml and .toml file of a directory
// (hidden ones and subdirectories left out), or the one file. Documents that
// can not be used are in Node.Invalid, each a *spec.Problem or joined ones;
// notes name documents that are of another kind. The error is about Path
// itself: it does not exist or can not be read. A file that is as it was the last
// time is not parsed again. One call at a time.
func (s *Source) Read() (node spec.Node, notes []string, err error) {
	paths, err := s.paths()
	if err != nil {
		return spec.Node{}, nil, err
	}
	from := map[string]string{}
	known := make(map[string]content, len(paths))
	defer func() { s.known = known }()
	for _, path := range paths {
		c := s.readFile(path)
		known[path] = c
		modules, ignored, err := c.modules, c.ignored, c.err
		notes = append(notes, ignored...)
		if err != nil {
			node.Invalid = append(node.Invalid, err)
			continue
		}
		for _, m := range modules {
			if other, twice := from[m.Key()]; twice {
				node.Invalid = append(node.Invalid, &spec.Problem{File: path, Field: "metadata.name",
					Message: fmt.Sprintf("the Module %s stands in %s too: that one counts", m.Key(), other)})
				continue
			}
			from[m.Key()] = path
			node.Modules = append(node.Modules, m)
		}
	}
	return node, notes, nil
}

func (s *Source) paths() ([]string, error) {
	info, err := os.Stat(s.Path)
	if err != nil {
		return nil, fmt.Errorf("read documents: %w", err)
	}
	if !info.IsDir() {
		return []string{s.Path}, nil
	}
	entries, err := os.ReadDir(s.Path)
	if err != nil {
		return nil, fmt.Errorf("read documents: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if !e.IsDir() && isDocument(e.Name()) {
			paths = append(paths, filepath.Join(s.Path, e.Name()))
		}
	}
	slices.Sort(paths)
	return paths, nil
}

func isDocument(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".toml":
		return true
	}
	return false
}

// readFile treats a file without any document as invalid: more likely than a
// wish to unload, it is being written.
func (s *Source) readFile(path string) content {
	data, err := os.ReadFile(path)
	if err != nil {
		return content{err: &spec.Problem{File: path, Message: err.Error()}}
	}
	if c := s.known[path]; c.data != nil && bytes.Equal(c.data, data) {
		return c
	}
	c := content{data: data}
	c.modules, c.ignored, c.err = spec.Parse(path, data)
	if c.err == nil && len(c.modules) == 0 && len(c.ignored) == 0 {
		c.err = &spec.Problem{File: path, Message: "holds no document; remove the file to have its modules unloaded"}
	}
	return c
}

// Watch calls set with the documents now and after every change, until ctx is
// done; it then returns nil. A directory that does not exist yet is watched by
// its parent. A path that becomes unreadable keeps what was read last.
//
// A document that was renamed into place, or written and closed, is read at once.
// What takes something away waits until nothing has changed for a moment: it may
// be the first half of a move, and a driver would be unloaded for nothing. So does
// what can not be used: it may be the first half of a document; and what comes after
// it: a directory that is back may have the first of its documents only.
func (s *Source) Watch(ctx context.Context, set func(spec.Node, []string)) error {
	c, err := openChanges(s.Path)
	if err != nil {
		return fmt.Errorf("watch %s: %w", s.Path, err)
	}
	defer c.close()
	settle := cmp.Or(s.quiet, quiet)
	var known *spec.Node // what set was told last
	due := time.Now()    // when to look next, whatever there is
	for {
		what, err := c.wait(ctx, due)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = c.add()
		}
		if err != nil {
			return fmt.Errorf("watch %s: %w", s.Path, err)
		}
		if what == partial {
			due = time.Now().Add(settle)
			continue
		}
		node, notes, err := s.Read()
		if what == whole && (err != nil || !c.still() || known == nil || !adds(*known, node)) {
			due = time.Now().Add(settle)
			continue
		}
		due = time.Time{}
		if err != nil {
			node, notes = spec.Node{Invalid: []error{err}}, nil
			due = time.Now().Add(retry)
		}
		known = &node
		set(node, notes)
	}
}

// adds reports whether everything in documents can be used, and all Modules that
// were there still are. Of what could not be read before nobody knows what was there.
func adds(before, now spec.Node) bool {
	if len(before.Invalid) > 0 || len(now.Invalid) > 0 {
		return false
	}
	keys := map[string]bool{}
	for i := range now.Modules {
		keys[now.Modules[i].Key()] = true
	}
	for i := range before.Modules {
		if !keys[before.Modules[i].Key()] {
			return false
		}
	}
	return true
}

// Report writes the status as JSON, by a temporary name, with mode 0644.
func (s *Source) Report(_ context.Context, status spec.Status) error {
	if s.Status == "" {
		return nil
	}
	data, err := json.MarshalIndent(status, "", "  ")
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	tmp := s.Status + ".tmp"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	if err := os.Rename(tmp, s.Status); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// ReadStatus reads what Report wrote. It wraps fs.ErrNotExist when nothing has
// been reported since the boot.
func ReadStatus(path string) (spec.Status, error) {
	var s spec.Status
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read status %s: %w", path, err)
	}
	return s, nil
}
