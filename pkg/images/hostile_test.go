// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kmod"
)

// attack is an image that tries to reach a file of ours outside the store. The
// words OUTSIDE, in names, targets and content, stand for the directory of that
// file, UP for enough "../".
type attack struct {
	layers []layer
	blobs  []*imagestest.Blob // more layers, above those, in which nothing is replaced
	// serve, if not nil, stands between the registry that has the image and us.
	serve   func(t *testing.T, image v1.Image, w http.ResponseWriter, r *http.Request, next http.Handler)
	modules []string // what is asked for; nil is all, and the image is not looked into for that
	// shipped is to pull with the limits of the product, not with lower ones.
	shipped bool
	err     error             // what the image is refused with; nil: it is taken …
	want    map[string]string // … as these files
}

const (
	sentinelName = "sentinel"
	sentinelText = "not yours"
)

// run pulls the image and looks at what came out.
func (a attack) run(t *testing.T) {
	t.Helper()
	if tree := a.pull(t); tree != nil {
		assert.Equal(t, a.want, contents(t, tree.ModulesDir))
	}
}

// pull pulls the image and looks at the sentinel and at everything around it. It
// returns nil for an image that is refused.
func (a attack) pull(t *testing.T) *Tree {
	t.Helper()
	world := t.TempDir()
	sentinel := filepath.Join(world, sentinelName)
	require.NoError(t, os.WriteFile(sentinel, []byte(sentinelText), 0o644))
	before, err := os.Stat(sentinel)
	require.NoError(t, err)

	reg := imagestest.NewRegistry(t)
	s, err := Open(filepath.Join(world, "images"), Options{})
	require.NoError(t, err)
	if !a.shipped {
		s.l.fileSize, s.l.selected, s.l.unpacked = 1<<20, 2<<20, 8<<20
		s.l.entries, s.l.files = 2000, 100
	}
	staged := 0
	s.step = func(what string) error {
		if strings.HasPrefix(what, "stage ") {
			staged++
		}
		return nil
	}
	var blobs []*imagestest.Blob
	replacer := strings.NewReplacer("OUTSIDE", world, "UP", strings.Repeat("../", 40))
	for _, l := range a.layers {
		entries := append(layer(nil), l...)
		for i := range entries {
			entries[i].Name = replacer.Replace(entries[i].Name)
			entries[i].Link = replacer.Replace(entries[i].Link)
			entries[i].Body = replacer.Replace(entries[i].Body)
		}
		blobs = append(blobs, imagestest.Entries(t, entries...))
	}
	blobs = append(blobs, a.blobs...)
	r := Request{Ref: reg.Host + "/evil:v1", Releases: []string{testRelease}, Insecure: true}
	if a.modules != nil {
		r.Modules, r.Closure, r.Firmware = a.modules, kmod.Closure, kmod.Firmware
	}
	imagestest.Push(t, r.Ref, blobs...)
	if a.serve != nil {
		image := imagestest.Image(t, blobs...)
		reg.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) { a.serve(t, image, w, r, next) })
	}
	tree, err := s.Ensure(t.Context(), r)

	after, statErr := os.Lstat(sentinel)
	require.NoError(t, statErr)
	b, readErr := os.ReadFile(sentinel)
	require.NoError(t, readErr)
	assert.Equal(t, sentinelText, string(b))
	assert.Equal(t, before, after)
	assert.ElementsMatch(t, []string{sentinelName, "images"}, names(t, world))
	assert.Empty(t, names(t, s.path("tmp")))
	onlyPlainFiles(t, s.dir)
	assert.LessOrEqual(t, staged, s.l.files+1, "files made on the way")
	if a.err == nil {
		require.NoError(t, err)
	}
	require.ErrorIs(t, err, a.err)
	if a.err != nil {
		assert.Empty(t, names(t, s.path("trees")))
		return nil
	}
	return tree
}

func onlyPlainFiles(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		assert.True(t, d.IsDir() || d.Type().IsRegular(), p)
		info, err := d.Info()
		require.NoError(t, err)
		assert.Zero(t, info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky), p)
		n, err := unix.Llistxattr(p, nil)
		assert.True(t, n == 0 || errors.Is(err, unix.ENOTSUP), "%s has attributes: %d bytes, %v", p, n, err)
		return nil
	}))
}

func good() imagestest.Entry      { return imagestest.File(mods+"a.ko", "good") }
func onlyGood() map[string]string { return map[string]string{"a.ko": "good"} }

func TestTraversal(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.File(mods+"UPOUTSIDE/sentinel", "evil")}}, err: ErrUnsafe}.run(t)
}

func TestTraversalOutsideTheSelection(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.File("etc/UPOUTSIDE/sentinel", "evil")}}, err: ErrUnsafe}.run(t)
}

func TestTraversalInAWhiteout(t *testing.T) {
	attack{layers: []layer{{good()}, {imagestest.Whiteout("UPOUTSIDE/sentinel")}}, err: ErrUnsafe}.run(t)
}

func TestWhiteoutOfParent(t *testing.T) {
	attack{layers: []layer{{good()}, {imagestest.File(mods+".wh...", "")}}, err: ErrUnsafe}.run(t)
}

func TestWhiteoutOfItself(t *testing.T) {
	attack{layers: []layer{{good()}, {imagestest.File(".wh..", "")}}, err: ErrUnsafe}.run(t)
}

func TestAbsolutePath(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.File("OUTSIDE/sentinel", "evil")}}, want: onlyGood()}.run(t)
}

func TestSymlinkEscapeAbsolute(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink(mods+"out", "OUTSIDE"), imagestest.File(mods+"out/sentinel", "evil")}},
		want: map[string]string{"a.ko": "good"}}.run(t)
}

func TestSymlinkEscapeRelative(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink(mods+"out", "UPOUTSIDE")},
		{imagestest.File(mods+"out/sentinel", "evil")}}, want: onlyGood()}.run(t)
}

func TestSymlinkEscapeOfTheFileItself(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink(mods+"b.ko", "OUTSIDE/sentinel")}}, want: onlyGood()}.run(t)
}

func TestSymlinkEscapeByDirName(t *testing.T) {
	attack{layers: []layer{{imagestest.Symlink("opt", "OUTSIDE/images"), imagestest.File(mods+"a.ko", "good")}},
		want: onlyGood()}.run(t)
}

func TestSymlinkAsRoot(t *testing.T) {
	attack{layers: []layer{{imagestest.Symlink("./", "OUTSIDE"), imagestest.Symlink(".", "OUTSIDE"), good()}},
		want: onlyGood()}.run(t)
}

func TestSymlinkLoopAsParent(t *testing.T) {
	attack{layers: []layer{{imagestest.Symlink("x", "y"), imagestest.Symlink("y", "x"), imagestest.File("x/f", "")}},
		err: ErrUnsafe}.run(t)
}

func TestSymlinkSwappedForDirectory(t *testing.T) {
	attack{layers: []layer{{imagestest.Symlink(mods+"d", "OUTSIDE"), imagestest.Directory(mods + "d"),
		imagestest.File(mods+"d/sentinel", "evil")}}, err: ErrUnsafe}.run(t)
}

func TestHardlinkEscape(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Hardlink(mods+"b.ko", "UPOUTSIDE/sentinel")}}, err: ErrUnsafe}.run(t)
}

func TestHardlinkEscapeAbsolute(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Hardlink(mods+"b.ko", "OUTSIDE/sentinel")}}, err: ErrUnsafe}.run(t)
}

func TestHardlinkEscapeBySymlink(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink("out", "OUTSIDE"), imagestest.Hardlink(mods+"b.ko", "out/sentinel"),
		imagestest.File(mods+"b.ko", "evil")}}, err: ErrUnsafe}.run(t)
}

func TestDevice(t *testing.T) {
	attack{layers: []layer{{good(), {Name: mods + "mem", Type: tar.TypeChar}, {Name: mods + "disk", Type: tar.TypeBlock}}},
		want: onlyGood()}.run(t)
}

func TestDeviceAsParent(t *testing.T) {
	attack{layers: []layer{{good(), {Name: mods + "mem", Type: tar.TypeChar}, imagestest.File(mods+"mem/x", "")}},
		err: ErrUnsafe}.run(t)
}

func TestFifo(t *testing.T) {
	attack{layers: []layer{{good(), {Name: mods + "b.ko", Type: tar.TypeFifo}}}, want: onlyGood()}.run(t)
}

func TestSetuid(t *testing.T) {
	attack{layers: []layer{{{Name: mods + "a.ko", Body: "good", Mode: 0o6777}}}, want: onlyGood()}.run(t)
}

func TestBombInTheSelection(t *testing.T) {
	attack{layers: []layer{{good(), {Name: mods + "big", Body: strings.Repeat("0", 1<<20+1)}}}, err: ErrLimit}.run(t)
}

func TestBombBesideTheSelection(t *testing.T) {
	attack{layers: []layer{{good(), {Name: "big", Body: strings.Repeat("0", 9<<20)}}}, err: ErrLimit}.run(t)
}

func TestBombOverSeveralLayers(t *testing.T) {
	big := layer{{Name: "big", Body: strings.Repeat("0", 3<<20)}}
	other := layer{{Name: "big", Body: strings.Repeat("1", 3<<20)}}
	third := layer{{Name: "big", Body: strings.Repeat("2", 3<<20)}}
	attack{layers: []layer{{good()}, big, other, third}, err: ErrLimit}.run(t)
}

func TestBombOfLinks(t *testing.T) {
	// One file of 1 MB under three names.
	body := imagestest.Entry{Name: mods + "a", Body: strings.Repeat("0", 1<<20)}
	attack{layers: []layer{{body, imagestest.Symlink(mods+"b", "a"), imagestest.Hardlink(mods+"c", mods+"a")}},
		err: ErrLimit}.run(t)
}

func TestBombOfDirectoryLinks(t *testing.T) {
	// Each level has two ways to the next: 2^20 paths to one file.
	var l layer
	for i := range 20 {
		d := mods + strings.Repeat("d", i+1)
		l = append(l, imagestest.Directory(d), imagestest.Symlink(d+"/x", "../"+strings.Repeat("d", i+2)),
			imagestest.Symlink(d+"/y", "../"+strings.Repeat("d", i+2)))
	}
	attack{layers: []layer{append(l, imagestest.File(mods+strings.Repeat("d", 21)+"/a.ko", "1"))}, err: ErrLimit}.run(t)
}

func TestBombOfLinksToAWideDirectory(t *testing.T) {
	l := layer{good()}
	for i := range 900 {
		l = append(l, imagestest.Directory(mods+"d/"+strconv.Itoa(i)), imagestest.Symlink(mods+"l"+strconv.Itoa(i), "d"))
	}
	attack{layers: []layer{l}, err: ErrLimit}.run(t)
}

func TestSizeThatIsNotThere(t *testing.T) {
	attack{layers: []layer{{good(), {Name: mods + "b.ko", Body: "short", Size: 4096}}}, err: ErrUnsafe}.run(t)
}

func TestTooManyEntries(t *testing.T) {
	l := layer{good()}
	for range 2001 {
		l = append(l, imagestest.Directory("again"))
	}
	attack{layers: []layer{l}, err: ErrLimit}.run(t)
}

func TestTooManyFilesInTheSelection(t *testing.T) {
	var l layer
	for i := range 101 {
		l = append(l, imagestest.File(mods+strings.Repeat("x", i+1), ""))
	}
	attack{layers: []layer{l}, err: ErrLimit}.run(t)
}

func TestTooManyImpliedDirectories(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.File(strings.Repeat("d/", 2010)+"f", "")}}, err: ErrLimit}.run(t)
}

func TestNameTooLong(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.File(mods+strings.Repeat("x", 5000), "")}}, err: ErrLimit}.run(t)
}

func TestDuplicateInSelection(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.File(mods+"a.ko", "evil")}}, err: ErrUnsafe}.run(t)
}

func TestDuplicateByAnotherSpelling(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink("x", "opt"), imagestest.File("./x//lib/modules/"+testRelease+"/a.ko", "evil")}},
		err: ErrUnsafe}.run(t)
}

func TestDuplicateBesideTheSelection(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.File("etc/x", "1"), imagestest.File("etc/x", "2")}}, want: onlyGood()}.run(t)
}

func TestDuplicateSymlinkToTheSelection(t *testing.T) {
	attack{layers: []layer{{imagestest.Symlink("opt", "one"), imagestest.Symlink("opt", "two"),
		imagestest.File("one/lib/modules/"+testRelease+"/a.ko", "1"),
		imagestest.File("two/lib/modules/"+testRelease+"/a.ko", "2")}}, err: ErrUnsafe}.run(t)
}

func TestControlCharacterInName(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.File(mods+"b\n.ko", "")}}, err: ErrUnsafe}.run(t)
}

func TestNotATar(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	for name, data := range map[string]string{
		"text": strings.Repeat("this is no tar ", 100), "zeros-in-gzip": "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03broken",
		"zstd": "\x28\xb5\x2f\xfdbroken",
	} {
		r := request(reg.Host + "/kmod:" + name)
		imagestest.Push(t, r.Ref, imagestest.Compress(t, []byte(data), imagestest.None))
		_, err := s.Ensure(t.Context(), r)
		assert.ErrorIs(t, err, ErrUnsafe, name)
	}
}
