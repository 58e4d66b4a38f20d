// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// TestConfigLines: how the lines of a file in modprobe.d are told apart. Options
// come out in the order in which they stand.
func TestConfigLines(t *testing.T) {
	long := strings.Repeat("word ", 51) + "w" // 256 bytes
	tests := []struct {
		name, text string
		want       []string
	}{
		{"plain", "options a x=1\noptions b y\n", []string{"a x=1", "b y"}},
		{"no newline at the end", "options a x", []string{"a x"}},
		{"joined by a backslash", "options a x \\\ny \\\nz\noptions b w\n", []string{"a x y z", "b w"}},
		{"joined in the middle of a word", "options a lo\\\nng\n", []string{"a long"}},
		{"a backslash before a backslash", "options a x\\\\\noptions b y\n", []string{"a x\\", "b y"}},
		{"a comment goes on behind a backslash", "# no \\\noptions a x\noptions b y\n", []string{"b y"}},
		{"no comment: behind a blank", " # options a x\noptions b y\n", []string{"b y"}},
		{"a line of 256 bytes", "options a " + long + "\noptions b y\n", []string{"a " + long, "b y"}},
		{"a very long line", "options a " + strings.Repeat(long, 40) + "\n", []string{"a " + strings.Repeat(long, 40)}},
		{"tabs", "options\ta\tx\ty\n", []string{"a x y"}},
		{"empty lines", "\n\n\noptions a x\n\n", []string{"a x"}},
		{"words nobody knows", "weakdep a b\nsearch updates\nnosuch a b\noptions a x\n", []string{"a x"}},
		{"nothing to say", "options a\noptions\nalias a\ninstall a\nsoftdep a\nblacklist\n", nil},
		{"dashes", "options snd-hda-intel x\n", []string{"snd_hda_intel x"}},
		{"brackets that do not close", "options a[b x\noptions c y\n", []string{"c y"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, kmod.ParseConfig(tt.text, "").Options())
		})
	}
	assert.Equal(t, []string{"floppy", "pcspkr"}, kmod.ParseConfig("blacklist floppy\nblacklist pcspkr\n", "").Blacklists())
}

// TestNormalize: a dash is an underscore, but between brackets.
func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{
		"test1234": "test1234", "a-b": "a_b", "test[abc-d]22-11": "test[abc-d]22_11", "bar[a-a][b-b]s-s": "bar[a-a][b-b]s_s", "k[p.b]l": "k[p.b]l",
		"[a-z]1-2[A-Z]": "[a-z]1_2[A-Z]", "-a-": "_a_", "": "",
	} {
		got, ok := kmod.Normalize(in)
		assert.True(t, ok, in)
		assert.Equal(t, want, got)
	}
	for _, in := range []string{"a[b", "a]b", "[", "]", "a[b]c]"} {
		_, ok := kmod.Normalize(in)
		assert.False(t, ok, in)
	}
}

// TestModuleFileNames: which files of a tree are modules, by their names.
func TestModuleFileNames(t *testing.T) {
	files := map[string]string{}
	for _, name := range []string{"a.ko", "b.ko.gz", "c.ko.xz", "d.ko.zst", "e.ko.bz2", "f.kox", "g.ko.", "h", ".ko", "i.ko.xz.sig", "j.o", "k-l.ko"} {
		files[name] = "x"
	}
	tree := openTree(t, nil, files)
	for name, want := range map[string]bool{"a": true, "b": true, "c": true, "d": true, "e": false, "f": false, "g": false, "h": false, "": false, "i": false, "j": false, "k_l": true} {
		_, found := tree.Find(name)
		assert.Equal(t, want, found, name)
	}
}

// TestWeakdepsAreLeftOut: they are for those who make an initramfs. modprobe does not
// load them, and neither do we, wherever they stand.
func TestWeakdepsAreLeftOut(t *testing.T) {
	image := map[string]kmodtest.Spec{"a.ko": {Extra: []string{"weakdep=b", "weakdep=c"}}, "b.ko": {Extra: []string{"weakdep=a"}}, "c.ko": {}}
	tree := openTree(t, image, map[string]string{"modules.weakdep": "weakdep a b\nweakdep b a\n", "modules.dep": "a.ko:\nb.ko:\nc.ko:\n"})
	items, err := kmod.LoadOrder("a", tree)
	require.NoError(t, err)
	require.Len(t, items, 1)
	assert.Equal(t, "a", items[0].Info.Name)
	files, _, err := kmod.Closure(tree.Dir(), []string{"a"})
	require.NoError(t, err)
	assert.Equal(t, []string{"a.ko", "modules.dep", "modules.weakdep"}, files)
}

// TestOptionsOfTheCommandLine: what modprobe would give a module.
func TestOptionsOfTheCommandLine(t *testing.T) {
	const line = `BOOT_IMAGE=/boot/vmlinuz initrd=\init.img mod_simple.foo mod-simple.bar=1 root=/dev/sda2 ` +
		`ivrs_acpihid[14:00.5]=AMD0020:00 other.v=1.5G mod_simple."odd one" " notamodule" parport.dyndbg="file a.c +p" quiet`
	for module, want := range map[string][]string{
		"mod_simple": {"foo", "bar=1"}, "mod-simple": {"foo", "bar=1"}, "other": {"v=1.5G"}, "parport": {`dyndbg="file a.c +p"`}, "quiet": nil, "initrd=\\init": nil,
	} {
		assert.Equal(t, want, kmod.CmdlineOptions(line, module), module)
	}
}
