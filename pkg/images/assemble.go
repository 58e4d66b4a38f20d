// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sync/errgroup"
)

// Modes of what the store holds: nobody's attributes, whatever the umask.
const (
	storedMode = 0o444
	storedDir  = 0o755
)

// assemble makes the tree of sel in the directory tree of j.dir out of staged
// files, and syncs it. The records are in the order of the selection.
func (j *job) assemble(sel *selection, tree string) ([]record, error) {
	root, err := os.OpenRoot(j.dir)
	if err != nil {
		return nil, onDisk(err)
	}
	defer func() { _ = root.Close() }()
	if err := root.MkdirAll(path.Join(tree, sel.modulesDir()), storedDir); err != nil {
		return nil, onDisk(err)
	}
	var out []record
	for _, p := range sel.picks() {
		f, _ := j.file(p.content)
		at := path.Join(tree, p.path)
		err := root.MkdirAll(path.Dir(at), storedDir)
		if err == nil {
			err = root.Link(f.name, at)
		}
		if err != nil {
			return nil, onDisk(err)
		}
		out = append(out, record{Path: p.path, SHA256: f.sum, Size: f.size})
	}
	return out, onDisk(syncTree(root, tree))
}

// syncTree makes everything below dir durable. The files are written all
// before, so that the first sync carries most of them.
func syncTree(root *os.Root, dir string) error {
	var g errgroup.Group
	g.SetLimit(parallelSyncs)
	walk := fs.WalkDir(root.FS(), dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		g.Go(func() error {
			f, err := root.Open(p)
			if err != nil {
				return err
			}
			if d.IsDir() {
				err = f.Chmod(storedDir)
			}
			return errors.Join(err, f.Sync(), f.Close())
		})
		return nil
	})
	return errors.Join(walk, g.Wait())
}
