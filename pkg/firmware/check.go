// SPDX-License-Identifier: Apache-2.0

package firmware

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// maxConflicts named in one error.
const maxConflicts = 10

// place is what is at a path of the firmware directory now.
type place struct {
	root *os.Root
	path string
	info fs.FileInfo // nil: nothing
}

// look follows no symlink: a path below one, or below a file, has nothing.
func look(root *os.Root, name string) (place, error) {
	p := place{root: root, path: name}
	if at, err := blocked(root, name); err != nil || at != "" {
		return p, err
	}
	var err error
	p.info, err = lstat(root, name)
	return p, err
}

func lstat(root *os.Root, name string) (fs.FileInfo, error) {
	if root == nil {
		return nil, nil
	}
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return info, err
}

func (p place) regular() bool { return p.info != nil && p.info.Mode().IsRegular() }

// is says whether the bytes of f are there.
func (p place) is(f File) (bool, error) {
	if !p.regular() || p.info.Size() != f.Size {
		return false, nil
	}
	got, err := readFile(p.root, p.path, discard{})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return got.SHA256 == f.SHA256, err
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// check is Check, with the manifest and the directory at hand.
func (s *state) check(root *os.Root, owner string, files []File) error {
	wanted := make(map[string]bool, len(files))
	for _, f := range files {
		wanted[f.Path] = true
	}
	var errs []error
	for _, f := range files {
		if err := checkPath(f.Path); err != nil {
			return err
		}
		err := s.checkFile(root, owner, f, wanted)
		if err != nil && !errors.Is(err, ErrConflict) {
			return fmt.Errorf("look at %s: %w", f.Path, err)
		}
		if errs = append(errs, err); err != nil && len(errs) >= maxConflicts {
			break
		}
	}
	return errors.Join(errs...)
}

// checkFile finds what is in the way of one file. What owner has alone is not, be it
// that it does not want it any more, or wants other bytes there; nor is, for other
// bytes, what was there before with those that owner had.
func (s *state) checkFile(root *os.Root, owner string, f File, wanted map[string]bool) error {
	conflict := &ConflictError{Path: f.Path, Wanted: owner}
	e, known := s.Files[f.Path]
	if others := e.others(owner); len(others) > 0 && !e.is(f) {
		conflict.Owner = others[0]
		return conflict
	}
	going := func(p string) bool {
		e, ok := s.Files[p]
		return ok && !wanted[p] && len(e.others(owner)) == 0 && !e.Foreign
	}
	if at, err := blocked(root, f.Path); err != nil {
		return err
	} else if at != "" && !going(at) {
		conflict.Path, conflict.Owner = at, s.ownerOf(at, owner)
		return conflict
	}
	p, err := look(root, f.Path)
	if err != nil || p.info == nil {
		return err
	}
	if p.info.IsDir() {
		if free, err := onlyFiles(root, f.Path, going); err != nil || free {
			return err
		}
		conflict.Owner = s.ownerOf(f.Path, owner)
		return conflict
	}
	if same, err := p.is(f); err != nil || same {
		return err
	}
	if known { // and wanted by owner alone: with others it would have the same bytes
		if old, err := p.is(e.file(f.Path)); err != nil || old {
			return err
		}
	}
	return conflict
}

// blocked returns the first directory on the way to path that is there but is
// no directory: a file, or a symlink, which would put our file elsewhere.
func blocked(root *os.Root, file string) (string, error) {
	parts := strings.Split(path.Dir(file), "/")
	for i := range parts {
		dir := path.Join(parts[:i+1]...)
		info, err := lstat(root, dir)
		if err != nil || info == nil {
			return "", err
		}
		if !info.IsDir() {
			return dir, nil
		}
	}
	return "", nil
}

// below returns the known files below a directory.
func (s *state) below(dir string) []string {
	var out []string
	for _, p := range slices.Sorted(maps.Keys(s.Files)) {
		if strings.HasPrefix(p, dir+"/") {
			out = append(out, p)
		}
	}
	return out
}

// ownerOf names somebody but owner who has the file or a file below it.
func (s *state) ownerOf(at, owner string) string {
	for _, p := range append([]string{at}, s.below(at)...) {
		if others := s.Files[p].others(owner); len(others) > 0 {
			return others[0]
		}
	}
	return ""
}

// onlyFiles says whether a directory has files, and ok is true for all of them.
func onlyFiles(root *os.Root, dir string, ok func(string) bool) (bool, error) {
	n, all := 0, true
	err := fs.WalkDir(root.FS(), dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
			all = all && ok(p)
		}
		return err
	})
	return n > 0 && all, err
}
