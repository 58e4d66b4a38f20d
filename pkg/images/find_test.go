// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// found is what one pattern finds in an image of these layers: path and content.
func found(t *testing.T, pattern string, layers ...layer) (map[string]string, error) {
	t.Helper()
	var blobs []*imagestest.Blob
	for _, l := range layers {
		blobs = append(blobs, imagestest.Entries(t, l...))
	}
	src, r := sourceOf(t, blobs...)
	return look(t, src, r, pattern)
}

func openMemory(src source, r *resolved, l limits) *Image {
	q := &query{Request: Request{Ref: "oci:/test"}, ref: localRef{scheme: schemeLayout, path: "/test"}}
	return &Image{Ref: "oci:/test", Digest: r.digest, Raw: r.manifest, q: q, f: &fetcher{source: src, l: l}, l: l}
}

func look(t *testing.T, src source, r *resolved, pattern string) (map[string]string, error) {
	t.Helper()
	g, err := ParseGlob(pattern)
	require.NoError(t, err)
	i := openMemory(src, r, defaultLimits())
	list, err := i.Find(t.Context(), r.manifest, []Glob{g})
	if err != nil {
		return nil, err
	}
	require.Len(t, list, 1)
	out := map[string]string{}
	err = i.Visit(t.Context(), r.manifest, list[0].Files, func(f File, h *tar.Header, content io.Reader) error {
		b, err := io.ReadAll(content)
		assert.Equal(t, h.Size, f.Size)
		for _, other := range list[0].Files {
			if other.SameContent(f) {
				out[other.Path] = string(b)
			}
		}
		return err
	})
	return out, err
}

func TestFind(t *testing.T) {
	file, dir, sym, hard := imagestest.File, imagestest.Directory, imagestest.Symlink, imagestest.Hardlink
	all := map[string]string{"/d/a.ko": "a", "/d/b.ko": "b"}
	onlyA := map[string]string{"/d/a.ko": "a"}
	tests := []struct {
		name, pattern string
		layers        []layer
		want          map[string]string
	}{
		{"one layer", "/d/*.ko", []layer{{dir("d"), file("d/a.ko", "a"), file("d/b.ko", "b"), file("d/c", "")}}, all},
		{"names as tools write them", "/d/*.ko", []layer{{file("./d/a.ko", "a"), file("/d/b.ko", "b")}}, all},
		{"over layers", "/d/*.ko", []layer{{file("d/a.ko", "a")}, {file("d/b.ko", "b")}}, all},
		{"newer wins", "/d/*.ko", []layer{{file("d/a.ko", "old")}, {file("d/a.ko", "a")}}, onlyA},
		{"literal", "/d/a.ko", []layer{{file("d/a.ko", "a"), file("d/b.ko", "b")}}, onlyA},
		{"wildcard on the way", "/*/[!x]/a.ko", []layer{{file("d/x/a.ko", ""), file("d/y/a.ko", "y"), file(".d/y/a.ko", "")}}, map[string]string{"/d/y/a.ko": "y"}},
		{"whiteout", "/d/*.ko", []layer{{file("d/a.ko", "a"), file("d/b.ko", "b")}, {imagestest.Whiteout("d/b.ko")}}, onlyA},
		{"whiteout of the directory", "/d/*.ko", []layer{{file("d/b.ko", "b")}, {imagestest.Whiteout("d")}, {file("d/a.ko", "a")}}, onlyA},
		{"opaque", "/d/*.ko", []layer{{file("d/b.ko", "b")}, {imagestest.Opaque("d"), file("d/a.ko", "a")}}, onlyA},
		{"file over a directory", "/d/*.ko", []layer{{file("d/b.ko", "b")}, {file("d", "")}}, map[string]string{}},
		{"parent is a link", "/lib/d/a.ko", []layer{{sym("lib", "usr/lib"), file("usr/lib/d/a.ko", "a")}}, map[string]string{"/usr/lib/d/a.ko": "a"}},
		{"parent is a link, wildcard", "/li?/d/*", []layer{{file("usr/lib/d/a.ko", "a")}, {sym("lib", "/usr/lib")}}, map[string]string{"/usr/lib/d/a.ko": "a"}},
		{"link out and back", "/x/y/a.ko", []layer{{dir("x"), sym("x/y", "../../../d"), file("d/a.ko", "a")}}, onlyA},
		{"written through a link", "/d/*.ko", []layer{{sym("e", "d"), dir("d")}, {file("e/a.ko", "a")}}, onlyA},
		{"written through a link, literal", "/d/a.ko", []layer{{sym("e", "d")}, {dir("d"), file("d/a.ko", "old")}, {file("e/a.ko", "a")}}, onlyA},
		{"taken away through a link, literal", "/d/a.ko", []layer{{sym("e", "d")}, {dir("d"), file("d/a.ko", "old")}, {imagestest.Whiteout("e/a.ko")}}, map[string]string{}},
		{"file is a link", "/e/*.ko", []layer{{file("d/a.ko", "a"), dir("e"), sym("e/z.ko", "../d/a.ko")}}, onlyA},
		{"link and file", "/d/*.ko", []layer{{file("d/a.ko", "a"), sym("d/z.ko", "a.ko")}}, onlyA},
		{"dangling link", "/d/*.ko", []layer{{file("d/a.ko", "a"), sym("d/z.ko", "none")}}, onlyA},
		{"hard link", "/d/*.ko", []layer{{file("d/a.ko", "a"), hard("d/b.ko", "d/a.ko")}}, map[string]string{"/d/a.ko": "a", "/d/b.ko": "a"}},
		{"hard link, one name asked for", "/d/b.ko", []layer{{file("d/a.ko", "a"), hard("d/b.ko", "d/a.ko")}}, map[string]string{"/d/b.ko": "a"}},
		{"hard link to an older layer", "/d/b.ko", []layer{{file("d/a.ko", "a")}, {hard("d/b.ko", "/d/a.ko")}}, map[string]string{"/d/b.ko": "a"}},
		{"nothing", "/e/*.ko", []layer{{file("d/a.ko", "a")}}, map[string]string{}},
		{"below a file", "/d/a.ko/x", []layer{{file("d/a.ko", "a")}}, map[string]string{}},
		{"quoted", `/d/\*.ko`, []layer{{file("d/*.ko", "star"), file("d/a.ko", "")}}, map[string]string{"/d/*.ko": "star"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := found(t, tt.pattern, tt.layers...)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestFindRefuses(t *testing.T) {
	file, dir, sym, hard := imagestest.File, imagestest.Directory, imagestest.Symlink, imagestest.Hardlink
	big := imagestest.Header{Name: "d/a.ko", Type: tar.TypeReg, Size: imagestest.Octal(maxFileSize + 1)}
	tests := []struct {
		name, pattern string
		l             layer
		err           error
		says          string
	}{
		{"directory", "/*", layer{dir("d")}, ErrNotFile, "stands for the directory"},
		{"link to the root", "/r", layer{sym("r", "/")}, ErrNotFile, "stands for the directory"},
		{"device", "/d", layer{{Name: "d", Type: tar.TypeChar}}, ErrNotFile, "no regular file"},
		{"loop", "/a", layer{sym("a", "b"), sym("b", "a")}, ErrUnsafe, "symlinks"},
		{"hard link to nothing", "/a", layer{hard("a", "b")}, ErrUnsafe, "hard link"},
		{"dots", "/d/*", layer{file("d/../../etc/a.ko", "")}, ErrUnsafe, ".."},
		{"twice", "/d/*", layer{file("d/a.ko", "1"), file("d/a.ko", "2")}, ErrUnsafe, "twice"},
		{"control characters", "/d/*", layer{file("d/a\nb.ko", "")}, ErrUnsafe, "not printable"},
		{"too long a name", "/d/*", layer{file("d/"+strings.Repeat("x", 300), "")}, ErrLimit, "too long"},
		{"too large, so it says", "/d/*", layer{{Raw: big.Block()}}, ErrUnsafe, "EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := found(t, tt.pattern, tt.l)
			require.ErrorIs(t, err, tt.err)
			assert.ErrorContains(t, err, tt.says)
		})
	}
}

// TestFindReadsNoMoreThanNeeded: an older layer that can not matter is not opened.
func TestFindReadsNoMoreThanNeeded(t *testing.T) {
	old := imagestest.Entries(t, imagestest.File("d/old.ko", "old"))
	dirs := []imagestest.Entry{imagestest.Directory("d"), imagestest.File("d/a.ko", "a")}
	tests := []struct {
		name, pattern string
		upper         []imagestest.Entry
		needsOld      bool
	}{
		{"literal", "/d/a.ko", dirs, false},
		{"wildcard", "/d/*.ko", dirs, true},
		{"wildcard, opaque", "/d/*.ko", append(dirs, imagestest.Opaque("d")), false},
		{"literal, implied directory", "/d/a.ko", dirs[1:], true},
		{"literal, implied directory elsewhere", "/d/a.ko", append(slices.Clip(dirs), imagestest.File("e/x", "")), true},
		{"literal, whiteout elsewhere", "/d/a.ko", append(slices.Clip(dirs), imagestest.Directory("e"), imagestest.Whiteout("e/x")), false},
		{"literal, whiteout of nothing known", "/d/a.ko", append(slices.Clip(dirs), imagestest.Whiteout("e/x")), true},
		{"literal, below what is taken away", "/d/a.ko", append(slices.Clip(dirs), imagestest.Whiteout("e"), imagestest.File("e/f/x", "")), false},
		{"not there", "/d/b.ko", dirs, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src, r := sourceOf(t, old, imagestest.Entries(t, tt.upper...))
			digest, err := old.Digest()
			require.NoError(t, err)
			delete(src.blobs, digest.String())
			_, err = look(t, src, r, tt.pattern)
			assert.Equal(t, tt.needsOld, err != nil)
		})
	}
}

func TestFindWrongDigest(t *testing.T) {
	l := imagestest.Entries(t, imagestest.File("d/a.ko", "a"))
	src, r := sourceOf(t, l)
	digest, err := l.Digest()
	require.NoError(t, err)
	damaged := append([]byte(nil), l.Data...)
	damaged[len(damaged)-1] ^= 1 // the size at the end of gzip's stream
	src.blobs[digest.String()] = damaged
	_, err = look(t, src, r, "/d/*.ko")
	require.ErrorIs(t, err, ErrDigest)
}

// TestVisitWrongDigest: the layer changes between the two times it is read. What the
// visitor makes of it does not count.
func TestVisitWrongDigest(t *testing.T) {
	l := imagestest.Entries(t, imagestest.File("d/a.ko", "a"))
	src, r := sourceOf(t, l)
	i := openMemory(src, r, defaultLimits())
	g, err := ParseGlob("/d/a.ko")
	require.NoError(t, err)
	list, err := i.Find(t.Context(), r.manifest, []Glob{g})
	require.NoError(t, err)
	digest, err := l.Digest()
	require.NoError(t, err)
	visit := func(File, *tar.Header, io.Reader) error { return io.ErrClosedPipe }
	require.ErrorIs(t, i.Visit(t.Context(), r.manifest, list[0].Files, visit), io.ErrClosedPipe)
	src.blobs[digest.String()] = imagestest.Entries(t, imagestest.File("d/a.ko", "b")).Data
	require.ErrorIs(t, i.Visit(t.Context(), r.manifest, list[0].Files, visit), ErrDigest)
}

func TestFindNear(t *testing.T) {
	var l layer
	for n := range 20 {
		l = append(l, imagestest.File(fmt.Sprintf("opt/m/6.%d/x.ko", n), ""))
	}
	src, r := sourceOf(t, imagestest.Entries(t, append(l, imagestest.File("opt/m/6.7/y.ko.zst", ""))...))
	g, err := ParseGlob("/opt/m/6.7/y*.ko")
	require.NoError(t, err)
	list, err := openMemory(src, r, defaultLimits()).Find(t.Context(), r.manifest, []Glob{g})
	require.NoError(t, err)
	require.Len(t, list[0].Near, maxNear)
	assert.Equal(t, []string{"/opt/m/6.7/x.ko", "/opt/m/6.7/y.ko.zst"}, list[0].Near[:2])
}

func TestFindBombs(t *testing.T) {
	zeros := members(t, append(unfinished(t, good()), imagestest.Header{Name: "big", Type: tar.TypeReg, Size: imagestest.Octal(64 << 20)}.Block()...), make([]byte, 1<<20), 64)
	src, r := sourceOf(t, zeros)
	g, err := ParseGlob("/opt/*")
	require.NoError(t, err)
	l := defaultLimits()
	l.unpacked = 1 << 20
	cheaply(t, 16<<20, func() {
		_, err = openMemory(src, r, l).Find(t.Context(), r.manifest, []Glob{g})
	})
	require.ErrorIs(t, err, ErrLimit)

	// Each of the links is to the directory it is in: a pattern of many wildcards
	// has no end.
	var many layer
	for n := range 100 {
		many = append(many, imagestest.Symlink(fmt.Sprintf("d/%d", n), "."))
	}
	src, r = sourceOf(t, imagestest.Entries(t, append(many, imagestest.Directory("d"))...))
	l = defaultLimits()
	l.entries = 1000
	g, err = ParseGlob("/d/*/*/*/*/*/*/*/*/*/*/x")
	require.NoError(t, err)
	_, err = openMemory(src, r, l).Find(t.Context(), r.manifest, []Glob{g})
	require.ErrorIs(t, err, ErrLimit)
}
