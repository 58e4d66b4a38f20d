// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// What other programs that unpack layers are tested with, as far as it is about
// files and their content; docs/external-suites.md names the cases.

// TestLinksInside has entries come through links, and links to links, that stay in
// the image.
func TestLinksInside(t *testing.T) {
	file, dir := imagestest.File, imagestest.Directory
	sym, hard := imagestest.Symlink, imagestest.Hardlink
	const here = "/" + mods
	tests := []struct {
		name   string
		layers []layer
		want   map[string]string
	}{
		{"written through an absolute link", []layer{{dir(mods), sym("l", here), file("/l/a", "1")}}, map[string]string{"a": "1"}},
		{"written through a link with dots", []layer{{dir(mods), dir("dummy"), sym("l", "/dummy/.."+here), file("l/a", "1")}}, map[string]string{"a": "1"}},
		{"written through two absolute links", []layer{{dir(mods), dir("dummy"), sym("dummy/l", here), sym("m", "/dummy/l"), file("m/a", "1")}}, map[string]string{"a": "1"}},
		{"written through a relative and an absolute link", []layer{{dir(mods), dir("dummy"), sym("dummy/l", here), sym("m", "./dummy/l"), file("m/a", "1")}}, map[string]string{"a": "1"}},
		{"more dots than directories", []layer{{sym("l", "../../../../../../.."+here), file("l/a", "1")}}, map[string]string{"a": "1"}},
		{"dots behind what is not there", []layer{{dir("upandout"), sym("l", "upandout/../../.."+here), file("l/a", "1")}}, map[string]string{"a": "1"}},
		{"hard link whose target is behind a relative link", []layer{{file(mods+"a", "1"), dir("x"), sym("x/d", "../../"+mods), hard(mods+"b", "/x/d/a")}},
			map[string]string{"a": "1", "b": "1"}},
		{"hard link whose target is behind a link down and up", []layer{{file(mods+"a", "1"), dir("x"), dir("down"), sym("x/d", "../down/../../"+mods), hard(mods+"b", "/x/d/a")}},
			map[string]string{"a": "1", "b": "1"}},
		{"hard link whose target is behind an absolute link", []layer{{file(mods+"a", "1"), sym("l", here), hard(mods+"b", "/l/a")}}, map[string]string{"a": "1", "b": "1"}},
		{"hard link made behind a link", []layer{{file("objects/1", "1"), dir(mods), sym("l", here), hard("/l/b", "/objects/1")}}, map[string]string{"b": "1"}},
		{"hard link to a symlink", []layer{{file(mods+"a", "1"), sym("l", here+"a"), hard(mods+"b", "/l")}}, map[string]string{"a": "1", "b": "1"}},
		{"hard link to a relative symlink", []layer{{file(mods+"a", "1"), sym(mods+"l", "a"), hard(mods+"b", mods+"l")}}, map[string]string{"a": "1", "l": "1", "b": "1"}},
		{"hard link to a symlink whose target comes later", []layer{{sym("l", here+"a"), hard(mods+"b", "l"), file(mods+"a", "1")}}, map[string]string{"a": "1", "b": "1"}},
		{"hard link to a hard link", []layer{{file("o", "1"), hard("p", "o"), hard(mods+"b", "p")}}, map[string]string{"b": "1"}},
		{"hard link to a hard link that comes later", []layer{{hard(mods+"b", "p"), file("o", "1"), hard("p", "o")}}, map[string]string{"b": "1"}},
		{"link over a directory", []layer{{file(mods+"a", "1"), file("l/x", "x")}, {sym("l", here), hard("l/b", mods+"a")}}, map[string]string{"a": "1", "b": "1"}},
		{"relative link over a directory", []layer{{file(mods+"a", "1"), dir("l")}, {sym("l", "../.."+here), hard("l/b", mods+"a")}}, map[string]string{"a": "1", "b": "1"}},
		{"directory over a link, and a hard link in it", []layer{{file(mods+"a", "1"), sym(mods+"d", here)}, {dir(mods + "d"), hard(mods+"d/b", mods+"a")}}, map[string]string{"a": "1", "d/b": "1"}},
		{"directory over a link, and a file over what was behind it", []layer{{file(mods+"a", "1"), sym(mods+"d", "."), hard(mods+"d/b", mods+"a")},
			{dir(mods + "d"), file(mods+"d/b", "2")}}, map[string]string{"a": "1", "b": "1", "d/b": "2"}},
		{"directory over a link to a directory", []layer{{dir("x"), file("x/y", "1"), sym(mods+"d", "/x")}, {dir(mods + "d"), file(mods+"d/a", "1")}}, map[string]string{"d/a": "1"}},
		{"a name that looks like a link to a directory", []layer{{sym("l", here), file("l/a", "1")}, {file("l/b", "2")}}, map[string]string{"a": "1", "b": "2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			attack{layers: tt.layers, want: tt.want}.run(t)
		})
	}
}

// TestChangesOverLayers has what a newer layer does to the files of older ones.
func TestChangesOverLayers(t *testing.T) {
	file, dir := imagestest.File, imagestest.Directory
	sym, hard := imagestest.Symlink, imagestest.Hardlink
	wh, opq := imagestest.Whiteout, imagestest.Opaque
	fifo := imagestest.Entry{Name: mods + "fifo", Type: tar.TypeFifo}
	tests := []struct {
		name   string
		layers []layer
		want   map[string]string
	}{
		{"a file changes, its other name does not", []layer{{file(mods+"a", "1"), hard(mods+"b", mods+"a")}, {file(mods+"a", "2")}}, map[string]string{"a": "2", "b": "1"}},
		{"another name of a changed file", []layer{{file(mods+"b", "1")}, {file(mods+"b", "2"), hard(mods+"a", mods+"b")}}, map[string]string{"a": "2", "b": "2"}},
		{"another name, sorted before it", []layer{{file(mods+"b", "1")}, {hard(mods+"a", mods+"b"), file(mods+"b", "2")}}, map[string]string{"a": "1", "b": "2"}},
		{"longer, shorter, empty", []layer{{file(mods+"a", "1"), file(mods+"b", "111"), file(mods+"c", "1")}, {file(mods+"a", "222"), file(mods+"b", "2"), file(mods+"c", "")}},
			map[string]string{"a": "222", "b": "2", "c": ""}},
		{"renamed", []layer{{file(mods+"a/x", "1")}, {wh(mods + "a"), file(mods+"b/x", "1")}}, map[string]string{"b/x": "1"}},
		{"a directory goes and comes back", []layer{{file(mods+"d/hidden", "1")}, {wh(mods + "d"), dir(mods + "d"), file(mods+"d/new", "2")}, {file(mods+"d/newer", "3")}},
			map[string]string{"d/new": "2", "d/newer": "3"}},
		{"whiteout of a link leaves its target", []layer{{file(mods+"a", "1"), sym(mods+"l", "a")}, {wh(mods + "l")}}, map[string]string{"a": "1"}},
		{"whiteout of a link to a directory", []layer{{file(mods+"d/a", "1"), sym(mods+"l", "d")}, {wh(mods + "l")}}, map[string]string{"d/a": "1"}},
		{"whiteout behind a link", []layer{{file(mods+"a", "1"), file(mods+"b", "1"), sym("l", "/"+mods)}, {wh("l/b")}}, map[string]string{"a": "1"}},
		{"whiteout behind a link to nothing", []layer{{file(mods+"a", "1"), sym("l", "/none")}, {wh("l/opt")}}, map[string]string{"a": "1"}},
		{"a directory whose name begins like a whiteout", []layer{{file(mods+"a", "1")}, {file(mods+".wh.a/b", "2")}}, map[string]string{"a": "1", ".wh.a/b": "2"}},
		{"whiteout of a fifo", []layer{{file(mods+"a", "1"), fifo}, {wh(mods + "fifo")}}, map[string]string{"a": "1"}},
		{"file over a fifo", []layer{{file(mods+"a", "1"), fifo}, {file(mods+"fifo", "2")}}, map[string]string{"a": "1", "fifo": "2"}},
		{"whiteout that has content", []layer{{file(mods+"a", "1"), file(mods+"b", "1")}, {file(mods+".wh.b", "content")}}, map[string]string{"a": "1"}},
		{"opaque, empty", []layer{{file(mods+"a", "1"), file(mods+"d/x", "1")}, {dir(mods + "d"), opq(mods + "d")}}, map[string]string{"a": "1"}},
		{"opaque, several levels", []layer{{file(mods+"d/e/f/x", "1"), file(mods+"d/y", "1"), sym(mods+"d/l", "..")}, {opq(mods + "d"), file(mods+"d/e/z", "2"), sym(mods+"d/bad", "./nothing")}},
			map[string]string{"d/e/z": "2"}},
		{"opaque, a new file without its directories", []layer{{file(mods+"d/some/dir/x", "1"), file(mods+"d/another/y", "1")}, {file(mods+"d/some/dir/z", "2"), opq(mods + "d")}},
			map[string]string{"d/some/dir/z": "2"}},
		{"opaque beside whiteouts of the same layer", []layer{{file(mods+"d/c", "1")}, {wh(mods + "d/b"), file(mods+"d/a", "2"), file(mods+"d/b", "2"), wh(mods + "d/a"), wh(mods + "d/c"), opq(mods + "d")}},
			map[string]string{"d/a": "2", "d/b": "2"}},
		{"opaque beside a whiteout of a directory of the same layer", []layer{{file(mods+"d/e/x", "1")}, {file(mods+"d/e/y", "2"), wh(mods + "d/e"), opq(mods + "d")}}, map[string]string{"d/e/y": "2"}},
		{"opaque behind a link", []layer{{file(mods+"d/a", "1"), sym("l", "/"+mods)}, {opq("l/d"), file(mods+"b", "2")}}, map[string]string{"b": "2"}},
		{"opaque in what is no directory any more", []layer{{file(mods+"d/a", "1")}, {file(mods+"d", "2")}, {opq(mods + "d")}}, map[string]string{"d": "2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			attack{layers: tt.layers, want: tt.want}.run(t)
		})
	}
}

// TestRefusedLayers: others repair, or resolve inside of the image, what no tool that
// makes images writes. It is refused here.
func TestRefusedLayers(t *testing.T) {
	file, dir := imagestest.File, imagestest.Directory
	sym, hard, wh := imagestest.Symlink, imagestest.Hardlink, imagestest.Whiteout
	tests := []struct {
		name   string
		layers []layer
	}{
		{"a link called ..", []layer{{good(), sym("..", "/opt")}}},
		{"a link called x/..", []layer{{good(), sym("x/y/..", "/opt")}}},
		{"a file behind /..", []layer{{file("/../"+mods+"a", "1")}}},
		{"a file behind /./../", []layer{{file("/./../"+mods+"a", "1")}}},
		{"a hard link to ../../", []layer{{good(), hard(mods+"b", "../../../../"+mods+"a.ko")}}},
		{"a whiteout behind ..", []layer{{good()}, {file("none/../.wh.opt", "")}}},
		{"a whiteout of the root", []layer{{good()}, {file(".wh..", "")}}},
		{"a whiteout of the root's parent", []layer{{good()}, {file(".wh...", "")}}},
		{"a whiteout of its own directory", []layer{{good()}, {file(mods+".wh..", "")}}},
		{"a whiteout of its parent", []layer{{good()}, {file(mods+".wh...", "")}}},
		{"a whiteout of nothing", []layer{{good()}, {file(mods+".wh.", "")}}},
		{"a file below a file", []layer{{good()}, {file(mods+"a.ko/b", "2")}}},
		{"a file below a file of the same layer", []layer{{good(), file(mods+"a.ko/b", "2")}}},
		{"a file below a link to a file", []layer{{good(), sym(mods+"l", "a.ko")}, {file(mods+"l/b", "2")}}},
		{"a file below a link to itself", []layer{{good(), sym(mods+"l", "l")}, {file(mods+"l/b", "2")}}},
		{"emptied through a link, in one layer", []layer{{good(), sym("l", "/"+mods), file("l/a.ko", "")}}},
		{"directory, link, directory, in one layer", []layer{{dir(mods + "d"), file(mods+"d/a", "1"), sym(mods+"d", "/"), file(mods+"d/a", "2"), dir(mods + "d"), file(mods+"d/a", "3")}}},
		{"a hard link to what a whiteout took", []layer{{good(), file("o", "1")}, {wh("o"), hard(mods+"b", "o")}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			attack{layers: tt.layers, err: ErrUnsafe}.run(t)
		})
	}
}

// TestLayerCompressions has an image of layers that are compressed in different
// ways; the last one has the only file of its name.
func TestLayerCompressions(t *testing.T) {
	plain := func(name string) []byte { return imagestest.Tar(t, imagestest.File(mods+name, name)) }
	zipped := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, err := w.Write(b)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return out.Bytes()
	}
	frame := func(b []byte) []byte {
		w, err := zstd.NewWriter(nil)
		require.NoError(t, err)
		return w.EncodeAll(b, nil)
	}
	skippable := []byte{0x5a, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 'd', 'a', 't', 'a'}
	var blobs []*imagestest.Blob
	want := map[string]string{}
	for name, data := range map[string][]byte{
		"none": plain("none"), "gzip": zipped(plain("gzip")), "zstd": frame(plain("zstd")),
		"gzip in two members":                    append(zipped(plain("gzip in two members")[:100]), zipped(plain("gzip in two members")[100:])...),
		"zstd in two frames":                     append(frame(plain("zstd in two frames")[:100]), frame(plain("zstd in two frames")[100:])...),
		"zstd behind a skippable frame":          append(bytes.Clone(skippable), frame(plain("zstd behind a skippable frame"))...),
		"zstd with a skippable frame at its end": append(frame(plain("zstd with a skippable frame at its end")), skippable...),
	} {
		want[name] = name
		blobs = append(blobs, imagestest.Raw(data, "application/vnd.oci.image.layer.v1.tar+gzip")) // whatever it is
	}
	attack{blobs: blobs, want: want}.run(t)
}

// TestLongNames has names longer than the 100 bytes of a tar header, in each way in
// which archives hold them.
func TestLongNames(t *testing.T) {
	long := strings.Repeat("d/", 40) + strings.Repeat("x", 90)
	gnu := func(kind byte, text string) []byte {
		return imagestest.Header{Name: "././@LongLink", Type: kind, Size: imagestest.Octal(int64(len(text) + 1)), GNU: true}.Member([]byte(text + "\x00"))
	}
	body := []byte("good")
	named := imagestest.Header{Name: "short", Type: tar.TypeReg, Size: imagestest.Octal(4), GNU: true}.Member(body)
	linked := imagestest.Header{Name: mods + "b", Type: tar.TypeLink, Size: imagestest.Octal(0), Link: "short", GNU: true}.Block()
	tests := []struct {
		name string
		l    layer
		want map[string]string
	}{
		{"as archive/tar writes it", layer{{Name: mods + long, Body: "good"}}, map[string]string{long: "good"}},
		{"GNU", layer{{Raw: append(gnu(tar.TypeGNULongName, mods+long), named...)}}, map[string]string{long: "good"}},
		{"GNU, a link", layer{{Raw: append(gnu(tar.TypeGNULongName, mods+long), named...)}, {Raw: append(gnu(tar.TypeGNULongLink, mods+long), linked...)}},
			map[string]string{long: "good", "b": "good"}},
		{"PAX", layer{{Raw: append(imagestest.PAX(tar.TypeXHeader, "path="+mods+long), named...)}}, map[string]string{long: "good"}},
		{"PAX, a link", layer{{Raw: append(imagestest.PAX(tar.TypeXHeader, "path="+mods+long), named...)},
			{Raw: append(imagestest.PAX(tar.TypeXHeader, "linkpath="+mods+long), linked...)}}, map[string]string{long: "good", "b": "good"}},
		{"split into prefix and name", layer{{Name: mods + strings.Repeat("a", 60) + "/" + strings.Repeat("b", 80), Body: "good"}},
			map[string]string{strings.Repeat("a", 60) + "/" + strings.Repeat("b", 80): "good"}},
		{"exactly as long as a header has room", layer{{Name: mods + strings.Repeat("c", 100-len(mods)), Body: "good"}}, map[string]string{strings.Repeat("c", 100-len(mods)): "good"}},
		{"one byte more", layer{{Name: mods + strings.Repeat("c", 101-len(mods)), Body: "good"}}, map[string]string{strings.Repeat("c", 101-len(mods)): "good"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, tree, err := pullLayers(t, tt.l)
			require.NoError(t, err)
			assert.Equal(t, tt.want, contents(t, tree.ModulesDir))
		})
	}
}
