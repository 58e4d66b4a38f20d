// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// Links that lead outside by more than one step, and entries that go through
// one.

func TestSymlinkChain(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink(mods+"one", "two"), imagestest.Symlink(mods+"two", "./three"),
		imagestest.Symlink(mods+"three", "OUTSIDE"), imagestest.File(mods+"one/sentinel", "evil")}},
		want: onlyGood()}.run(t)
}

func TestSymlinkChainOverLayers(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink(mods+"one", "UP.")}, {imagestest.Symlink(mods+"two", "one/OUTSIDE")},
		{imagestest.File(mods+"two/sentinel", "evil")}, {imagestest.Symlink(mods+"b.ko", "two/../sentinel")}},
		want: onlyGood()}.run(t)
}

func TestSymlinkChainWithoutEnd(t *testing.T) {
	l := layer{good()}
	for i := range 200 {
		l = append(l, imagestest.Symlink(fmt.Sprintf("s%d", i), fmt.Sprintf("s%d", i+1)))
	}
	attack{layers: []layer{append(l, imagestest.Symlink("s200", "OUTSIDE"), imagestest.File("s0/sentinel", "evil"))},
		err: ErrUnsafe}.run(t)
}

func TestSymlinkWithTrailingSlash(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink(mods+"out/", "OUTSIDE/"), imagestest.File(mods+"out//./sentinel", "evil")}},
		want: onlyGood()}.run(t)
}

func TestSymlinkToProc(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink(mods+"b.ko", "/proc/self/exe"), imagestest.Symlink(mods+"cwd", "/proc/self/cwd"),
		imagestest.File(mods+"cwd/sentinel", "evil")}}, want: onlyGood()}.run(t)
}

func TestWriteThroughSymlink(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink(mods+"b.ko", "OUTSIDE/sentinel")}, {imagestest.File(mods+"b.ko", "evil")}},
		want: map[string]string{"a.ko": "good", "b.ko": "evil"}}.run(t)
}

func TestWriteThroughSymlinkInOneLayer(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink(mods+"b.ko", "OUTSIDE/sentinel"), imagestest.File(mods+"b.ko", "evil")}},
		err: ErrUnsafe}.run(t)
}

func TestWriteThroughHardlink(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Hardlink(mods+"b.ko", mods+"a.ko")}, {imagestest.File(mods+"b.ko", "evil")}},
		want: map[string]string{"a.ko": "good", "b.ko": "evil"}}.run(t)
}

func TestWriteThroughHardlinkInOneLayer(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Hardlink(mods+"b.ko", mods+"a.ko"), imagestest.File(mods+"b.ko", "evil")}},
		err: ErrUnsafe}.run(t)
}

func TestWriteThroughHardlinkToASymlink(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink("out", "OUTSIDE/sentinel"), imagestest.Hardlink(mods+"b.ko", "out")},
		{imagestest.File(mods+"b.ko", "evil")}}, want: map[string]string{"a.ko": "good", "b.ko": "evil"}}.run(t)
}

func TestHardlinkToItself(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Hardlink(mods+"b.ko", mods+"b.ko")}}, err: ErrUnsafe}.run(t)
}

func TestHardlinkToADirectory(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Hardlink(mods+"b", "opt")}}, err: ErrUnsafe}.run(t)
}

func TestHardlinksToEachOther(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Hardlink(mods+"b", mods+"c"), imagestest.Hardlink(mods+"c", mods+"b")}},
		err: ErrUnsafe}.run(t)
}

func TestHardlinkToADevice(t *testing.T) {
	attack{layers: []layer{{good(), {Name: "mem", Type: tar.TypeChar}, imagestest.Hardlink(mods+"mem", "mem")}},
		want: onlyGood()}.run(t)
}

// Whiteouts are about names of the image.

func TestWhiteoutThroughSymlink(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink(mods+"out", "OUTSIDE")}, {imagestest.Whiteout(mods + "out/sentinel")}},
		want: onlyGood()}.run(t)
}

func TestOpaqueThroughSymlink(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink(mods+"out", "OUTSIDE")}, {imagestest.Opaque(mods + "out")}},
		want: onlyGood()}.run(t)
}

func TestOpaqueWithTraversal(t *testing.T) {
	attack{layers: []layer{{good()}, {imagestest.File("UPOUTSIDE/.wh..wh..opq", "")}}, err: ErrUnsafe}.run(t)
}

func TestWhiteoutThatIsALink(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.File(mods+"b.ko", "1")}, {imagestest.Symlink(mods+".wh.b.ko", "OUTSIDE/sentinel"),
		imagestest.Hardlink(mods+".wh.c", "UPOUTSIDE/sentinel")}}, want: onlyGood()}.run(t)
}

// What a file may be besides its bytes.

func TestFileCapabilities(t *testing.T) {
	attack{layers: []layer{{{Name: mods + "a.ko", Body: "good", Mode: 0o4755, PAX: map[string]string{
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"SCHILY.xattr.user.evil":           "1",
	}}}}, want: onlyGood()}.run(t)
}

func TestSetuidDirectory(t *testing.T) {
	attack{layers: []layer{{{Name: mods, Type: tar.TypeDir, Mode: 0o7777}, good()}}, want: onlyGood()}.run(t)
}

func TestUnknownEntryType(t *testing.T) {
	attack{layers: []layer{{good(), {Raw: imagestest.Header{Name: mods + "b.ko", Type: 'Z', Size: imagestest.Octal(4)}.Member([]byte("evil"))}}},
		want: onlyGood()}.run(t)
}

// Names.

func TestNameWithNUL(t *testing.T) {
	pax := imagestest.PAX(tar.TypeXHeader, "path="+mods+"a.ko\x00/../b.ko")
	file := imagestest.Header{Name: mods + "b.ko", Type: tar.TypeReg, Size: imagestest.Octal(4)}.Member([]byte("evil"))
	attack{layers: []layer{{good(), {Raw: append(pax, file...)}}}, err: ErrUnsafe}.run(t)
}

// TestLongNameWithNUL: the name ends at the NUL, so there are two of it.
func TestLongNameWithNUL(t *testing.T) {
	name := mods + "a.ko\x00/../../sentinel\x00"
	long := imagestest.Header{Name: "././@LongLink", Type: tar.TypeGNULongName, Size: imagestest.Octal(int64(len(name))), GNU: true}
	file := imagestest.Header{Name: mods + "b.ko", Type: tar.TypeReg, Size: imagestest.Octal(4), GNU: true}.Member([]byte("evil"))
	attack{layers: []layer{{good(), {Raw: append(long.Member([]byte(name)), file...)}}}, err: ErrUnsafe}.run(t)
}

func TestLinkTargetWithNUL(t *testing.T) {
	pax := imagestest.PAX(tar.TypeXHeader, "linkpath=a.ko\x00/../../sentinel")
	link := imagestest.Header{Name: mods + "b.ko", Type: tar.TypeSymlink, Size: imagestest.Octal(0), Link: "a.ko"}.Block()
	attack{layers: []layer{{good(), {Raw: append(pax, link...)}}}, err: ErrUnsafe}.run(t)
}

func TestNameNotUTF8(t *testing.T) {
	file := imagestest.Header{Name: mods + "\xff\xfe.ko", Type: tar.TypeReg, Size: imagestest.Octal(4)}.Member([]byte("evil"))
	attack{layers: []layer{{good(), {Raw: file}}}, err: ErrUnsafe}.run(t)
}

// TestNamesThatDifferInCase: a name is its bytes, so these are all different,
// and none stands for another.
func TestNamesThatDifferInCase(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.File(mods+"A.KO", "other"), imagestest.File(mods+"é", "composed"),
		imagestest.File(mods+"e\u0301", "decomposed"), imagestest.File("OPT/lib/modules/"+testRelease+"/x", "elsewhere"),
		imagestest.Whiteout(mods + "A.ko")}},
		want: map[string]string{"a.ko": "good", "A.KO": "other", "é": "composed", "e\u0301": "decomposed"}}.run(t)
}

func TestBackslashIsNoSeparator(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.File(mods+`..\..\b.ko`, "odd")}},
		want: map[string]string{"a.ko": "good", `..\..\b.ko`: "odd"}}.run(t)
}

func TestComponentTooLong(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.File(mods+strings.Repeat("x", maxNameLength+1), "")}}, err: ErrLimit}.run(t)
}

func TestLinkTargetTooLong(t *testing.T) {
	attack{layers: []layer{{good(), imagestest.Symlink(mods+"b.ko", strings.Repeat("x/", maxPathLength)+"..")}},
		err: ErrLimit}.run(t)
}

func TestEmptyName(t *testing.T) {
	file := imagestest.Header{Type: tar.TypeReg, Size: imagestest.Octal(4)}.Member([]byte("evil"))
	attack{layers: []layer{{good(), {Raw: file}}}, want: onlyGood()}.run(t)
}

// TestHiddenSecondArchive: what comes behind the end of an archive is no part of
// the image.
func TestHiddenSecondArchive(t *testing.T) {
	plain := append(imagestest.Tar(t, good()), imagestest.Tar(t, imagestest.File(mods+"b.ko", "evil"))...)
	attack{blobs: []*imagestest.Blob{imagestest.Compress(t, plain, imagestest.Gzip)}, want: onlyGood()}.run(t)
}

// What the files say of each other.

// indexed is a modules directory that depmod has been in, with this as
// modules.dep.
func indexed(dep string) layer {
	return layer{good(), imagestest.File(mods+"modules.dep", dep), imagestest.File(mods+"modules.softdep", "softdep a pre: UPOUTSIDE/sentinel\n"),
		imagestest.File(mods+"modules.alias", "alias x OUTSIDE/sentinel\n")}
}

func TestModulesDepLeadsOutside(t *testing.T) {
	for name, dep := range map[string]string{
		"relative": "a.ko: UPOUTSIDE/sentinel\n", "absolute": "a.ko: OUTSIDE/sentinel\n", "by a link": "a.ko: host/sentinel\n",
		"by a link that is a file": "a.ko: file.ko\n", "the module itself": "UPOUTSIDE/a.ko:\n", "dots": "./../" + testRelease + "/a.ko:\n",
	} {
		t.Run(name, func(t *testing.T) {
			l := append(indexed(dep), imagestest.Symlink(mods+"host", "OUTSIDE"), imagestest.Symlink(mods+"file.ko", "OUTSIDE/sentinel"))
			a := attack{layers: []layer{l}, modules: []string{"a"}}
			tree := a.pull(t)
			require.NotNil(t, tree)
			files := contents(t, tree.ModulesDir)
			assert.Equal(t, "good", files["a.ko"])
			assert.Len(t, files, 4)
		})
	}
}

func TestModulesDepNamesItself(t *testing.T) {
	a := attack{layers: []layer{indexed("a.ko: a.ko b.ko\nb.ko: a.ko\n")}, modules: []string{"a"}}
	assert.Equal(t, "good", contents(t, a.pull(t).ModulesDir)["a.ko"])
}
