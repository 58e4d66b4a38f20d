// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/source/file"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// patience is how long a test waits for what must come, and only if it fails
// to come.
const patience = time.Minute

// watcher gets what Watch reads, however late it asks.
type watcher struct {
	t    *testing.T
	seen chan spec.Node
	stop func()
}

// watch runs Watch until the test ends, or until stop is called.
func watch(t *testing.T, path string) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watcher{t: t, seen: make(chan spec.Node, 10000)}
	done := make(chan error, 1)
	go func() {
		done <- (&file.Source{Path: path}).Watch(ctx, func(n spec.Node, _ []string) {
			select {
			case w.seen <- n:
			case <-ctx.Done():
			}
		})
	}()
	stopped := false
	w.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			assert.NoError(t, <-done)
		}
	}
	t.Cleanup(w.stop)
	return w
}

// next is what is read next.
func (w *watcher) next() spec.Node {
	w.t.Helper()
	select {
	case n := <-w.seen:
		return n
	case <-time.After(patience):
		require.Fail(w.t, "nothing was read")
		panic("not reached")
	}
}

// until reads until there are exactly these Modules, all valid. Between two
// changes of a test there may be any number of looks.
func (w *watcher) until(keysWanted ...string) {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		n := w.next()
		if len(n.Invalid) == 0 && assert.ObjectsAreEqual(append([]string{}, keysWanted...), keys(n)) {
			return
		}
	}
	require.Fail(w.t, "never read", "%v", keysWanted)
}

func TestWatchDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "modules.d")
	write(t, filepath.Join(dir, "a.yaml"), yaml("a"))
	w := watch(t, dir)
	assert.Equal(t, []string{"default/a"}, keys(w.next()), "at once")
	write(t, filepath.Join(dir, "b.yaml"), yaml("b"))
	w.until("default/a", "default/b")
	write(t, filepath.Join(dir, "b.yaml"), yaml("c"))
	w.until("default/a", "default/c")
	write(t, filepath.Join(dir, ".new"), yaml("d"))
	require.NoError(t, os.Rename(filepath.Join(dir, ".new"), filepath.Join(dir, "a.yaml")))
	w.until("default/d", "default/c")
	require.NoError(t, os.Remove(filepath.Join(dir, "b.yaml")))
	w.until("default/d")
	w.stop()
}

func TestWatchOneFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "nic.yaml")
	write(t, path, yaml("a"))
	w := watch(t, path)
	w.until("default/a")
	for _, name := range []string{"b", "c", "d"} { // as editors do it, again and again
		write(t, filepath.Join(dir, "tmp"), yaml(name))
		require.NoError(t, os.Rename(filepath.Join(dir, "tmp"), path))
		w.until("default/" + name)
	}
	write(t, path, yaml("e"))
	w.until("default/e")
}

func TestWatchReplacedDirectory(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "modules.d")
	write(t, filepath.Join(dir, "a.yaml"), yaml("a"))
	w := watch(t, dir)
	w.until("default/a")
	require.NoError(t, os.Rename(dir, filepath.Join(parent, "old")))
	n := w.next()
	require.Len(t, n.Invalid, 1, "a directory that is gone is no wish to unload")
	require.ErrorIs(t, n.Invalid[0], os.ErrNotExist)
	write(t, filepath.Join(parent, "new/b.yaml"), yaml("b"))
	require.NoError(t, os.Rename(filepath.Join(parent, "new"), dir))
	w.until("default/b")
	write(t, filepath.Join(dir, "c.yaml"), yaml("c"))
	w.until("default/b", "default/c")
}

// TestWatchSymlinkSwitched: the way a ConfigMap is mounted.
func TestWatchSymlinkSwitched(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "..1/a.yaml"), yaml("a"))
	write(t, filepath.Join(dir, "..2/a.yaml"), yaml("b"))
	require.NoError(t, os.Symlink("..1", filepath.Join(dir, "..data")))
	require.NoError(t, os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")))
	w := watch(t, dir)
	w.until("default/a")
	require.NoError(t, os.Symlink("..2", filepath.Join(dir, "..tmp")))
	require.NoError(t, os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
	w.until("default/b")
}

// TestWatchWhatIsNotThereYet: the directory, and the one above it, come later.
func TestWatchWhatIsNotThereYet(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "modules.d")
	w := watch(t, dir)
	require.Len(t, w.next().Invalid, 1)
	require.NoError(t, os.Mkdir(dir, 0o755))
	w.until()
	write(t, filepath.Join(dir, "a.yaml"), yaml("a"))
	w.until("default/a")
}
