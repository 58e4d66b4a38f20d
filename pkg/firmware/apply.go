// SPDX-License-Identifier: Apache-2.0

package firmware

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"

	"github.com/kmm-node/kmmd/pkg/record"
)

// A change goes like this, and may be cut short anywhere:
//
//  1. stage: all new bytes into the staging directory, synced;
//  2. the manifest says what will be done (Pending): from here on, a crash
//     means that recover does the rest, before, that the staging is thrown away;
//  3. directories are made, new files linked to their place (a link never
//     replaces what somebody else put there meanwhile), changed ones renamed
//     over those that the manifest knows (after a look whether it is still they),
//     old ones removed;
//  4. the manifest says what is there, and the staging goes.

// prepare says what has to be done so that owner has exactly files; nil when
// nothing has. The caller has checked that nothing is in the way.
func (s *state) prepare(root *os.Root, owner string, files []File) (*pending, error) {
	wanted := make(map[string]bool, len(files))
	for _, f := range files {
		wanted[f.Path] = true
	}
	gone := slices.DeleteFunc(s.owned(owner), func(p string) bool { return wanted[p] })
	p := s.without(owner, gone)
	changed := len(gone) > 0
	dirs := map[string]bool{}
	for _, f := range files {
		at, err := look(root, f.Path)
		if err != nil {
			return nil, err
		}
		there, err := at.is(f)
		if err != nil {
			return nil, err
		}
		e, known := s.Files[f.Path]
		if !there {
			p.Put = append(p.Put, put{File: f, Staged: path.Join(staging, strconv.Itoa(len(p.Put))), Replace: at.info != nil})
			if err := missingDirs(root, path.Dir(f.Path), dirs); err != nil {
				return nil, err
			}
		}
		next := e.next(owner, f, known, there, at)
		p.Files[f.Path] = next
		changed = changed || !there || !e.is(f) || !slices.Equal(next.Owners, e.Owners)
	}
	p.Make = slices.Sorted(maps.Keys(dirs))
	if !changed {
		return nil, nil
	}
	return p, nil
}

// without is the change that takes paths from owner.
func (s *state) without(owner string, paths []string) *pending {
	p := &pending{Owner: owner, Files: maps.Clone(s.Files)}
	for _, name := range paths {
		e := s.Files[name]
		if e.Owners = e.others(owner); len(e.Owners) > 0 {
			p.Files[name] = e
			continue
		}
		delete(p.Files, name)
		if !e.Foreign {
			p.Drop = append(p.Drop, name)
		}
	}
	return p
}

// inTheWay returns the old files of owner that have to go before its new ones
// can come, because one is a directory of the other.
func (s *state) inTheWay(owner string, files []File) []string {
	dirs, names := map[string]bool{}, map[string]bool{}
	for _, f := range files {
		names[f.Path] = true
		for d := path.Dir(f.Path); d != "."; d = path.Dir(d) {
			dirs[d] = true
		}
	}
	return slices.DeleteFunc(s.owned(owner), func(old string) bool {
		for d := path.Dir(old); d != "."; d = path.Dir(d) {
			if names[d] {
				return false
			}
		}
		return !dirs[old]
	})
}

func missingDirs(root *os.Root, dir string, out map[string]bool) error {
	for ; dir != "." && !out[dir]; dir = path.Dir(dir) {
		p, err := look(root, dir)
		if err != nil {
			return err
		}
		if p.info == nil {
			out[dir] = true
		}
	}
	return nil
}

// stage copies the new files into the staging directory.
func (d *Dir) stage(root *os.Root, srcDir string, p *pending) error {
	if len(p.Put) == 0 {
		return nil
	}
	src, err := os.OpenRoot(srcDir)
	if err != nil {
		return err
	}
	defer closeRoot(src)
	d.step("make staging")
	if err := root.Mkdir(staging, 0o700); err != nil {
		return err
	}
	for _, f := range p.Put {
		d.step("stage " + f.Path)
		if err := d.stageFile(root, src, f); err != nil {
			return errors.Join(fmt.Errorf("stage %s: %w", f.Path, err), root.RemoveAll(staging))
		}
	}
	d.step("sync staging")
	if err := d.syncDir(root, staging); err != nil {
		return errors.Join(fmt.Errorf("stage: %w", err), root.RemoveAll(staging))
	}
	return nil
}

func (d *Dir) stageFile(root, src *os.Root, p put) error {
	f, err := root.OpenFile(p.Staged, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	got, err := readFile(src, p.Path, f)
	if err == nil && got != p.File {
		err = fmt.Errorf("%w: it has changed while it was read", ErrUnsafe)
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		d.step("sync " + p.Path)
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// apply makes a staged change and returns the state after it. When it fails
// before the first file was replaced or removed, everything is as before; when
// later, the change stays pending, and the next one finishes it.
func (d *Dir) apply(root *os.Root, s *state, p *pending) (*state, error) {
	s = &state{Version: stateVersion, Files: s.Files, Dirs: s.Dirs, Pending: p}
	m := newMove(d, root, s)
	if err := d.save(s); err != nil {
		return nil, errors.Join(err, m.notBegun())
	}
	if err := m.makeDirs(); err != nil {
		return nil, errors.Join(err, m.undo())
	}
	for _, f := range p.Put {
		if f.Replace {
			continue
		}
		if err := m.link(f); err != nil {
			return nil, errors.Join(err, m.undo())
		}
	}
	for _, f := range p.Put {
		if !f.Replace {
			continue
		}
		theirs, err := m.theirs(f)
		if err == nil && theirs {
			err = &ConflictError{Path: f.Path, Wanted: p.Owner}
		}
		if err != nil {
			return nil, errors.Join(err, m.undo())
		}
	}
	return m.finish()
}

// recover finishes what was cut short. The caller holds the lock.
func (d *Dir) recover(root *os.Root, s *state) (*state, error) {
	if s.Pending == nil {
		p, err := look(root, staging)
		if err != nil || p.info == nil {
			return s, err
		}
		d.step("remove staging")
		return s, root.RemoveAll(staging)
	}
	m := newMove(d, root, s)
	if err := m.makeDirs(); err != nil {
		return nil, err
	}
	for _, f := range s.Pending.Put {
		if f.Replace {
			continue
		}
		err := m.link(f)
		if errors.Is(err, ErrConflict) {
			delete(m.next.Files, f.Path) // not ours; Current tells, and Check says why
		} else if err != nil {
			return nil, err
		}
	}
	return m.finish()
}

// catchUp writes the second manifest when it is not as the first one is. If that can
// not be, as on a disk that is full, it is for the next Open. The caller holds the
// lock.
func (d *Dir) catchUp() {
	if s, err := d.load(); err == nil && s.Pending == nil && !d.twice() {
		_ = d.save(s)
	}
}

// recoverUnlessBusy is recover for Open; it writes nothing if nothing was cut
// short or damaged. A manifest that can not be read is set aside: lost is why.
func (d *Dir) recoverUnlessBusy() (lost error, err error) {
	s, root, err := d.view()
	if err != nil && !errors.Is(err, record.ErrDamaged) {
		return nil, err
	}
	defer closeRoot(root)
	if err == nil && s.Pending == nil && !s.repair {
		p, err := look(root, staging)
		if err != nil {
			return nil, err
		}
		if p.info == nil {
			if d.twice() {
				return nil, nil
			}
			lock, err := d.lock(false)
			if err != nil {
				return nil, nil
			}
			defer func() { _ = lock.Close() }()
			d.catchUp()
			return nil, nil
		}
	}
	lost = err
	lock, err := d.lock(false)
	if errors.Is(err, errBusy) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Close() }()
	if lost != nil {
		return lost, d.setAside()
	}
	if s, err = d.load(); err != nil {
		return nil, err
	}
	if s.repair {
		if err := d.save(s); err != nil {
			return nil, err
		}
	}
	if root == nil {
		if root, err = d.makeRoot(); err != nil {
			return nil, err
		}
	}
	if _, err = d.recover(root, s); err == nil {
		d.catchUp()
	}
	return nil, err
}
