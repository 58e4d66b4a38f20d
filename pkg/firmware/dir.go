// SPDX-License-Identifier: Apache-2.0

package firmware

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Dir is a firmware directory of the host and the manifest of what this
// package put there. It keeps nothing in memory: each method reads the
// manifest. Methods that write take a lock, so that two processes may use one
// directory; they need to be allowed to write to both places.
type Dir struct {
	dir      string // the firmware directory
	manifest string
	lost     error

	// Tests stop before a write, and have a directory that can not be synced.
	step    func(what string)
	syncDir func(root *os.Root, name string) error
}

// Open returns the firmware directory dir with its manifest file; neither need
// exist yet, and neither is made before the first Install. A change that was
// cut short, by a kill or a power cut, is finished now, unless another process
// is just making it; so is a damaged manifest mended, or set aside (see Lost).
// There is nothing to close.
func Open(dir, manifest string) (*Dir, error) {
	d := &Dir{step: func(string) {}, syncDir: syncDir}
	var err error
	if d.dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("open firmware directory: %w", err)
	}
	if d.manifest, err = filepath.Abs(manifest); err != nil {
		return nil, fmt.Errorf("open firmware manifest: %w", err)
	}
	if d.lost, err = d.recoverUnlessBusy(); err != nil {
		return nil, fmt.Errorf("open firmware directory %s: %w", dir, err)
	}
	return d, nil
}

// Lost says that Open found both copies of the manifest damaged and renamed them to
// *.broken, and why; nil when it did not. Firmware of this package is nobody's
// then: it is used where the bytes are the wanted ones, as any file that was there,
// and is in the way where not.
func (d *Dir) Lost() error { return d.lost }

// Check says whether files could be installed for owner now: nil, or every
// *ConflictError joined (the first few of very many), or ErrUnsafe for a path
// that can not be one. It changes nothing.
func (d *Dir) Check(owner string, files []File) error {
	s, root, err := d.view()
	if err != nil {
		return fmt.Errorf("check firmware of %s: %w", owner, err)
	}
	defer closeRoot(root)
	return s.check(root, owner, files)
}

// Current says whether owner has exactly files: all there with the right bytes,
// all recorded as owner's, and nothing else recorded as owner's.
func (d *Dir) Current(owner string, files []File) (bool, error) {
	s, root, err := d.view()
	if err != nil {
		return false, fmt.Errorf("look at firmware of %s: %w", owner, err)
	}
	defer closeRoot(root)
	if len(files) != len(s.owned(owner)) {
		return false, nil
	}
	for _, f := range files {
		e, ok := s.Files[f.Path]
		if !ok || !e.is(f) || !slices.Contains(e.Owners, owner) {
			return false, nil
		}
		at, err := look(root, f.Path)
		if err != nil {
			return false, fmt.Errorf("look at firmware of %s: %w", owner, err)
		}
		if same, err := at.is(f); err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

// Owners returns who has files, sorted.
func (d *Dir) Owners() ([]string, error) {
	s, err := d.load()
	if err != nil {
		return nil, fmt.Errorf("list owners of firmware: %w", err)
	}
	all := map[string]bool{}
	for _, e := range s.Files {
		for _, o := range e.Owners {
			all[o] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// Install makes the files of srcDir those of owner: new ones are put there,
// changed ones replaced, those that srcDir has no more removed. changed is
// false when nothing had to be written. When it returns ErrConflict, the files are
// as they were; after a kill or a disk error in the middle, the next Open,
// Install or Remove finishes the change or takes it back.
//
// The errors are those of Check, ErrUnsafe for srcDir, and those of the disk.
func (d *Dir) Install(owner, srcDir string) (changed bool, err error) {
	if owner == "" {
		return false, fmt.Errorf("install firmware of %s: no owner", srcDir)
	}
	files, err := List(srcDir)
	if err != nil {
		return false, err
	}
	changed, err = d.change(owner, srcDir, files)
	if err != nil && !errors.Is(err, ErrConflict) {
		err = fmt.Errorf("install firmware of %s: %w", owner, err)
	}
	return changed, err
}

// Remove takes away the files that nobody but owner has, and the directories
// this package made for them, though not the firmware directory itself. A file
// that was there before, or whose content somebody else has changed, stays.
// Without files of owner it does nothing.
func (d *Dir) Remove(owner string) error {
	if _, err := d.change(owner, "", nil); err != nil {
		return fmt.Errorf("remove firmware of %s: %w", owner, err)
	}
	return nil
}

// change brings owner's files to exactly files, whose bytes are in srcDir.
func (d *Dir) change(owner, srcDir string, files []File) (bool, error) {
	if len(files) == 0 {
		if s, err := d.load(); err == nil && len(s.owned(owner)) == 0 && s.Pending == nil {
			return false, nil
		}
	}
	lock, err := d.lock(true)
	if err != nil {
		return false, err
	}
	defer func() { _ = lock.Close() }()
	s, err := d.load()
	if err != nil {
		return false, err
	}
	root, err := d.makeRoot()
	if err != nil {
		return false, err
	}
	defer closeRoot(root)
	if s, err = d.recover(root, s); err != nil {
		return false, err
	}
	if err := s.check(root, owner, files); err != nil {
		return false, err
	}
	if in := s.inTheWay(owner, files); len(in) > 0 {
		// A file of owner becomes a directory or the other way round.
		if s, err = d.apply(root, s, s.without(owner, in)); err != nil {
			return true, err
		}
	}
	p, err := s.prepare(root, owner, files)
	if err != nil || p == nil {
		return false, err
	}
	if err := d.stage(root, srcDir, p); err != nil {
		return false, err
	}
	_, err = d.apply(root, s, p)
	return err == nil, err
}

// view is the manifest and the directory, for reading; root is nil when there
// is no directory yet.
func (d *Dir) view() (*state, *os.Root, error) {
	s, err := d.load()
	if err != nil {
		return nil, nil, err
	}
	root, err := os.OpenRoot(d.dir)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil, nil
	}
	return s, root, err
}

// makeRoot opens the directory for writing and makes it if need be.
func (d *Dir) makeRoot() (*os.Root, error) {
	root, err := os.OpenRoot(d.dir)
	if !errors.Is(err, os.ErrNotExist) {
		return root, err
	}
	d.step("make " + d.dir)
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return nil, err
	}
	return os.OpenRoot(d.dir)
}

func closeRoot(root *os.Root) {
	if root != nil {
		_ = root.Close()
	}
}
