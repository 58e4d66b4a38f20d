// SPDX-License-Identifier: Apache-2.0

package points

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
)

func TestMain(m *testing.M) {
	Launch()
	if dir := os.Getenv("POINTS_TEST_DIR"); dir != "" {
		if err := change(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// change is the program that the tests watch.
func change(dir string) error {
	if err := os.Chdir(dir); err != nil {
		return err
	}
	if _, err := os.ReadFile("/proc/self/comm"); err != nil { // no point
		return err
	}
	if err := os.Mkdir("sub", 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "a.tmp"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString("x"); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	if err := root.Rename("a.tmp", "sub/a"); err != nil {
		return err
	}
	// In a child, as system calls about modules are made.
	if out, err := exec.Command("touch", "b").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return os.Remove("sub/a")
}

// list is what change does.
const list = `1 mkdirat DIR/sub
2 openat DIR/a.tmp
3 write DIR/a.tmp
4 fsync DIR/a.tmp
5 renameat DIR/a.tmp -> DIR/sub/a
6 openat DIR/b
7 utimensat DIR/b
8 unlinkat DIR/sub/a`

func start(t *testing.T, at func(*exec.Cmd, Point) Verdict) (dir, out string, err error) {
	t.Helper()
	dir = t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "POINTS_TEST_DIR="+dir)
	var text strings.Builder
	cmd.Stdout, cmd.Stderr = &text, &text
	r, err := Start(cmd, func(p Point) Verdict { return at(cmd, p) })
	require.NoError(t, err)
	err = r.Wait()
	return dir, text.String(), err
}

func TestList(t *testing.T) {
	var got []string
	dir, out, err := start(t, func(_ *exec.Cmd, p Point) Verdict {
		got = append(got, p.String())
		return Go
	})
	require.NoError(t, err, out)
	assert.Equal(t, list, strings.ReplaceAll(strings.Join(got, "\n"), dir, "DIR"))
	assert.FileExists(t, filepath.Join(dir, "b"))
}

// TestFail: the call is not made, and its error is the one that was given.
func TestFail(t *testing.T) {
	for n, want := range map[int]string{
		1: "sub: no space left", 2: "a.tmp: no space left", 3: "write", 4: "sync", 5: "renameat", 6: "touch", 8: "remove sub/a",
	} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			dir, out, err := start(t, func(_ *exec.Cmd, p Point) Verdict {
				if p.N == n {
					return Fail(unix.ENOSPC)
				}
				return Go
			})
			require.Error(t, err)
			assert.Contains(t, out, want)
			assert.Contains(t, strings.ToLower(out), "no space left on device")
			if n == 8 {
				assert.FileExists(t, filepath.Join(dir, "sub/a"))
			}
		})
	}
}

// TestKill: the call is not made, nor anything after it.
func TestKill(t *testing.T) {
	for n := 1; n <= 8; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			seen := 0
			dir, _, err := start(t, func(cmd *exec.Cmd, p Point) Verdict {
				if seen = p.N; p.N != n {
					return Go
				}
				return Kill(cmd, p)
			})
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			assert.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
			if n != 6 && n != 7 { // there the child goes on
				assert.Equal(t, n, seen)
			}
			assert.Equal(t, n > 1, exists(filepath.Join(dir, "sub")), "sub")
			assert.Equal(t, n > 2 && n <= 5, exists(filepath.Join(dir, "a.tmp")), "a.tmp")
			assert.Equal(t, n > 5, exists(filepath.Join(dir, "sub/a")), "sub/a")
			assert.Equal(t, n > 5, exists(filepath.Join(dir, "b")), "b: the child goes on")
		})
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
