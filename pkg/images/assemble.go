// SPDX-License-Identifier: Apache-2.0

package images

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Modes of what the store holds: nobody's attributes, whatever the umask.
const (
	storedMode = 0o400
	storedDir  = 0o700
)

// filesPart is where content lies in a store.
const filesPart = "files/sha256"

// content is the path of the file with this digest.
func (s *Store) content(sum string) string { return s.path(filesPart, sum[:2], sum) }

// syncStaged makes durable what is staged of sel. The files are written all
// before, so that the first sync carries most of them.
func (j *job) syncStaged(sel *selection) error {
	if err := j.store.step("sync staged files"); err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(parallelSyncs)
	seen := map[string]bool{}
	for _, p := range sel.picks() {
		f, _ := j.file(p.content)
		if f.name == "" || seen[f.name] {
			continue
		}
		seen[f.name] = true
		g.Go(func() error { return syncFile(filepath.Join(j.dir, f.name)) })
	}
	return g.Wait()
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// assemble makes the tree of sel in the new directory out, from content the
// store has and from staged files, which become content, and syncs it. The
// records are in the order of the selection. The caller holds the change lock.
func (s *Store) assemble(j *job, sel *selection, out string) ([]record, error) {
	for _, d := range []string{filepath.Join(out, filepath.FromSlash(sel.modulesDir())), filepath.Join(out, "have")} {
		if err := os.MkdirAll(d, storedDir); err != nil {
			return nil, onDisk(err)
		}
	}
	// A second name for what is there already: making room must not remove it.
	held, need, err := s.hold(j, sel, filepath.Join(out, "have"))
	if err != nil {
		return nil, onDisk(err)
	}
	if err := s.makeRoom(j.q.Ref, need, held); err != nil {
		return nil, err
	}
	var records []record
	for _, p := range sel.picks() {
		f, _ := j.file(p.content)
		if !held[f.sum] {
			if err := s.adopt(filepath.Join(j.dir, f.name), f.sum); err != nil {
				return nil, onDisk(err)
			}
			held[f.sum] = true
		}
		if err := s.link(f.sum, filepath.Join(out, filepath.FromSlash(p.path))); err != nil {
			return nil, onDisk(err)
		}
		records = append(records, record{Path: p.path, SHA256: f.sum, Size: f.size})
	}
	if err := os.RemoveAll(filepath.Join(out, "have")); err != nil {
		return nil, onDisk(err)
	}
	return records, onDisk(syncDirs(out))
}

// hold links the content of sel that the store has, whole, into dir. need is
// what the rest of it has.
func (s *Store) hold(j *job, sel *selection, dir string) (held map[string]bool, need int64, err error) {
	held = map[string]bool{}
	seen := map[string]bool{}
	for _, p := range sel.picks() {
		f, _ := j.file(p.content)
		if seen[f.sum] {
			continue
		}
		seen[f.sum] = true
		if !sameContent(s.content(f.sum), f) {
			need += f.size
			continue
		}
		if err := s.link(f.sum, filepath.Join(dir, f.sum)); err != nil {
			return nil, 0, err
		}
		held[f.sum] = true
	}
	return held, need, nil
}

// sameContent says whether the file at path is what f is said to be.
func sameContent(path string, f stagedFile) bool {
	r, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = r.Close() }()
	h := sha256.New()
	n, err := io.Copy(h, r)
	return err == nil && n == f.size && hex.EncodeToString(h.Sum(nil)) == f.sum
}

// adopt makes a staged, synced file content of the store. The name need not be
// durable: a tree has a name of its own for it.
func (s *Store) adopt(staged, sum string) error {
	if err := s.step("adopt " + sum); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.content(sum)), 0o700); err != nil {
		return err
	}
	return os.Rename(staged, s.content(sum))
}

// link gives content a name in a tree. A file has at most maxLinks, which two images of many empty files use up for all others:
// then the content goes on as a new file. The caller holds the change lock.
func (s *Store) link(sum, at string) error {
	if err := os.MkdirAll(filepath.Dir(at), storedDir); err != nil {
		return err
	}
	err := s.step("link " + filepath.Base(at))
	if err == nil {
		err = os.Link(s.content(sum), at)
	}
	if !errors.Is(err, unix.EMLINK) {
		return err
	}
	if err := s.renew(sum); err != nil {
		return err
	}
	return os.Link(s.content(sum), at)
}

// renew puts a copy in the place of content, whose old file stays in the trees that have it.
func (s *Store) renew(sum string) error {
	old, err := os.Open(s.content(sum))
	if err != nil {
		return err
	}
	defer func() { _ = old.Close() }()
	f, err := os.CreateTemp(s.path("tmp"), "file-")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, old)
	if err == nil {
		err = f.Chmod(storedMode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), s.content(sum))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// syncDirs makes the directories of a tree durable; its files are already.
func syncDirs(dir string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return errors.Join(os.Chmod(p, storedDir), syncDir(p))
	})
}
