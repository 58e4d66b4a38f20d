// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// indexFiles are as depmod of kmod 30 writes them.
var indexFiles = map[string]string{
	"modules.dep":             "kernel/fs/nfsd/nfsd.ko: kernel/fs/lockd/lockd.ko kernel/net/sunrpc/sunrpc.ko\nkernel/fs/lockd/lockd.ko: kernel/net/sunrpc/sunrpc.ko\nkernel/net/sunrpc/sunrpc.ko:\nkernel/drivers/vfio/vfio.ko.xz:\nkernel/drivers/vfio/vfio_iommu_type1.ko.xz: kernel/drivers/vfio/vfio.ko.xz\n",
	"modules.softdep":         "# Soft dependencies extracted from modules themselves.\nsoftdep nfsd pre: crypto-md5\nsoftdep nfsd pre: lockd\nsoftdep vfio post: vfio_iommu_type1 vfio_iommu_spapr_tce\n",
	"modules.alias":           "# Aliases\nalias fs-nfsd nfsd\nalias net-pf-[0-9] lockd\nalias pci:v*d1 vfio\nalias pci:v1d* sunrpc\n",
	"modules.symbols":         "alias symbol:rpc_call sunrpc\n",
	"modules.builtin":         "kernel/crypto/md5.ko\n",
	"modules.builtin.modinfo": "md5.license=GPL\x00md5.alias=crypto-md5\x00md5.alias=md*\x00",
}

func TestShowDepends(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, indexFiles)
	x, err := kmod.OpenIndex(dir)
	require.NoError(t, err)
	sunrpc, lockd := "insmod "+dir+"/kernel/net/sunrpc/sunrpc.ko ", "insmod "+dir+"/kernel/fs/lockd/lockd.ko "
	nfsd, vfio, type1 := "insmod "+dir+"/kernel/fs/nfsd/nfsd.ko ", "insmod "+dir+"/kernel/drivers/vfio/vfio.ko.xz ", "insmod "+dir+"/kernel/drivers/vfio/vfio_iommu_type1.ko.xz "
	tests := []struct {
		request, config string
		want            []string
	}{
		{request: "sunrpc", want: []string{sunrpc}},
		{request: "nfsd", want: []string{sunrpc, lockd, "builtin md5", nfsd}},
		{request: "fs-nfsd", want: []string{sunrpc, lockd, "builtin md5", nfsd}},
		{request: "vfio", want: []string{vfio, vfio, type1}},
		{request: "vfio-iommu-type1", want: []string{vfio, type1}},
		{request: "net-pf-3", want: []string{sunrpc, lockd}},
		{request: "pci:v1d1", want: []string{vfio, vfio, type1, sunrpc}},
		{request: "symbol:rpc_call", want: []string{sunrpc}},
		{request: "md5", want: []string{"builtin md5"}},
		{request: "crypto_md5", want: []string{"builtin md5"}},
		{request: "lockd", config: "options lockd a=1\noptions sunrpc b=\"x y\"\n", want: []string{sunrpc + "b=\"x y\" ", lockd + "a=1 "}},
		{request: "lockd", config: "install sunrpc /bin/false\noptions sunrpc x\n", want: []string{"install /bin/false x ", lockd}},
		{request: "vfio", config: "install vfio /bin/false\n", want: []string{vfio, vfio, type1}}, // has soft dependencies: not used
		{request: "lockd", config: "softdep lockd   pre: md5\n", want: []string{sunrpc, "builtin md5", lockd}},
		{request: "lockd", config: "softdep lockd  pre: md5\n", want: []string{sunrpc, lockd}},
		{request: "mine", config: "alias mine lockd\noptions mine c=3\n", want: []string{sunrpc, lockd + "c=3 "}},
		{request: "fs-nfsd", config: "blacklist nfsd\n"},
		{request: "lockd", config: "alias lockd deaddood\n"}, // stands for nothing there is
		{request: "sunrpc", config: "install sunrpc $MODPROBE --ignore-install sunrpc && $MODPROBE --quiet lockd\n",
			want: []string{"install $MODPROBE --ignore-install sunrpc && $MODPROBE --quiet lockd "}}, // goes round in a circle, when run
		{request: "sunrpc", config: "weakdep sunrpc lockd\n", want: []string{sunrpc}},
		{request: "nfsd", config: "blacklist nfsd\nsoftdep n* pre: sunrpc\n", want: []string{sunrpc, lockd, sunrpc, nfsd}},
	}
	for _, tt := range tests {
		t.Run(tt.request+" "+tt.config, func(t *testing.T) {
			lines, err := x.ShowDepends(kmod.ParseConfig(tt.config, ""), tt.request)
			require.NoError(t, err)
			var got []string
			for _, l := range lines {
				got = append(got, l.String())
			}
			assert.Equal(t, tt.want, got)
		})
	}
	for _, name := range []string{"nosuch", "nfsd.ko", "", "a[b", "symbol:x", "net-pf-a"} {
		_, err := x.ShowDepends(nil, name)
		require.ErrorIs(t, err, kmod.ErrNotFound, name)
	}
}

// TestIndexWithoutDepmod has only module files.
func TestIndexWithoutDepmod(t *testing.T) {
	dir := t.TempDir()
	kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{
		"a.ko.xz": {Depends: []string{"b-1", "ext4"}, Softdeps: []string{"pre: d"}}, "sub/b-1.ko": {Depends: []string{"c"}}, "c.ko.gz": {}, "d.ko": {Aliases: []string{"al-*"}},
	})
	writeFiles(t, dir, map[string]string{"junk.ko": "junk", "modules.builtin": "kernel/ext4.ko\n"})
	x, err := kmod.OpenIndex(dir)
	require.NoError(t, err)
	lines, err := x.ShowDepends(nil, "a")
	require.NoError(t, err)
	var got []string
	for _, l := range lines {
		rel, err := filepath.Rel(dir, l.Target)
		require.NoError(t, err)
		got = append(got, rel)
	}
	assert.Equal(t, []string{"c.ko.gz", "sub/b-1.ko", "d.ko", "a.ko.xz"}, got)
	lines, err = x.ShowDepends(nil, "al-x")
	require.NoError(t, err)
	assert.Equal(t, []kmod.Line{{Action: "insmod", Module: "d", Target: filepath.Join(dir, "d.ko")}}, lines)
	_, err = x.ShowDepends(nil, "junk")
	require.ErrorIs(t, err, kmod.ErrNotFound)
}

func TestCmdline(t *testing.T) {
	tests := []struct {
		name, line string
		options    []string
		blacklists []string
	}{
		{name: "plain", line: "BOOT_IMAGE=/vmlinuz quiet dummy.numdummies=2 snd-hda.x=1\n", options: []string{"dummy numdummies=2", "snd_hda x=1"}},
		{name: "no value", line: "kmm.debug", options: []string{"kmm debug"}},
		{name: "dots in the value", line: "a.b=1.2.3 a.b.c=1 x=a.b", options: []string{"a b=1.2.3"}},
		{name: "quoted value", line: `a.b="x y" c.d=1`, options: []string{`a b="x y"`, "c d=1"}},
		{name: "quoted option", line: `"a.b=x y" c.d=1`, options: []string{`a b="x y"`, "c d=1"}},
		{name: "quotes elsewhere", line: `a".b=1 a.b"=1 "a.b" "a b.c=1" c.d=1`, options: []string{"c d=1"}},
		{name: "open quote", line: `c.d=1 a.b="x y`, options: []string{"c d=1"}},
		{name: "blacklist", line: "modprobe.blacklist=a,b-c modprobe.blacklist=,d modprobe.other=1", options: []string{"modprobe other=1"}, blacklists: []string{"a", "b-c", "", "d"}},
		{name: "bad name", line: "a[.b=1 c.d=1", options: []string{"c d=1"}},
		{name: "empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := kmod.ParseConfig("", tt.line)
			assert.Equal(t, tt.options, cfg.Options())
			assert.Equal(t, tt.blacklists, cfg.Blacklists())
		})
	}
}

func TestFnmatch(t *testing.T) {
	tests := []struct {
		pattern, match, differ string
	}{
		{"a*c", "a/b.c", "ab"}, {"a?c", "a/c", "ac"}, {"[a-c]x", "bx", "dx"}, {"[!a-c]", "d", "a"}, {"[^a]", "b", "a"}, {"[]x]", "]", "["}, {"[a-]", "-", "b"},
		{"[[:digit:][:upper:]]", "7", "a"}, {"[a", "[a", "a"}, {`\*`, "*", "x"}, {`[\]]`, "]", `\`}, {"**", "", ""}, {"*a*b*c", "xaxbxc", "xaxbx"}, {`a\`, "", `a\`}, {"[z-a]", "", "m"},
	}
	for _, tt := range tests {
		if tt.match != "" || tt.pattern == "**" {
			assert.True(t, kmod.Fnmatch(tt.pattern, tt.match), "%s %s", tt.pattern, tt.match)
		}
		if tt.differ != "" {
			assert.False(t, kmod.Fnmatch(tt.pattern, tt.differ), "%s %s", tt.pattern, tt.differ)
		}
	}
	assert.True(t, kmod.Match("pci:v*d-[0-9]*", "pci:v1d_5x"))
	assert.False(t, kmod.Match("a[b", "a[b"), "brackets that are not balanced")
}

// TestIndexOfACircle: modules that need each other, without an index, give an answer;
// to load them is another matter.
func TestIndexOfACircle(t *testing.T) {
	dir := t.TempDir()
	kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{"a.ko": {Depends: []string{"b"}}, "b.ko": {Depends: []string{"c"}}, "c.ko": {Depends: []string{"a", "c"}}})
	x, err := kmod.OpenIndex(dir)
	require.NoError(t, err)
	lines, err := x.ShowDepends(nil, "a")
	require.NoError(t, err)
	var got []string
	for _, l := range lines {
		got = append(got, l.Module)
	}
	assert.Equal(t, []string{"c", "b", "a"}, got)
}

func TestLineParameters(t *testing.T) {
	for options, want := range map[string][]string{
		"":                  nil,
		"a=1":               {"a=1"},
		" a=1  b  ":         {"a=1", "b"},
		`a="x y" "b=x y" c`: {`a="x y"`, `"b=x y"`, "c"},
		`dyndbg="file x +p; line 1" numdummies=2`: {`dyndbg="file x +p; line 1"`, "numdummies=2"},
		`a="x b`: {`a="x b`},
	} {
		assert.Equal(t, want, kmod.Line{Options: options}.Parameters(), options)
	}
}
