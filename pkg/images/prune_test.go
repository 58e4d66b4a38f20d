// SPDX-License-Identifier: Apache-2.0

package images

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

const kib = 1 << 10

// shelf is a store with some images of two files: one that all have, and one of
// their own, each of 100 KiB. Image v1 was used longest ago.
type shelf struct {
	*Store
	t       *testing.T
	reg     *imagestest.Registry
	digests map[string]string // by tag
}

func newShelf(t *testing.T, tags ...string) *shelf {
	t.Helper()
	s, err := Open(memory(t), Options{})
	require.NoError(t, err)
	sh := &shelf{Store: s, t: t, reg: imagestest.NewRegistry(t), digests: map[string]string{}}
	for i, tag := range tags {
		sh.push(tag)
		tree, err := sh.get(tag)
		require.NoError(t, err)
		used := time.Now().Add(time.Duration(i-len(tags)) * time.Hour)
		require.NoError(t, os.Chtimes(filepath.Join(tree.dir, treeFile), used, used))
	}
	return sh
}

// memory is a directory where a sync costs nothing, if this machine has one.
func memory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "kmmd-images-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func (sh *shelf) ref(tag string) string { return sh.reg.Host + "/kmod:" + tag }

func (sh *shelf) push(tag string) {
	sh.t.Helper()
	sh.digests[tag] = imagestest.Push(sh.t, sh.ref(tag), imagestest.Layer(sh.t, map[string]string{
		mods + "shared.ko": strings.Repeat("s", 100*kib), mods + "own.ko": strings.Repeat(tag, 100*kib/len(tag)),
	}))
}

func (sh *shelf) get(tag string) (*Tree, error) {
	return sh.Ensure(sh.t.Context(), Request{Ref: sh.ref(tag), Releases: []string{testRelease}, Insecure: true})
}

// tags are those of the images in the store, the most recently used first.
func (sh *shelf) tags() string {
	sh.t.Helper()
	all, err := sh.List()
	require.NoError(sh.t, err)
	var out []string
	for _, s := range all {
		require.Len(sh.t, s.Refs, 1)
		out = append(out, s.Refs[0][strings.LastIndex(s.Refs[0], ":")+1:])
	}
	return strings.Join(out, " ")
}

func (sh *shelf) bytes() int64 {
	sh.t.Helper()
	u, err := sh.Usage()
	require.NoError(sh.t, err)
	return u.Bytes
}

func TestTreesShareBytes(t *testing.T) {
	sh := newShelf(t, "v1", "v2")
	assert.EqualValues(t, 300*kib, sh.bytes())
	one, err := sh.get("v1")
	require.NoError(t, err)
	two, err := sh.get("v2")
	require.NoError(t, err)
	inode := func(p string) uint64 {
		info, err := os.Stat(p)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(storedMode), info.Mode())
		return info.Sys().(*syscall.Stat_t).Ino
	}
	assert.Equal(t, inode(filepath.Join(one.ModulesDir, "shared.ko")), inode(filepath.Join(two.ModulesDir, "shared.ko")))
	assert.NotEqual(t, inode(filepath.Join(one.ModulesDir, "own.ko")), inode(filepath.Join(two.ModulesDir, "own.ko")))
}

// What is damaged for one tree is not handed to the next, and both heal.
func TestDamagedContentIsNotShared(t *testing.T) {
	sh := newShelf(t, "v1")
	one, err := sh.get("v1")
	require.NoError(t, err)
	p := filepath.Join(one.ModulesDir, "shared.ko")
	require.NoError(t, os.Chmod(p, 0o600))
	require.NoError(t, os.WriteFile(p, []byte(strings.Repeat("S", 100*kib)), 0o600))
	sh.push("v2")
	two, err := sh.get("v2")
	require.NoError(t, err)
	require.NoError(t, two.Verify())
	require.ErrorIs(t, one.Verify(), ErrDigest)
	one, err = sh.get("v1")
	require.NoError(t, err)
	require.NoError(t, one.Verify())
	assert.EqualValues(t, 300*kib, sh.bytes())
}

func TestList(t *testing.T) {
	sh := newShelf(t, "v1", "v2", "v3")
	require.NoError(t, sh.Pin("b", sh.digests["v2"]))
	require.NoError(t, sh.Pin("a", sh.digests["v2"], sh.digests["v2"]))
	assert.Equal(t, "v3 v2 v1", sh.tags())
	before := time.Now()
	_, err := sh.get("v1")
	require.NoError(t, err)
	require.Equal(t, "v1 v3 v2", sh.tags())
	all, err := sh.List()
	require.NoError(t, err)
	assert.WithinRange(t, all[0].LastUsed, before.Add(-time.Second), time.Now().Add(time.Second))
	s := all[2]
	s.LastUsed, s.key, s.sums = time.Time{}, "", nil
	assert.Equal(t, Stored{Refs: []string{sh.ref("v2")}, Digest: sh.digests["v2"], Release: testRelease, Files: 2,
		Bytes: 200 * kib, PinnedBy: []string{"a", "b"}}, s)
}

func TestPrune(t *testing.T) {
	tests := []struct {
		name   string
		pin    []string
		unused time.Duration
		left   string
		freed  int64
	}{
		{"nothing pinned", nil, 0, "", 400},
		{"one pinned", []string{"v1"}, 0, "v1", 200},
		{"all pinned", []string{"v1", "v2", "v3"}, 0, "v3 v2 v1", 0},
		{"by last use", nil, 150 * time.Minute, "v3 v2", 100},
		{"by last use, pinned", []string{"v1"}, 90 * time.Minute, "v3 v1", 100},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sh := newShelf(t, "v1", "v2", "v3")
			require.NoError(t, os.Mkdir(sh.path("trees", "half"), 0o755))
			var digests []string
			for _, tag := range tt.pin {
				digests = append(digests, sh.digests[tag])
			}
			require.NoError(t, sh.Pin("me", digests...))
			freed, removed, err := sh.Prune(PruneOptions{Unused: tt.unused})
			require.NoError(t, err)
			assert.Equal(t, tt.freed*kib, freed)
			assert.Equal(t, tt.left, sh.tags())
			assert.Len(t, removed, 3-len(strings.Fields(tt.left)))
			assert.Len(t, names(t, sh.path("trees")), len(strings.Fields(tt.left)), "what is half is gone")
			assert.Len(t, names(t, sh.path("refs")), len(strings.Fields(tt.left)))
			assert.Empty(t, names(t, sh.path("tmp")))
			sh.reg.Close()
			for _, tag := range strings.Fields(tt.left) {
				_, err := sh.get(tag)
				assert.NoError(t, err)
			}
		})
	}
}

func TestPinsLast(t *testing.T) {
	sh := newShelf(t, "v1", "v2")
	other, err := Open(sh.dir, Options{}) // another process, or this one restarted
	require.NoError(t, err)
	require.NoError(t, sh.Pin("a", sh.digests["v1"]))
	require.NoError(t, sh.Pin("b", sh.digests["v1"], sh.digests["v2"]))
	_, removed, err := other.Prune(PruneOptions{})
	require.NoError(t, err)
	assert.Empty(t, removed)
	require.NoError(t, sh.Pin("b", sh.digests["v2"]))
	require.NoError(t, sh.Pin("a"))
	require.NoError(t, sh.Pin("a"))
	_, removed, err = other.Prune(PruneOptions{})
	require.NoError(t, err)
	require.Len(t, removed, 1)
	assert.Equal(t, sh.digests["v1"], removed[0].Digest)
	assert.ErrorIs(t, sh.Pin("c", "v1"), ErrInvalidRef)
}

// TestDamagedPin: nobody knows what it keeps, so all is kept, until whoever has
// pinned what is needed lets it go. Pulls go on.
func TestDamagedPin(t *testing.T) {
	for _, text := range []string{"", "{", "null", "{}", `{"owner":"b","digests":[]}`} {
		t.Run(text, func(t *testing.T) {
			sh := newShelf(t, "v1", "v2")
			require.NoError(t, sh.Pin("a", sh.digests["v1"]))
			require.NoError(t, os.WriteFile(sh.path("pins", "x.json"), []byte(text), 0o600))
			_, removed, err := sh.Prune(PruneOptions{})
			require.NoError(t, err)
			assert.Empty(t, removed)
			sh.push("v3")
			_, err = sh.get("v3")
			require.NoError(t, err)
			list, err := sh.List()
			require.NoError(t, err)
			for _, s := range list {
				assert.Contains(t, s.PinnedBy, "unreadable record pins/x.json")
			}
			require.NoError(t, sh.Pin("unreadable record pins/x.json"))
			_, removed, err = sh.Prune(PruneOptions{})
			require.NoError(t, err)
			assert.Len(t, removed, 2)

			own := sh.path("pins", names(t, sh.path("pins"))[0])
			require.NoError(t, os.WriteFile(own, []byte(text), 0o600))
			require.NoError(t, sh.Pin("a", sh.digests["v1"]))
			list, err = sh.List()
			require.NoError(t, err)
			require.Len(t, list, 1)
			assert.Equal(t, []string{"a"}, list[0].PinnedBy, "its owner has it written anew")
		})
	}
}

func TestRemove(t *testing.T) {
	sh := newShelf(t, "v1", "v2", "v3")
	require.NoError(t, sh.Pin("ns/driver", sh.digests["v2"]))
	freed, err := sh.Remove(sh.ref("v1"))
	require.NoError(t, err)
	assert.EqualValues(t, 100*kib, freed)
	_, err = sh.Remove(sh.ref("v2"))
	require.ErrorIs(t, err, ErrPinned)
	assert.ErrorContains(t, err, "ns/driver")
	freed, err = sh.Remove(sh.digests["v3"])
	require.NoError(t, err)
	assert.EqualValues(t, 100*kib, freed)
	_, err = sh.Remove(sh.ref("v1"))
	require.ErrorIs(t, err, ErrNotCached)
	_, err = sh.Remove("no ref")
	require.ErrorIs(t, err, ErrInvalidRef)
	require.NoError(t, sh.Pin("ns/driver"))
	freed, err = sh.Remove(sh.reg.Host + "/kmod@" + sh.digests["v2"])
	require.NoError(t, err)
	assert.EqualValues(t, 200*kib, freed)
	assert.Zero(t, sh.bytes())
}

func TestQuota(t *testing.T) {
	tests := []struct {
		name  string
		quota int64
		pin   []string
		left  string // with the new one; empty: there is no room
		words string
	}{
		{"fits", 500, nil, "new v3 v2 v1", ""},
		{"one goes", 499, nil, "new v3 v2", ""},
		{"two go", 300, nil, "new v3", ""},
		{"all go", 200, nil, "new", ""},
		{"the pinned one stays", 300, []string{"v1"}, "new v1", ""},
		{"too small for it alone", 199, nil, "", "quota of 203776"},
		{"too much is pinned", 399, []string{"v1", "v2"}, "", "(needed by me)"},
		{"pins alone fill it", 300, []string{"v1", "v2"}, "", "(needed by me)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sh := newShelf(t, "v1", "v2", "v3")
			var digests []string
			for _, tag := range tt.pin {
				digests = append(digests, sh.digests[tag])
			}
			require.NoError(t, sh.Pin("me", digests...))
			sh.o.Quota = tt.quota * kib
			sh.push("new")
			_, err := sh.get("new")
			assert.Empty(t, names(t, sh.path("tmp")))
			if tt.left == "" {
				require.ErrorIs(t, err, ErrNoSpace)
				assert.NotErrorIs(t, err, ErrUnreachable)
				assert.ErrorContains(t, err, tt.words)
				assert.Equal(t, "v3 v2 v1", sh.tags(), "nothing was removed in vain")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.left, sh.tags())
			assert.LessOrEqual(t, sh.bytes(), tt.quota*kib)
		})
	}
}

func TestFullDisk(t *testing.T) {
	for _, at := range []string{"stage", "sync", "adopt", "link", "write", "rename"} {
		t.Run(at, func(t *testing.T) {
			sh := newShelf(t)
			sh.push("v1")
			sh.step = func(what string) error {
				if strings.HasPrefix(what, at) {
					return &os.PathError{Op: what, Path: "x", Err: syscall.ENOSPC}
				}
				return nil
			}
			_, err := sh.get("v1")
			require.ErrorIs(t, err, ErrNoSpace)
			assert.NotErrorIs(t, err, ErrUnreachable)
			assert.ErrorContains(t, err, sh.dir)
			assert.Regexp(t, `has \d+ bytes free`, err.Error())
			assert.Empty(t, names(t, sh.path("tmp")))
			assert.Empty(t, names(t, sh.path("trees")))
			sh.step = func(string) error { return nil }
			_, err = sh.get("v1")
			require.NoError(t, err)
		})
	}
}

// TestTooManyNames: content that can have no further name in the file system does not keep other images from being stored.
func TestTooManyNames(t *testing.T) {
	sh := newShelf(t, "v1")
	full := true
	sh.step = func(what string) error {
		if full && strings.HasPrefix(what, "link") {
			full = false
			return &os.LinkError{Op: what, Err: syscall.EMLINK}
		}
		return nil
	}
	sh.push("v2")
	_, err := sh.get("v2")
	require.NoError(t, err)
	require.False(t, full)
	for _, tag := range []string{"v1", "v2"} {
		tree, err := sh.get(tag)
		require.NoError(t, err, tag)
		assert.NoError(t, tree.Verify(), tag)
	}
	assert.Empty(t, names(t, sh.path("tmp")))
	require.NoError(t, sh.eachFile(func(path string, info fs.FileInfo) error {
		assert.Equal(t, fs.FileMode(storedMode), info.Mode(), path)
		return nil
	}))
}

func TestOldTreesGo(t *testing.T) {
	sh := newShelf(t, "v1")
	require.NoError(t, os.Mkdir(sh.path("trees", "old"), 0o755))
	require.NoError(t, os.WriteFile(sh.path("trees", "old", treeFile), []byte(`{"version":1,"digest":"sha256:1"}`), 0o600))
	_, err := Open(sh.dir, Options{})
	require.NoError(t, err)
	assert.Len(t, names(t, sh.path("trees")), 1)
	assert.Equal(t, "v1", sh.tags())
}
