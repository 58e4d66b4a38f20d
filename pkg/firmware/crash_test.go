// SPDX-License-Identifier: Apache-2.0

package firmware

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stopped is what the process is stopped with: nothing after it runs but what
// the kernel would do too (files are closed, locks let go).
type stopped struct{ at string }

// stopAt runs f and stops it before its write number n; it returns what that
// write would have been, or "" when f had fewer.
func (w *world) stopAt(n int, f func()) (at string) {
	count := 0
	w.d.step = func(what string) {
		if count++; count == n {
			panic(stopped{what})
		}
	}
	defer func() {
		w.d.step = func(string) {}
		if r := recover(); r != nil {
			s, ok := r.(stopped)
			if !ok {
				panic(r)
			}
			at = s.at
		}
	}()
	f()
	return ""
}

// TestStopAnywhere stops a change before each of its writes, starts again,
// and wants the old files or the new ones, whole; then the new ones after one
// more try, and nothing of ours after a removal.
func TestStopAnywhere(t *testing.T) {
	admin := files{"admin.bin": "0", "dir/admin.bin": "0"}
	shared := files{"shared.bin": "s"}
	first := files{"same": "1", "change": "old", "gone/deep/x": "1", "dir/old": "1", "shared.bin": "s", "swap": "file"}
	second := files{"same": "1", "change": "new", "come/deep/y": "2", "dir/new": "2", "dir/admin.bin": "0", "swap2": "1"}
	swapped := files{"same": "1", "swap/x": "dir"}
	there := files{"same": "1", "change": "old", "gone/deep/x": "1"}
	stays := files{"same": "1", "gone/deep/x": "1"}
	tests := []struct {
		name     string
		from, to files // nil: not there
		// What was there before, with bytes of first; before from there was first.
		there files
		left  files // of that, after a removal
	}{
		{name: "install", to: first},
		{name: "update", from: first, to: second},
		{name: "file to directory", from: first, to: swapped},
		{name: "remove", from: first},
		{name: "remove the other one", from: second},
		{name: "install what is there", to: first, there: there, left: there},
		{name: "update what was there", from: first, to: second, there: there, left: stays},
		{name: "roll back to what was there", from: second, to: first, there: there, left: there},
		{name: "remove what was there", from: first, there: there, left: there},
		{name: "remove what has replaced it", from: second, there: there, left: stays},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for n := 1; ; n++ {
				w := newWorldIn(t, memory(t))
				write(t, w.dir, union(admin, tt.there))
				w.mustInstall("other", shared)
				if tt.from != nil && tt.there != nil {
					w.mustInstall("a", first)
				}
				if tt.from != nil {
					w.mustInstall("a", tt.from)
				}
				var src string
				if tt.to != nil {
					src = source(t, tt.to)
				}
				at := w.stopAt(n, func() { _ = change(w, src) })
				if at == "" {
					require.Greater(t, n, 5)
					break
				}
				what := fmt.Sprintf("stopped before write %d (%s)", n, at)
				w.recoverAnywhere(t, what)
				w.open()
				w.requireWhole(what, union(admin, tt.left), shared, union(tt.there, tt.from), tt.to)
				require.NoError(t, change(w, src), what)
				assert.Equal(t, union(admin, tt.left, shared, tt.to), w.read(), what)
				require.NoError(t, w.d.Remove("a"), what)
				assert.Equal(t, union(admin, tt.left, shared), w.read(), what)
				require.NoError(t, w.d.Remove("other"), what)
				assert.Equal(t, union(admin, tt.left), w.read(), what)
			}
		})
	}
}

// memory is a directory where a sync costs nothing, if this machine has one:
// the test makes tens of thousands.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "kmmd-firmware-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func change(w *world, src string) error {
	if src == "" {
		return w.d.Remove("a")
	}
	_, err := w.d.Install("a", src)
	return err
}

// recoverAnywhere stops the recovery too, before each of its writes.
func (w *world) recoverAnywhere(t *testing.T, what string) {
	t.Helper()
	for n := 1; ; n++ {
		at := w.stopAt(n, func() {
			lost, err := w.d.recoverUnlessBusy()
			assert.NoError(t, errors.Join(lost, err), what)
		})
		if at == "" {
			return
		}
		require.Less(t, n, 100, "%s: the recovery does not end", what)
	}
}

// requireWhole wants exactly the old files or exactly the new ones (or, when a
// file turns into a directory, those that both have), and the manifest to know.
func (w *world) requireWhole(what string, admin, shared, from, to files) {
	t := w.t
	t.Helper()
	got := w.read()
	old, new := union(admin, shared, from), union(admin, shared, to)
	between := union(admin, shared, from)
	delete(between, "swap")
	if !maps.Equal(got, old) && !maps.Equal(got, new) && (to["swap/x"] == "" || !maps.Equal(got, between)) {
		require.Fail(t, "neither the old files nor the new ones", "%s: %v", what, got)
	}
	assert.NoDirExists(t, filepath.Join(w.dir, staging), what)
	s, err := w.d.load()
	require.NoError(t, err)
	assert.Nil(t, s.Pending, what)
	for path, e := range s.Files {
		b, err := os.ReadFile(filepath.Join(w.dir, path))
		require.NoError(t, err, what)
		assert.EqualValues(t, len(b), e.Size, what)
	}
	for path := range got {
		_, known := s.Files[path]
		_, adminHas := admin[path]
		assert.True(t, known || adminHas, "%s: orphan %s", what, path)
	}
}

func union(all ...files) files {
	out := files{}
	for _, f := range all {
		maps.Copy(out, f)
	}
	return out
}

// Open in another process must not finish a change that is being made.
func TestOpenBesideAWriter(t *testing.T) {
	w := newWorld(t)
	opened := 0
	w.d.step = func(string) {
		opened++
		_, err := Open(w.dir, w.manifest)
		assert.NoError(t, err)
	}
	_, err := w.install("a", files{"x": "1", "sub/y": "2"})
	require.NoError(t, err)
	assert.Greater(t, opened, 5)
	assert.Equal(t, files{"x": "1", "sub/y": "2"}, w.read())
}

// After a crash, a file of somebody else may be where ours was to go.
func TestConflictFoundByRecovery(t *testing.T) {
	w := newWorld(t)
	src := source(t, files{"x": "1", "y": "2"})
	at := w.stopAt(1000, func() {})
	require.Empty(t, at)
	for n := 1; at != "link y"; n++ {
		w = newWorld(t)
		at = w.stopAt(n, func() { _ = change(w, src) })
	}
	write(t, w.dir, files{"y": "admin"})
	w.open()
	assert.Equal(t, files{"x": "1", "y": "admin"}, w.read())
	s, err := w.d.load()
	require.NoError(t, err)
	assert.Equal(t, []string{"x"}, s.owned("a"))
	_, err = w.d.Install("a", src)
	require.ErrorIs(t, err, ErrConflict)
	require.NoError(t, w.d.Remove("a"))
	assert.Equal(t, files{"y": "admin"}, w.read())
}

// A file of ours that was to be replaced may be somebody else's by the time that the change is finished.
func TestReplaceFoundByRecovery(t *testing.T) {
	for _, what := range []string{"content", "symlink", "directory", "content of what was there", "symlink of what was there", "directory of what was there"} {
		what, there := strings.CutSuffix(what, " of what was there")
		for n := 1; ; n++ {
			w := newWorldIn(t, memory(t))
			if there {
				write(t, w.dir, files{"x": "1", "y": "1"})
			}
			w.mustInstall("a", files{"x": "1", "y": "1"})
			src := source(t, files{"x": "2", "y": "2"})
			at := w.stopAt(n, func() { _ = change(w, src) })
			if at == "" {
				require.Greater(t, n, 5)
				break
			}
			x := filepath.Join(w.dir, "x")
			require.NoError(t, os.Remove(x))
			want := files{"x": "admin"}
			switch what {
			case "content":
				write(t, w.dir, want)
			case "symlink":
				write(t, filepath.Dir(w.dir), files{"elsewhere": "admin"})
				require.NoError(t, os.Symlink("../elsewhere", x))
			case "directory":
				want = files{"x/admin": "admin"}
				write(t, w.dir, want)
			}
			told := fmt.Sprintf("%s, stopped before write %d (%s)", what, n, at)
			w.recoverAnywhere(t, told)
			w.open()
			got := w.read()
			want["y"] = got["y"]
			assert.Equal(t, want, got, told)
			assert.Contains(t, []string{"1", "2"}, got["y"], "the others are finished: %s", told)
			_, err := w.d.Install("a", src)
			require.ErrorIs(t, err, ErrConflict, told)
			require.NoError(t, w.d.Remove("a"), told)
			if !there || want["y"] == "2" {
				delete(want, "y")
			}
			assert.Equal(t, want, w.read(), told)
		}
	}
}

// What somebody puts in the place of a file while that is being replaced is found as late as can be.
func TestReplaceFindsAnotherFile(t *testing.T) {
	for _, there := range []files{{}, {"x": "1"}} {
		w := newWorld(t)
		write(t, w.dir, there)
		w.mustInstall("a", files{"x": "1", "y": "1", "old": "1"})
		w.d.step = func(what string) {
			if what == "sync staging" {
				write(t, w.dir, files{"x": "admin"})
			}
		}
		_, err := w.install("a", files{"x": "2", "y": "2", "new": "2"})
		require.ErrorIs(t, err, ErrConflict)
		var conflict *ConflictError
		require.ErrorAs(t, err, &conflict)
		assert.Equal(t, ConflictError{Path: "x", Wanted: "a"}, *conflict)
		assert.Equal(t, files{"x": "admin", "y": "1", "old": "1"}, w.read(), "all the rest is as before")
		w.d.step = func(string) {}
		require.NoError(t, w.d.Remove("a"))
		assert.Equal(t, files{"x": "admin"}, w.read())
	}
}

// The next change finishes what another process left, without a new Open.
func TestNextChangeRecovers(t *testing.T) {
	src := source(t, files{"x": "1", "y": "2"})
	for n := 1; ; n++ {
		w := newWorldIn(t, memory(t))
		other, err := Open(w.dir, w.manifest)
		require.NoError(t, err)
		at := w.stopAt(n, func() { _ = change(w, src) })
		if at == "" {
			return
		}
		_, err = other.Install("b", source(t, files{"z": "3"}))
		require.NoError(t, err, at)
		require.NoError(t, other.Remove("b"), at)
		require.NoError(t, other.Remove("a"), at)
		assert.Empty(t, w.read(), at)
	}
}

func BenchmarkCurrent(b *testing.B) {
	w := newWorld(b)
	f := files{}
	for i := range 200 {
		f[fmt.Sprintf("sub%d/f%d.bin", i%10, i)] = fmt.Sprint(i) + string(make([]byte, 64<<10))
	}
	src := source(b, f)
	_, err := w.d.Install("a", src)
	require.NoError(b, err)
	list, err := List(src)
	require.NoError(b, err)
	for b.Loop() {
		current, err := w.d.Current("a", list)
		require.NoError(b, err)
		require.True(b, current)
	}
}
