// SPDX-License-Identifier: Apache-2.0

package images

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

const mods = "opt/lib/modules/" + testRelease + "/"

type layer = []imagestest.Entry

// pullLayers pulls an image of these layers, lowest first.
func pullLayers(t *testing.T, layers ...layer) (*Store, *Tree, error) {
	t.Helper()
	reg, s := imagestest.NewRegistry(t), openStore(t)
	blobs := make([]*imagestest.Blob, 0, len(layers))
	for _, l := range layers {
		blobs = append(blobs, imagestest.Entries(t, l...))
	}
	r := Request{Ref: reg.Host + "/kmod:v1", Releases: []string{testRelease}, Insecure: true}
	imagestest.Push(t, r.Ref, blobs...)
	tree, err := s.Ensure(t.Context(), r)
	return s, tree, err
}

func TestMerge(t *testing.T) {
	file, dir := imagestest.File, imagestest.Directory
	sym, hard := imagestest.Symlink, imagestest.Hardlink
	wh, opq := imagestest.Whiteout, imagestest.Opaque
	tests := []struct {
		name   string
		layers []layer
		want   map[string]string
	}{
		{"newest wins", []layer{{file(mods+"a", "1")}, {file(mods+"a", "2")}}, map[string]string{"a": "2"}},
		{"both stay", []layer{{file(mods+"a", "1")}, {file(mods+"b", "2")}}, map[string]string{"a": "1", "b": "2"}},
		{"dot and slash in front", []layer{{file("./"+mods+"a", "1")}, {file("/"+mods+"a", "2")}}, map[string]string{"a": "2"}},
		{"directory header keeps", []layer{{file(mods+"a", "1")}, {dir(mods), file(mods+"b", "2")}}, map[string]string{"a": "1", "b": "2"}},
		{"whiteout", []layer{{file(mods+"a", "1"), file(mods+"b", "1")}, {wh(mods + "a")}}, map[string]string{"b": "1"}},
		{"whiteout of a directory", []layer{{file(mods+"d/a", "1"), file(mods+"b", "1")}, {wh(mods + "d")}}, map[string]string{"b": "1"}},
		{"whiteout of nothing", []layer{{file(mods+"a", "1"), wh("none/x"), wh(mods + "x")}}, map[string]string{"a": "1"}},
		{"whiteout, then file", []layer{{file(mods+"a", "1")}, {wh(mods + "a"), file(mods+"a", "2")}}, map[string]string{"a": "2"}},
		{"file, then whiteout", []layer{{file(mods+"a", "1")}, {file(mods+"a", "2"), wh(mods + "a")}}, map[string]string{"a": "2"}},
		{"whiteout, then back", []layer{{file(mods+"a", "1"), file(mods+"b", "1")}, {wh(mods + "a")}, {file(mods+"a", "3")}}, map[string]string{"a": "3", "b": "1"}},
		{"opaque first", []layer{{file(mods+"a", "1")}, {opq(mods), file(mods+"b", "2")}}, map[string]string{"b": "2"}},
		{"opaque last", []layer{{file(mods+"a", "1")}, {file(mods+"b", "2"), opq(mods)}}, map[string]string{"b": "2"}},
		{"opaque above", []layer{{file(mods+"d/a", "1")}, {opq("opt"), file(mods+"b", "2")}}, map[string]string{"b": "2"}},
		{"aufs leftovers", []layer{{file(mods+"a", "1"), file(mods+".wh..wh.plnk", "x"), dir(".wh..wh.orph")}}, map[string]string{"a": "1"}},
		{"file becomes directory", []layer{{file(mods+"a", "1")}, {dir(mods + "a"), file(mods+"a/b", "2")}}, map[string]string{"a/b": "2"}},
		{"directory becomes file", []layer{{file(mods+"a/b", "1")}, {file(mods+"a", "2")}}, map[string]string{"a": "2"}},
		{"usrmerge below", []layer{{sym("opt/lib", "../usr/lib"), dir("usr/lib")}, {file(mods+"a", "2")}}, map[string]string{"a": "2"}},
		{"usrmerge, absolute", []layer{{sym("opt/lib", "/usr/lib")}, {file("usr/lib/modules/"+testRelease+"/a", "2")}}, map[string]string{"a": "2"}},
		{"usrmerge, same layer, link last", []layer{{file("usr/lib/modules/"+testRelease+"/a", "1"), sym("opt/lib", "/usr/lib")}}, map[string]string{"a": "1"}},
		{"directory over symlink", []layer{{sym("opt/lib", "/usr/lib"), file("usr/lib/modules/"+testRelease+"/a", "1")}, {dir("opt/lib"), file(mods+"b", "2")}}, map[string]string{"b": "2"}},
		{"opaque directory over symlink", []layer{{file(mods+"a", "1"), sym("drivers", "/"+mods)}, {dir("drivers"), opq("drivers"), file("drivers/x", "2")}},
			map[string]string{"a": "1"}},
		{"whiteout below a directory over symlink", []layer{{file(mods+"a", "1"), sym("drivers", "/"+mods)}, {wh("drivers/a"), dir("drivers")}}, map[string]string{"a": "1"}},
		{"opaque through a symlink", []layer{{file(mods+"a", "1"), sym("drivers", "/"+mods)}, {opq("drivers"), file("drivers/b", "2")}}, map[string]string{"b": "2"}},
		{"link in dirName", []layer{{sym("opt", "srv/../srv/x"), file("srv/x/lib/modules/"+testRelease+"/a", "1")}}, map[string]string{"a": "1"}},
		{"link chain in dirName", []layer{{sym("opt", "o1"), sym("o1", "/o2"), sym("o2", "./o3"), file("o3/lib/modules/"+testRelease+"/a", "1")}}, map[string]string{"a": "1"}},
		{"release is a link", []layer{{sym(strings.TrimSuffix(mods, "/"), "real"), file("opt/lib/modules/real/a", "1")}}, map[string]string{"a": "1"}},
		{"hard link", []layer{{file(mods+"a", "1"), hard(mods+"b", mods+"a")}}, map[string]string{"a": "1", "b": "1"}},
		{"hard link, absolute", []layer{{file(mods+"a", "1"), hard(mods+"b", "/"+mods+"a")}}, map[string]string{"a": "1", "b": "1"}},
		{"hard link before its target", []layer{{hard(mods+"b", mods+"a"), file(mods+"a", "1")}}, map[string]string{"a": "1", "b": "1"}},
		{"hard link to a layer below", []layer{{file("objects/12", "1")}, {hard(mods+"b", "objects/12")}}, map[string]string{"b": "1"}},
		{"hard link outlives its target", []layer{{file("objects/12", "1"), hard(mods+"b", "objects/12")}, {wh("objects")}}, map[string]string{"b": "1"}},
		{"hard link through usrmerge", []layer{{sym("x", "opt"), file(mods+"a", "1"), hard(mods+"b", "x/lib/modules/"+testRelease+"/a")}}, map[string]string{"a": "1", "b": "1"}},
		{"symlink to a file", []layer{{file(mods+"a", "1"), sym(mods+"b", "a")}}, map[string]string{"a": "1", "b": "1"}},
		{"symlink to a file elsewhere", []layer{{file("opt/lib/modules/older/a", "1"), sym(mods+"w/b", "/opt/lib/modules/older/a")}}, map[string]string{"w/b": "1"}},
		{"symlink to a directory inside", []layer{{file(mods+"d/a", "1"), sym(mods+"e", "d")}}, map[string]string{"d/a": "1", "e/a": "1"}},
		{"symlink to a directory outside", []layer{{file(mods+"a", "1"), sym(mods+"build", "/usr/src/linux"), file("usr/src/linux/Makefile", "x")}}, map[string]string{"a": "1"}},
		{"symlink loops", []layer{{file(mods+"a", "1"), sym(mods+"self", "self"), sym(mods+"x", "y"), sym(mods+"y", "x"), sym(mods+"dot", "."), sym(mods+"d/up", "..")}}, map[string]string{"a": "1"}},
		{"KMM's link to the host", []layer{{file(mods+"a", "1"), sym(mods+"host", "/lib/modules/"+testRelease)}}, map[string]string{"a": "1"}},
		{"KMM's link, and the image has some", []layer{{file(mods+"a", "1"), sym(mods+"host", "/lib/modules/"+testRelease), file("lib/modules/"+testRelease+"/dummy.ko", "intree")}}, map[string]string{"a": "1"}},
		{"empty file", []layer{{file(mods+"a", "")}}, map[string]string{"a": ""}},
		{"the same layer twice", []layer{{file(mods+"a", "1")}, {wh(mods + "a"), file(mods+"b", "2")}, {file(mods+"a", "1")}}, map[string]string{"a": "1", "b": "2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, tree, err := pullLayers(t, tt.layers...)
			require.NoError(t, err)
			assert.Equal(t, tt.want, contents(t, tree.ModulesDir))
		})
	}
}

func TestDroppedLinksAreRecorded(t *testing.T) {
	_, tree, err := pullLayers(t, layer{imagestest.File(mods+"a", "1"), imagestest.Symlink(mods+"host", "/lib/modules/x")})
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(tree.dir, treeFile))
	require.NoError(t, err)
	var m manifest
	require.NoError(t, json.Unmarshal(b, &m))
	assert.Equal(t, []dropped{{Path: "lib/modules/" + testRelease + "/host", Target: "/lib/modules/x"}}, m.Links)
}
