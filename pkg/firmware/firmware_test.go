// SPDX-License-Identifier: Apache-2.0

package firmware

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/record"
)

// world is a host with a firmware directory.
type world struct {
	t             testing.TB
	dir, manifest string
	d             *Dir
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldIn(t, t.TempDir())
}

func newWorldIn(t testing.TB, tmp string) *world {
	t.Helper()
	w := &world{t: t, dir: filepath.Join(tmp, "firmware"), manifest: filepath.Join(tmp, "state", "firmware.json")}
	w.open()
	return w
}

func (w *world) open() {
	w.t.Helper()
	var err error
	w.d, err = Open(w.dir, w.manifest)
	require.NoError(w.t, err)
}

type files = map[string]string

// source writes files to a new directory.
func source(t testing.TB, f files) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, f)
	return dir
}

func write(t testing.TB, dir string, f files) {
	t.Helper()
	for name, content := range f {
		p := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, []byte(content), 0o644))
	}
}

// read returns all files of the firmware directory, and "" for directories
// that are empty.
func (w *world) read() files {
	w.t.Helper()
	out := files{}
	require.NoError(w.t, filepath.WalkDir(w.dir, func(p string, d os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		require.NoError(w.t, err)
		rel, err := filepath.Rel(w.dir, p)
		require.NoError(w.t, err)
		if d.IsDir() {
			if below, _ := os.ReadDir(p); len(below) == 0 && rel != "." {
				out[rel+"/"] = ""
			}
			return nil
		}
		b, err := os.ReadFile(p)
		require.NoError(w.t, err)
		out[rel] = string(b)
		return nil
	}))
	return out
}

func (w *world) remove(name string) {
	w.t.Helper()
	require.NoError(w.t, os.Remove(filepath.Join(w.dir, name)))
}

func (w *world) install(owner string, f files) (bool, error) {
	w.t.Helper()
	return w.d.Install(owner, source(w.t, f))
}

func (w *world) mustInstall(owner string, f files) {
	w.t.Helper()
	_, err := w.install(owner, f)
	require.NoError(w.t, err)
	list, err := List(source(w.t, f))
	require.NoError(w.t, err)
	current, err := w.d.Current(owner, list)
	require.NoError(w.t, err)
	assert.True(w.t, current)
}

func TestInstallAndRemove(t *testing.T) {
	old := syscall.Umask(0o077) // must not show in the result
	t.Cleanup(func() { syscall.Umask(old) })
	w := newWorld(t)
	changed, err := w.install("ns/a", files{"a.bin": "1", "sub/deep/b.bin": "2", "empty": ""})
	require.NoError(t, err)
	assert.True(t, changed)
	assert.Equal(t, files{"a.bin": "1", "sub/deep/b.bin": "2", "empty": ""}, w.read())
	for _, name := range []string{"a.bin", "sub/deep/b.bin"} {
		info, err := os.Stat(filepath.Join(w.dir, name))
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o644), info.Mode())
		assert.EqualValues(t, 1, info.Sys().(*syscall.Stat_t).Nlink, "no second name is left")
	}
	info, err := os.Stat(filepath.Join(w.dir, "sub/deep"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o755), info.Mode().Perm())

	changed, err = w.install("ns/a", files{"a.bin": "1", "sub/deep/b.bin": "2", "empty": ""})
	require.NoError(t, err)
	assert.False(t, changed)
	owners, err := w.d.Owners()
	require.NoError(t, err)
	assert.Equal(t, []string{"ns/a"}, owners)

	require.NoError(t, w.d.Remove("ns/a"))
	assert.Empty(t, w.read())
	owners, err = w.d.Owners()
	require.NoError(t, err)
	assert.Empty(t, owners)
}

func TestInstallIsExact(t *testing.T) {
	w := newWorld(t)
	w.mustInstall("a", files{"one": "1", "sub/two": "2", "three": "3"})
	w.mustInstall("a", files{"one": "1", "three": "new", "other/four": "4"})
	assert.Equal(t, files{"one": "1", "three": "new", "other/four": "4"}, w.read())
	w.mustInstall("a", files{})
	assert.Empty(t, w.read())
}

func TestFileBecomesDirectoryAndBack(t *testing.T) {
	w := newWorld(t)
	w.mustInstall("a", files{"x": "1", "y": "1"})
	w.mustInstall("a", files{"x/z": "2", "y": "1"})
	assert.Equal(t, files{"x/z": "2", "y": "1"}, w.read())
	w.mustInstall("a", files{"x": "3", "y": "1"})
	assert.Equal(t, files{"x": "3", "y": "1"}, w.read())
}

func TestSharedFile(t *testing.T) {
	w := newWorld(t)
	w.mustInstall("a", files{"sub/same": "1", "a": "a"})
	w.mustInstall("b", files{"sub/same": "1", "b": "b"})
	require.NoError(t, w.d.Remove("a"))
	assert.Equal(t, files{"sub/same": "1", "b": "b"}, w.read())
	require.NoError(t, w.d.Remove("b"))
	assert.Empty(t, w.read())
}

func TestFilesOfOthers(t *testing.T) {
	w := newWorld(t)
	mine := files{"mine.bin": "admin", "dir/mine.bin": "admin", "same.bin": "1"}
	write(t, w.dir, mine)
	w.mustInstall("a", files{"same.bin": "1", "dir/a.bin": "2", "new/a.bin": "3"})
	write(t, w.dir, files{"new/guest.bin": "admin"})
	require.NoError(t, w.d.Remove("a"))
	mine["new/guest.bin"] = "admin"
	assert.Equal(t, mine, w.read())
	require.NoError(t, os.Remove(filepath.Join(w.dir, "new/guest.bin")))
	w.mustInstall("a", files{"x": "1"})
	require.NoError(t, w.d.Remove("a"))
	assert.DirExists(t, filepath.Join(w.dir, "new"), "the guest's directory is not ours any more")
}

func TestConflicts(t *testing.T) {
	tests := []struct {
		name        string
		admin       files // put there by hand
		other       files // of owner "other"
		ours        files // of owner "a", before
		prepare     func(t *testing.T, w *world)
		want        files // what "a" now wants
		path, owner string
	}{
		{name: "bytes of nobody", admin: files{"x": "1"}, want: files{"x": "2"}, path: "x"},
		{name: "bytes of nobody, same size", admin: files{"x": "11"}, want: files{"x": "22"}, path: "x"},
		{name: "other Module", other: files{"x": "1"}, want: files{"x": "2"}, path: "x", owner: "other"},
		{name: "shared, one moves on", other: files{"x": "1"}, ours: files{"x": "1"}, want: files{"x": "2"}, path: "x", owner: "other"},
		{name: "other Module, file gone", other: files{"x": "1"}, want: files{"x": "2"}, path: "x", owner: "other",
			prepare: func(t *testing.T, w *world) { require.NoError(t, os.Remove(filepath.Join(w.dir, "x"))) }},
		{name: "used, changed by hand", admin: files{"x": "1"}, ours: files{"x": "1"}, want: files{"x": "2"}, path: "x",
			prepare: func(t *testing.T, w *world) { write(t, w.dir, files{"x": "3"}) }},
		{name: "used, a link to the same bytes by now", admin: files{"x": "1"}, ours: files{"x": "1"}, want: files{"x": "2"}, path: "x",
			prepare: func(t *testing.T, w *world) {
				write(t, w.dir, files{"y": "1"})
				require.NoError(t, os.Remove(filepath.Join(w.dir, "x")))
				require.NoError(t, os.Symlink("y", filepath.Join(w.dir, "x")))
			}},
		{name: "used, and then not", admin: files{"x": "1"}, ours: files{"x": "1"}, want: files{"x": "2"}, path: "x",
			prepare: func(_ *testing.T, w *world) { w.mustInstall("a", files{"y": "1"}) }},
		{name: "used by another", admin: files{"x": "1"}, other: files{"x": "1"}, want: files{"x": "2"}, path: "x", owner: "other"},
		{name: "used by both", admin: files{"x": "1"}, other: files{"x": "1"}, ours: files{"x": "1"}, want: files{"x": "2"}, path: "x", owner: "other"},
		{name: "used, a directory is wanted", admin: files{"x": "1"}, ours: files{"x": "1"}, want: files{"x/y": "2"}, path: "x"},
		{name: "used, in a directory where a file is wanted", admin: files{"x/y": "1"}, ours: files{"x/y": "1"}, want: files{"x": "2"}, path: "x"},
		{name: "ours, changed by hand", ours: files{"x": "1"}, want: files{"x": "2"}, path: "x",
			prepare: func(t *testing.T, w *world) { write(t, w.dir, files{"x": "hand"}) }},
		{name: "file where a directory is wanted", admin: files{"x": "1"}, want: files{"x/y/z": "2"}, path: "x"},
		{name: "other's file where a directory is wanted", other: files{"x": "1"}, want: files{"x/y": "2"}, path: "x", owner: "other"},
		{name: "directory where a file is wanted", admin: files{"x/y": "1"}, want: files{"x": "2"}, path: "x"},
		{name: "other's directory where a file is wanted", other: files{"x/y": "1"}, want: files{"x": "2"}, path: "x", owner: "other"},
		{name: "our directory, with a guest", ours: files{"x/y": "1"}, want: files{"x": "2"}, path: "x",
			prepare: func(t *testing.T, w *world) { write(t, w.dir, files{"x/guest": "1"}) }},
		{name: "symlink", want: files{"x": "2"}, path: "x", prepare: func(t *testing.T, w *world) {
			write(t, w.dir, files{"y": "2"})
			require.NoError(t, os.Symlink("y", filepath.Join(w.dir, "x")))
		}},
		{name: "symlink on the way, inside", want: files{"x/z": "2"}, path: "x", prepare: func(t *testing.T, w *world) {
			write(t, w.dir, files{"y/z": "1"})
			require.NoError(t, os.Symlink("y", filepath.Join(w.dir, "x")))
		}},
		{name: "symlink on the way, outside", want: files{"x/z": "2"}, path: "x", prepare: func(t *testing.T, w *world) {
			write(t, w.dir, files{"y": "1"})
			require.NoError(t, os.Symlink(t.TempDir(), filepath.Join(w.dir, "x")))
		}},
		{name: "fifo", want: files{"x": "2"}, path: "x", prepare: func(t *testing.T, w *world) {
			require.NoError(t, os.MkdirAll(w.dir, 0o755))
			require.NoError(t, syscall.Mkfifo(filepath.Join(w.dir, "x"), 0o600))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			write(t, w.dir, tt.admin)
			if tt.other != nil {
				w.mustInstall("other", tt.other)
			}
			if tt.ours != nil {
				w.mustInstall("a", tt.ours)
			}
			if tt.prepare != nil {
				tt.prepare(t, w)
			}
			tt.want["fine"] = "no conflict here"
			src := source(t, tt.want)
			list, err := List(src)
			require.NoError(t, err)
			before, manifest := w.listing(), w.manifestText()

			for what, err := range map[string]error{
				"check":   w.d.Check("a", list),
				"install": func() error { _, err := w.d.Install("a", src); return err }(),
			} {
				var conflict *ConflictError
				require.ErrorAs(t, err, &conflict, what)
				require.ErrorIs(t, err, ErrConflict)
				assert.Equal(t, ConflictError{Path: tt.path, Wanted: "a", Owner: tt.owner}, *conflict, what)
				assert.ErrorContains(t, err, tt.path)
			}
			assert.Equal(t, before, w.listing())
			assert.Equal(t, manifest, w.manifestText())
		})
	}
}

// listing is names, types and times of everything there.
func (w *world) listing() []string {
	w.t.Helper()
	var out []string
	require.NoError(w.t, filepath.WalkDir(w.dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		require.NoError(w.t, err)
		out = append(out, p+" "+info.Mode().String()+" "+info.ModTime().String())
		return nil
	}))
	return out
}

func (w *world) manifestText() string {
	b, err := os.ReadFile(w.manifest)
	if err != nil {
		return ""
	}
	return string(b)
}

func TestManyConflictsAreCut(t *testing.T) {
	w := newWorld(t)
	admin, ours := files{}, files{}
	for i := range 50 {
		admin[string(rune('A'+i))], ours[string(rune('A'+i))] = "1", "2"
	}
	write(t, w.dir, admin)
	_, err := w.install("a", ours)
	require.ErrorIs(t, err, ErrConflict)
	assert.Less(t, len(err.Error()), 4000)
}

// A file that appears between the check and its turn is neither replaced nor
// followed by half of the rest.
func TestConflictInTheLastMoment(t *testing.T) {
	w := newWorld(t)
	w.mustInstall("a", files{"keep": "1", "sub/old": "1"})
	w.d.step = func(what string) {
		if what == "link m" {
			write(t, w.dir, files{"m": "admin"})
		}
	}
	_, err := w.install("a", files{"keep": "2", "b/c": "1", "m": "1", "z": "1"})
	var conflict *ConflictError
	require.ErrorAs(t, err, &conflict)
	assert.Equal(t, "m", conflict.Path)
	assert.Equal(t, files{"keep": "1", "sub/old": "1", "m": "admin"}, w.read())
	w.open()
	w.mustInstall("a", files{"keep": "2"})
	require.NoError(t, w.d.Remove("a"))
	assert.Equal(t, files{"m": "admin"}, w.read())
}

func TestSymlinkInTheLastMoment(t *testing.T) {
	w := newWorld(t)
	w.d.step = func(what string) {
		if what == "link sub/x" {
			require.NoError(t, os.Remove(filepath.Join(w.dir, "sub")))
			require.NoError(t, os.Mkdir(filepath.Join(w.dir, "real"), 0o755))
			require.NoError(t, os.Symlink("real", filepath.Join(w.dir, "sub")))
		}
	}
	_, err := w.install("a", files{"sub/x": "1"})
	var conflict *ConflictError
	require.ErrorAs(t, err, &conflict)
	assert.Equal(t, "sub", conflict.Path)
	assert.NoFileExists(t, filepath.Join(w.dir, "real/x"))
}

func TestSameFileInTheLastMoment(t *testing.T) {
	w := newWorld(t)
	w.d.step = func(what string) {
		if what == "link m" {
			write(t, w.dir, files{"m": "1"})
		}
	}
	w.mustInstall("a", files{"m": "1"})
	w.d.step = func(string) {}
	require.NoError(t, w.d.Remove("a"))
	assert.Equal(t, files{"m": "1"}, w.read())
}

func TestChangedByHandStays(t *testing.T) {
	w := newWorld(t)
	w.mustInstall("a", files{"x": "1", "y": "1"})
	write(t, w.dir, files{"x": "hand"})
	require.NoError(t, w.d.Remove("a"))
	assert.Equal(t, files{"x": "hand"}, w.read())
}

func TestDeletedByHandComesBack(t *testing.T) {
	w := newWorld(t)
	f := files{"x": "1", "sub/y": "1"}
	w.mustInstall("a", f)
	require.NoError(t, os.RemoveAll(w.dir))
	list, err := List(source(t, f))
	require.NoError(t, err)
	current, err := w.d.Current("a", list)
	require.NoError(t, err)
	assert.False(t, current)
	w.mustInstall("a", f)
	assert.Equal(t, f, w.read())
}

func TestCurrent(t *testing.T) {
	w := newWorld(t)
	w.mustInstall("a", files{"x": "1", "y": "1"})
	tests := []struct {
		name, owner string
		files       files
		want        bool
	}{
		{"exact", "a", files{"x": "1", "y": "1"}, true},
		{"fewer", "a", files{"x": "1"}, false},
		{"more", "a", files{"x": "1", "y": "1", "z": "1"}, false},
		{"other bytes", "a", files{"x": "1", "y": "2"}, false},
		{"other owner", "b", files{"x": "1", "y": "1"}, false},
		{"nobody, nothing", "c", files{}, true},
	}
	for _, tt := range tests {
		list, err := List(source(t, tt.files))
		require.NoError(t, err)
		got, err := w.d.Current(tt.owner, list)
		require.NoError(t, err)
		assert.Equal(t, tt.want, got, tt.name)
	}
}

func TestReadingWritesNothing(t *testing.T) {
	w := newWorld(t)
	list, err := List(source(t, files{"x": "1"}))
	require.NoError(t, err)
	assert.NoError(t, w.d.Check("a", list))
	_, err = w.d.Current("a", list)
	require.NoError(t, err)
	_, err = w.d.Owners()
	require.NoError(t, err)
	require.NoError(t, w.d.Remove("nobody"))
	assert.NoDirExists(t, w.dir)
	assert.NoDirExists(t, filepath.Dir(w.manifest))
}

func TestUnsafeSources(t *testing.T) {
	w := newWorld(t)
	link, fifo, own := t.TempDir(), t.TempDir(), source(t, files{staging + "/x": "1"})
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(link, "x")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(fifo, "x"), 0o600))
	for _, src := range []string{link, fifo, own} {
		_, err := w.d.Install("a", src)
		assert.ErrorIs(t, err, ErrUnsafe)
	}
	for _, path := range []string{"../x", "/x", "", ".", "a/../x", "a//b", staging + "/0"} {
		assert.ErrorIs(t, w.d.Check("a", []File{{Path: path}}), ErrUnsafe, path)
	}
	_, err := w.d.Install("a", filepath.Join(link, "missing"))
	assert.ErrorIs(t, err, os.ErrNotExist)
	_, err = w.d.Install("", link)
	assert.Error(t, err)
}

// TestDamagedManifest: who owns what is known from the second one; without either,
// it is nobody's.
func TestDamagedManifest(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "cut off": "{", "not sealed": `{"version": 1, "files": {}}`, "null": "null"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.mustInstall("a", files{"x": "1", "sub/y": "2"})
			good := w.manifestText()
			require.NoError(t, os.WriteFile(w.manifest, []byte(text), 0o600))
			w.open()
			require.NoError(t, w.d.Lost())
			assert.Equal(t, good, w.manifestText(), "mended")
			require.NoError(t, os.Remove(w.manifest))
			w.mustInstall("a", files{"x": "3"})
			assert.Equal(t, files{"x": "3"}, w.read())

			require.NoError(t, os.WriteFile(w.manifest, []byte(text), 0o600))
			require.NoError(t, os.WriteFile(w.manifest+".2", []byte(text), 0o600))
			w.open()
			require.ErrorIs(t, w.d.Lost(), record.ErrDamaged)
			assert.FileExists(t, w.manifest+".broken")
			owners, err := w.d.Owners()
			require.NoError(t, err)
			assert.Empty(t, owners)
			_, err = w.d.Install("a", source(t, files{"x": "4"}))
			require.ErrorIs(t, err, ErrConflict)
			w.mustInstall("a", files{"x": "3"})
			require.NoError(t, w.d.Remove("a"))
			assert.Equal(t, files{"x": "3"}, w.read(), "it is somebody else's by now")
			w.mustInstall("a", files{"x": "3"})
			w.mustInstall("a", files{"x": "4"})
			require.NoError(t, w.d.Remove("a"))
			assert.Empty(t, w.read())
		})
	}
}

// TestSyncFails has one directory not synced, each in turn: what was there is there, or what was to be, nothing is staged any
// more, and the next change finds nothing in its way.
func TestSyncFails(t *testing.T) {
	old, wanted := files{"same": "1", "change": "old", "gone/x": "1"}, files{"same": "1", "change": "new", "come/y": "2"}
	for n := 1; ; n++ {
		w := newWorldIn(t, memory(t))
		w.mustInstall("a", old)
		count := 0
		w.d.syncDir = func(root *os.Root, name string) error {
			if count++; count == n {
				return syscall.EIO
			}
			return syncDir(root, name)
		}
		_, err := w.install("a", wanted)
		if count < n {
			require.NoError(t, err)
			require.Greater(t, n, 5)
			return
		}
		require.ErrorIs(t, err, syscall.EIO, "sync %d", n)
		if n <= 2 { // of what is staged, and of the manifest
			assert.Equal(t, old, w.read(), "nothing has been moved yet: sync %d", n)
		}
		w.open()
		assert.Contains(t, []files{old, wanted}, w.read(), "sync %d", n)
		w.mustInstall("a", wanted)
		require.NoError(t, w.d.Remove("a"))
		assert.Empty(t, w.read(), "sync %d", n)
	}
}

// TestSecondManifestIsLate: a disk that was full when it was to be written, or a kill,
// leaves the one before, which would say the wrong thing when it is needed.
func TestSecondManifestIsLate(t *testing.T) {
	for _, late := range []string{"the one before", "the one before, and the staging", "damaged", "none"} {
		t.Run(late, func(t *testing.T) {
			w := newWorld(t)
			second := w.manifest + ".2"
			w.mustInstall("a", files{"x": "1"})
			before, err := os.ReadFile(second)
			require.NoError(t, err)
			w.mustInstall("a", files{"y": "2"})
			switch late {
			case "the one before":
				require.NoError(t, os.WriteFile(second, before, 0o600))
			case "the one before, and the staging":
				require.NoError(t, os.WriteFile(second, before, 0o600))
				require.NoError(t, os.Mkdir(filepath.Join(w.dir, staging), 0o700))
			case "damaged":
				require.NoError(t, os.WriteFile(second, before[:9], 0o600))
			case "none":
				require.NoError(t, os.Remove(second))
			}
			require.NoError(t, os.WriteFile(second+".tmp", []byte("half"), 0o600))
			w.open()
			assert.NoFileExists(t, second+".tmp")
			require.NoError(t, os.WriteFile(w.manifest, nil, 0o600))
			w.open()
			require.NoError(t, w.d.Remove("a"))
			assert.Empty(t, w.read(), "it is known as a's")
		})
	}
}

// TestLaterManifest: one of a later version is left alone.
func TestLaterManifest(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, os.MkdirAll(filepath.Dir(w.manifest), 0o755))
	require.NoError(t, os.WriteFile(w.manifest, record.Seal([]byte(`{"version": 9}`)), 0o600))
	_, err := Open(w.dir, w.manifest)
	require.ErrorContains(t, err, w.manifest)
	require.NotErrorIs(t, err, record.ErrDamaged)
}
