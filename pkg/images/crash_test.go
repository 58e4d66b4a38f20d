// SPDX-License-Identifier: Apache-2.0

package images

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stopped is what the process is stopped with: nothing after it runs but what
// the kernel would do too (files are closed, locks let go).
type stopped struct{ at string }

// stopAt runs f and stops it before its write number n; it returns what that
// write would have been, or "" when f had fewer.
func (sh *shelf) stopAt(n int, f func()) (at string) {
	count := 0
	sh.step = func(what string) error {
		if count++; count == n {
			panic(stopped{what})
		}
		return nil
	}
	defer func() {
		sh.step = func(string) error { return nil }
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

// reopen is what happens after a crash. Every tree must be whole, and no content
// without one.
func (sh *shelf) reopen(what string) {
	sh.t.Helper()
	quota := sh.o.Quota
	s, err := Open(sh.dir, Options{Quota: quota})
	require.NoError(sh.t, err, what)
	sh.Store = s
	assert.Empty(sh.t, names(sh.t, s.path("tmp")), what)
	for _, key := range s.keys() {
		tree, err := loadTree(s.path("trees", key))
		require.NoError(sh.t, err, what)
		assert.NoError(sh.t, tree.Verify(), what)
	}
	require.NoError(sh.t, s.eachFile(func(p string, info fs.FileInfo) error {
		assert.Greater(sh.t, info.Sys().(*syscall.Stat_t).Nlink, uint64(1), "%s: %s", what, p)
		return nil
	}))
}

// TestStopAnywhere stops changes of a store before each of their writes and
// opens it again: what was there before and may stay is there, what was being
// made is there whole or not at all, and the same change works then.
func TestStopAnywhere(t *testing.T) {
	pull := func(sh *shelf) error { _, err := sh.get("new"); return err }
	tests := []struct {
		name   string
		quota  int64
		have   []string
		change func(sh *shelf) error
		stays  []string
		after  string
		least  int // writes
	}{
		{"first pull", 0, nil, pull, nil, "new", 8},
		{"pull beside another", 0, []string{"v1"}, pull, []string{"v1"}, "new v1", 8},
		{"pull that makes room", 300 * kib, []string{"v1", "v2"}, pull, []string{"v2"}, "new v2", 10},
		{"prune", 0, []string{"v1", "v2"}, func(sh *shelf) error {
			_, _, err := sh.Prune(PruneOptions{})
			return err
		}, nil, "", 8},
		{"prune beside a pin", 0, []string{"v1", "v2"}, func(sh *shelf) error {
			if err := sh.Pin("me", sh.digests["v1"]); err != nil {
				return err
			}
			_, _, err := sh.Prune(PruneOptions{})
			return err
		}, []string{"v1"}, "v1", 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for n := 1; ; n++ {
				sh := newShelf(t, tt.have...)
				sh.push("new")
				if tt.quota > 0 {
					sh.o.Quota = tt.quota
				}
				at := sh.stopAt(n, func() { _ = tt.change(sh) })
				if at == "" {
					require.Greater(t, n, tt.least)
					break
				}
				what := fmt.Sprintf("stopped before write %d (%s)", n, at)
				sh.reopen(what)
				for _, tag := range tt.stays {
					assert.Contains(t, strings.Fields(sh.tags()), tag, what)
				}
				require.NoError(t, tt.change(sh), what)
				assert.Equal(t, tt.after, sh.tags(), what)
				assert.LessOrEqual(t, sh.bytes(), sh.o.Quota, what)
				sh.reopen(what)
			}
		})
	}
}

// A file that another process removes between two looks is no error.
func TestUsageWhileContentVanishes(t *testing.T) {
	sh := newShelf(t, "v1")
	require.NoError(t, sh.eachFile(func(p string, _ fs.FileInfo) error {
		return os.RemoveAll(filepath.Dir(p))
	}))
}
