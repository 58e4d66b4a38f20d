// SPDX-License-Identifier: Apache-2.0

package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// atRest is how long ago a file must have been written to be remembered. The kernel's time of a change has the
// steps of its clock, at most 10 ms: a file written twice within one step looks as if nothing had happened between.
const atRest = 100 * time.Millisecond

// verified remembers which files were read and found to be what was recorded of them in this boot. The kernel notes the
// time of each write, and nobody but the machine's clock can set that: as long as it is the same, so is the content. This
// is how the kernel's own integrity measurement works (IMA). What decays on the disk meanwhile is not seen before
// the next boot.
type verified struct {
	path string // "" remembers until the end of the process
	boot string

	mu    sync.Mutex // guards what follows
	files map[inode]state
	dirty bool
}

type inode struct{ device, number uint64 }

// state is that of a file when it was read.
type state struct {
	size    int64
	changed int64 // ctime, nanoseconds
	sha256  string
}

// remembered is a file in the list on disk.
type remembered struct {
	Device  uint64 `json:"device"`
	Inode   uint64 `json:"inode"`
	Size    int64  `json:"size"`
	Changed int64  `json:"changed"`
	SHA256  string `json:"sha256"`
}

type verifiedList struct {
	BootID string       `json:"bootID"`
	Files  []remembered `json:"files"`
}

// openVerified reads the list. One of another boot, or one that can not be read, is empty.
func openVerified(path, boot string) *verified {
	v := &verified{path: path, boot: boot, files: map[inode]state{}}
	if path == "" {
		return v
	}
	var list verifiedList
	b, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(b, &list) != nil || list.BootID != boot {
		return v
	}
	for _, r := range list.Files {
		v.files[inode{r.Device, r.Inode}] = state{r.Size, r.Changed, r.SHA256}
	}
	return v
}

// save writes the list, if it has changed, without what is not in the directory of content any more. Without it files are
// read once more, so that a failure is none.
func (v *verified) save(content string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.dirty {
		return
	}
	v.dirty = false
	list := verifiedList{BootID: v.boot}
	files := map[inode]state{}
	_ = filepath.WalkDir(content, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // what can not be read is left out
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		i, _, ok := stateOf(info)
		if s, known := v.files[i]; ok && known {
			files[i] = s
			list.Files = append(list.Files, remembered{i.device, i.number, s.size, s.changed, s.sha256})
		}
		return nil
	})
	v.files = files
	b, err := json.Marshal(list)
	if err != nil || v.path == "" {
		return
	}
	tmp := v.path + ".tmp"
	if os.WriteFile(tmp, b, 0o600) == nil {
		_ = os.Rename(tmp, v.path)
	}
}

// knows reports whether the file was found to be what the record says, and has not been written since.
func (v *verified) knows(info fs.FileInfo, want record) bool {
	i, now, ok := stateOf(info)
	if v == nil || !ok {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	s, known := v.files[i]
	return known && s.size == now.size && s.changed == now.changed && s.sha256 == want.SHA256 && now.size == want.Size
}

// remember notes that the file was read under a lease, and was what the record says.
func (v *verified) remember(info fs.FileInfo, want record) {
	i, now, ok := stateOf(info)
	if v == nil || !ok || time.Since(time.Unix(0, now.changed)) < atRest {
		return
	}
	now.sha256 = want.SHA256
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.files[i] != now {
		v.files[i], v.dirty = now, true
	}
}

func stateOf(info fs.FileInfo) (inode, state, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}, state{}, false
	}
	return inode{uint64(st.Dev), st.Ino}, state{size: st.Size, changed: st.Ctim.Nano()}, true
}

// lease keeps everybody from writing to a file while it is open: it fails while somebody has it open for writing or has
// mapped it so, and whoever wants to then waits for us, at most some seconds (fcntl(2), F_SETLEASE,
// /proc/sys/fs/lease-break-time). Not every file system has leases. The caller gives it back, or closes the file.
func lease(f *os.File) (release func(), ok bool) {
	set := func(kind int) error {
		_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, kind)
		return err
	}
	if set(unix.F_RDLCK) != nil {
		return func() {}, false
	}
	return func() { _ = set(unix.F_UNLCK) }, true
}

// Verified opens a file of a tree of the store that was compared with its digest in this boot and has not been written
// since; until done, which closes it, nobody can. With ok false CopyFile is the way.
func (s *Store) Verified(path string) (f *os.File, done func(), ok bool) {
	want, err := s.find(path)
	if err != nil {
		return nil, nil, false
	}
	f, err = openPlain(path)
	if err != nil {
		return nil, nil, false
	}
	release, ok := lease(f)
	info, err := f.Stat()
	if !ok || err != nil || !info.Mode().IsRegular() || !s.verified.knows(info, want) {
		release()
		_ = f.Close()
		return nil, nil, false
	}
	return f, func() {
		release() // also where a child that hangs in the kernel has it open still
		_ = f.Close()
	}, true
}

// openPlain opens a file without following links, at least of its last name. What it is has to be looked at: the name
// alone proves nothing.
func openPlain(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// find gives the record of a file of a tree of this store. A tree that Ensure has returned need not be read again.
func (s *Store) find(path string) (record, error) {
	name, ok := strings.CutPrefix(path, s.tops)
	if !ok || !filepath.IsLocal(name) {
		return record{}, fmt.Errorf("%w: %s is not in the store", ErrDigest, path)
	}
	key, name, _ := strings.Cut(name, "/")
	t, err := s.tree(key)
	if err != nil {
		return record{}, err
	}
	return t.record(name)
}

// record is that of a file of the tree.
func (t *Tree) record(name string) (record, error) {
	want, ok := t.files[name]
	if !ok {
		return record{}, fmt.Errorf("%w: it is not a file of the image", ErrDigest)
	}
	return want, nil
}

// tree is loadTree for one of this store; what has been read before, and not been written since, is not read again. It is
// not to be changed.
func (s *Store) tree(key string) (*Tree, error) {
	dir := s.tops + key
	if t := s.returned.get(key, dir); t != nil {
		return t, nil
	}
	t, err := loadTree(dir)
	if err == nil {
		t.verified = s.verified
	}
	return t, err
}

// returned are the trees that Ensure has found whole last, by key. A write to tree.json in the same step of the kernel's
// clock is not seen: then a file is compared with what was recorded when the tree was whole, which is no less strict.
type returned struct {
	mu    sync.Mutex
	trees map[string]readTree
}

// readTree is a tree, and tree.json when it was read.
type readTree struct {
	tree *Tree
	file inode
	then state
}

// maxReturned is more than a node has Modules.
const maxReturned = 64

func (r *returned) get(key, dir string) *Tree {
	r.mu.Lock()
	have, ok := r.trees[key]
	r.mu.Unlock()
	if !ok {
		return nil
	}
	info, err := os.Lstat(dir + "/" + treeFile)
	if err != nil {
		return nil
	}
	if file, now, ok := stateOf(info); !ok || file != have.file || now != have.then {
		return nil
	}
	return have.tree
}

func (r *returned) put(key string, t *Tree) {
	info, err := os.Lstat(filepath.Join(t.dir, treeFile))
	if err != nil {
		return
	}
	file, now, ok := stateOf(info)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trees == nil || len(r.trees) >= maxReturned {
		r.trees = map[string]readTree{}
	}
	r.trees[key] = readTree{t, file, now}
}

// recordOf looks for the tree that a file is in.
func recordOf(path string) (record, *os.Root, error) {
	for dir := filepath.Dir(path); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		t, err := loadTree(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return record{}, nil, err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return record{}, nil, err
		}
		want, err := t.record(name)
		if err != nil {
			return record{}, nil, err
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return record{}, nil, fmt.Errorf("%w: %w", ErrDigest, err)
		}
		return want, root, nil
	}
	return record{}, nil, fmt.Errorf("%w: it is not, or not any more, in the store of images", ErrDigest)
}
