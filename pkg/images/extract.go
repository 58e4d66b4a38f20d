// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sync/errgroup"
)

// extract writes the picked files below dir, mode 0644, their directories
// 0755, nobody's owner or attributes, and syncs them. It returns them in the
// order of the selection.
func (w *work) extract(ctx context.Context, dir string, sel *selection) ([]record, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, onDisk(err)
	}
	defer func() { _ = root.Close() }()
	x := &extraction{root: root, budget: newBudget(w.l), written: map[content]record{}}
	wanted := make([]map[int][]pick, len(w.layers)) // by layer and ordinal
	for _, p := range sel.picks {
		if wanted[p.content.layer] == nil {
			wanted[p.content.layer] = map[int][]pick{}
		}
		wanted[p.content.layer][p.content.ordinal] = append(wanted[p.content.layer][p.content.ordinal], p)
	}
	for i, of := range wanted {
		if len(of) == 0 {
			continue
		}
		if err := x.layer(ctx, w.blob(i), of); err != nil {
			return nil, fmt.Errorf("extract layer %s: %w", w.layers[i].Digest, err)
		}
	}
	out := make([]record, len(sel.picks))
	for i, p := range sel.picks {
		out[i] = x.written[p.content]
		out[i].Path = p.path
	}
	return out, onDisk(x.sync())
}

// extraction writes into one directory.
type extraction struct {
	root    *os.Root
	budget  *budget
	written map[content]record // Path is that of the first name
}

// layer writes the wanted files of one layer.
func (x *extraction) layer(ctx context.Context, blob string, wanted map[int][]pick) error {
	t, err := openTar(ctx, blob, x.budget)
	if err != nil {
		return err
	}
	defer t.Close()
	for ordinal, left := 0, len(wanted); left > 0; ordinal++ {
		h, err := t.Next()
		if err != nil {
			return tarError(err)
		}
		picks := wanted[ordinal]
		if picks == nil {
			continue
		}
		left--
		for i, p := range picks {
			if i == 0 {
				err = x.write(t.Reader, h, p)
			} else {
				err = x.link(picks[0].path, p.path)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", p.path, err)
			}
		}
	}
	return nil
}

// write makes the file of p out of the current entry of t.
func (x *extraction) write(t *tar.Reader, h *tar.Header, p pick) error {
	if h.Size != p.content.size {
		return fmt.Errorf("%w: the size is %d, was %d when it was listed", ErrUnsafe, h.Size, p.content.size)
	}
	f, err := x.create(p.path)
	if err != nil {
		return onDisk(err)
	}
	sum := sha256.New()
	_, err = io.CopyN(io.MultiWriter(diskWriter{f}, sum), t, h.Size)
	if err != nil {
		var local *localError
		if !errors.As(err, &local) {
			err = tarError(err)
		}
		return errors.Join(err, f.Close())
	}
	x.written[p.content] = record{Path: p.path, SHA256: hex.EncodeToString(sum.Sum(nil)), Size: h.Size}
	return onDisk(f.Close())
}

// create makes a new file and the directories above it, with modes that the
// umask does not change.
func (x *extraction) create(name string) (*os.File, error) {
	if err := x.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return nil, err
	}
	f, err := x.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(0o644); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// link gives a file that has been written another name.
func (x *extraction) link(old, name string) error {
	err := x.root.MkdirAll(path.Dir(name), 0o755)
	if err == nil {
		err = x.root.Link(old, name)
	}
	return onDisk(err)
}

// sync makes everything below the directory durable. The files are written
// all before, so that the first sync carries most of them.
func (x *extraction) sync() error {
	var g errgroup.Group
	g.SetLimit(parallelSyncs)
	walk := fs.WalkDir(x.root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		g.Go(func() error {
			f, err := x.root.Open(p)
			if err != nil {
				return err
			}
			if d.IsDir() {
				err = f.Chmod(0o755)
			}
			return errors.Join(err, f.Sync(), f.Close())
		})
		return nil
	})
	return errors.Join(walk, g.Wait())
}
