// SPDX-License-Identifier: Apache-2.0

package firmware

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

const stateVersion = 1

// state is the manifest:
//
//	{"version": 1,
//	 "files": {"sub/a.bin": {"sha256": "…", "size": 4096, "owners": ["ns/name"]}},
//	 "dirs": ["sub"]}
type state struct {
	Version int              `json:"version"`
	Files   map[string]entry `json:"files"`
	// Dirs are the directories this package made.
	Dirs []string `json:"dirs"`
	// Pending is a change that has been decided and staged, but not been
	// finished: what comes next is to finish it.
	Pending *pending `json:"pending,omitempty"`

	repair bool // it is out of the second manifest
}

// entry is a file and who wants it.
type entry struct {
	SHA256 string   `json:"sha256"`
	Size   int64    `json:"size"`
	Owners []string `json:"owners"`
	// Foreign says that the file, with just these bytes, was there before: it is
	// used, and not removed. It may be replaced by an owner that had these bytes in
	// its image and has others now.
	Foreign bool `json:"foreign,omitempty"`
	// Replaced is the SHA256 of a foreign file that this one has replaced: with
	// those bytes again, as after a rollback, it is as foreign as before.
	Replaced string `json:"replaced,omitempty"`
}

// next is the entry for a file that owner wants in the place of e, or beside nothing
// known; at says what is there, and there whether that is the file already.
func (e entry) next(owner string, f File, known, there bool, at place) entry {
	n := entry{SHA256: f.SHA256, Size: f.Size, Owners: append(e.others(owner), owner)}
	slices.Sort(n.Owners)
	n.Foreign = there && (!known || e.Foreign) || f.SHA256 == e.Replaced
	switch {
	case n.Foreign:
	case e.Foreign && at.info != nil:
		n.Replaced = e.SHA256
	default:
		n.Replaced = e.Replaced
	}
	return n
}

func (e entry) is(f File) bool { return e.SHA256 == f.SHA256 && e.Size == f.Size }

func (e entry) file(path string) File { return File{Path: path, SHA256: e.SHA256, Size: e.Size} }

// others returns the owners but one.
func (e entry) others(owner string) []string {
	return slices.DeleteFunc(slices.Clone(e.Owners), func(o string) bool { return o == owner })
}

// pending is a change: what is to be done, and the state after it.
type pending struct {
	Owner string           `json:"owner"`
	Put   []put            `json:"put"`
	Drop  []string         `json:"drop"`
	Make  []string         `json:"make"` // directories, upper ones first
	Files map[string]entry `json:"files"`
}

// put is a staged file on its way to its place.
type put struct {
	File
	Staged string `json:"staged"`
	// Replace says that something is at the place: a file that the manifest knows.
	Replace bool `json:"replace"`
}

// owned returns the paths of owner, sorted.
func (s *state) owned(owner string) []string {
	var out []string
	for _, path := range slices.Sorted(maps.Keys(s.Files)) {
		if slices.Contains(s.Files[path].Owners, owner) {
			out = append(out, path)
		}
	}
	return out
}

// errBusy is a lock that another process has.
var errBusy = errors.New("in use by another process")

// lock takes the lock that writers hold; flock(2), so it ends with the
// process. Without wait it fails with errBusy.
func (d *Dir) lock(wait bool) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(d.manifest), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(d.manifest+".lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errBusy
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", d.manifest, err)
	}
	return f, nil
}

func syncDir(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
