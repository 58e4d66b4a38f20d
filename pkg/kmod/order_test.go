// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// specs are modules by path, files others by path.
type (
	specs map[string]kmodtest.Spec
	texts map[string]string
)

func openTree(t *testing.T, modules specs, files texts) *kmod.Tree {
	t.Helper()
	dir := t.TempDir()
	kmodtest.WriteTree(t, dir, modules)
	writeFiles(t, dir, files)
	tree, err := kmod.OpenTree(dir)
	require.NoError(t, err)
	return tree
}

// render shows an order as "0:name" with the tree's number, soft ones in brackets.
func render(items []kmod.Item) string {
	var words []string
	for _, item := range items {
		word := fmt.Sprintf("%d:%s", item.Tree, item.Info.Name)
		if item.Soft {
			word = "(" + word + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func needs(names ...string) kmodtest.Spec { return kmodtest.Spec{Depends: names} }

func softly(softdeps ...string) kmodtest.Spec { return kmodtest.Spec{Softdeps: softdeps} }

func TestLoadOrder(t *testing.T) {
	tests := []struct {
		name        string
		image, host specs
		imageFiles  texts
		hostFiles   texts
		want        string
	}{
		{name: "alone", image: specs{"a.ko": {}}, want: "0:a"},
		{name: "chain without modules.dep", image: specs{"a.ko": needs("b-1"), "b-1.ko.xz": needs("c"), "extra/c.ko.zst": {}}, want: "0:c 0:b_1 0:a"},
		{name: "from the host", image: specs{"a.ko": needs("b")}, host: specs{"kernel/b.ko": needs("c"), "kernel/c.ko.gz": {}}, want: "1:c 1:b 0:a"},
		{name: "image before host", image: specs{"a.ko": needs("b"), "b.ko": {}}, host: specs{"a.ko": {}, "b.ko": {}}, want: "0:b 0:a"},
		{name: "modules.dep knows more", image: specs{"a.ko": {}, "b.ko": {}, "c.ko": {}}, imageFiles: texts{"modules.dep": "a.ko: b.ko c.ko\nb.ko: c.ko\nc.ko:\n"}, want: "0:c 0:b 0:a"},
		{name: "stale modules.dep", image: specs{"a.ko": needs("b", "c"), "b.ko": {}, "x/c.ko": needs("d"), "d.ko": {}},
			imageFiles: texts{"modules.dep": "a.ko: b.ko\nb.ko:\nold/d.ko:\n"}, want: "0:b 0:d 0:c 0:a"},
		{name: "line of another file does not count", image: specs{"a.ko": needs("c"), "c.ko": {}},
			imageFiles: texts{"modules.dep": "host/kernel/a.ko: host/kernel/gone.ko\n"}, want: "0:c 0:a"},
		{name: "builtin on the host", image: specs{"a.ko": needs("ext4", "b"), "b.ko": {}}, hostFiles: texts{"modules.builtin": "kernel/fs/ext4/ext4.ko\n"}, want: "0:b 0:a"},
		{name: "builtin in the image", image: specs{"a.ko": needs("b")}, host: specs{"b.ko": {}}, imageFiles: texts{"modules.builtin": "kernel/b.ko\n"}, want: "0:a"},
		{name: "builtin, and a file of that name asked for", image: specs{"a.ko": {}}, hostFiles: texts{"modules.builtin": "kernel/a.ko\n"}, want: "0:a"},
		{name: "soft", image: specs{"a.ko": softly("pre: b nosuch post: c"), "b.ko": needs("d"), "c.ko": {}, "d.ko": {}}, want: "(0:d) (0:b) 0:a (0:c)"},
		{name: "all soft lines", image: specs{"a.ko": softly("pre: b", "pre: c", "junk"), "b.ko": {}, "c.ko": {}}, want: "(0:b) (0:c) 0:a"},
		{name: "soft from modules.softdep", image: specs{"a.ko": {}, "b.ko": {}}, imageFiles: texts{"modules.softdep": "softdep a pre: b\n"}, want: "(0:b) 0:a"},
		{name: "soft that is needed too", image: specs{"a.ko": {Softdeps: []string{"pre: c"}, Depends: []string{"b", "c"}}, "b.ko": softly("pre: c"), "c.ko": {}}, want: "0:c 0:b 0:a"},
		{name: "soft pulls a later one forward", image: specs{"a.ko": needs("b", "c", "d"), "b.ko": softly("pre: d"), "c.ko": softly("pre: e"), "d.ko": needs("f"), "e.ko": needs("a"), "f.ko": softly("pre: d b")},
			want: "0:f 0:d 0:b 0:c 0:a (0:e)"},
		{name: "soft of a dependency", image: specs{"a.ko": needs("b"), "b.ko": softly("pre: c"), "c.ko": {}}, want: "(0:c) 0:b 0:a"},
		{name: "soft with a missing dependency", image: specs{"a.ko": softly("pre: b c"), "b.ko": needs("nosuch"), "c.ko": {}}, want: "(0:c) 0:a"},
		{name: "soft circle", image: specs{"a.ko": softly("pre: b"), "b.ko": softly("pre: a")}, want: "(0:b) 0:a"},
		{name: "soft needs its owner", image: specs{"a.ko": softly("pre: b"), "b.ko": needs("a")}, want: "0:a (0:b)"},
		{name: "soft on itself", image: specs{"a.ko": softly("pre: a post: a")}, want: "0:a"},
		{name: "soft among themselves broken", image: specs{"a.ko": softly("pre: b"), "b.ko": needs("c"), "c.ko": needs("b")}, want: "0:a"},
		{name: "soft alias", image: specs{"a.ko": softly("pre: crypto-md5")}, host: specs{"md5.ko": {}, "md5-fast.ko": {}},
			hostFiles: texts{"modules.alias": "alias crypto-md5 md5\nalias crypto-md* md5_fast\n"}, want: "(1:md5) (1:md5_fast) 0:a"},
		{name: "soft builtin", image: specs{"a.ko": softly("pre: md5")}, hostFiles: texts{"modules.builtin": "kernel/md5.ko\n", "modules.alias": "alias md5 a\n"}, want: "0:a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			items, err := kmod.LoadOrder("a", openTree(t, tt.image, tt.imageFiles), openTree(t, tt.host, tt.hostFiles))
			require.NoError(t, err)
			assert.Equal(t, tt.want, render(items))
		})
	}
}

func TestOrderWithin(t *testing.T) {
	tests := []struct {
		name         string
		image        specs
		want, absent string
	}{
		{"all is there", specs{"a.ko": needs("b"), "b.ko": {}}, "0:b 0:a", ""},
		{"of the host", specs{"a.ko": needs("b", "h"), "b.ko": needs("h", "i")}, "0:b 0:a", "b>h b>i"},
		{"soft ones do not count", specs{"a.ko": softly("pre: b h"), "b.ko": needs("i")}, "(0:b) 0:a", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			items, absent, err := kmod.OrderWithin("a", openTree(t, tt.image, nil))
			require.NoError(t, err)
			assert.Equal(t, tt.want, render(items))
			var words []string
			for _, m := range absent {
				words = append(words, m.NeededBy+">"+m.Module)
			}
			assert.Equal(t, tt.absent, strings.Join(words, " "))
		})
	}
	_, _, err := kmod.OrderWithin("a", openTree(t, specs{"b.ko": {}}, nil))
	assert.ErrorIs(t, err, kmod.ErrNotFound)
	_, _, err = kmod.OrderWithin("a", openTree(t, specs{"a.ko": needs("b"), "b.ko": needs("a")}, nil))
	assert.ErrorIs(t, err, kmod.ErrCycle)
}

// TestLoadOrderRandom has graphs in which soft dependencies go anywhere, in
// circles too.
func TestLoadOrderRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 150 {
		modules := make(specs)
		for i := range 12 {
			var s kmodtest.Spec
			for k := range i {
				if rng.IntN(6) == 0 {
					s.Depends = append(s.Depends, fmt.Sprintf("m%d", k))
				}
			}
			if rng.IntN(3) > 0 {
				s.Softdeps = append(s.Softdeps, fmt.Sprintf("pre: m%d post: m%d", rng.IntN(13), rng.IntN(13)))
			}
			modules[fmt.Sprintf("m%d.ko", i)] = s
		}
		tree := openTree(t, modules, nil)
		for i := range 12 {
			name := fmt.Sprintf("m%d", i)
			items, err := kmod.LoadOrder(name, tree)
			require.NoError(t, err)
			checkOrder(t, name, items)
		}
	}
}

func TestLoadOrderRefuses(t *testing.T) {
	tests := []struct {
		name  string
		image specs
		files texts
		want  error
		text  string
	}{
		{name: "nothing there", want: kmod.ErrNotFound, text: "find module a in "},
		{name: "dependency not there", image: specs{"a.ko": needs("b"), "b.ko": needs("c")}, want: kmod.ErrNotFound, text: "find module c needed by b in "},
		{name: "only modules.dep needs it", image: specs{"a.ko": {}}, files: texts{"modules.dep": "a.ko: gone.ko\n"}, want: kmod.ErrNotFound, text: "gone needed by a"},
		{name: "circle", image: specs{"a.ko": needs("b"), "b.ko": needs("c"), "c.ko": needs("b")}, want: kmod.ErrCycle, text: "b -> c -> b"},
		{name: "needs itself", image: specs{"a.ko": needs("a")}, want: kmod.ErrCycle, text: "a -> a"},
		{name: "builtin", files: texts{"modules.builtin": "kernel/a.ko\n"}, want: kmod.ErrBuiltin, text: "module a"},
		{name: "no module", files: texts{"a.ko": "text"}, want: kmod.ErrFormat, text: "a.ko"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree, host := openTree(t, tt.image, tt.files), openTree(t, nil, nil)
			_, err := kmod.LoadOrder("a", tree, host)
			require.ErrorIs(t, err, tt.want)
			require.ErrorContains(t, err, tt.text)
			var missing *kmod.MissingError
			if errors.As(err, &missing) {
				assert.Equal(t, []string{tree.Dir(), host.Dir()}, missing.Dirs)
			}
		})
	}
}

func TestOpenTreeWithoutDirectory(t *testing.T) {
	_, err := kmod.OpenTree(filepath.Join(t.TempDir(), "nosuch"))
	require.ErrorIs(t, err, kmod.ErrNotFound)
	_, err = kmod.OpenIndex(filepath.Join(t.TempDir(), "nosuch"))
	require.ErrorIs(t, err, kmod.ErrNotFound)
}

func TestFind(t *testing.T) {
	tree := openTree(t, specs{
		"kernel/both.ko": {}, "updates/both.ko": {}, "extra/both.ko": {}, "kernel/other.ko": {}, "zzz/other.ko": {}, "kernel/a-b.ko.xz": {}, "later.ko": {},
		"kernel/named.ko": {}, "updates/named.ko": {},
	}, texts{"modules.dep": "kernel/named.ko:\nkernel/gone.ko:\nkernel/dir.ko:\n", "kernel/dir.ko/file": "", "kernel/readme.txt": ""})
	tests := []struct{ name, want string }{
		{"both", "updates/both.ko"}, {"other", "zzz/other.ko"}, {"a-b", "kernel/a-b.ko.xz"}, {"a_b.ko", "kernel/a-b.ko.xz"}, {"later", "later.ko"},
		{"named", "kernel/named.ko"}, {"gone", ""}, {"dir", ""}, {"readme", ""}, {"", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path, ok := tree.Find(tt.name)
			if tt.want == "" {
				assert.False(t, ok, path)
				return
			}
			assert.True(t, ok)
			assert.Equal(t, filepath.Join(tree.Dir(), tt.want), path)
		})
	}
}

// TestTreeStaysInside has an image whose links lead to a host tree: by directory,
// by file, by modules.dep.
func TestTreeStaysInside(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	kmodtest.WriteTree(t, outside, specs{"kernel/dummy.ko": {}, "kernel/secret.ko": {}})
	kmodtest.WriteTree(t, dir, specs{"dummy.ko": {}, "real/inner.ko": {}})
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "host")))
	require.NoError(t, os.Symlink(filepath.Join(outside, "kernel/secret.ko"), filepath.Join(dir, "secret.ko")))
	require.NoError(t, os.Symlink("real/inner.ko", filepath.Join(dir, "link.ko")))
	up := strings.Repeat("../", 20) + outside + "/kernel/secret.ko"
	writeFiles(t, dir, texts{"modules.dep": "host/kernel/dummy.ko:\n" + outside + "/kernel/secret.ko:\n" + up + ":\n"})
	tree, err := kmod.OpenTree(dir)
	require.NoError(t, err)

	path, ok := tree.Find("dummy")
	assert.True(t, ok)
	assert.Equal(t, filepath.Join(dir, "dummy.ko"), path)
	_, ok = tree.Find("secret")
	assert.False(t, ok)
	path, ok = tree.Find("link")
	assert.True(t, ok, "a link that stays inside")
	assert.Equal(t, filepath.Join(dir, "link.ko"), path)

	require.NoError(t, os.Remove(filepath.Join(dir, "modules.dep")))
	require.NoError(t, os.Symlink(filepath.Join(outside, "kernel/secret.ko"), filepath.Join(dir, "modules.dep")))
	_, err = kmod.OpenTree(dir)
	require.Error(t, err)
}

// TestLinkedTree: the directory itself may be a link. Files whose names are no text are left out.
func TestLinkedTree(t *testing.T) {
	dir, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	kmodtest.WriteTree(t, dir, specs{"kernel/a.ko": needs("b"), "kernel/b.ko": {}, "kernel/\xff/c.ko": {}, "\xff.ko": {}})
	require.NoError(t, os.Symlink(dir, link))
	tree, err := kmod.OpenTree(link)
	require.NoError(t, err)
	items, err := kmod.LoadOrder("a", tree)
	require.NoError(t, err)
	assert.Equal(t, "0:b 0:a", render(items))
	assert.Equal(t, filepath.Join(link, "kernel/b.ko"), items[0].Info.Path)
	for _, name := range []string{"c", "\xff"} {
		_, ok := tree.Find(name)
		assert.False(t, ok, "%q: the ledger could not have its path", name)
	}
}

// TestHostTree has the weak-updates of RHEL and SLES: links to the modules of an older kernel.
func TestHostTree(t *testing.T) {
	root := t.TempDir()
	old, dir := filepath.Join(root, "old"), filepath.Join(root, "new")
	kmodtest.WriteTree(t, old, specs{"extra/kmod-foo/foo.ko": {Version: "2"}, "extra/kmod-foo/bar.ko": needs("foo")})
	kmodtest.WriteTree(t, dir, specs{"kernel/foo.ko": {Version: "1"}})
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "weak-updates/kmod-foo"), 0o755))
	for _, name := range []string{"foo.ko", "bar.ko", "gone.ko"} {
		require.NoError(t, os.Symlink(filepath.Join(old, "extra/kmod-foo", name), filepath.Join(dir, "weak-updates/kmod-foo", name)))
	}
	require.NoError(t, os.Symlink(filepath.Join(old, "extra"), filepath.Join(dir, "weak-updates/directory.ko")))
	const dep = "weak-updates/kmod-foo/foo.ko:\nweak-updates/kmod-foo/bar.ko: weak-updates/kmod-foo/foo.ko\nweak-updates/kmod-foo/gone.ko:\n"
	for name, files := range map[string]texts{"by a walk": nil, "by modules.dep": {"modules.dep": dep}} {
		t.Run(name, func(t *testing.T) {
			writeFiles(t, dir, files)
			defer os.Remove(filepath.Join(dir, "modules.dep"))
			tree, err := kmod.OpenHostTree(dir)
			require.NoError(t, err)
			for _, name := range []string{"foo", "bar"} {
				path, _ := tree.Find(name)
				assert.Equal(t, filepath.Join(dir, "weak-updates/kmod-foo", name+".ko"), path)
			}
			assert.Equal(t, files != nil, tree.Current(), "modules.dep is enough")
			for _, name := range []string{"gone", "directory"} {
				_, ok := tree.Find(name)
				assert.False(t, ok, name)
			}
			items, err := kmod.LoadOrder("bar", tree)
			require.NoError(t, err)
			assert.Equal(t, "0:foo 0:bar", render(items))
			assert.Equal(t, "2", items[0].Info.Version)

			tree, err = kmod.OpenTree(dir)
			require.NoError(t, err)
			_, ok := tree.Find("bar")
			assert.False(t, ok, "not in an image")
		})
	}
	_, err := kmod.OpenHostTree(filepath.Join(dir, "nosuch"))
	assert.ErrorIs(t, err, kmod.ErrNotFound)
}

// TestHostTreeElsewhere: of a node whose files are below a directory, links lead to what that node has there.
func TestHostTreeElsewhere(t *testing.T) {
	outside := t.TempDir()
	kmodtest.WriteTree(t, outside, specs{"foo.ko": {Version: "ours"}})
	up := strings.Repeat("../", 20)
	for _, tt := range []struct {
		name  string
		links texts // by where they are below the root
		want  string
	}{
		{"absolute", texts{"weak-updates/foo.ko": "/lib/modules/old/extra/foo.ko"}, "lib/modules/old/extra/foo.ko"},
		{"relative", texts{"weak-updates/foo.ko": "../../old/extra/foo.ko"}, "lib/modules/old/extra/foo.ko"},
		{"above the root", texts{"weak-updates/foo.ko": up + "lib/modules/old/extra/foo.ko"}, "lib/modules/old/extra/foo.ko"},
		{"to a link", texts{"weak-updates/foo.ko": "/lib/modules/older/foo.ko", "../older/foo.ko": "/lib/modules/old/./extra//foo.ko"}, "lib/modules/old/extra/foo.ko"},
		{"through a directory", texts{"weak-updates/foo.ko": "/lib/modules/older/foo.ko", "../older": "/lib/modules/old/extra"}, "lib/modules/old/extra/foo.ko"},
		{"/usr/lib is /lib", texts{"weak-updates/foo.ko": "/usr/lib/modules/old/extra/foo.ko", "../../../usr/lib": "/lib"}, "lib/modules/old/extra/foo.ko"},
		{"/usr is not there", texts{"weak-updates/foo.ko": "/usr/lib/modules/old/extra/foo.ko"}, "lib/modules/old/extra/foo.ko"},
		{"a file of ours", texts{"weak-updates/foo.ko": filepath.Join(outside, "foo.ko")}, "lib/modules/new/kernel/foo.ko"},
		{"above the root to a file of ours", texts{"weak-updates/foo.ko": up + filepath.Join(outside, "foo.ko")[1:]}, "lib/modules/new/kernel/foo.ko"},
		{"to nothing", texts{"weak-updates/foo.ko": "/lib/modules/nosuch/foo.ko"}, "lib/modules/new/kernel/foo.ko"},
		{"in a circle", texts{"weak-updates/foo.ko": "/lib/modules/older/foo.ko", "../older/foo.ko": "/lib/modules/new/weak-updates/foo.ko"}, "lib/modules/new/kernel/foo.ko"},
		{"a link that is none of a module", texts{"build": "/"}, "lib/modules/new/kernel/foo.ko"},
	} {
		for name, files := range map[string]texts{"by a walk": nil, "by modules.dep": {"modules.dep": "weak-updates/foo.ko:\nkernel/user.ko: weak-updates/foo.ko\n"}} {
			t.Run(tt.name+", "+name, func(t *testing.T) {
				root := t.TempDir()
				dir := filepath.Join(root, "lib/modules/new")
				kmodtest.WriteTree(t, dir, specs{"kernel/foo.ko": {Version: "1"}, "kernel/user.ko": needs("foo")})
				kmodtest.WriteTree(t, filepath.Join(root, "lib/modules/old"), specs{"extra/foo.ko": {Version: "2"}})
				writeFiles(t, dir, files)
				for link, target := range tt.links {
					require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, link)), 0o755))
					require.NoError(t, os.Symlink(target, filepath.Join(dir, link)))
				}
				tree, err := kmod.OpenHostTree(dir)
				require.NoError(t, err)
				path, _ := tree.Find("foo")
				assert.Equal(t, filepath.Join(root, tt.want), path)
				items, err := kmod.LoadOrder("user", tree)
				require.NoError(t, err)
				require.Equal(t, "0:foo 0:user", render(items))
				assert.Equal(t, path, items[0].Info.Path)
			})
		}
	}
}

func TestBuiltin(t *testing.T) {
	tree := openTree(t, nil, texts{"modules.builtin": "kernel/fs/ext4/ext4.ko\nkernel/lib/libblake2s-x86_64.ko\n\n#junk\n"})
	assert.True(t, tree.Builtin("ext4"))
	assert.True(t, tree.Builtin("libblake2s-x86-64"))
	assert.False(t, tree.Builtin("ext3"))
	assert.False(t, tree.Builtin(""))
}
