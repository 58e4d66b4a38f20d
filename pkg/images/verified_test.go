// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// largeFile is the size of a file in bytes.
const largeFile = 16 << 10

// remembering is a store that knows its files, and how to open that store again.
func remembering(t *testing.T) (s *Store, again func(boot string) *Store, path string) {
	t.Helper()
	dir, list := t.TempDir(), filepath.Join(t.TempDir(), "verified.json")
	again = func(boot string) *Store {
		s, err := Open(dir, Options{VerifiedFile: list, BootID: boot})
		require.NoError(t, err)
		return s
	}
	s = again("boot")
	reg := imagestest.NewRegistry(t)
	r := Request{Ref: reg.Host + "/drivers:v1", Releases: []string{testRelease}, Insecure: true}
	imagestest.Push(t, r.Ref, imagestest.Layer(t, map[string]string{
		mods + "a.ko": string(bytes.Repeat([]byte("a"), largeFile)), mods + "small.ko": "a"}))
	tree, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	path = filepath.Join(tree.ModulesDir, "a.ko")
	_, _, ok := s.Verified(path)
	require.False(t, ok, "it was written just now")
	require.Eventually(t, func() bool { // until the clock has gone on
		_, err := s.Ensure(t.Context(), r)
		require.NoError(t, err)
		for _, name := range []string{"a.ko", "small.ko"} {
			_, done, ok := s.Verified(filepath.Join(tree.ModulesDir, name))
			if !ok {
				return false
			}
			done()
		}
		return true
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, os.Chmod(path, 0o600))
	_, err = s.Ensure(t.Context(), r) // the mode is noted like a write
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := s.Ensure(t.Context(), r)
		require.NoError(t, err)
		_, done, ok := s.Verified(path)
		if ok {
			done()
		}
		return ok
	}, time.Minute, 10*time.Millisecond)
	return s, again, path
}

// TestVerified: what was read once in a boot and found right is known to be right.
func TestVerified(t *testing.T) {
	s, again, path := remembering(t)
	f, done, ok := s.Verified(path)
	require.True(t, ok)
	info, err := f.Stat()
	require.NoError(t, err)
	assert.EqualValues(t, largeFile, info.Size())
	_, err = unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	require.ErrorIs(t, err, unix.EWOULDBLOCK, "nobody writes it meanwhile")
	done()

	_, done, ok = again("boot").Verified(path)
	require.True(t, ok, "also by another process")
	done()
	_, _, ok = again("another boot").Verified(path)
	assert.False(t, ok)
	_, _, ok = s.Verified(filepath.Join(filepath.Dir(path), "../../../tree.json"))
	assert.False(t, ok, "no file of the image")
	_, _, ok = s.Verified("/etc/passwd")
	assert.False(t, ok)
}

// TestNotVerified: whatever may have changed it has it read again.
func TestNotVerified(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, path string){
		"written": func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("b"), largeFile), 0o600))
		},
		"written, its time set back": func(t *testing.T, path string) {
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("b"), largeFile), 0o600))
			require.NoError(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
		},
		"written by way of memory": func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			m, err := unix.Mmap(int(f.Fd()), 0, largeFile, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			m[0] = 'b'
			require.NoError(t, unix.Munmap(m))
		},
		"open for writing": func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			t.Cleanup(func() { f.Close() })
		},
		"mapped for writing": func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			m, err := unix.Mmap(int(f.Fd()), 0, largeFile, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			t.Cleanup(func() { require.NoError(t, unix.Munmap(m)) })
		},
		"another file in its place": func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path+".new", bytes.Repeat([]byte("a"), largeFile), 0o600))
			require.NoError(t, os.Rename(path+".new", path))
		},
		"a link in its place": func(t *testing.T, path string) {
			require.NoError(t, os.Rename(path, path+".new"))
			require.NoError(t, os.Symlink("a.ko.new", path))
		},
		"gone": func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			s, again, path := remembering(t)
			change(t, path)
			_, _, ok := s.Verified(path)
			assert.False(t, ok)
			_, _, ok = again("boot").Verified(path)
			assert.False(t, ok)
		})
	}
}

// TestBesideTheTrees: a record that is not among the trees of the store says nothing, however the path to its files is written.
func TestBesideTheTrees(t *testing.T) {
	s, _, file := remembering(t)
	key, name, _ := strings.Cut(strings.TrimPrefix(file, s.tops), "/")
	entries, err := os.ReadDir(s.tops + key)
	require.NoError(t, err)
	for _, e := range entries {
		require.NoError(t, os.Rename(s.tops+key+"/"+e.Name(), s.path(e.Name())))
	}
	_, err = loadTree(s.tops + "..")
	require.NoError(t, err)
	for _, path := range []string{"../" + name, key + "/../../" + name, "./../" + name} {
		_, err := os.Stat(s.tops + path)
		require.NoError(t, err)
		_, _, ok := s.Verified(s.tops + path)
		assert.False(t, ok, path)
	}
}

// TestRecordIsReadAgain: what is known of a tree is what tree.json says, also when that
// was written since by somebody else.
func TestRecordIsReadAgain(t *testing.T) {
	s, _, path := remembering(t)
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		record := filepath.Join(dir, treeFile)
		text, err := os.ReadFile(record)
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(t, err)
		require.Eventually(t, func() bool { // until the clock has gone on
			require.NoError(t, os.WriteFile(record, bytes.Repeat([]byte("x"), len(text)), 0o600))
			_, done, ok := s.Verified(path)
			if ok {
				done()
			}
			return !ok
		}, time.Minute, 10*time.Millisecond)
		return
	}
}

// TestDirectoryIsGone: each of its files is missing, those of others are looked at all the same.
func TestDirectoryIsGone(t *testing.T) {
	s := openStore(t)
	reg := imagestest.NewRegistry(t)
	r := Request{Ref: reg.Host + "/drivers:v1", Releases: []string{testRelease}, Insecure: true}
	imagestest.Push(t, r.Ref, imagestest.Layer(t, map[string]string{mods + "a.ko": "a", mods + "x/b.ko": "b", mods + "x/c.ko": "c", mods + "y/d.ko": "d"}))
	tree, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	require.NoError(t, tree.Verify())
	require.NoError(t, os.RemoveAll(filepath.Join(tree.ModulesDir, "x")))
	require.NoError(t, os.WriteFile(filepath.Join(tree.ModulesDir, "y/d.ko"), []byte("e"), 0o644))
	err = tree.Verify()
	require.ErrorIs(t, err, ErrDigest)
	for _, text := range []string{"x/b.ko: " + errGone.Error(), "x/c.ko: " + errGone.Error(), "y/d.ko: "} {
		require.ErrorContains(t, err, text)
	}
	require.NotContains(t, err.Error(), "a.ko")
}
