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

	"golang.org/x/sys/unix"
)

// move is step 3 of a change. Each of its parts may have been done before a
// crash, and finds that out by looking.
type move struct {
	d       *Dir
	root    *os.Root
	s       *state // with Pending
	next    *state
	touched map[string]bool // directories to sync
}

func newMove(d *Dir, root *os.Root, s *state) *move {
	return &move{
		d: d, root: root, s: s, touched: map[string]bool{},
		next: &state{Version: stateVersion, Files: maps.Clone(s.Pending.Files), Dirs: slices.Clone(s.Dirs)},
	}
}

func (m *move) makeDirs() error {
	for _, dir := range m.s.Pending.Make {
		m.d.step("make " + dir)
		err := m.root.Mkdir(dir, 0o755)
		if err == nil {
			err = m.root.Chmod(dir, 0o755) // whatever the umask
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		m.next.Dirs = append(m.next.Dirs, dir)
		m.touched[path.Dir(dir)] = true
	}
	slices.Sort(m.next.Dirs)
	m.next.Dirs = slices.Compact(m.next.Dirs)
	return nil
}

// link puts a new file in its place, where nothing may be: what somebody put
// there since the check stays, and is a conflict unless it is the same.
func (m *move) link(f put) error {
	m.d.step("link " + f.Path)
	m.touched[path.Dir(f.Path)] = true
	conflict := &ConflictError{Path: f.Path, Wanted: m.s.Pending.Owner}
	if at, err := blocked(m.root, f.Path); err != nil {
		return err
	} else if at != "" {
		conflict.Path = at
		return conflict
	}
	err := m.root.Link(f.Staged, f.Path)
	if err == nil || !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	at, err := look(m.root, f.Path)
	if err != nil {
		return err
	}
	if staged, err := m.root.Lstat(f.Staged); err == nil && at.info != nil && os.SameFile(staged, at.info) {
		return nil // done before the crash
	}
	same, err := at.is(f.File)
	if err != nil {
		return err
	}
	if !same {
		return conflict
	}
	e := m.next.Files[f.Path]
	e.Foreign = true // somebody else was faster, with the same bytes
	m.next.Files[f.Path] = e
	return nil
}

// finish does what can not be undone, and writes down that all is done.
func (m *move) finish() (*state, error) {
	for _, f := range m.s.Pending.Put {
		if !f.Replace {
			continue
		}
		if err := m.replace(f); err != nil {
			return nil, fmt.Errorf("replace %s: %w", f.Path, err)
		}
	}
	for _, name := range m.s.Pending.Drop {
		if err := m.drop(name); err != nil {
			return nil, fmt.Errorf("remove %s: %w", name, err)
		}
	}
	if err := m.dropDirs(); err != nil {
		return nil, err
	}
	for dir := range m.touched {
		m.d.step("sync directory " + dir)
		if err := m.d.syncDir(m.root, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := m.d.save(m.next); err != nil {
		return nil, err
	}
	m.d.step("remove staging")
	return m.next, m.root.RemoveAll(staging)
}

// theirs tells whether what is to be replaced is neither the old file nor the
// new one: somebody has put it there since the check, and it stays.
func (m *move) theirs(f put) (bool, error) {
	if at, err := blocked(m.root, f.Path); err != nil || at != "" {
		return at != "", err
	}
	at, err := look(m.root, f.Path)
	if err != nil || at.info == nil {
		return false, err
	}
	for _, known := range []File{m.s.Files[f.Path].file(f.Path), f.File} {
		if same, err := at.is(known); err != nil || same {
			return false, err
		}
	}
	return true, nil
}

// replace renames a changed file over the old one. Without a staged file it has been
// done before the crash, or the file was lost with it.
func (m *move) replace(f put) error {
	theirs, err := m.theirs(f)
	if err != nil {
		return err
	}
	if theirs {
		delete(m.next.Files, f.Path) // not ours; Current tells, and Check says why
		return nil
	}
	m.d.step("rename " + f.Path)
	m.touched[path.Dir(f.Path)] = true
	err = m.root.Rename(f.Staged, f.Path)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	at, err := look(m.root, f.Path)
	if err != nil {
		return err
	}
	same, err := at.is(f.File)
	if err == nil && !same {
		delete(m.next.Files, f.Path)
	}
	return err
}

// drop removes an old file if it is still as we left it.
func (m *move) drop(name string) error {
	at, err := look(m.root, name)
	if err != nil {
		return err
	}
	ours, err := at.is(m.s.Files[name].file(name))
	if err != nil || !ours {
		return err
	}
	m.d.step("remove " + name)
	m.touched[path.Dir(name)] = true
	return ignoreMissing(m.root.Remove(name))
}

// dropDirs removes directories of ours that are of no use any more. One that
// is not empty is somebody else's from now on.
func (m *move) dropDirs() error {
	var keep []string
	for _, dir := range slices.Backward(m.next.Dirs) { // lower ones first
		if len(m.next.below(dir)) > 0 {
			keep = append(keep, dir)
			continue
		}
		m.d.step("remove directory " + dir)
		err := ignoreMissing(m.root.Remove(dir))
		if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
		m.touched[path.Dir(dir)] = true
	}
	slices.Sort(keep)
	m.next.Dirs = keep
	return nil
}

// notBegun takes back a change that could not be written down. When the error came after the manifest had been replaced, it
// says that the change is to be finished, with what is staged: that stays for as long as it says so.
func (m *move) notBegun() error {
	s, err := m.d.load()
	if err != nil {
		return err
	}
	if s.Pending != nil {
		return m.undo()
	}
	m.d.step("remove staging")
	return m.root.RemoveAll(staging)
}

// undo takes back directories and links, and the change.
func (m *move) undo() error {
	for _, f := range m.s.Pending.Put {
		staged, err1 := m.root.Lstat(f.Staged)
		at, err2 := m.root.Lstat(f.Path)
		if err1 != nil || err2 != nil || !os.SameFile(staged, at) {
			continue
		}
		m.d.step("take back " + f.Path)
		if err := m.root.Remove(f.Path); err != nil {
			return err
		}
	}
	for _, dir := range slices.Backward(m.s.Pending.Make) {
		m.d.step("take back " + dir)
		_ = m.root.Remove(dir) // not empty: somebody else uses it
	}
	if err := m.d.save(&state{Version: stateVersion, Files: m.s.Files, Dirs: m.s.Dirs}); err != nil {
		return err
	}
	m.d.step("remove staging")
	return m.root.RemoveAll(staging)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
