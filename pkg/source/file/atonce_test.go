// SPDX-License-Identifier: Apache-2.0

package file

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/spec"
)

const document = "apiVersion: kmm.sigs.x-k8s.io/v1beta1\nkind: Module\nmetadata: {name: %s}\nspec: {moduleLoader: {container: {modprobe: {moduleName: m}, kernelMappings: [{regexp: x, containerImage: \"r.example/m:1\"}]}}}\n"

func put(t *testing.T, path, name string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, document, name), 0o644))
}

// atOnce watches a directory that is never quiet for long enough: what is read
// is read at once.
func atOnce(t *testing.T, dir string) (next func() []string) {
	t.Helper()
	return reads(t, dir, time.Hour)
}

// reads watches a directory; next is what its documents say next.
func reads(t *testing.T, dir string, quiet time.Duration) (next func() []string) {
	t.Helper()
	seen := make(chan []string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := &Source{Path: dir, quiet: quiet}
	go func() {
		done <- s.Watch(ctx, func(n spec.Node, _ []string) {
			var names []string
			for i := range n.Modules {
				names = append(names, n.Modules[i].Metadata.Name)
				if n.Modules[i].Spec.ModuleLoader == nil {
					names = append(names, "asks for nothing")
				}
			}
			if len(n.Invalid) > 0 {
				names = append(names, "invalid")
			}
			seen <- names
		})
	}()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	return func() []string {
		t.Helper()
		select {
		case names := <-seen:
			return names
		case <-time.After(time.Minute):
			require.Fail(t, "nothing was read")
			return nil
		}
	}
}

func TestWholeDocumentsAtOnce(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "a.yaml"), "a")
	next := atOnce(t, dir)
	assert.Equal(t, []string{"a"}, next())

	put(t, filepath.Join(dir, "b.yaml"), "b")
	assert.Equal(t, []string{"a", "b"}, next(), "written and closed")

	put(t, filepath.Join(dir, ".new"), "c")
	require.NoError(t, os.Rename(filepath.Join(dir, ".new"), filepath.Join(dir, "c.yaml")))
	assert.Equal(t, []string{"a", "b", "c"}, next(), "renamed into place")

	f, err := os.Create(filepath.Join(dir, "d.yaml"))
	require.NoError(t, err)
	_, err = fmt.Fprintf(f, document, "d")
	require.NoError(t, err)
	put(t, filepath.Join(dir, "e.yaml"), "e")
	require.NoError(t, f.Close())
	assert.Equal(t, []string{"a", "b", "c", "d", "e"}, next(), "when the last one is closed")
}

func TestNotAtOnce(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"removed": func(dir string) error { return os.Remove(filepath.Join(dir, "a.yaml")) },
		"moved": func(dir string) error {
			return os.Rename(filepath.Join(dir, "a.yaml"), filepath.Join(dir, "a.old"))
		},
		"another Module in its place": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "a.yaml"), fmt.Appendf(nil, document, "x"), 0o644)
		},
		"can not be used": func(dir string) error { return os.WriteFile(filepath.Join(dir, "x.yaml"), []byte("kind: ["), 0o644) },
		"empty":           func(dir string) error { return os.WriteFile(filepath.Join(dir, "x.yaml"), nil, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, filepath.Join(dir, "a.yaml"), "a")
			next := atOnce(t, dir)
			assert.Equal(t, []string{"a"}, next())
			require.NoError(t, change(dir))
			put(t, filepath.Join(dir, "b.yaml"), "b")
			put(t, filepath.Join(dir, "a.yaml"), "a")
			require.NoError(t, os.RemoveAll(filepath.Join(dir, "x.yaml")))
			put(t, filepath.Join(dir, "c.yaml"), "c")
			for names := next(); !assert.ObjectsAreEqual([]string{"a", "b", "c"}, names); names = next() {
				require.Contains(t, names, "a", "nothing of what was there in between is obeyed")
				require.NotContains(t, names, "invalid")
			}
		})
	}
}

// TestAdds: of a directory that comes back, or of a document that is mended, the
// first look may be too early for the others, whose Modules would be unloaded.
func TestAdds(t *testing.T) {
	of := func(names ...string) (n spec.Node) {
		for _, name := range names {
			if name == "invalid" {
				n.Invalid = append(n.Invalid, spec.ErrInvalid)
				continue
			}
			n.Modules = append(n.Modules, spec.Module{Metadata: spec.Metadata{Name: name}})
		}
		return n
	}
	for _, tt := range []struct {
		name        string
		before, now spec.Node
		want        bool
	}{
		{"more", of("a"), of("a", "b"), true},
		{"the first", of(), of("a"), true},
		{"less", of("a", "b"), of("a"), false},
		{"what can not be used", of("a"), of("a", "invalid"), false},
		{"after no directory", of("invalid"), of("a"), false},
		{"after a document that could not be used", of("a", "invalid"), of("a", "b"), false},
	} {
		assert.Equal(t, tt.want, adds(tt.before, tt.now), tt.name)
	}
}

// TestPartialWrites: a file that is written bit by bit is read when the writer is
// done. Half a document is never taken for a wish to unload.
func TestPartialWrites(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	put(t, path, "a")
	next := reads(t, dir, 3*time.Second) // longer than a writer is held up here
	assert.Equal(t, []string{"a"}, next())
	f, err := os.Create(path)
	require.NoError(t, err)
	for line := range strings.Lines(fmt.Sprintf(document, "b")) { // three lines are a valid document already: one that asks for nothing
		_, err := f.WriteString(line)
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
	require.Equal(t, []string{"b"}, next(), "one look, at the whole, when all is quiet")

	require.NoError(t, os.Truncate(path, 0))
	require.Equal(t, []string{"invalid"}, next(), "an empty file keeps all as it is")
}
