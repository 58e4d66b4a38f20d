// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/source/file"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// yaml is a good document.
func yaml(name string) string {
	return fmt.Sprintf(`apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: %s}
spec:
  moduleLoader:
    container:
      modprobe: {moduleName: dummy}
      kernelMappings: [{regexp: '^.+$', containerImage: "registry/x:1"}]
`, name)
}

const toml = `apiVersion = "kmm.sigs.x-k8s.io/v1beta1"
kind = "Module"
[metadata]
name = "intoml"
[spec.moduleLoader.container.modprobe]
moduleName = "dummy"
[[spec.moduleLoader.container.kernelMappings]]
regexp = '^.+$'
containerImage = "registry/x:1"
`

const secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n"

// list is what kubectl writes of several objects.
func list(items ...string) string {
	text := "apiVersion: v1\nitems:\n"
	for _, item := range items {
		text += "- " + strings.TrimSpace(strings.ReplaceAll(item, "\n", "\n  ")) + "\n"
	}
	return text + "kind: List\nmetadata: {resourceVersion: \"\"}\n"
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

func keys(n spec.Node) []string {
	out := []string{}
	for i := range n.Modules {
		out = append(out, n.Modules[i].Key())
	}
	return out
}

func TestRead(t *testing.T) {
	for _, tt := range []struct {
		name    string
		files   map[string]string
		modules []string
		invalid []string // the end of each message, behind the directory
		notes   []string
	}{
		{"an empty directory", nil, []string{}, nil, nil},
		{"every notation, by file name", map[string]string{"b.yaml": yaml("b"), "a.yml": yaml("a"), "c.toml": toml, "D.YAML": yaml("d")},
			[]string{"default/d", "default/a", "default/b", "default/intoml"}, nil, nil},
		{"several in one file", map[string]string{"x.yaml": yaml("a") + "---\n" + yaml("b")}, []string{"default/a", "default/b"}, nil, nil},
		{"hidden, backup and other files, and directories, are none",
			map[string]string{".a.yaml": yaml("a"), "a.yaml~": "x", "a.yaml.swp": "x", "README": "x", "sub/b.yaml": yaml("b"), "dir.yaml/c.yaml": yaml("c")},
			[]string{}, nil, nil},
		{"another kind is left alone", map[string]string{"a.yaml": secret + "---\n" + yaml("a"), "s.yaml": secret},
			[]string{"default/a"}, nil, []string{"/a.yaml:1: a Secret, not a Module: ignored", "/s.yaml:1: a Secret, not a Module: ignored"}},
		{"a List, as kubectl writes it", map[string]string{"a.yaml": list(yaml("a"), secret, yaml("b")), "b.yaml": list(secret)},
			[]string{"default/a", "default/b"}, nil, []string{"/a.yaml:11: a Secret, not a Module: ignored", "/b.yaml:1: a List, not a Module: ignored"}},
		{"one item that is not understood spoils its List", map[string]string{"a.yaml": list(yaml("a"), yaml("UPPER"))}, []string{},
			[]string{`/a.yaml:13: items[1].metadata.name: "UPPER": lower-case letters, digits, '-' and '.' only, a letter or digit first and last`}, nil},
		{"an empty file", map[string]string{"a.yaml": yaml("a"), "b.yaml": ""}, []string{"default/a"},
			[]string{"/b.yaml: holds no document; remove the file to have its modules unloaded"}, nil},
		{"only comments", map[string]string{"b.yaml": "# nothing\n---\n"}, []string{},
			[]string{"/b.yaml: holds no document; remove the file to have its modules unloaded"}, nil},
		{"a broken file does not hide the others", map[string]string{"a.yaml": "kind: [", "b.yaml": yaml("b")}, []string{"default/b"},
			[]string{"/a.yaml:1: did not find expected node content"}, nil},
		{"one bad document spoils its file only", map[string]string{"a.yaml": yaml("a") + "---\n" + yaml("UPPER"), "b.yaml": yaml("b")},
			[]string{"default/b"}, []string{`/a.yaml:12: metadata.name: "UPPER": lower-case letters, digits, '-' and '.' only, a letter or digit first and last`}, nil},
		{"the same Module twice: the first counts", map[string]string{"a.yaml": yaml("x"), "b.yaml": yaml("x") + "---\n" + yaml("y")},
			[]string{"default/x", "default/y"}, []string{"/b.yaml: metadata.name: the Module default/x stands in DIR/a.yaml too: that one counts"}, nil},
		{"the same Module twice in one file", map[string]string{"a.yaml": yaml("x") + "---\n" + yaml("x")},
			[]string{"default/x"}, []string{"/a.yaml: metadata.name: the Module default/x stands in DIR/a.yaml too: that one counts"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for path, content := range tt.files {
				write(t, filepath.Join(dir, path), content)
			}
			node, notes, err := (&file.Source{Path: dir}).Read()
			require.NoError(t, err)
			assert.Equal(t, tt.modules, keys(node))
			assert.Equal(t, in(dir, tt.notes), notes)
			var invalid []string
			for _, err := range node.Invalid {
				require.ErrorIs(t, err, spec.ErrInvalid)
				invalid = append(invalid, err.Error())
			}
			assert.Equal(t, in(dir, tt.invalid), invalid)
		})
	}
}

// in puts the directory into messages.
func in(dir string, messages []string) []string {
	var out []string
	for _, m := range messages {
		out = append(out, dir+strings.ReplaceAll(m, "DIR", dir))
	}
	return out
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "anything.conf")
	write(t, path, yaml("a"))
	write(t, filepath.Join(dir, "other.yaml"), yaml("b"))
	node, _, err := (&file.Source{Path: path}).Read()
	require.NoError(t, err)
	assert.Equal(t, []string{"default/a"}, keys(node), "a file that is named is read, whatever its name")
	assert.Equal(t, path, node.Modules[0].File)

	t.Run("through a symlink", func(t *testing.T) {
		require.NoError(t, os.Symlink("anything.conf", filepath.Join(dir, "link.yaml")))
		node, _, err := (&file.Source{Path: dir}).Read()
		require.NoError(t, err)
		assert.Equal(t, []string{"default/a", "default/b"}, keys(node))
	})
	t.Run("a symlink to nothing is invalid: it may have wanted something", func(t *testing.T) {
		require.NoError(t, os.Symlink("gone", filepath.Join(dir, "dangling.yaml")))
		node, _, err := (&file.Source{Path: dir}).Read()
		require.NoError(t, err)
		require.Len(t, node.Invalid, 1)
		assert.ErrorContains(t, node.Invalid[0], "dangling.yaml")
	})
	t.Run("missing", func(t *testing.T) {
		for _, path := range []string{filepath.Join(dir, "none.yaml"), filepath.Join(dir, "none")} {
			_, _, err := (&file.Source{Path: path}).Read()
			assert.ErrorIs(t, err, fs.ErrNotExist)
		}
	})
}

func TestReport(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status.json")
	_, err := file.ReadStatus(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &file.Source{Status: path}
	for _, release := range []string{"6.1", "6.12"} { // the second replaces the first
		status := spec.Status{KernelRelease: release, Time: at, Modules: []spec.ModuleStatus{{
			Namespace: "default", Name: "nic", State: spec.StateFailed, Reason: spec.ReasonInUse, Since: at, RetryAt: &at,
			Kernel: []spec.LoadedModule{{Name: "dummy", BuildID: "ab", Parameters: []string{"a=1"}, Refs: 2}},
		}}, Invalid: []string{"x.yaml:1: bad"}}
		require.NoError(t, s.Report(t.Context(), status))
		got, err := file.ReadStatus(path)
		require.NoError(t, err)
		assert.Equal(t, status, got)
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o644), info.Mode().Perm())
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	assert.Len(t, left, 1, "no temporary file stays")

	t.Run("nowhere", func(t *testing.T) {
		require.NoError(t, (&file.Source{}).Report(t.Context(), spec.Status{}))
	})
	t.Run("where nothing can be written", func(t *testing.T) {
		s := &file.Source{Status: filepath.Join(t.TempDir(), "none", "status.json")}
		require.ErrorIs(t, s.Report(t.Context(), spec.Status{}), fs.ErrNotExist)
	})
	t.Run("damaged", func(t *testing.T) {
		write(t, path, "{")
		_, err := file.ReadStatus(path)
		require.ErrorContains(t, err, path)
		require.NotErrorIs(t, err, fs.ErrNotExist)
	})
}

// TestReadAgain: a file that has not changed is not parsed again; one that has is, also
// when its size and its time are the same.
func TestReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.yaml")
	text := "apiVersion: kmm.sigs.x-k8s.io/v1beta1\nkind: Module\nmetadata: {name: m}\nspec:\n  moduleLoader:\n    container:\n" +
		"      modprobe: {moduleName: a}\n      kernelMappings: [{regexp: ., containerImage: 'x.example/x:1'}]\n"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	info, err := os.Stat(path)
	require.NoError(t, err)
	s := file.Source{Path: path}
	read := func() *spec.ModuleLoader {
		node, _, err := s.Read()
		require.NoError(t, err)
		require.Empty(t, node.Invalid)
		require.Len(t, node.Modules, 1)
		return node.Modules[0].Spec.ModuleLoader
	}
	first := read()
	require.Same(t, first, read())
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(text, "moduleName: a", "moduleName: b", 1)), 0o600))
	require.NoError(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
	require.Equal(t, "b", read().Container.Modprobe.ModuleName)
}
