// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// TestLinks: files are written where they really are, and stay links of each other.
func TestLinks(t *testing.T) {
	l := newLab(t, imagestest.Entries(t,
		imagestest.Symlink("lib", "usr/lib"), imagestest.Symlink("opt/lib", "/lib"), imagestest.Directory("usr/lib/modules/6.1.0"),
		imagestest.File("usr/lib/modules/6.1.0/a.ko", module("a")),
		imagestest.Hardlink("usr/lib/modules/6.1.0/b.ko", "usr/lib/modules/6.1.0/a.ko"),
		imagestest.Hardlink("usr/lib/c.ko", "usr/lib/modules/6.1.0/a.ko"),
		imagestest.Symlink("usr/lib/modules/6.1.0/d.ko", "a.ko")))
	r, err := l.sign(t, "/lib/modules/6.1.0/*.ko", allMods, "/usr/lib/modules/6.1.0/a.ko")
	require.NoError(t, err)
	assert.Equal(t, 1, r.Signed, "it is one file")
	headers, _ := last(t, l.image(t, "out:v1"))
	require.Equal(t, []string{"usr/lib/modules/6.1.0/a.ko", "usr/lib/modules/6.1.0/b.ko"}, names(headers))
	assert.Equal(t, byte(tar.TypeLink), headers[1].Typeflag)
	assert.Equal(t, "usr/lib/modules/6.1.0/a.ko", headers[1].Linkname)
	pulled := l.pull(t, l.Host+"/out:v1")
	require.Len(t, pulled, 3, "the symlink too")
	for at, b := range pulled {
		assert.NoError(t, sign.Verify(b, l.signer.Certificate()), at)
	}
}

// TestHostileLayers: none of them is signed, and nothing is published.
func TestHostileLayers(t *testing.T) {
	good := imagestest.File(mods+"a.ko", module("a"))
	header := func(name string, size int64) imagestest.Entry {
		return imagestest.Entry{Raw: imagestest.Header{Name: name, Type: tar.TypeReg, Size: imagestest.Octal(size)}.Block()}
	}
	tests := []struct {
		name string
		l    []imagestest.Entry
		err  error
	}{
		{"dots", []imagestest.Entry{good, imagestest.File(mods+"../../../../../etc/x.ko", module("x"))}, images.ErrUnsafe},
		{"dots in a hard link", []imagestest.Entry{good, imagestest.Hardlink(mods+"b.ko", "../../etc/passwd")}, images.ErrUnsafe},
		{"hard link to nothing", []imagestest.Entry{good, imagestest.Hardlink(mods+"b.ko", "etc/passwd")}, images.ErrUnsafe},
		{"loop", []imagestest.Entry{good, imagestest.Symlink(mods+"b.ko", "c.ko"), imagestest.Symlink(mods+"c.ko", "b.ko")}, images.ErrUnsafe},
		{"device", []imagestest.Entry{good, {Name: mods + "b.ko", Type: tar.TypeBlock}}, images.ErrNotFile},
		{"twice", []imagestest.Entry{good, good}, images.ErrUnsafe},
		{"line break in the name", []imagestest.Entry{good, imagestest.File(mods+"b\n.ko", module("b"))}, images.ErrUnsafe},
		{"ends in the middle", []imagestest.Entry{good, {Name: mods + "b.ko", Body: module("b"), Size: 1 << 20}}, images.ErrUnsafe},
		{"says it is large", []imagestest.Entry{good, header(mods+"b.ko", 300<<20)}, images.ErrUnsafe},
		{"not a module", []imagestest.Entry{good, imagestest.File(mods+"b.ko", "#!/bin/sh")}, sign.ErrNotModule},
		{"empty", []imagestest.Entry{good, imagestest.File(mods+"b.ko", "")}, sign.ErrNotModule},
		{"damaged xz", []imagestest.Entry{good, imagestest.File(mods+"b.ko", "\xfd7zXZ\x00 and no more")}, sign.ErrNotModule},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, imagestest.Compress(t, imagestest.Tar(t, tt.l...), imagestest.Gzip))
			_, err := l.sign(t, allMods)
			require.ErrorIs(t, err, tt.err)
			l.unpublished(t)
		})
	}
}

// TestLinkOutOfTheImage: a link that leads out of it is followed inside it.
func TestLinkOutOfTheImage(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "a.ko")
	require.NoError(t, os.WriteFile(outside, []byte(module("outside")), 0o600))
	l := newLab(t, imagestest.Entries(t, imagestest.File(mods+"a.ko", module("a")), imagestest.Symlink(mods+"b.ko", outside)))
	r, err := l.sign(t, allMods)
	require.NoError(t, err)
	assert.Equal(t, 1, r.Signed)
	b, err := os.ReadFile(outside)
	require.NoError(t, err)
	assert.Equal(t, module("outside"), string(b))
}

// TestTooLargeAModule: what does not fit into memory is not taken in, packed or not.
func TestTooLargeAModule(t *testing.T) {
	packed, err := kmod.Compress("gzip", make([]byte, 8<<20))
	require.NoError(t, err)
	for name, body := range map[string]string{"a.ko": strings.Repeat("\x00", 24<<20), "a.ko.gz": string(packed)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			imagestest.AddToLayout(t, dir, imagestest.Image(t, imagestest.Entries(t, imagestest.File(mods+name, body))), nil)
			o := Options{From: Place{Ref: "oci:" + dir}, To: Place{Ref: "oci:" + dir + "/out"}, moduleSize: 4 << 20}
			s := newSigner(t)
			limit := uint64(8 << 20)
			if name != "a.ko" {
				limit = 1 << 30 // it is unpacked before it is known how large it is: pkg/kmod has a limit for that
			}
			cheaply(t, limit, func() {
				_, err := Sign(t.Context(), o, s, globs(t, "/"+mods+"*"))
				require.ErrorIs(t, err, images.ErrLimit)
				assert.ErrorContains(t, err, mods+name)
			})
		})
	}
}

// TestBlobOfTheWrongDigest: at the first reading, the manifest says what is right.
func TestBlobOfTheWrongDigest(t *testing.T) {
	l := oneModule(t)
	l.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			other := imagestest.Layer(t, map[string]string{mods + "a.ko": module("evil")})
			_, _ = w.Write(other.Data)
			return
		}
		next.ServeHTTP(w, r)
	})
	_, err := l.sign(t, allMods)
	require.ErrorIs(t, err, images.ErrDigest)
	l.unpublished(t)
}

// cheaply fails the test when f allocates more than so many bytes altogether.
func cheaply(t testing.TB, limit uint64, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	assert.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, limit, "bytes allocated")
}

// large is a layout whose image has a base of so many bytes, not compressed, and a
// small layer with a module.
func large(t testing.TB, size int) string {
	t.Helper()
	noise := make([]byte, size)
	_, _ = rand.Read(noise)
	base := imagestest.Compress(t, imagestest.Tar(t, imagestest.File("usr/bin/large", string(noise))), imagestest.None)
	dir := t.TempDir()
	imagestest.AddToLayout(t, dir, imagestest.Image(t, base, imagestest.Layer(t, map[string]string{mods + "a.ko": module("a")})), nil)
	return dir
}

// TestMemoryDoesNotGrow: all that is ever allocated is less than the layers have.
func TestMemoryDoesNotGrow(t *testing.T) {
	dir, s := large(t, 20<<20), newSigner(t)
	cheaply(t, 12<<20, func() {
		o := Options{From: Place{Ref: "oci:" + dir}, To: Place{Ref: "oci:" + t.TempDir()}}
		_, err := Sign(t.Context(), o, s, globs(t, allMods))
		require.NoError(t, err)
	})
	target := imagestest.NewRegistry(t)
	target.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/blobs/") {
			w.WriteHeader(http.StatusOK) // it has all; taking it in is the test's memory
			return
		}
		next.ServeHTTP(w, r)
	})
	cheaply(t, 12<<20, func() {
		o := Options{From: Place{Ref: "oci:" + dir}, To: Place{Ref: target.Host + "/out:v1", Insecure: true}}
		_, err := Sign(t.Context(), o, s, globs(t, allMods))
		require.NoError(t, err)
	})
}

// BenchmarkSign signs one module of a 100 MB image, from a layout to a registry that
// has the base.
func BenchmarkSign(b *testing.B) {
	const size = 100 << 20
	dir, s := large(b, size), newSigner(b)
	target := imagestest.NewRegistry(b)
	to := Place{Ref: target.Host + "/out:v1", Insecure: true}
	_, err := Copy(b.Context(), Options{From: Place{Ref: "oci:" + dir}, To: Place{Ref: target.Host + "/base:v1", Insecure: true}})
	require.NoError(b, err)
	for _, bench := range []struct{ name, glob string }{{"wildcard", allMods}, {"literal", "/" + mods + "a.ko"}} {
		b.Run(bench.name, func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				_, err := Sign(b.Context(), Options{From: Place{Ref: "oci:" + dir}, To: to}, s, globs(b, bench.glob))
				require.NoError(b, err)
			}
		})
	}
}

// TestEmptyIndex: what has nothing to sign says so.
func TestEmptyIndex(t *testing.T) {
	l := newLab(t)
	index := mutate.RemoveManifests(twoPlatforms(t), func(v1.Descriptor) bool { return true })
	require.NoError(t, remote.WriteIndex(mustRef(t, l.Host+"/in:v1"), index))
	_, err := l.sign(t, allMods)
	require.ErrorIs(t, err, ErrNoMatch)
}
