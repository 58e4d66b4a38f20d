// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/test/debian"
)

const madeRelease = "1.2.3-made"

// madeTree writes modules and has the real depmod index them. builtin is the
// content of modules.builtin.modinfo.
func madeTree(t *testing.T, modules map[string]kmodtest.Spec, builtin string) (root, dir string) {
	t.Helper()
	root = t.TempDir()
	dir = filepath.Join(root, "lib/modules", madeRelease)
	kmodtest.WriteTree(t, dir, modules)
	var names, order strings.Builder
	for entry := range strings.SplitSeq(builtin, "\x00") {
		if name, _, ok := strings.Cut(entry, "."); ok && !strings.Contains(names.String(), "/"+name+".ko") {
			fmt.Fprintf(&names, "kernel/%s.ko\n", name)
		}
	}
	writeFiles(t, dir, map[string]string{"modules.builtin": names.String(), "modules.builtin.modinfo": builtin, "modules.order": order.String()})
	out, err := exec.CommandContext(t.Context(), "/sbin/depmod", "-b", root, madeRelease).CombinedOutput()
	require.NoError(t, err, string(out))
	return root, dir
}

func writeFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
}

// compareConfig compares over all names with one process each, as modprobe
// keeps what it learned about a module from name to name.
func compareConfig(t *testing.T, root, configRoot string, names []string) {
	t.Helper()
	x, err := kmod.OpenIndex(filepath.Join(root, "lib/modules", madeRelease))
	require.NoError(t, err)
	cfg, err := kmod.ReadConfig(configRoot, hostCmdline(t))
	require.NoError(t, err)
	var dirs []string
	for _, d := range []string{"etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "lib/modprobe.d"} {
		dirs = append(dirs, filepath.Join(configRoot, d))
	}
	m := findModprobe(t, root, madeRelease, dirs...)
	for _, name := range names {
		wantLines, wantMissing := m.showDepends(t, name)
		gotLines, gotMissing := ours(t, x, cfg, name)
		require.Equal(t, wantLines, gotLines, name)
		require.Equal(t, wantMissing, gotMissing, name)
	}
}

func TestLabParityOfConfig(t *testing.T) {
	debian.Kernels(t)
	root, dir := madeTree(t, map[string]kmodtest.Spec{
		"kernel/base.ko":       {Exports: []string{"base_sym"}, Aliases: []string{"of:base-*"}},
		"kernel/mid-one.ko":    {Imports: []string{"base_sym"}, Exports: []string{"mid_sym"}, Depends: []string{"base"}},
		"kernel/top.ko":        {Imports: []string{"mid_sym"}, Depends: []string{"mid-one"}, Aliases: []string{"of:top*", "same"}},
		"kernel/soft.ko":       {Softdeps: []string{"pre: base nosuch post: late", "pre: other"}},
		"kernel/odd.ko":        {Softdeps: []string{"gcm", "pre: base"}},
		"kernel/late.ko":       {Softdeps: []string{"pre: soft"}},
		"kernel/other.ko":      {Aliases: []string{"same"}},
		"kernel/uses-soft.ko":  {Imports: []string{"base_sym"}, Softdeps: []string{"post: same"}},
		"kernel/wants-blt.ko":  {Softdeps: []string{"pre: blt crypto-blt"}},
		"kernel/updates/up.ko": {},
	}, "blt.alias=crypto-blt\x00blt.license=GPL\x00")
	require.Contains(t, readLines(t, dir, "modules.dep"), "kernel/top.ko: kernel/mid-one.ko kernel/base.ko")
	names := []string{"base", "mid-one", "mid_one", "top", "soft", "odd", "late", "other", "uses-soft", "wants-blt", "blt", "crypto-blt", "crypto_blt", "same", "of:top1", "of:base_x",
		"of:base-x", "symbol:base_sym", "my-alias", "my_alias", "x/y", "two", "xray", "nosuch", "up", "only-install", "only_remove", "-weird", "[a-b]", "range-q", "q.r"}
	for name, content := range configCases {
		t.Run(name, func(t *testing.T) {
			configRoot := t.TempDir()
			writeFiles(t, filepath.Join(configRoot, "etc/modprobe.d"), map[string]string{"local.conf": content})
			compareConfig(t, root, configRoot, names)
		})
	}
}

// configCases are modprobe.d files, tried one at a time.
var configCases = map[string]string{
	"nothing":                     "",
	"comments and junk":           "# options base a=1\n\n  # options base a=2\nfoo bar\noptions\noptions base\noptions base \nalias\nalias x\nblacklist\nsoftdep top\ninclude x\n",
	"options":                     "options base a=1\noptions mid-one b=2   c=3\noptions\tmid_one\td=4\te=5  \noptions  top   f=6\noptions same g=7\noptions of:top* h=8\noptions blt x=1\n",
	"option on a line of its own": "options base a=1 \\\n  b=2\\\nc=3\noptions top label=\\\"a b\\\" d=\\x\\\\y\n",
	"no newline at the end":       "options base a=1",
	"backslash at the end":        "options base a=1\\",
	"carriage return":             "options base a=1\r\nblacklist top\r\n",
	"nul":                         "options base a=1\x00b=2\noptions base c=3\n",
	"alias":                       "alias my-alias top\nalias my-* base\nalias x/* mid-one\nalias two base\nalias two top\nalias x? nosuch\nalias xray top.ko\n",
	"alias hides a module":        "alias base top\nalias soft off\n",
	"alias of an alias":           "alias my-alias of:top1\nalias same same\n",
	"alias with brackets":         "alias range-[a-z] base\nalias [ top\nalias ] top\nalias q[.]r top\nalias x[ray top\nalias my_alias a[b\n",
	"alias to a builtin":          "alias my-alias blt\nalias two crypto-blt\n",
	"options by alias":            "alias my-alias top\noptions my-alias a=1\noptions my_alias b=1\noptions top c=1\noptions same d=1\noptions of:top1 e=1\n",
	"blacklist":                   "blacklist top\nblacklist other\nblacklist mid-one\nblacklist same\nalias my-alias top\nalias two base\nblacklist base\nblacklist blt\n",
	"install":                     "install base /bin/false\ninstall t* echo $CMDLINE_OPTS  x \noptions top a=1\ninstall top second\ninstall blt /bin/true\n",
	"install of a soft dependent": "install soft /bin/false\ninstall odd /bin/false\ninstall late /bin/false\ninstall uses-soft /bin/false\n",
	"install of nothing":          "install only-install echo only\nremove only_remove echo gone\noptions only_install a=1\ninstall q.r echo dots\ninstall my-* pattern\n",
	"install without command":     "install base\ninstall base \n",
	"softdep":                     "softdep base pre: other post: top\nsoftdep top pre: soft\n",
	"softdep first line only":     "softdep base pre: other\nsoftdep base pre: up\nsoftdep soft pre: up\n",
	"softdep by pattern":          "softdep * pre: up\n",
	"softdep to aliases":          "softdep base pre: same crypto-blt of:top1 post: symbol:mid_sym nosuch a[\n",
	"softdep two blanks":          "softdep base  pre: up\nsoftdep top \t pre: up\nsoftdep other   pre: up\n",
	"softdep without markers":     "softdep base up\nsoftdep top pre: post: pre: up post:  other\t\nsoftdep soft pre:up\n",
	"held off":                    "install soft /bin/false\nsoftdep soft pre: post:\nblacklist soft\n",
	"softdep circle":              "softdep base pre: top\nsoftdep top pre: base post: mid-one\n",
	"names with dash":             "options mid-one a=-1-b\nblacklist -weird\nalias -weird mid-one\ninstall up /bin/a-b\n",
}

// TestLabParityOfConfigDirs has several directories and file names around
// modules.softdep, which is read in its turn among them.
func TestLabParityOfConfigDirs(t *testing.T) {
	debian.Kernels(t)
	root, _ := madeTree(t, map[string]kmodtest.Spec{
		"kernel/a.ko": {Softdeps: []string{"pre: b"}}, "kernel/b.ko": {}, "kernel/c.ko": {}, "kernel/d.ko": {Softdeps: []string{"pre: b"}},
	}, "")
	configRoot := t.TempDir()
	writeFiles(t, configRoot, map[string]string{
		"etc/modprobe.d/z.conf":             "softdep a pre: c\noptions a z=etc\n",
		"etc/modprobe.d/b.conf":             "softdep d pre: c\noptions a b=etc\n",
		"etc/modprobe.d/m.alias":            "options a m=alias\nalias q a\n",
		"etc/modprobe.d/.hidden.conf":       "options a hidden=1\n",
		"etc/modprobe.d/plain":              "options a plain=1\n",
		"etc/modprobe.d/dir.conf/x.conf":    "options a dir=1\n",
		"etc/modprobe.d/Z.conf":             "options a upper=1\n",
		"run/modprobe.d/b.conf":             "options a b=run\n",
		"run/modprobe.d/a.conf":             "options a a=run\n",
		"run/modprobe.d/dir.conf":           "options a dir=run\n",
		"usr/local/lib/modprobe.d/a.conf":   "options a a=local\n",
		"usr/local/lib/modprobe.d/lib.conf": "options a lib=local\n",
		"lib/modprobe.d/lib.conf":           "options a lib=lib\n",
		"lib/modprobe.d/y.conf":             "options a y=lib\n",
	})
	require.NoError(t, os.Symlink("nowhere", filepath.Join(configRoot, "etc/modprobe.d/y.conf")))
	compareConfig(t, root, configRoot, []string{"a", "b", "c", "d", "q"})
}

// TestLabParityOfPatterns compares the order in which several matches come, and the
// matching itself, over random patterns of few characters. Lines with more
// brackets than fnmatch has to understand are in it too.
func TestLabParityOfPatterns(t *testing.T) {
	debian.Kernels(t)
	rng := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"a", "b", "a", "b", "*", "*", "?", "[ab]", "[!a]", "[a-c]", ":", "-", `\a`, "[]a]", "[^b", "[[:alpha:]]", "[a\\-z]"}
	pattern := func() string {
		var b strings.Builder
		for range 1 + rng.IntN(5) {
			b.WriteString(pieces[rng.IntN(len(pieces))])
		}
		return b.String()
	}
	modules := make(map[string]kmodtest.Spec)
	var builtin strings.Builder
	for i := range 40 {
		spec := kmodtest.Spec{}
		for range 4 {
			spec.Aliases = append(spec.Aliases, "q"+pattern())
			fmt.Fprintf(&builtin, "blt%d.alias=r%s\x00", i%7, pattern())
		}
		modules[fmt.Sprintf("kernel/m%d.ko", i)] = spec
	}
	root, _ := madeTree(t, modules, builtin.String())
	var config strings.Builder
	for i := range 40 {
		fmt.Fprintf(&config, "alias s%s m%d\nsoftdep s%s pre: m%d\n", pattern(), i, pattern(), i)
	}
	configRoot := t.TempDir()
	writeFiles(t, configRoot, map[string]string{"etc/modprobe.d/a.conf": config.String()})
	x, err := kmod.OpenIndex(filepath.Join(root, "lib/modules", madeRelease))
	require.NoError(t, err)
	cfg, err := kmod.ReadConfig(configRoot, hostCmdline(t))
	require.NoError(t, err)
	names := make([]string, 0, 3000)
	for i := range cap(names) {
		name := "qrs"[i%3 : i%3+1]
		for range rng.IntN(6) {
			name += string("aabbc:_-.]"[rng.IntN(10)])
		}
		names = append(names, name)
	}
	compare(t, findModprobe(t, root, madeRelease, filepath.Join(configRoot, "etc/modprobe.d")), x, cfg, names)
}

// TestLabScanLikeDepmod has random dependencies and no index: the same files have to
// be loaded as with the real depmod's.
func TestLabScanLikeDepmod(t *testing.T) {
	debian.Kernels(t)
	rng := rand.New(rand.NewPCG(3, 4))
	modules := make(map[string]kmodtest.Spec)
	var names []string
	for i := range 60 {
		spec := kmodtest.Spec{Exports: []string{fmt.Sprintf("sym%d", i)}}
		for k := range i {
			if rng.IntN(12) == 0 {
				spec.Imports = append(spec.Imports, fmt.Sprintf("sym%d", k))
				spec.Depends = append(spec.Depends, fmt.Sprintf("m-%d", k))
			}
		}
		if rng.IntN(4) == 0 {
			spec.Softdeps = []string{fmt.Sprintf("pre: m_%d", rng.IntN(60)), "post: m_1"}
		}
		names = append(names, fmt.Sprintf("m-%d", i))
		modules[fmt.Sprintf("kernel/m-%d.ko", i)] = spec
	}
	_, dir := madeTree(t, modules, "")
	require.Contains(t, strings.Join(readLines(t, dir, "modules.dep"), "\n"), ".ko: kernel/m-")
	bare := t.TempDir()
	kmodtest.WriteTree(t, bare, modules)
	indexed, err := kmod.OpenIndex(dir)
	require.NoError(t, err)
	scanned, err := kmod.OpenIndex(bare)
	require.NoError(t, err)
	for _, name := range names {
		want, missing := ours(t, indexed, nil, name)
		require.Empty(t, missing)
		got, missing := ours(t, scanned, nil, name)
		require.Empty(t, missing)
		for i := range want {
			want[i] = strings.Replace(want[i], dir, bare, 1)
		}
		require.ElementsMatch(t, want, got, name)
	}
}
