// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Usage is how full a store is.
type Usage struct {
	Bytes  int64 // of content, each once; not what a pull under way has, nor records
	Pinned int64 // those of Bytes that are needed, and can not be removed
	Quota  int64
	Trees  int
}

// Usage counts what the store keeps.
func (s *Store) Usage() (Usage, error) {
	u := Usage{Quota: s.o.Quota, Trees: len(s.keys())}
	err := s.eachFile(func(_ string, info fs.FileInfo) error {
		u.Bytes += info.Size()
		return nil
	})
	if err != nil {
		return u, fmt.Errorf("count image store %s: %w", s.dir, err)
	}
	all, err := s.list()
	if err != nil {
		return u, fmt.Errorf("count pinned images in %s: %w", s.dir, err)
	}
	u.Pinned, _ = kept(all, nil)
	return u, nil
}

// eachFile shows the content of the store to f. What vanishes meanwhile is left
// out.
func (s *Store) eachFile(f func(path string, info fs.FileInfo) error) error {
	return filepath.WalkDir(s.path(filesPart), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreMissing(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreMissing(err)
		}
		return f(p, info)
	})
}

// sweep removes content that no tree has, and returns how many bytes that were.
func (s *Store) sweep() (freed int64, err error) {
	err = s.eachFile(func(p string, info fs.FileInfo) error {
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Nlink > 1 {
			return nil
		}
		if err := s.step("sweep " + filepath.Base(p)); err != nil {
			return err
		}
		freed += info.Size()
		return ignoreMissing(os.Remove(p))
	})
	return freed, err
}

// kept is what would be left if all that is not pinned were removed: its bytes,
// and the owners of the pins. Content in held counts too.
func kept(all []Stored, held map[string]bool) (bytes int64, owners []string) {
	seen := map[string]bool{}
	for _, t := range all {
		if len(t.PinnedBy) > 0 {
			owners = append(owners, t.PinnedBy...)
		}
		for sum, size := range t.sums {
			if (len(t.PinnedBy) > 0 || held[sum]) && !seen[sum] {
				seen[sum] = true
				bytes += size
			}
		}
	}
	slices.Sort(owners)
	return bytes, slices.Compact(owners)
}

// pinsFit fails when the pinned images fill the quota: then nothing need be
// fetched to know that it has no room.
func (s *Store) pinsFit() error {
	all, err := s.list()
	if err != nil {
		return onDisk(err)
	}
	if bytes, owners := kept(all, nil); bytes >= s.o.Quota {
		return onDisk(s.noSpace(0, bytes, bytes, owners))
	}
	return nil
}

// makeRoom removes unpinned trees, the least recently used first, until need
// more bytes fit into the quota; none when that would not be enough. Content in
// held is what the new tree shares. The caller holds the change lock.
func (s *Store) makeRoom(ref string, need int64, held map[string]bool) error {
	u, err := s.Usage()
	if err != nil || u.Bytes+need <= s.o.Quota {
		return onDisk(err)
	}
	swept, err := s.sweep()
	if err != nil {
		return onDisk(err)
	}
	all, err := s.list()
	if err != nil {
		return onDisk(err)
	}
	used := u.Bytes - swept
	if bytes, owners := kept(all, held); bytes+need > s.o.Quota {
		return onDisk(fmt.Errorf("%s: %w", ref, s.noSpace(need, used, bytes, owners)))
	}
	for _, t := range slices.Backward(all) {
		if used+need <= s.o.Quota {
			break
		}
		if len(t.PinnedBy) > 0 {
			continue
		}
		if err := s.discard(t.key); err != nil {
			return onDisk(err)
		}
		freed, err := s.sweep()
		if err != nil {
			return onDisk(err)
		}
		used -= freed
	}
	if used+need > s.o.Quota { // somebody has files of ours open by another name
		return onDisk(fmt.Errorf("%s: %w", ref, s.noSpace(need, used, used, nil)))
	}
	return onDisk(s.dropTags())
}

func (s *Store) noSpace(need, used, pinned int64, owners []string) error {
	who := ""
	if len(owners) > 0 {
		who = " (needed by " + strings.Join(owners, ", ") + ")"
	}
	return fmt.Errorf("%w: %d bytes are needed; %s has a quota of %d, %d are used, of which %d can not be removed%s: "+
		"raise the quota, or remove what needs these images", ErrNoSpace, need, s.dir, s.o.Quota, used, pinned, who)
}

// full makes ErrNoSpace of a disk, or of a user's disk quota, that is full.
func (s *Store) full(err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	free := "unknown"
	var st unix.Statfs_t
	if unix.Statfs(s.dir, &st) == nil {
		free = fmt.Sprint(int64(st.Bavail) * st.Bsize)
	}
	return onDisk(fmt.Errorf("%w: %w: the file system of %s has %s bytes free: make room there, or remove images that are not needed",
		ErrNoSpace, err, s.dir, free))
}
