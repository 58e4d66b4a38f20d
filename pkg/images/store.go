// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Store is a directory of images. It has
//
//	refs/<hash of the reference>.json  what a tag stood for the last time
//	files/sha256/<2 digits>/<digest>   content, each once, mode 0400
//	trees/<key>/tree.json              files of a tree, with their digests; its
//	                                   time of change is when it was last used
//	trees/<key>/lib/modules/<release>/ hard links to content
//	trees/<key>/firmware/
//	layers/<digest>                    what is in a layer that was read
//	signatures/<digest>.json           of images that the policy wants signed
//	pins/<hash of the owner>.json      images that are not to be removed
//	tmp/                               work in progress
//	lock                               held shared while something is changed
//	change                             held while content is added or removed
//
// A tree appears by one rename, after everything in it was verified and
// synced. Content that no tree has is removed with the next change. Two
// processes may use one store at the same time.
type Store struct {
	dir  string
	tops string // what all trees are below, with a slash at its end
	o    Options
	l    limits
	step func(what string) error // called before each write; tests fail or stop there

	verified *verified
	returned returned
}

// Open opens the store in dir and makes it if need be. What a process that was
// killed left unfinished, and trees of older versions of kmmd, are removed.
// The caller closes the store.
func Open(dir string, o Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	if err := o.Policy.Check(); err != nil {
		return nil, fmt.Errorf("open image store %s: %w", dir, err)
	}
	if o.Quota <= 0 {
		o.Quota = DefaultQuota
	}
	s := &Store{dir: dir, o: o, l: defaultLimits(), step: func(string) error { return nil }}
	s.tops = s.path("trees") + "/"
	s.verified = openVerified(o.VerifiedFile, o.BootID)
	for _, d := range []string{dir, s.path("refs"), s.path(filesPart), s.path("trees"), s.path(layersPart), s.path("pins"), s.path("tmp")} {
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
	return s.flock("lock", how)
}

func (s *Store) flock(name string, how int) (f *os.File, ok bool, err error) {
	f, err = os.OpenFile(s.path(name), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
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
	return nil, false, fmt.Errorf("lock %s: %w", s.path(name), err)
}

// change takes the locks under which content is added or removed, and waits for
// them. It returns what gives them back.
func (s *Store) change() (done func(), err error) {
	work, _, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	f, _, err := s.flock("change", unix.LOCK_EX)
	if err != nil {
		return nil, errors.Join(err, work.Close())
	}
	return func() {
		_ = f.Close()
		_ = work.Close()
	}, nil
}

// wipe empties tmp, and removes what no tree has and trees of older versions,
// unless somebody works there.
func (s *Store) wipe() error {
	f, ok, err := s.lock(unix.LOCK_EX | unix.LOCK_NB)
	if err != nil || !ok {
		return err
	}
	defer func() { _ = f.Close() }()
	for _, key := range s.keys() {
		var old *versionError
		if _, err := loadTree(s.path("trees", key)); errors.As(err, &old) {
			if err := s.discard(key); err != nil {
				return err
			}
		}
	}
	left, err := os.ReadDir(s.path("tmp"))
	for _, e := range left {
		err = errors.Join(err, os.RemoveAll(s.path("tmp", e.Name())))
	}
	_, gcErr := s.sweep()
	return errors.Join(err, gcErr)
}

// keys are the names of all trees, also of damaged ones.
func (s *Store) keys() []string {
	entries, _ := os.ReadDir(s.path("trees")) // made by Open
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
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
	if err := s.o.Policy.allow(q); err != nil {
		return nil, fmt.Errorf("pull %s: %w", q.Ref, err)
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
// no error if it does not have it, ErrDigest if it is damaged, and ErrPolicy if
// no key of the policy has signed the image as far as the store knows.
func (s *Store) cached(q *query, digest string) (*Tree, error) {
	key := q.key(digest)
	t, err := s.tree(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && t.Digest != digest {
		err = fmt.Errorf("%w: the tree is of %s", ErrDigest, t.Digest)
	}
	if err == nil {
		err = s.checkStored(digest)
	}
	if err == nil {
		err = t.Verify()
		s.verified.save(s.path(filesPart))
	}
	if err != nil {
		return nil, fmt.Errorf("stored copy of %s: %w", q.Ref, err)
	}
	now := time.Now()
	_ = os.Chtimes(filepath.Join(t.dir, treeFile), now, now) // a store that can only be read has no order of use
	s.returned.put(key, t)
	found := *t
	found.Ref, found.Stale = q.Ref, false
	return &found, nil
}
