// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Store is a directory of images. It has
//
//	refs/<hash of the reference>.json  what a tag stood for the last time
//	trees/<key>/tree.json              files of a tree, with their digests
//	trees/<key>/lib/modules/<release>/
//	trees/<key>/firmware/
//	tmp/                               work in progress
//	lock                               held shared while tmp is in use
//
// A tree appears by one rename, after everything in it was verified and
// synced. Two processes may use one store at the same time.
type Store struct {
	dir string
	o   Options
	l   limits
}

// Open opens the store in dir and makes it if need be. What a process that was
// killed left unfinished is removed. The caller closes the store.
func Open(dir string, o Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s := &Store{dir: dir, o: o, l: defaultLimits()}
	for _, d := range []string{dir, s.path("refs"), s.path("trees"), s.path("tmp")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	if err := s.wipe(); err != nil {
		return nil, fmt.Errorf("open image store %s: %w", dir, err)
	}
	return s, nil
}

// Close ends the use of the store. Its trees stay where they are.
func (s *Store) Close() error { return nil }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// lock takes the store's lock in the way of flock(2); ok is false when
// somebody else has it and how has LOCK_NB. The kernel gives it back when the
// file is closed, also by a kill.
func (s *Store) lock(how int) (f *os.File, ok bool, err error) {
	f, err = os.OpenFile(s.path("lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, false, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return f, true, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, false, nil
	}
	return nil, false, fmt.Errorf("lock %s: %w", s.path("lock"), err)
}

// wipe empties tmp unless somebody works there.
func (s *Store) wipe() error {
	f, ok, err := s.lock(unix.LOCK_EX | unix.LOCK_NB)
	if err != nil || !ok {
		return err
	}
	defer func() { _ = f.Close() }()
	left, err := os.ReadDir(s.path("tmp"))
	for _, e := range left {
		err = errors.Join(err, os.RemoveAll(s.path("tmp", e.Name())))
	}
	return err
}

// Ensure returns the files r asks for, and pulls the image if the policy says
// so or the store has not got them. What it returns has just been compared with
// its digests. A digest needs no registry once it is in the store, nor does a
// tag with policy IfNotPresent; with policy Always, an unreachable registry
// gives what the tag stood for before, with Stale set.
//
// The errors are those of this package, or ctx's; disk errors are neither.
// It blocks for as long as the pull takes.
func (s *Store) Ensure(ctx context.Context, r Request) (*Tree, error) {
	q, err := parseRequest(r)
	if err != nil {
		return nil, err
	}
	known := q.digest
	if known == "" {
		known = s.tag(q)
	}
	var damage error
	if known != "" && (q.digest != "" || q.policy != PullAlways) {
		t, err := s.cached(q, known)
		if t != nil {
			return t, nil
		}
		damage = err
	}
	if q.policy == PullNever {
		err := fmt.Errorf("%w: %s (pull policy Never): pull it before, or change the policy", ErrNotCached, q.Ref)
		return nil, also(err, damage)
	}
	t, err := s.pull(ctx, q)
	if err == nil {
		return t, nil
	}
	err = q.explain(ctx, err)
	if errors.Is(err, ErrUnreachable) && q.policy == PullAlways && known != "" {
		if t, _ := s.cached(q, known); t != nil {
			t.Stale = true
			return t, nil
		}
	}
	return nil, also(err, damage)
}

// also is errors.Join on one line.
func also(err, other error) error {
	if other == nil {
		return err
	}
	return fmt.Errorf("%w; %w", err, other)
}

// cached returns the tree of q for digest if the store has it whole, nil and
// no error if it does not have it, and ErrDigest if it is damaged.
func (s *Store) cached(q *query, digest string) (*Tree, error) {
	t, err := loadTree(s.path("trees", q.key(digest)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && t.Digest != digest {
		err = fmt.Errorf("%w: the tree is of %s", ErrDigest, t.Digest)
	}
	if err == nil {
		err = t.Verify()
	}
	if err != nil {
		return nil, fmt.Errorf("stored copy of %s: %w", q.Ref, err)
	}
	t.Ref = q.Ref
	return t, nil
}

// tagRecord is what a tag stood for.
type tagRecord struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest"`
}

func (s *Store) tagPath(q *query) string {
	sum := sha256.Sum256([]byte(q.ref.Name()))
	return s.path("refs", hex.EncodeToString(sum[:])+".json")
}

// tag returns the digest the tag of q stood for the last time, or "".
func (s *Store) tag(q *query) string {
	b, err := os.ReadFile(s.tagPath(q))
	var r tagRecord
	if err != nil || json.Unmarshal(b, &r) != nil || r.Ref != q.ref.Name() || !isDigest(r.Digest) {
		return ""
	}
	return r.Digest
}

func (s *Store) setTag(q *query, digest string) error {
	if q.digest != "" || s.tag(q) == digest {
		return nil
	}
	b, err := json.Marshal(tagRecord{Ref: q.ref.Name(), Digest: digest})
	if err != nil {
		return err
	}
	return s.writeFile(s.tagPath(q), b)
}

// writeFile replaces path: whoever reads it, or looks after a crash, sees the
// old content or the new. The caller holds the lock, shared.
func (s *Store) writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(s.path("tmp"), "file-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Prune removes the trees of all images but those of the digests in keep, and
// the tags that stand for them. The caller keeps what is loaded, what is
// wanted, and what it may have to go back to.
func (s *Store) Prune(keep []string) error {
	f, _, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return fmt.Errorf("prune images: %w", err)
	}
	defer func() { _ = f.Close() }()
	tags, err := filepath.Glob(s.path("refs", "*.json"))
	errs := []error{err}
	for _, tag := range tags {
		var r tagRecord
		b, err := os.ReadFile(tag)
		if err == nil && json.Unmarshal(b, &r) == nil && slices.Contains(keep, r.Digest) {
			continue
		}
		errs = append(errs, ignoreMissing(os.Remove(tag)))
	}
	trees, err := os.ReadDir(s.path("trees"))
	errs = append(errs, err)
	for _, e := range trees {
		t, err := loadTree(s.path("trees", e.Name()))
		if err == nil && slices.Contains(keep, t.Digest) {
			continue
		}
		errs = append(errs, s.discard(e.Name()))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("prune images: %w", err)
	}
	return nil
}

// discard takes a tree out of trees by one rename before it removes it. The
// caller holds the lock, shared.
func (s *Store) discard(key string) error {
	tmp, err := os.MkdirTemp(s.path("tmp"), "old-")
	if err != nil {
		return err
	}
	err = os.Rename(s.path("trees", key), filepath.Join(tmp, "tree"))
	return errors.Join(ignoreMissing(err), os.RemoveAll(tmp))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
