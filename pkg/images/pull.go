// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// pull resolves the reference of q and returns its tree, out of the store if
// the store has it, else out of the registry.
func (s *Store) pull(ctx context.Context, q *query) (*Tree, error) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	lock, _, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return nil, onDisk(err)
	}
	defer func() { _ = lock.Close() }()
	src, err := dial(q, s.l, s.o)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	r, err := resolve(ctx, src, q)
	if err != nil {
		return nil, err
	}
	t, _ := s.cached(q, r.digest)
	if t == nil {
		if t, err = s.fetch(ctx, src, q, r); err != nil {
			return nil, err
		}
	}
	return t, onDisk(s.setTag(q, r.digest))
}

// fetch makes the tree of q in tmp and moves it to its place.
func (s *Store) fetch(ctx context.Context, src source, q *query, r *resolved) (*Tree, error) {
	layers, err := readLayers(ctx, src, r, s.l)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(s.path("tmp"), "pull-")
	if err != nil {
		return nil, onDisk(err)
	}
	t, err := s.build(ctx, src, q, r, layers, tmp)
	return t, errors.Join(err, onDisk(os.RemoveAll(tmp)))
}

func (s *Store) build(ctx context.Context, src source, q *query, r *resolved, layers []v1.Descriptor, tmp string) (*Tree, error) {
	w := &work{dir: tmp, layers: layers, l: s.l}
	m, err := w.read(ctx, &fetcher{src, s.l})
	if err != nil {
		return nil, err
	}
	sel, err := q.choose(m, s.l)
	if err != nil {
		return nil, err
	}
	out := filepath.Join(tmp, "tree")
	if err := os.Mkdir(out, 0o755); err != nil {
		return nil, onDisk(err)
	}
	files, err := w.extract(ctx, out, sel)
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(manifest{
		Version: treeVersion, Ref: q.Ref, Digest: r.digest, Platform: platform(),
		Release: sel.release, Firmware: q.firmware != "", Files: files, Links: sel.links,
	}, "", " ")
	if err != nil {
		return nil, err
	}
	if err := s.writeFile(filepath.Join(out, treeFile), append(b, '\n')); err != nil {
		return nil, onDisk(err)
	}
	return s.commit(q, r.digest, out)
}

// commit moves a finished tree to its place. What is there is another
// process' work, and as good, or damaged.
func (s *Store) commit(q *query, digest, out string) (*Tree, error) {
	key := q.key(digest)
	err := os.Rename(out, s.path("trees", key))
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		if t, _ := s.cached(q, digest); t != nil {
			return t, nil
		}
		if err = s.discard(key); err == nil {
			err = os.Rename(out, s.path("trees", key))
		}
	}
	if err == nil {
		err = syncDir(s.path("trees"))
	}
	if err != nil {
		return nil, onDisk(err)
	}
	t, err := loadTree(s.path("trees", key))
	if err != nil {
		return nil, onDisk(err)
	}
	t.Ref = q.Ref
	return t, nil
}

// work is the layers of one image, verified and on disk.
type work struct {
	dir    string
	layers []v1.Descriptor
	l      limits
}

func (w *work) blob(layer int) string {
	return filepath.Join(w.dir, "layer-"+w.layers[layer].Digest.Hex)
}

// read fetches all layers, lists each as soon as its digest has been verified,
// and merges the lists.
func (w *work) read(ctx context.Context, f *fetcher) (*merge, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelLayers)
	b := newBudget(w.l)
	first := map[string]int{} // the same layer may be there twice
	lists := make([][]entry, len(w.layers))
	for i, desc := range w.layers {
		if _, ok := first[desc.Digest.Hex]; ok {
			continue
		}
		first[desc.Digest.Hex] = i
		g.Go(func() error {
			err := f.spool(ctx, desc, w.blob(i))
			if err == nil {
				lists[i], err = scan(ctx, w.blob(i), b)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	m := newMerge(w.l.entries)
	for i, desc := range w.layers {
		if err := m.apply(i, lists[first[desc.Digest.Hex]]); err != nil {
			return nil, err
		}
	}
	return m, nil
}
