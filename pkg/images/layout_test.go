// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

func TestParseLocal(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	tests := []struct {
		ref  string
		want localRef // zero: a registry's
		bad  string   // words of the error
	}{
		{ref: "oci:/srv/kmod", want: localRef{schemeLayout, "/srv/kmod", "", ""}},
		{ref: "oci:/srv/kmod:v1", want: localRef{schemeLayout, "/srv/kmod", "v1", ""}},
		{ref: "oci:/srv/kmod@" + digest, want: localRef{schemeLayout, "/srv/kmod", "", digest}},
		{ref: "oci-archive:/srv/a:b/kmod.tar:6.1.0-1-amd64@" + digest, want: localRef{schemeArchive, "/srv/a:b/kmod.tar", "6.1.0-1-amd64", digest}},
		{ref: "oci:v1"},
		{ref: "oci-archive:v1"},
		{ref: "oci:5000/kmod:v1"},
		{ref: "oci/kmod:v1"},
		{ref: "reg/oci:v1"},
		{ref: "docker:/srv/kmod:v1"},
		{ref: "oci:srv/kmod", bad: "absolute"},
		{ref: "oci:/", bad: ".."},
		{ref: "oci:/srv/../etc/kmod:v1", bad: ".."},
		{ref: "oci:/srv//kmod", bad: "doubled"},
		{ref: "oci:/srv/kmod/:v1", bad: "trailing"},
		{ref: "oci:/srv/kmod:", bad: "no tag"},
		{ref: "oci:/srv/kmod:a:b", bad: "no tag"},
		{ref: "oci:/srv/kmod:v+1", bad: "no tag"},
		{ref: "oci:/srv/kmod@sha512:abc", bad: "sha256"},
		{ref: "oci:/srv/kmod@", bad: "sha256"},
		{ref: "oci:/srv/km\x00od", bad: "not printable"},
		{ref: "oci:/" + strings.Repeat("x", 4096), bad: "too long"},
	}
	for _, tt := range tests {
		got, ok, err := parseLocal(tt.ref)
		switch {
		case tt.bad != "":
			require.ErrorIs(t, err, ErrInvalidRef, tt.ref)
			assert.ErrorContains(t, err, tt.bad)
		default:
			require.NoError(t, err, tt.ref)
			assert.Equal(t, tt.want, got, tt.ref)
			assert.Equal(t, tt.want != localRef{}, ok, tt.ref)
			if ok {
				assert.Equal(t, tt.ref, got.Name())
			}
		}
	}
}

// localRequest has no firmware and no registry.
func localRequest(ref string) Request { return Request{Ref: ref, Releases: []string{testRelease}} }

// moduleImage has a module with this content.
func moduleImage(t *testing.T, content string) v1.Image {
	return imagestest.Image(t, imagestest.Layer(t, map[string]string{mods + "a.ko": content}))
}

func TestLayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	one := imagestest.AddToLayout(t, dir, moduleImage(t, "one"), imagestest.Tagged("v1"))
	saved := map[string]string{annotationRefName: "reg.example/kmod:v2", annotationKind: "dev.cosignproject.cosign/image"}
	two := imagestest.AddToLayout(t, dir, moduleImage(t, "two"), saved)
	saved[annotationKind] = kindSignatures
	imagestest.AddToLayout(t, dir, moduleImage(t, "no image"), saved)
	imagestest.AddToLayout(t, dir, moduleImage(t, "no image either"), imagestest.Tagged(strings.Replace(one, ":", "-", 1)+".sig"))
	index := imagestest.AddToLayout(t, dir, imagestest.Index(t, map[string]v1.Image{
		"linux/" + runtime.GOARCH: moduleImage(t, "three"), "linux/s390x": moduleImage(t, "other"),
	}), imagestest.Tagged("v3"))
	imagestest.Archive(t, dir, dir+".tar")

	tests := []struct{ ref, digest, content string }{
		{":v1", one, "one"},
		{":v2", two, "two"},
		{":v3", index, "three"},
		{"@" + two, two, "two"},
		{":v1@" + two, two, "two"}, // the digest counts
	}
	for _, at := range []string{"oci:" + dir, "oci-archive:" + dir + ".tar"} {
		s := openStore(t)
		for _, tt := range tests {
			tree, err := s.Ensure(t.Context(), localRequest(at+tt.ref))
			require.NoError(t, err, at+tt.ref)
			assert.Equal(t, at+tt.ref, tree.Ref)
			assert.Equal(t, tt.digest, tree.Digest)
			assert.Equal(t, map[string]string{"a.ko": tt.content}, contents(t, tree.ModulesDir))
		}
		for ref, words := range map[string]string{"": "has 3 images: name one", ":v4": `has no tag v4: it has ["v1"`} {
			_, err := s.Ensure(t.Context(), localRequest(at+ref))
			require.ErrorIs(t, err, ErrNotFound)
			assert.ErrorContains(t, err, words)
			assert.ErrorContains(t, err, "pull "+at+ref)
		}
	}
}

func TestLayoutWithoutTag(t *testing.T) {
	dir, s := filepath.Join(t.TempDir(), "layout"), openStore(t)
	first := imagestest.AddToLayout(t, dir, moduleImage(t, "first"), nil)
	r := localRequest("oci:" + dir)
	tree, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, first, tree.Digest)

	// What is there now counts, …
	require.NoError(t, os.RemoveAll(dir))
	second := imagestest.AddToLayout(t, dir, moduleImage(t, "second"), nil)
	tree, err = s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, second, tree.Digest)

	// … and what was there last, once it is gone.
	require.NoError(t, os.RemoveAll(dir))
	tree, err = s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.True(t, tree.Stale)
	assert.Equal(t, second, tree.Digest)
	r.PullPolicy = PullNever
	tree, err = s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, second, tree.Digest)
}

// TestLayoutDigestIsShared: an image that came out of a registry is not made
// again for its copy on disk.
func TestLayoutDigestIsShared(t *testing.T) {
	dir, s, reg := filepath.Join(t.TempDir(), "layout"), openStore(t), imagestest.NewRegistry(t)
	blob := imagestest.Layer(t, testModules())
	r := request(reg.Host + "/kmod:v1")
	digest := imagestest.Push(t, r.Ref, blob)
	one, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, digest, imagestest.AddToLayout(t, dir, imagestest.Image(t, blob), imagestest.Tagged("v1")))
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "blobs"))) // not needed
	r.Ref = "oci:" + dir + "@" + digest
	two, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, one.ModulesDir, two.ModulesDir)
}

func TestLayoutIsRefused(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	require.NoError(t, os.WriteFile(outside, []byte(sentinelText), 0o600))
	ofLayer := func(dir string) string {
		layers, err := moduleImage(t, "one").Layers()
		require.NoError(t, err)
		digest, err := layers[0].Digest()
		require.NoError(t, err)
		return filepath.Join(dir, blobPath(digest.String()))
	}
	ofManifest := func(dir string) string {
		digest, err := moduleImage(t, "one").Digest()
		require.NoError(t, err)
		return filepath.Join(dir, blobPath(digest.String()))
	}
	write := func(path, text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	edit := func(path, old, new string) {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Contains(t, string(b), old)
		write(path, strings.Replace(string(b), old, new, 1))
	}
	replace := func(path string, with func(string) error) {
		require.NoError(t, os.RemoveAll(path))
		require.NoError(t, with(path))
	}
	toOutside := func(path string) error { return os.Symlink(outside, path) }
	tests := []struct {
		name   string
		do     func(dir string)
		err    error
		words  string
		tarred bool // means the same in an archive
	}{
		{"no oci-layout", func(d string) { replace(d+"/oci-layout", func(string) error { return nil }) }, ErrNotFound, "is no OCI image layout", true},
		{"another version", func(d string) { write(d+"/oci-layout", `{"imageLayoutVersion":"2.0.0"}`) }, ErrUnsafe, "1.0.0", true},
		{"huge oci-layout", func(d string) { write(d+"/oci-layout", strings.Repeat(" ", 2000)) }, ErrLimit, "oci-layout has 2000", true},
		{"no index.json", func(d string) { replace(d+"/index.json", func(string) error { return nil }) }, ErrNotFound, "is no OCI image layout", true},
		{"huge index.json", func(d string) { write(d+"/index.json", strings.Repeat(" ", maxManifest+1)) }, ErrLimit, "index.json has", true},
		{"index.json is a lie", func(d string) { write(d+"/index.json", `[]`) }, ErrUnsafe, "index.json", true},
		{"no image", func(d string) { write(d+"/index.json", `{"manifests":[]}`) }, ErrNotFound, "has no tag v1", true},
		{"digest leads outside", func(d string) { edit(d+"/index.json", `"sha256:`, `"sha256:../../../outside`) }, ErrUnsafe, "index.json", true},
		{"digest of another kind", func(d string) { edit(d+"/index.json", `"sha256:`, `"md5:`) }, ErrUnsafe, "", true},
		{"manifest is gone", func(d string) { require.NoError(t, os.Remove(ofManifest(d))) }, ErrNotFound, "lacks the manifest", true},
		{"manifest was changed", func(d string) { edit(ofManifest(d), "{", "{ ") }, ErrDigest, "content that is", true},
		{"layer is gone", func(d string) { require.NoError(t, os.Remove(ofLayer(d))) }, ErrNotFound, "lacks the layer", true},
		{"layer is longer", func(d string) { edit(ofLayer(d), "\x1f", "\x1f\x1f") }, ErrDigest, "the manifest says", true},
		{"layer was changed", func(d string) { edit(ofLayer(d), "\x1f\x8b", "\x1f\x8c") }, ErrDigest, "", true},
		{"one tag for two images", func(d string) {
			imagestest.AddToLayout(t, d, moduleImage(t, "two"), imagestest.Tagged("v1"))
		}, ErrUnsafe, "tag v1 for 2 images", true},
		{"layer is a symlink to outside", func(d string) { replace(ofLayer(d), toOutside) }, ErrUnsafe, "no regular file", false},
		{"index.json is a symlink to outside", func(d string) { replace(d+"/index.json", toOutside) }, ErrUnsafe, "no regular file", false},
		{"blobs is a symlink to outside", func(d string) {
			require.NoError(t, os.Rename(d+"/blobs", d+"-moved"))
			require.NoError(t, os.Symlink(d+"-moved", d+"/blobs"))
		}, ErrUnsafe, "escapes", false},
		{"blobs is a symlink to itself", func(d string) {
			replace(d+"/blobs", func(p string) error { return os.Symlink("blobs", p) })
		}, ErrUnsafe, "", false},
		{"blobs is a file", func(d string) { replace(d+"/blobs", func(p string) error { return os.WriteFile(p, nil, 0o600) }) }, ErrUnsafe, "not a directory", false},
		{"layer is a pipe", func(d string) { replace(ofLayer(d), func(p string) error { return unix.Mkfifo(p, 0o600) }) }, ErrUnsafe, "no regular file", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, s := filepath.Join(t.TempDir(), "layout"), openStore(t)
			imagestest.AddToLayout(t, dir, moduleImage(t, "one"), imagestest.Tagged("v1"))
			tt.do(dir)
			refs := []string{"oci:" + dir + ":v1"}
			if tt.tarred {
				imagestest.Archive(t, dir, dir+".tar")
				refs = append(refs, "oci-archive:"+dir+".tar:v1")
			}
			for _, ref := range refs {
				_, err := s.Ensure(t.Context(), localRequest(ref))
				require.ErrorIs(t, err, tt.err, ref)
				assert.ErrorContains(t, err, tt.words)
				assert.ErrorContains(t, err, ref)
				assert.Empty(t, names(t, s.path("trees")))
				assert.Empty(t, names(t, s.path("tmp")))
			}
			b, err := os.ReadFile(outside)
			require.NoError(t, err)
			assert.Equal(t, sentinelText, string(b))
		})
	}
}

func TestArchiveIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	imagestest.AddToLayout(t, dir, moduleImage(t, "one"), imagestest.Tagged("v1"))
	imagestest.Archive(t, dir, dir+".tar")
	good, err := os.ReadFile(dir + ".tar")
	require.NoError(t, err)
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err = w.Write(good)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	var many []imagestest.Entry
	for i := range maxArchiveEntries + 1 {
		many = append(many, imagestest.File(fmt.Sprint(i), ""))
	}
	twice := imagestest.Tar(t, imagestest.File("index.json", "{}"), imagestest.File("./index.json", "[]"))
	linked := imagestest.Tar(t, imagestest.File("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), imagestest.Entry{
		Name: "index.json", Type: tar.TypeSymlink, Link: dir + "/index.json"})
	tests := []struct {
		name  string
		data  []byte
		err   error
		words string
	}{
		{"gzip", zipped.Bytes(), ErrUnsafe, "gunzip"},
		{"zstd", imagestest.Compress(t, good, imagestest.Zstd).Data, ErrUnsafe, "unzstd"},
		{"empty", nil, ErrNotFound, "is no OCI image layout"},
		{"no tar", bytes.Repeat([]byte("no tar "), 500), ErrUnsafe, "read archive"},
		{"truncated", good[:len(good)/2], ErrUnsafe, ""},
		{"the same name twice", twice, ErrUnsafe, `"index.json" twice`},
		{"index.json is a symlink", linked, ErrNotFound, "index.json"},
		{"many entries", imagestest.Tar(t, many...), ErrLimit, "entries"},
		{"long name", imagestest.Tar(t, imagestest.File(strings.Repeat("x/", 4000)+"x", "")), ErrLimit, "longer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, file := openStore(t), filepath.Join(t.TempDir(), "a.tar")
			require.NoError(t, os.WriteFile(file, tt.data, 0o600))
			_, err := s.Ensure(t.Context(), localRequest("oci-archive:"+file+":v1"))
			require.ErrorIs(t, err, tt.err)
			assert.ErrorContains(t, err, tt.words)
			assert.Empty(t, names(t, s.path("trees")))
		})
	}
}

func TestLayoutOfTheWrongKind(t *testing.T) {
	dir, s := filepath.Join(t.TempDir(), "layout"), openStore(t)
	imagestest.AddToLayout(t, dir, moduleImage(t, "one"), imagestest.Tagged("v1"))
	imagestest.Archive(t, dir, dir+".tar")
	require.NoError(t, unix.Mkfifo(dir+".fifo", 0o600))
	tests := []struct {
		ref   string
		err   error
		words string
	}{
		{"oci-archive:" + dir + ":v1", ErrInvalidRef, "oci:" + dir},
		{"oci:" + dir + ".tar:v1", ErrInvalidRef, "oci-archive:" + dir + ".tar"},
		{"oci-archive:" + dir + ".fifo:v1", ErrInvalidRef, "regular"},
		{"oci:" + dir + "/missing:v1", ErrUnreachable, "mounted"},
		{"oci:relative/path:v1", ErrInvalidRef, "absolute"},
	}
	for _, tt := range tests {
		_, err := s.Ensure(t.Context(), localRequest(tt.ref))
		require.ErrorIs(t, err, tt.err, tt.ref)
		assert.ErrorContains(t, err, tt.words)
		assert.NotContains(t, err.Error(), "proxy", "there is no registry to look at")
	}
}
