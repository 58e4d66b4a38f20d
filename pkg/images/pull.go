// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// pull resolves the reference of q and returns its tree, out of the store if
// the store has it, else out of the registry. It reports how that goes.
func (s *Store) pull(ctx context.Context, q *query) (*Tree, error) {
	last := Progress{Ref: q.Ref, Phase: PhaseResolve}
	report := func(p Progress) {
		last = p
		if s.o.Progress != nil {
			s.o.Progress(p)
		}
	}
	report(last)
	t, err := s.resolveAndFetch(ctx, q, report)
	last.Done, last.Err = true, err
	report(last)
	return t, err
}

func (s *Store) resolveAndFetch(ctx context.Context, q *query, report func(Progress)) (*Tree, error) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	lock, _, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return nil, onDisk(err)
	}
	defer func() { _ = lock.Close() }()
	src, err := s.openSource(ctx, q)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	r, err := resolve(ctx, src, q)
	if err != nil {
		return nil, err
	}
	if err := s.checkSigned(ctx, src, r); err != nil {
		return nil, err
	}
	t, _ := s.cached(q, r.digest)
	if t == nil {
		t, err = s.fetch(ctx, src, q, r, report)
	}
	// A mirror with a damaged layer has it the next time, too.
	for errors.Is(err, ErrDigest) && src.elsewhere() {
		t, err = s.fetch(ctx, src, q, r, report)
	}
	if err != nil {
		return nil, err
	}
	return t, onDisk(s.setTag(q, r.digest))
}

// fetch makes the tree of q in tmp and moves it to its place.
func (s *Store) fetch(ctx context.Context, src source, q *query, r *resolved, report func(Progress)) (*Tree, error) {
	layers, err := readLayers(ctx, src, r, s.l)
	if err != nil {
		return nil, r.passing(err)
	}
	tmp, err := os.MkdirTemp(s.path("tmp"), "pull-")
	if err != nil {
		return nil, onDisk(err)
	}
	j := &job{
		q: q, f: &fetcher{source: src, l: s.l}, layers: layers, dir: tmp, l: s.l, budget: newBudget(s.l),
		known: map[string]*layerData{}, report: report, state: Progress{Ref: q.Ref},
		store: s, tried: map[string]bool{},
	}
	t, err := s.build(ctx, j, r)
	j.emit()
	return t, errors.Join(s.full(err), onDisk(os.RemoveAll(tmp)))
}

func (s *Store) build(ctx context.Context, j *job, r *resolved) (*Tree, error) {
	if err := s.pinsFit(); err != nil {
		return nil, err
	}
	sel, err := j.run(ctx)
	if err != nil {
		return nil, err
	}
	j.state.Phase = PhaseStore
	j.emit()
	if err := j.syncStaged(sel); err != nil {
		return nil, onDisk(err)
	}
	done, err := s.change()
	if err != nil {
		return nil, onDisk(err)
	}
	defer done()
	out := filepath.Join(j.dir, "tree")
	files, err := s.assemble(j, sel, out)
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(manifest{
		Version: treeVersion, Ref: j.q.Ref, Digest: r.digest, Platform: platform(), Release: sel.release,
		Firmware: j.q.firmware != "", Modules: sel.names, Files: files, Links: sel.links,
		Layers: j.digests(),
	}, "", " ")
	if err != nil {
		return nil, err
	}
	if err := s.writeFile(filepath.Join(out, treeFile), append(b, '\n')); err != nil {
		return nil, onDisk(err)
	}
	t, err := s.commit(j.q, r.digest, out)
	if err != nil {
		return nil, err
	}
	return t, onDisk(errors.Join(s.saveListings(j), s.dropListings()))
}

// commit moves a finished tree to its place. What is there is another
// process' work, and as good, or damaged. The caller holds the change lock.
func (s *Store) commit(q *query, digest, out string) (*Tree, error) {
	key := q.key(digest)
	if t, _ := s.cached(q, digest); t != nil {
		return t, nil
	}
	err := s.discard(key)
	if err == nil {
		err = s.step("rename tree")
	}
	if err == nil {
		err = os.Rename(out, s.path("trees", key))
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
