// SPDX-License-Identifier: Apache-2.0

// Package pull kills kmmd, and has its writes fail, at each change that it makes
// to the image store. No kernel is concerned: it runs the program that ships on
// this machine. What the store shows must be whole at any moment, and the same
// command must succeed when the cause is gone.
package pull

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/test/faults/points"
	"github.com/kmm-node/kmmd/test/faults/state"
	"github.com/kmm-node/kmmd/test/faults/tally"
)

var (
	counts tally.Counts
	kmmd   string // the program
	// stride is how many points are passed over after each that is tried.
	stride = 29
)

func TestMain(m *testing.M) {
	points.Launch()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kmmd-faults-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	kmmd = filepath.Join(dir, "kmmd")
	if out, err := exec.Command("go", "build", "-o", kmmd, "github.com/kmm-node/kmmd/cmd/kmmd").CombinedOutput(); err != nil {
		fmt.Printf("build kmmd: %v\n%s", err, out)
		return 1
	}
	if os.Getenv("KMMD_FAULTS") == "full" {
		stride = 1
	}
	code := m.Run()
	fmt.Print(counts.String())
	return code
}

// fault is what happens at a point, and at those after it.
type fault struct {
	name  string
	errno syscall.Errno // 0 kills
	on    bool          // goes on until the command has ended
}

var faults = []fault{
	{name: "kill -9"},
	{"ENOSPC once", unix.ENOSPC, false},
	{"EIO once", unix.EIO, false},
	{"ENOSPC from there on", unix.ENOSPC, true},
	{"EROFS from there on", unix.EROFS, true},
}

// world is a registry with two images, and a store.
type world struct {
	t        *testing.T
	dir      string
	registry *imagestest.Registry
}

var oldFiles = map[string]string{"opt/lib/modules/6.1/a.ko": "a", "opt/lib/modules/6.1/same.ko": "same", "firmware/x/old.bin": "old"}
var newFiles = map[string]string{"opt/lib/modules/6.1/a.ko": "A", "opt/lib/modules/6.1/same.ko": "same", "firmware/x/new.bin": "new"}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), registry: imagestest.NewRegistry(t)}
	imagestest.Push(t, w.registry.Host+"/old:1", imagestest.Layer(t, oldFiles))
	imagestest.Push(t, w.registry.Host+"/new:1", imagestest.Layer(t, newFiles))
	return w
}

func (w *world) pull(image string) []string {
	return []string{"image", "--store", w.store("images"), "pull", "--insecure", "--kernel", "6.1", "--firmware", "/firmware", w.registry.Host + "/" + image + ":1"}
}

func (w *world) remove(image string) []string {
	return []string{"image", "--store", w.store("images"), "rm", w.registry.Host + "/" + image + ":1"}
}

func (w *world) store(name string) string { return filepath.Join(w.dir, name) }

func (w *world) command(args []string) (*exec.Cmd, *strings.Builder) {
	cmd := exec.Command(kmmd, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

func (w *world) must(args []string) {
	w.t.Helper()
	cmd, out := w.command(args)
	require.NoError(w.t, cmd.Run(), out.String())
}

// change is a command, with the images that are there before and after it.
type change struct {
	name          string
	command       func(*world) []string
	before, after []string
}

var changes = []change{
	{"first pull", func(w *world) []string { return w.pull("new") }, nil, []string{"new"}},
	{"second pull", func(w *world) []string { return w.pull("new") }, []string{"old"}, []string{"old", "new"}},
	{"removal", func(w *world) []string { return w.remove("old") }, []string{"old", "new"}, []string{"new"}},
}

// TestStore plays each change with each fault at each point.
func TestStore(t *testing.T) {
	for _, c := range changes {
		for _, f := range faults {
			t.Run(c.name+"/"+f.name, func(t *testing.T) {
				w := newWorld(t)
				for _, image := range c.before {
					w.must(w.pull(image))
				}
				n := 1
				for ; w.play(c, f, n); n += stride {
				}
				require.Greater(t, n, 8, "the change has points")
			})
		}
	}
}

// play plays a change once; it reports false when the change had fewer points
// than n.
func (w *world) play(c change, f fault, n int) (met bool) {
	w.t.Run(fmt.Sprint(n), func(t *testing.T) {
		w := &world{t: t, dir: w.dir, registry: w.registry}
		require.NoError(t, os.RemoveAll(w.store("images")))
		for _, image := range c.before {
			w.must(w.pull(image))
		}
		var at points.Point
		out, err := w.broken(c.command(w), f, n, &at)
		if met = at.N > 0; !met {
			require.NoError(t, err, out)
			return
		}
		defer counts.Case(t, "image store, "+f.name)()
		// A removal says by its rename whether it has happened; a pull too.
		dirs := state.Dirs{State: w.dir}
		require.NoError(t, dirs.Store(), "%s\n%s", at, out)
		if f.errno != 0 && err == nil {
			w.has(c.after, at)
		}
		again, out2 := w.command(c.command(w))
		err = again.Run()
		if c.name == "removal" && strings.Contains(out2.String(), "nothing to remove") {
			err = nil // it had happened
		}
		require.NoError(t, err, "%s\n%s\n%s", at, out, out2)
		require.NoError(t, dirs.Settled("", nil), "%s\n%s", at, out)
		w.has(c.after, at)
	})
	return met
}

// broken runs a command with a fault at point n, which it gives.
func (w *world) broken(args []string, f fault, n int, met *points.Point) (string, error) {
	cmd, out := w.command(args)
	r, err := points.Start(cmd, func(p points.Point) points.Verdict {
		if p.N < n || p.N > n && !f.on {
			return points.Go
		}
		if p.N == n {
			*met = p
		}
		if f.errno == 0 {
			return points.Kill(cmd, p)
		}
		return points.Fail(f.errno)
	})
	require.NoError(w.t, err)
	err = r.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(w.t, err)
	}
	return out.String(), err
}

// has requires that the store has just these images, with their files.
func (w *world) has(images []string, at points.Point) {
	w.t.Helper()
	trees, err := filepath.Glob(w.store("images/trees/*"))
	require.NoError(w.t, err)
	assert.Len(w.t, trees, len(images), "%s", at)
	for _, image := range images {
		files := map[string]string{"old": "firmware/x/old.bin", "new": "firmware/x/new.bin"}
		found, err := filepath.Glob(w.store("images/trees/*/" + files[image]))
		require.NoError(w.t, err)
		require.Len(w.t, found, 1, "%s: %s", image, at)
	}
}
