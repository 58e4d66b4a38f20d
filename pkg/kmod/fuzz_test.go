// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

func FuzzReadInfoCompressed(f *testing.F) {
	dir := f.TempDir()
	kmodtest.WriteTree(f, dir, map[string]kmodtest.Spec{"a.ko.gz": {}, "a.ko.xz": {}, "a.ko.zst": {}})
	for _, name := range []string{"a.ko.gz", "a.ko.xz", "a.ko.zst"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "a.ko")
		require.NoError(t, os.WriteFile(path, data, 0o600))
		info, err := kmod.ReadInfo(path)
		var plain bytes.Buffer
		if kmod.Decompress(path, &plain) != nil {
			assert.Error(t, err)
			return
		}
		same, sameErr := kmod.ParseInfo(path, bytes.NewReader(plain.Bytes()))
		assert.Equal(t, sameErr == nil, err == nil, "%v, of the plain file: %v", err, sameErr)
		assert.Equal(t, same, info)
	})
}

func FuzzConfig(f *testing.F) {
	f.Add("options a b=1 \\\n c=2\nalias x* y\nsoftdep a pre: b post: c\ninstall q /bin/false\n", `a.b=1 "c.d=x y" modprobe.blacklist=e,f`)
	f.Fuzz(func(t *testing.T, file, cmdline string) {
		cfg := kmod.ParseConfig(file, cmdline)
		var again strings.Builder
		for _, o := range cfg.Options() {
			assert.NotContains(t, o, "\x00")
			again.WriteString("options " + strings.ReplaceAll(o, `\`, `\\`) + "\n")
		}
		same := kmod.ParseConfig(again.String(), "")
		if cmdline != "" {
			return // which may name what no line of a file can
		}
		assert.Equal(t, cfg.Options(), same.Options())
	})
}

// FuzzShowDepends has index files as an image may bring them; whatever they say,
// an answer must come.
func FuzzShowDepends(f *testing.F) {
	f.Add("a.ko: b.ko\nb.ko:\n", "softdep a pre: b c post: a\nsoftdep b pre: a", "alias c b\nalias [ x\n", "a")
	f.Fuzz(func(t *testing.T, dep, softdep, alias, name string) {
		dir := t.TempDir()
		writeFiles(t, dir, map[string]string{"modules.dep": dep, "modules.softdep": softdep, "modules.alias": alias})
		x, err := kmod.OpenIndex(dir)
		require.NoError(t, err)
		lines, err := x.ShowDepends(nil, name)
		if err != nil {
			require.ErrorIs(t, err, kmod.ErrNotFound)
		}
		for _, l := range lines {
			assert.True(t, strings.HasPrefix(l.String(), l.Action+" "))
		}
	})
}

// FuzzFnmatch compares with a plain recursive matcher for patterns without brackets.
func FuzzFnmatch(f *testing.F) {
	f.Add("a*b?c", "axxbyc")
	f.Add("**?*", "a")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got := kmod.Fnmatch(pattern, s)
		if len(pattern) < 12 && len(s) < 20 && !strings.ContainsAny(pattern, `[\`) {
			assert.Equal(t, simpleMatch(pattern, s), got)
		}
	})
}

func simpleMatch(p, s string) bool {
	switch {
	case p == "":
		return s == ""
	case p[0] == '*':
		return simpleMatch(p[1:], s) || s != "" && simpleMatch(p, s[1:])
	case s == "":
		return false
	}
	return (p[0] == '?' || p[0] == s[0]) && simpleMatch(p[1:], s[1:])
}
