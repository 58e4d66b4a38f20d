// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// depmodFiles is what depmod writes, with these lines.
func depmodFiles(dep, softdep, alias string) texts {
	return texts{"modules.dep": dep, "modules.softdep": softdep, "modules.alias": alias}
}

func TestClosure(t *testing.T) {
	const index = " modules.alias modules.dep modules.softdep"
	chain := specs{"extra/a.ko": {}, "kernel/b-b.ko": {}, "kernel/c.ko.xz": {}, "d.ko": {}}
	chainDep := "extra/a.ko: kernel/b-b.ko kernel/c.ko.xz\nkernel/b-b.ko: kernel/c.ko.xz\nkernel/c.ko.xz:\nd.ko:\n"
	tests := []struct {
		name     string
		modules  specs
		files    texts
		links    texts
		wanted   string
		want     string
		complete bool
	}{
		{name: "dependencies", modules: chain, files: depmodFiles(chainDep, "", ""), wanted: "a",
			want: "extra/a.ko kernel/b-b.ko kernel/c.ko.xz" + index, complete: true},
		{name: "either spelling", modules: chain, files: depmodFiles(chainDep, "", ""), wanted: "b-b",
			want: "kernel/b-b.ko kernel/c.ko.xz" + index, complete: true},
		{name: "two of them", modules: chain, files: depmodFiles(chainDep, "", ""), wanted: "b_b d",
			want: "d.ko kernel/b-b.ko kernel/c.ko.xz" + index, complete: true},
		{name: "all", modules: chain, files: depmodFiles(chainDep, "", ""),
			want: "d.ko extra/a.ko kernel/b-b.ko kernel/c.ko.xz" + index, complete: true},
		{name: "all that depmod knows", modules: specs{"d.ko": {}, "extra/x.ko": {}}, files: depmodFiles("d.ko:\n", "", ""), want: "d.ko" + index, complete: true},
		{name: "all, one is missing", modules: specs{"d.ko": {}}, files: depmodFiles("d.ko:\ne.ko:\n", "", ""), want: "d.ko" + index},
		{name: "a dependency is missing", modules: specs{"a.ko": {}}, files: depmodFiles("a.ko: b.ko\nb.ko:\n", "", ""), wanted: "a", want: "a.ko" + index},
		{name: "it is missing itself", modules: specs{"b.ko": {}}, files: depmodFiles("a.ko:\nb.ko:\n", "", ""), wanted: "a", want: strings.TrimSpace(index)},
		{name: "depmod does not know it", modules: specs{"a.ko": {}, "b.ko": {}}, files: depmodFiles("b.ko:\n", "", ""), wanted: "a", want: "a.ko" + index},
		{name: "another one is missing", modules: specs{"a.ko": {}}, files: depmodFiles("a.ko:\nb.ko:\n", "", ""), wanted: "a", want: "a.ko" + index, complete: true},
		{name: "no aliases yet", modules: specs{"a.ko": {}}, files: texts{"modules.dep": "a.ko:\n", "modules.softdep": ""}, wanted: "a",
			want: "a.ko modules.dep modules.softdep"},
		{name: "other files of the directory", modules: specs{"a.ko": {}}, files: texts{"modules.order": "x", "modules.dep": "a.ko:\n", "build/Makefile": "x"},
			wanted: "a", want: "a.ko modules.dep modules.order"},
		{name: "of the host", modules: specs{"a.ko": needs("mdio")}, files: depmodFiles("a.ko:\n", "", ""), wanted: "a", want: "a.ko" + index, complete: true},
		{name: "behind a link", modules: specs{"a.ko": {}}, files: depmodFiles("a.ko: host/kernel/mdio.ko\nhost/kernel/mdio.ko:\n", "", ""),
			links: texts{"host": "/lib/modules/x"}, wanted: "a", want: "a.ko" + index, complete: true},
		{name: "a link itself", modules: specs{"a.ko": {}}, files: depmodFiles("a.ko: b.ko\nb.ko:\n", "", ""),
			links: texts{"b.ko": ".nowhere"}, wanted: "a", want: "a.ko" + index},
		{name: "outside", modules: specs{"a.ko": {}}, files: depmodFiles("a.ko: /etc/b.ko ../../c.ko\n", "", ""), wanted: "a", want: "a.ko" + index, complete: true},
		{name: "soft dependencies", modules: specs{"a.ko": softly("pre: p"), "b.ko": {}, "c.ko": {}, "p.ko": {}, "x.ko": {}},
			files:  depmodFiles("a.ko:\nb.ko: x.ko\nc.ko:\np.ko:\nx.ko:\n", "softdep a pre: b post: to-c\n", "alias to_c c\n"),
			wanted: "a", want: "a.ko b.ko c.ko" + index + " p.ko x.ko", complete: true},
		{name: "a soft dependency is missing", modules: specs{"a.ko": {}}, files: depmodFiles("a.ko:\nb.ko:\n", "softdep a pre: b\n", ""),
			wanted: "a", want: "a.ko" + index},
		{name: "a soft dependency of the host", modules: specs{"a.ko": softly("pre: zlib")}, files: depmodFiles("a.ko:\n", "softdep a pre: zlib\n", ""),
			wanted: "a", want: "a.ko" + index, complete: true},
		{name: "no depmod", modules: specs{"a.ko": needs("b"), "x/b.ko": needs("c"), "c.ko": softly("post: d"), "d.ko": {}, "e.ko": {}},
			wanted: "a", want: "a.ko c.ko d.ko x/b.ko"},
		{name: "no depmod, in a circle", modules: specs{"a.ko": needs("b"), "b.ko": needs("a")}, wanted: "a", want: "a.ko b.ko"},
		{name: "nothing of the kind", modules: specs{"a.ko": {}}, wanted: "b"},
		{name: "no module", files: depmodFiles("a.ko:\n", "", ""), modules: specs{}, links: nil, wanted: "a", want: strings.TrimSpace(index)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			kmodtest.WriteTree(t, dir, tt.modules)
			writeFiles(t, dir, tt.files)
			for name, target := range tt.links {
				require.NoError(t, os.Symlink(target, filepath.Join(dir, name)))
			}
			files, complete, err := kmod.Closure(dir, strings.Fields(tt.wanted))
			require.NoError(t, err)
			assert.ElementsMatch(t, strings.Fields(tt.want), files)
			assert.IsIncreasing(t, append(files, "~"))
			assert.Equal(t, tt.complete, complete)
		})
	}
	_, _, err := kmod.Closure(filepath.Join(t.TempDir(), "none"), nil)
	assert.ErrorIs(t, err, kmod.ErrNotFound)
}

// TestManyAliases has soft dependencies that are compared with aliases, of the image and of the host: too many of both are an error.
func TestManyAliases(t *testing.T) {
	var words, aliases strings.Builder
	for i := range 100 {
		fmt.Fprintf(&words, " s%d", i%50)
		fmt.Fprintf(&aliases, "alias a%d* nic\n", i)
	}
	files := depmodFiles("nic.ko:\n", "softdep nic pre:"+words.String()+"\n", aliases.String())
	tree := openTree(t, specs{"nic.ko": {}}, files)
	own, host := openTree(t, specs{"nic.ko": softly("pre:" + words.String())}, nil), openTree(t, nil, texts{"modules.alias": aliases.String()})
	for limit, want := range map[int]error{5000: nil, 4999: kmod.ErrTooLarge} {
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			defer kmod.LimitCompared(limit)()
			_, _, err := kmod.Closure(tree.Dir(), []string{"nic"})
			require.ErrorIs(t, err, want)
			_, err = kmod.LoadOrder("nic", tree)
			require.ErrorIs(t, err, want)
			_, err = kmod.LoadOrder("nic", own, host)
			require.ErrorIs(t, err, want)
			_, _, err = kmod.OrderWithin("nic", tree)
			require.ErrorIs(t, err, want)
		})
	}
}

func TestDeclaredFirmware(t *testing.T) {
	dir := t.TempDir()
	kmodtest.WriteTree(t, dir, specs{"a.ko.zst": {Firmware: []string{"x/b.bin", "a.bin"}}, "b.ko": {Firmware: []string{"a.bin"}}, "c.ko": {}})
	writeFiles(t, dir, texts{"modules.dep": "firmware=no", "broken.ko": "firmware=no"})
	names, err := kmod.Firmware(dir, []string{"a.ko.zst", "b.ko", "broken.ko", "c.ko", "modules.dep"})
	require.NoError(t, err)
	assert.Equal(t, []string{"a.bin", "x/b.bin"}, names)
	_, err = kmod.Firmware(dir, []string{"gone.ko"})
	assert.ErrorIs(t, err, os.ErrNotExist)
}
