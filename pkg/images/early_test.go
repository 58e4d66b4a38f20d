// SPDX-License-Identifier: Apache-2.0

package images

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kmod"
)

// listed is a closure for tests: modules.dep has a line of files for each
// module. It is complete when modules.dep and all of these are there; without
// it, it is the files called like the modules.
func listed(dir string, modules []string) ([]string, bool, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = root.Close() }()
	var files []string
	has := func(f string) bool { _, err := root.Stat(f); return err == nil }
	b, err := root.ReadFile("modules.dep")
	if err != nil {
		for _, m := range modules {
			if has(m + ".ko") {
				files = append(files, m+".ko")
			}
		}
		return files, false, nil
	}
	files, complete := []string{"modules.dep"}, true
	for line := range strings.Lines(string(b)) {
		if of := strings.Fields(line); slices.Contains(modules, of[0]) {
			files = append(files, slices.DeleteFunc(of[1:], func(f string) bool { return !has(f) })...)
			complete = complete && len(files) == len(of)
		}
	}
	return files, complete, nil
}

// countingStore is a store that counts the layers it begins in each pull.
func countingStore(t *testing.T) (*Store, *int) {
	t.Helper()
	read := new(int)
	s, err := Open(filepath.Join(memory(t), "images"), Options{Progress: func(p Progress) { *read = p.Layer }})
	require.NoError(t, err)
	return s, read
}

// deep is a layer nobody wants, large enough not to be asked for ahead.
func deep(t *testing.T) *imagestest.Blob {
	return imagestest.Compress(t, imagestest.Tar(t, imagestest.File("usr/big", strings.Repeat("x", 2*readAhead))), imagestest.None)
}

func TestStopsWhenComplete(t *testing.T) {
	file, dir := imagestest.File, imagestest.Directory
	sym, hard := imagestest.Symlink, imagestest.Hardlink
	head := layer{dir("opt"), dir("opt/lib"), dir("opt/lib/modules"), dir(mods)}
	with := func(more ...imagestest.Entry) layer { return append(slices.Clip(head), more...) }
	a := with(file(mods+"a.ko", "a"), file(mods+"x.ko", "x"), file(mods+"modules.dep", "a a.ko\n"))
	got := map[string]string{"a.ko": "a", "modules.dep": "a a.ko\n"}
	tests := []struct {
		name   string
		layers []layer // lowest first, above one that is large
		read   int     // layers, of these
		want   map[string]string
	}{
		{"newest has all", []layer{{file("x", "")}, a}, 1, got},
		{"second has all", []layer{{file("x", "")}, a, {file("y", "")}}, 2, got},
		{"over two layers", []layer{{file("x", "")}, with(file(mods+"a.ko", "a")), with(file(mods+"modules.dep", "a a.ko\n"))}, 2, got},
		{"headers in another layer", []layer{{file("x", "")}, head, a[4:]}, 2, got},
		{"no header of opt", []layer{{file("x", "")}, {file("y", "")}, a[1:]}, 4, got},
		{"no header of the last", []layer{{file("y", "")}, slices.Concat(a[:3], a[4:])}, 3, got},
		{"opaque above instead of a header", []layer{{file("x", "")}, slices.Concat(a[:2], a[4:], layer{imagestest.Opaque("opt/lib")})}, 1, got},
		{"taken away, then new without a header", []layer{{file("x", "")}, {dir("opt"), imagestest.Whiteout("opt/lib")}, a[4:]}, 2, got},
		{"no header elsewhere", []layer{{file("y", "")}, append(slices.Clip(a), file("etc/x", ""))}, 3, got},
		{"whiteout elsewhere", []layer{{file("y", "")}, append(slices.Clip(a), dir("etc"), imagestest.Whiteout("etc/x"))}, 1, got},
		{"whiteout elsewhere, no header", []layer{{file("y", "")}, append(slices.Clip(a), imagestest.Whiteout("etc/x"))}, 3, got},
		{"no modules.dep", []layer{{file("y", "")}, with(file(mods+"a.ko", "a"))}, 3, map[string]string{"a.ko": "a"}},
		{"a file is missing", []layer{{file("y", "")}, with(file(mods+"a.ko", "a"), file(mods+"modules.dep", "a a.ko b.ko\n"))}, 3,
			map[string]string{"a.ko": "a", "modules.dep": "a a.ko b.ko\n"}},
		{"its directory has no header", []layer{{file("y", "")}, with(file(mods+"d/a.ko", "a"), file(mods+"modules.dep", "a d/a.ko\n"))}, 3,
			map[string]string{"d/a.ko": "a", "modules.dep": "a d/a.ko\n"}},
		{"its directory has one", []layer{{file("y", "")}, with(dir(mods+"d"), file(mods+"d/a.ko", "a"), file(mods+"modules.dep", "a d/a.ko\n"))}, 1,
			map[string]string{"d/a.ko": "a", "modules.dep": "a d/a.ko\n"}},
		{"hard link to a layer below", []layer{{file("y", "")}, {file("obj/1", "a")}, {file("z", "")}, with(hard(mods+"a.ko", "obj/1"), file(mods+"modules.dep", "a a.ko\n"))}, 5, got},
		{"symlink to a layer below", []layer{{dir("obj"), file("obj/1", "a")}, with(sym(mods+"a.ko", "/obj/1"), file(mods+"modules.dep", "a a.ko\n"))}, 2, got},
		{"unneeded link to the host", []layer{{file("y", "")}, append(slices.Clip(a), sym(mods+"host", "/lib/modules/x"))}, 1, got},
		{"usrmerge in the same layer", []layer{{file("y", "")}, slices.Concat(layer{dir("opt"), sym("opt/lib", "/usr/lib"), dir("usr"), dir("usr/lib"), dir("usr/lib/modules"),
			dir("usr/lib/modules/" + testRelease)}, a[4:])}, 1, got},
		{"usrmerge below", []layer{{dir("opt"), sym("opt/lib", "/usr/lib")}, a[4:]}, 3, got},
		{"newer wins", []layer{{file("x", "")}, a, with(file(mods+"a.ko", "new"))}, 2, map[string]string{"a.ko": "new", "modules.dep": "a a.ko\n"}},
		{"taken away in the newest", []layer{{file("x", "")}, a, with(imagestest.Whiteout(mods + "a.ko"))}, 4, map[string]string{"modules.dep": "a a.ko\n"}},
		{"evil below is never looked at", []layer{{file("../../x", "")}, a}, 1, got},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg := imagestest.NewRegistry(t)
			s, read := countingStore(t)
			blobs := []*imagestest.Blob{deep(t)}
			for _, l := range tt.layers {
				blobs = append(blobs, deepened(t, l))
			}
			r := Request{Ref: reg.Host + "/kmod:v1", Releases: []string{testRelease}, Insecure: true, Modules: []string{"a"}, Closure: listed}
			imagestest.Push(t, r.Ref, blobs...)
			tree, err := s.Ensure(t.Context(), r)
			require.NoError(t, err)
			assert.Equal(t, tt.want, contents(t, tree.ModulesDir))
			assert.Equal(t, tt.read, *read)
			assert.Empty(t, names(t, s.path("tmp")))
		})
	}
}

// TestOlderLayerMatters has images whose newer layers look complete, and are not: what is taken is what all layers say.
func TestOlderLayerMatters(t *testing.T) {
	file, dir, sym := imagestest.File, imagestest.Directory, imagestest.Symlink
	head := layer{dir("opt"), dir("opt/lib"), dir("opt/lib/modules"), dir(mods)}
	with := func(more ...imagestest.Entry) layer { return append(slices.Clip(head), more...) }
	// depmod's files say that the module is in extra.
	indexed := func(more ...imagestest.Entry) layer {
		return with(append(more, file(mods+"modules.dep", "extra/nic.ko:\n"), file(mods+"modules.softdep", ""), file(mods+"modules.alias", ""))...)
	}
	complete := indexed(dir(mods+"extra"), file(mods+"extra/nic.ko", "old"))
	common := with(dir(mods+"common"), file(mods+"common/nic.ko", "new"))
	alias := layer{sym("alias", "opt")}
	tests := []struct {
		name   string
		layers []layer
		want   string // of the module; "" is: not there
	}{
		{"written through a link", []layer{alias, complete, {file("alias/lib/modules/"+testRelease+"/extra/nic.ko", "new")}}, "new"},
		{"taken away through a link", []layer{alias, complete, {imagestest.Whiteout("alias/lib/modules/" + testRelease + "/extra/nic.ko")}}, ""},
		{"an inner link", []layer{{file("x", "")}, common, indexed(sym(mods+"extra", "common"))}, "new"},
		{"an inner link, up and down", []layer{{file("x", "")}, common, indexed(sym(mods+"extra", "../"+testRelease+"/common"))}, "new"},
		{"an inner link, absolute", []layer{{file("x", "")}, common, indexed(sym(mods+"extra", "/"+mods+"common"))}, "new"},
		{"an inner link, by another link", []layer{{file("x", "")}, common, indexed(sym(mods+"extra", "/srv/lib/modules/"+testRelease+"/common"), sym("srv", "opt"))}, "new"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg, s := imagestest.NewRegistry(t), openStore(t)
			var blobs []*imagestest.Blob
			for _, l := range tt.layers {
				blobs = append(blobs, deepened(t, l))
			}
			r := Request{Ref: reg.Host + "/kmod:v1", Releases: []string{testRelease}, Insecure: true, Modules: []string{"nic"}, Closure: kmod.Closure}
			imagestest.Push(t, r.Ref, blobs...)
			tree, err := s.Ensure(t.Context(), r)
			require.NoError(t, err)
			assert.Equal(t, tt.want, contents(t, tree.ModulesDir)["extra/nic.ko"])
		})
	}
}

// deepened is a layer that is too large to be asked for ahead of its time.
func deepened(t *testing.T, l layer) *imagestest.Blob {
	t.Helper()
	return imagestest.Compress(t, imagestest.Tar(t, append(slices.Clip(l), imagestest.File("pad", strings.Repeat("x", readAhead)))...), imagestest.None)
}

func TestFirmwareNeedsAProof(t *testing.T) {
	file, dir := imagestest.File, imagestest.Directory
	top := append(layer{dir("opt"), dir("opt/lib"), dir("opt/lib/modules"), dir(mods)}, file(mods+"a.ko", "a"), file(mods+"modules.dep", "a a.ko\n"))
	with := func(more ...imagestest.Entry) layer { return append(slices.Clip(top), more...) }
	fw := with(dir("firmware"), file("firmware/a.bin", "1"))
	older := layer{dir("firmware"), file("firmware/b.bin", "2")}
	tests := []struct {
		name     string
		layers   []layer
		declared []string // nil: not asked
		read     int
		want     string // names
	}{
		{"open", []layer{older, fw}, nil, 3, "a.bin b.bin"},
		{"opaque", []layer{older, append(slices.Clip(fw), imagestest.Opaque("firmware"))}, nil, 1, "a.bin"},
		{"opaque, but a link leads below", []layer{append(slices.Clip(older), dir("obj"), file("obj/1", "x")),
			append(slices.Clip(fw), imagestest.Opaque("firmware"), imagestest.Symlink("firmware/c.bin", "/obj/1"))}, nil, 2, "a.bin c.bin"},
		{"taken away and made anew", []layer{older, append(slices.Clip(fw), imagestest.Whiteout("firmware"))}, nil, 1, "a.bin"},
		{"taken away in a layer between", []layer{older, {imagestest.Whiteout("firmware")}, fw}, nil, 2, "a.bin"},
		{"a link before", []layer{older, {imagestest.Symlink("firmware", "/x")}, fw}, nil, 2, "a.bin"},
		{"not there yet", []layer{older, top}, nil, 3, "b.bin"},
		{"declared and there", []layer{older, fw}, []string{"a.bin"}, 1, "a.bin"},
		{"declared, compressed", []layer{older, with(dir("firmware"), file("firmware/a.bin.zst", "1"))}, []string{"a.bin"}, 1, "a.bin.zst"},
		{"declared and older", []layer{older, fw}, []string{"a.bin", "b.bin"}, 2, "a.bin b.bin"},
		{"declared in a pattern", []layer{older, fw}, []string{"*.bin"}, 3, "a.bin b.bin"},
		{"none declared", []layer{older, fw}, []string{}, 3, "a.bin b.bin"},
		{"declared, no header of its directory", []layer{older, with(dir("firmware"), file("firmware/sub/a.bin", "1"))}, []string{"sub/a.bin"}, 3, "b.bin sub"},
		{"declared, no header of the directory", []layer{older, with(file("firmware/a.bin", "1"))}, []string{"a.bin"}, 2, "a.bin b.bin"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg := imagestest.NewRegistry(t)
			s, read := countingStore(t)
			blobs := []*imagestest.Blob{deep(t)}
			for _, l := range tt.layers {
				blobs = append(blobs, deepened(t, l))
			}
			r := request(reg.Host + "/kmod:v1")
			r.Modules, r.Closure, r.DeclaredFirmware = []string{"a"}, listed, tt.declared != nil
			r.Firmware = func(_ string, files []string) ([]string, error) {
				assert.Contains(t, files, "a.ko")
				return tt.declared, nil
			}
			imagestest.Push(t, r.Ref, blobs...)
			tree, err := s.Ensure(t.Context(), r)
			require.NoError(t, err)
			assert.Equal(t, tt.want, strings.Join(names(t, tree.FirmwareDir), " "))
			assert.Equal(t, tt.read, *read)
		})
	}
}

// Without a closure only a directory that hides all that is older is enough.
func TestAllModulesNeedAProof(t *testing.T) {
	reg := imagestest.NewRegistry(t)
	s, read := countingStore(t)
	older := deepened(t, layer{imagestest.File(mods+"b.ko", "b")})
	newer := imagestest.Files(map[string]string{mods + "a.ko": "a"})
	for tag, want := range map[string]map[string]string{"open": {"a.ko": "a", "b.ko": "b"}, "opaque": {"a.ko": "a"}} {
		r := Request{Ref: reg.Host + "/kmod:" + tag, Releases: []string{testRelease}, Insecure: true}
		entries := slices.Clone(newer)
		if tag == "opaque" {
			entries = append(entries, imagestest.Opaque("opt/lib/modules"))
		}
		imagestest.Push(t, r.Ref, older, deepened(t, entries))
		tree, err := s.Ensure(t.Context(), r)
		require.NoError(t, err)
		assert.Equal(t, want, contents(t, tree.ModulesDir), tag)
		assert.Equal(t, len(want), *read, tag)
	}
}

// An older layer may have the release that is tried first.
func TestFirstReleaseMayBeOlder(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	r := Request{Ref: reg.Host + "/kmod:v1", Releases: []string{"6.1.0+", "6.1.0"}, Insecure: true, Modules: []string{"a"}, Closure: listed}
	imagestest.Push(t, r.Ref,
		imagestest.Layer(t, map[string]string{"opt/lib/modules/6.1.0+/a.ko": "first"}),
		imagestest.Layer(t, map[string]string{"opt/lib/modules/6.1.0/a.ko": "second", "opt/lib/modules/6.1.0/modules.dep": "a a.ko\n"}))
	tree, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a.ko": "first"}, contents(t, tree.ModulesDir))
}

func TestTreeKnowsTheOtherModules(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	r := Request{Ref: reg.Host + "/kmod:v1", Releases: []string{testRelease}, Insecure: true, Modules: []string{"a"}, Closure: listed}
	imagestest.Push(t, r.Ref, imagestest.Layer(t, map[string]string{mods + "a.ko": "a", mods + "x/b-b.ko.xz": "b", mods + "c.txt": "c"}))
	tree, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a.ko": "a"}, contents(t, tree.ModulesDir))
	for name, want := range map[string]bool{"a": true, "b-b": true, "b_b": true, "c": false, "": false} {
		assert.Equal(t, want, tree.Has(name), name)
	}
	r.Modules = []string{"b-b", "a"}
	_, err = s.Ensure(t.Context(), r)
	require.NoError(t, err)
	reg.Close()
	r.Modules = []string{"a", "b_b", "a"}
	_, err = s.Ensure(t.Context(), r)
	require.NoError(t, err, "the same modules")
	r.Modules = []string{"none"}
	_, err = s.Ensure(t.Context(), r)
	require.ErrorIs(t, err, ErrUnreachable, "other modules")
}

// Nothing of a layer whose digest turns out wrong is used, or shown to anybody.
func TestWrongLayerIsNotLookedInto(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	right := deepened(t, imagestest.Files(map[string]string{mods + "a.ko": "a", mods + "modules.dep": "a a.ko\n"}))
	wrong := deepened(t, imagestest.Files(map[string]string{mods + "a.ko": "b", mods + "modules.dep": "a a.ko\n"}))
	digest, err := right.Digest()
	require.NoError(t, err)
	r := Request{Ref: reg.Host + "/kmod:v1", Releases: []string{testRelease}, Insecure: true, Modules: []string{"a"}}
	r.Closure = func(string, []string) ([]string, bool, error) {
		assert.Fail(t, "it was looked at")
		return nil, false, nil
	}
	imagestest.Push(t, r.Ref, right)
	reg.Handle(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if strings.HasSuffix(req.URL.Path, digest.String()) {
			_, _ = w.Write(wrong.Data)
			return
		}
		next.ServeHTTP(w, req)
	})
	_, err = s.Ensure(t.Context(), r)
	require.ErrorIs(t, err, ErrDigest)
	assert.Empty(t, names(t, s.path("trees")))
}

// The next layer is asked for ahead, but little of it is taken, and not at all
// if it is much larger.
func TestReadAheadIsBounded(t *testing.T) {
	for ratio, asked := range map[int]bool{2: true, prefetchRatio + 1: false} {
		reg := imagestest.NewRegistry(t)
		var got int64
		s, err := Open(filepath.Join(memory(t), "images"), Options{Progress: func(p Progress) { got = p.Bytes }})
		require.NoError(t, err)
		pad := func(n int) imagestest.Entry { return imagestest.File("pad", strings.Repeat("x", n)) }
		below := imagestest.Compress(t, imagestest.Tar(t, pad(ratio*4*readAhead)), imagestest.None)
		top := imagestest.Compress(t, imagestest.Tar(t, append(imagestest.Files(
			map[string]string{mods + "a.ko": "a", mods + "modules.dep": "a a.ko\n"}), pad(4*readAhead))...), imagestest.None)
		r := Request{Ref: reg.Host + "/kmod:v1", Releases: []string{testRelease}, Insecure: true, Modules: []string{"a"}, Closure: listed}
		imagestest.Push(t, r.Ref, below, top)
		_, err = s.Ensure(t.Context(), r)
		require.NoError(t, err)
		size := int64(len(top.Data))
		if asked {
			size += prefetch
		}
		assert.LessOrEqual(t, got, size)
	}
}

func TestProgress(t *testing.T) {
	reg := imagestest.NewRegistry(t)
	var got []Progress
	s, err := Open(filepath.Join(memory(t), "images"), Options{Progress: func(p Progress) { got = append(got, p) }})
	require.NoError(t, err)
	blob := bigLayer(t)
	r := request(reg.Host + "/kmod:latest")
	imagestest.Push(t, r.Ref, blob)
	_, err = s.Ensure(t.Context(), r)
	require.NoError(t, err)
	require.NotEmpty(t, got)
	assert.Equal(t, Progress{Ref: r.Ref, Phase: PhaseResolve}, got[0])
	last := got[len(got)-1]
	assert.Greater(t, last.Written, int64(1<<20))
	last.Written = 0
	assert.Equal(t, Progress{Ref: r.Ref, Phase: PhaseStore, Layer: 1, Layers: 1, Bytes: int64(len(blob.Data)), Total: int64(len(blob.Data)), Done: true}, last)
	assert.Greater(t, len(got), 10)

	reg.Close()
	got = nil
	_, err = s.Ensure(t.Context(), r)
	require.NoError(t, err)
	require.NotEmpty(t, got)
	assert.ErrorContains(t, got[len(got)-1].Err, "connect")
}
