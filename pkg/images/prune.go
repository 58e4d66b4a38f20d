// SPDX-License-Identifier: Apache-2.0

package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Stored is one tree of a store.
type Stored struct {
	Refs     []string // by which it was asked for, and tags that stand for it now
	Digest   string
	Release  string
	Files    int
	Bytes    int64 // of the files; they may be those of other trees too
	LastUsed time.Time
	PinnedBy []string

	key  string
	sums map[string]int64 // sizes by digest of the content
}

// List returns the trees of the store, most recently used first. Damaged ones,
// whose tree.json can not be read, are left out.
func (s *Store) List() ([]Stored, error) {
	all, err := s.list()
	if err != nil {
		return nil, fmt.Errorf("list images in %s: %w", s.dir, err)
	}
	return slices.DeleteFunc(all, func(t Stored) bool { return t.Digest == "" }), nil
}

// list is List with the damaged ones, which have no digest.
func (s *Store) list() ([]Stored, error) {
	pins, pinned, err := s.pins()
	if err != nil {
		return nil, err
	}
	tags, err := s.tags()
	if err != nil {
		return nil, err
	}
	var out []Stored
	for _, key := range s.keys() {
		st := Stored{key: key, sums: map[string]int64{}}
		if info, err := os.Stat(s.path("trees", key, treeFile)); err == nil {
			st.LastUsed = info.ModTime()
		}
		if t, err := loadTree(s.path("trees", key)); err == nil {
			st.Digest, st.Release, st.Files, st.PinnedBy = t.Digest, t.Release, len(t.files), slices.Concat(pins[t.Digest], pinned)
			st.Refs = append([]string{t.Ref}, tags[t.Digest]...)
			slices.Sort(st.Refs)
			st.Refs = slices.Compact(st.Refs)
			for _, r := range t.files {
				st.Bytes += r.Size
				st.sums[r.SHA256] = r.Size
			}
		}
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b Stored) int { return b.LastUsed.Compare(a.LastUsed) })
	return out, nil
}

// tags gives what stands for each digest.
func (s *Store) tags() (map[string][]string, error) {
	paths, err := filepath.Glob(s.path("refs", "*.json"))
	out := map[string][]string{}
	for _, p := range paths {
		var r tagRecord
		if b, err := os.ReadFile(p); err == nil && json.Unmarshal(b, &r) == nil {
			out[r.Digest] = append(out[r.Digest], r.Ref)
		}
	}
	return out, err
}

// Remove removes the image that ref stands for: IMAGE:TAG as it was last pulled,
// IMAGE@sha256:… or only sha256:…; it goes under all its names. It returns how
// many bytes that freed. Errors: ErrInvalidRef, ErrNotCached, ErrPinned, and
// those of the disk.
func (s *Store) Remove(ref string) (freed int64, err error) {
	digest := ref
	if !isDigest(ref) {
		q := &query{Request: Request{Ref: ref}}
		if err := q.parseRef(); err != nil {
			return 0, err
		}
		if digest = q.digest; digest == "" {
			digest = s.tag(q)
		}
	}
	removed := 0
	freed, err = s.remove(func(t Stored) (bool, error) {
		if t.Digest != digest || digest == "" {
			return false, nil
		}
		if len(t.PinnedBy) > 0 {
			return false, fmt.Errorf("%w by %s: it runs or is wanted: remove what needs it first", ErrPinned, strings.Join(t.PinnedBy, ", "))
		}
		removed++
		return true, nil
	})
	if err == nil && removed == 0 {
		err = fmt.Errorf("%w: nothing to remove", ErrNotCached)
	}
	if err != nil {
		err = fmt.Errorf("remove %s: %w", ref, err)
	}
	return freed, err
}

// PruneOptions says what Prune leaves.
type PruneOptions struct {
	Unused time.Duration // keep what was used in this time; 0 keeps only what is pinned
}

// Prune removes images that are not pinned, and damaged ones, and returns which
// and how many bytes that freed.
func (s *Store) Prune(o PruneOptions) (freed int64, removed []Stored, err error) {
	limit := time.Now().Add(-o.Unused)
	freed, err = s.remove(func(t Stored) (bool, error) {
		if len(t.PinnedBy) > 0 || t.Digest != "" && o.Unused > 0 && t.LastUsed.After(limit) {
			return false, nil
		}
		if t.Digest != "" {
			removed = append(removed, t)
		}
		return true, nil
	})
	if err != nil {
		err = fmt.Errorf("prune images: %w", err)
	}
	return freed, removed, err
}

// remove takes away the trees that which says, then the tags that stand for
// nothing and the content nobody has. An error of which ends it at once.
func (s *Store) remove(which func(Stored) (bool, error)) (freed int64, err error) {
	done, err := s.change()
	if err != nil {
		return 0, err
	}
	defer done()
	all, err := s.list()
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, t := range all {
		yes, err := which(t)
		if err != nil {
			return 0, err
		}
		if yes {
			errs = append(errs, s.discard(t.key))
		}
	}
	errs = append(errs, s.dropTags(), s.dropListings(), s.dropSignatures())
	freed, err = s.sweep()
	return freed, errors.Join(append(errs, err)...)
}

// dropTags removes the tags whose image is not there.
func (s *Store) dropTags() error {
	all, err := s.list()
	if err != nil {
		return err
	}
	paths, err := filepath.Glob(s.path("refs", "*.json"))
	errs := []error{err}
	for _, p := range paths {
		var r tagRecord
		b, err := os.ReadFile(p)
		if err == nil && json.Unmarshal(b, &r) == nil &&
			slices.ContainsFunc(all, func(t Stored) bool { return t.Digest == r.Digest }) {
			continue
		}
		if err := s.step("drop tag"); err != nil {
			return err
		}
		errs = append(errs, ignoreMissing(os.Remove(p)))
	}
	return errors.Join(errs...)
}

// discard takes a tree out of trees by one rename before it removes it. The
// caller holds the change lock.
func (s *Store) discard(key string) error {
	if err := s.step("discard"); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(s.path("tmp"), "old-")
	if err != nil {
		return err
	}
	err = os.Rename(s.path("trees", key), filepath.Join(tmp, "tree"))
	if err == nil {
		err = s.step("remove discarded")
	}
	return errors.Join(ignoreMissing(err), os.RemoveAll(tmp))
}
