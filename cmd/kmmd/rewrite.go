// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// maxFile is what a file to be rewritten may have: more than any module.
const maxFile = 512 << 20

// rewriteFile replaces the content of a file by what change makes of it, and tells
// whether that was another. Whoever reads the file, or looks after a crash, sees
// the old content or the new; mode and owner stay. A symbolic link is followed.
// A file that can not be replaced stays as it is.
func rewriteFile(path string, change func([]byte) ([]byte, error)) (changed bool, err error) {
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return false, err
	}
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return false, err
	case !st.Mode().IsRegular():
		return false, errors.New("no regular file")
	case st.Size() > maxFile:
		return false, fmt.Errorf("%d bytes, a module has %d at most", st.Size(), maxFile)
	}
	old, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	data, err := change(old)
	if err != nil || bytes.Equal(old, data) {
		return false, err
	}
	return true, replaceFile(path, st, data)
}

// replaceFile gives a file new content, through one beside it.
func replaceFile(path string, st os.FileInfo, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".kmmd-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = keepOwner(f, st)
	}
	if err == nil {
		err = f.Chmod(st.Mode()) // after the owner: to change that can take bits of the mode away
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// keepOwner changes owner and group only where they are others: an ordinary user may
// not, and need not.
func keepOwner(f *os.File, want os.FileInfo) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	w, h := want.Sys().(*syscall.Stat_t), st.Sys().(*syscall.Stat_t)
	if w.Uid == h.Uid && w.Gid == h.Gid {
		return nil
	}
	if err := f.Chown(int(w.Uid), int(w.Gid)); err != nil {
		return fmt.Errorf("keep the owner: %w", err)
	}
	return nil
}
