// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/cosign"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// mods is where the modules of most images here are.
const mods = "opt/lib/modules/6.1.0/"

const allMods = "/" + mods + "*.ko"

func module(name string) string { return string(kmodtest.Build(kmodtest.Spec{Name: name})) }

func newSigner(t testing.TB) *sign.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "test"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	s, err := sign.New(key, cert, crypto.SHA256)
	require.NoError(t, err)
	return s
}

func globs(t testing.TB, patterns ...string) []images.Glob {
	t.Helper()
	var out []images.Glob
	for _, p := range patterns {
		g, err := images.ParseGlob(p)
		require.NoError(t, err)
		out = append(out, g)
	}
	return out
}

// lab is a registry, a signer, and an image pushed there as in:v1.
type lab struct {
	*imagestest.Registry
	signer *sign.Signer
	digest string // of in:v1
}

func newLab(t testing.TB, layers ...*imagestest.Blob) *lab {
	t.Helper()
	l := &lab{Registry: imagestest.NewRegistry(t), signer: newSigner(t)}
	if len(layers) > 0 {
		l.digest = imagestest.Push(t, l.Host+"/in:v1", layers...)
	}
	return l
}

func (l *lab) options(from, to string) Options {
	place := func(ref string) Place {
		if !strings.HasPrefix(ref, "oci") {
			ref = l.Host + "/" + ref
		}
		return Place{Ref: ref, Insecure: true}
	}
	return Options{From: place(from), To: place(to), retryDelay: time.Millisecond}
}

// sign signs in:v1 as out:v1.
func (l *lab) sign(t testing.TB, patterns ...string) (*Result, error) {
	t.Helper()
	return Sign(t.Context(), l.options("in:v1", "out:v1"), l.signer, globs(t, patterns...))
}

func (l *lab) image(t testing.TB, ref string) v1.Image {
	t.Helper()
	tag, err := name.ParseReference(l.Host+"/"+ref, name.Insecure)
	require.NoError(t, err)
	img, err := remote.Image(tag)
	require.NoError(t, err)
	return img
}

// headers are those of the image's last layer, and contents what its files hold.
func last(t testing.TB, img v1.Image) (headers []*tar.Header, contents map[string]string) {
	t.Helper()
	layers, err := img.Layers()
	require.NoError(t, err)
	r, err := layers[len(layers)-1].Uncompressed()
	require.NoError(t, err)
	defer r.Close()
	contents = map[string]string{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		require.NoError(t, err)
		b, err := io.ReadAll(archive)
		require.NoError(t, err)
		headers = append(headers, h)
		contents[h.Name] = string(b)
	}
}

// wellFormed reads the whole image and compares what it says of itself.
func wellFormed(t testing.TB, img v1.Image) {
	t.Helper()
	config, err := img.ConfigFile()
	require.NoError(t, err)
	layers, err := img.Layers()
	require.NoError(t, err)
	require.Len(t, config.RootFS.DiffIDs, len(layers))
	for i, l := range layers {
		r, err := l.Uncompressed() // checks the digest
		require.NoError(t, err)
		got, _, err := v1.SHA256(r)
		require.NoError(t, err)
		assert.Equal(t, config.RootFS.DiffIDs[i], got, "layer %d", i)
	}
}

func names(headers []*tar.Header) []string {
	var out []string
	for _, h := range headers {
		out = append(out, h.Name)
	}
	return out
}

func layerCount(t testing.TB, img v1.Image) int {
	t.Helper()
	layers, err := img.Layers()
	require.NoError(t, err)
	return len(layers)
}

func TestSign(t *testing.T) {
	l := newLab(t, imagestest.Layer(t, map[string]string{"etc/os-release": "x"}), imagestest.Entries(t,
		imagestest.Directory(mods), imagestest.File(mods+"b.ko", module("b")),
		imagestest.Entry{Name: mods + "a.ko", Body: module("a"), Mode: 0o600, PAX: map[string]string{
			"SCHILY.xattr.user.x": "y", "SCHILY.xattr.security.ima": "z", "atime": "5"}},
		imagestest.File(mods+"modules.dep", "a.ko:\n"), imagestest.File(mods+".hidden.ko", module("hidden"))))
	r, err := l.sign(t, allMods)
	require.NoError(t, err)
	img := l.image(t, "out:v1")
	wellFormed(t, img)
	digest, err := img.Digest()
	require.NoError(t, err)
	assert.Equal(t, &Result{Image: l.Host + "/out:v1", Digest: digest.String(), Signed: 2}, r)
	require.Equal(t, 3, layerCount(t, img))

	headers, contents := last(t, img)
	require.Equal(t, []string{mods + "b.ko", mods + "a.ko"}, names(headers), "just the signed files")
	for at, content := range contents {
		assert.NoError(t, sign.Verify([]byte(content), l.signer.Certificate()), at)
	}
	assert.Equal(t, module("a"), string(sign.Strip([]byte(contents[mods+"a.ko"]))))
	a := headers[1]
	assert.Equal(t, int64(0o600), a.Mode)
	assert.Equal(t, []int{1234, 1234}, []int{a.Uid, a.Gid})
	assert.Equal(t, "y", a.PAXRecords["SCHILY.xattr.user.x"])
	assert.NotContains(t, a.PAXRecords, "SCHILY.xattr.security.ima", "it is about the old content")
	assert.NotContains(t, a.PAXRecords, "atime")

	m, err := img.Manifest()
	require.NoError(t, err)
	assert.Equal(t, types.OCILayer, m.Layers[2].MediaType)
	assert.Equal(t, l.digest, m.Annotations[AnnotationBase])
	assert.Len(t, m.Annotations[AnnotationCertificate], 64)
	assert.Equal(t, "sha256", m.Annotations[AnnotationHash])
	config, err := img.ConfigFile()
	require.NoError(t, err)
	assert.Len(t, config.RootFS.DiffIDs, 3)
	entry := config.History[len(config.History)-1]
	assert.Equal(t, "kmmd sign image", entry.CreatedBy)
	assert.Contains(t, entry.Comment, l.digest)

	again, err := l.sign(t, allMods)
	require.NoError(t, err)
	assert.Equal(t, r, again, "the same digest for the same image and key")
}

// TestSignedAlready: nothing changes, and nothing is pushed where it is already.
func TestSignedAlready(t *testing.T) {
	l := newLab(t)
	b, err := l.signer.Sign([]byte(module("a")))
	require.NoError(t, err)
	l.digest = imagestest.Push(t, l.Host+"/in:v1", imagestest.Layer(t, map[string]string{mods + "a.ko": string(b)}))
	l.Requests()
	r, err := Sign(t.Context(), l.options("in:v1", "in:v1"), l.signer, globs(t, allMods))
	require.NoError(t, err)
	assert.Equal(t, &Result{Image: l.Host + "/in:v1", Digest: l.digest, Unchanged: true}, r)
	for _, request := range l.Requests() {
		assert.True(t, strings.HasPrefix(request, "GET "), request)
	}

	r, err = l.sign(t, allMods)
	require.NoError(t, err)
	assert.Equal(t, &Result{Image: l.Host + "/out:v1", Digest: l.digest, Unchanged: true}, r)
	wellFormed(t, l.image(t, "out:v1"))

	// Another certificate, and another hash of the same one, is another signature.
	other := *l
	other.signer = newSigner(t)
	r, err = other.sign(t, allMods)
	require.NoError(t, err)
	assert.Equal(t, 1, r.Signed)
	_, contents := last(t, l.image(t, "out:v1"))
	assert.Equal(t, module("a"), string(sign.Strip([]byte(contents[mods+"a.ko"]))), "one signature, not two")
}

// TestSomeSignedAlready: those stay as they are.
func TestSomeSignedAlready(t *testing.T) {
	l := newLab(t, imagestest.Layer(t, map[string]string{mods + "a.ko": module("a"), mods + "b.ko": module("b")}))
	first, err := l.sign(t, "/"+mods+"a.ko")
	require.NoError(t, err)
	r, err := Sign(t.Context(), l.options("out:v1", "both:v1"), l.signer, globs(t, allMods))
	require.NoError(t, err)
	assert.Equal(t, 1, r.Signed)
	img := l.image(t, "both:v1")
	headers, _ := last(t, img)
	assert.Equal(t, []string{mods + "b.ko"}, names(headers))
	m, err := img.Manifest()
	require.NoError(t, err)
	assert.Equal(t, first.Digest, m.Annotations[AnnotationBase])
	r, err = Sign(t.Context(), l.options("both:v1", "both:v1"), l.signer, globs(t, allMods, "/"+mods+"a.ko"))
	require.NoError(t, err)
	assert.True(t, r.Unchanged)
}

func TestNoMatch(t *testing.T) {
	l := newLab(t, imagestest.Layer(t, map[string]string{mods + "a.ko": module("a"), mods + "b.ko.xz": "", "opt/other/c.ko": ""}))
	_, err := l.sign(t, allMods, "/opt/lib/modules/6.2.0/a.ko", "/"+mods+"*.kox")
	require.ErrorIs(t, err, ErrNoMatch)
	assert.ErrorContains(t, err, `"/opt/lib/modules/6.2.0/a.ko" matches nothing; modules it has are /`+mods+"a.ko, /"+mods+"b.ko.xz, /opt/other/c.ko")
	assert.ErrorContains(t, err, `"/`+mods+`*.kox" matches nothing`)
	assert.NotContains(t, err.Error(), `"`+allMods+`"`)

	l = newLab(t, imagestest.Layer(t, map[string]string{"etc/passwd": ""}))
	_, err = l.sign(t, allMods)
	assert.ErrorContains(t, err, "no modules at all")
	_, err = remote.Head(mustRef(t, l.Host+"/out:v1"))
	assert.Error(t, err, "nothing is published")
}

func mustRef(t testing.TB, s string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(s, name.Insecure)
	require.NoError(t, err)
	return ref
}

func TestNotAModule(t *testing.T) {
	l := newLab(t, imagestest.Layer(t, map[string]string{mods + "a.ko": module("a"), mods + "modules.dep": "a.ko:"}))
	_, err := l.sign(t, "/"+mods+"*")
	require.ErrorIs(t, err, sign.ErrNotModule)
	assert.ErrorContains(t, err, "/"+mods+"modules.dep")
	_, err = l.sign(t, "/opt/lib/modules/*")
	require.ErrorIs(t, err, images.ErrNotFile)
	assert.ErrorContains(t, err, "stands for the directory")
}

func TestCompressedModules(t *testing.T) {
	files := map[string]string{}
	for name, kind := range map[string]string{"a.ko.gz": "gzip", "b.ko.xz": "xz", "c.ko.zst": "zstd"} {
		b, err := kmod.Compress(kind, []byte(module(name[:1])))
		require.NoError(t, err)
		files[mods+name] = string(b)
	}
	l := newLab(t, imagestest.Layer(t, files))
	r, err := l.sign(t, "/"+mods+"*.ko*")
	require.NoError(t, err)
	assert.Equal(t, 3, r.Signed)
	_, contents := last(t, l.image(t, "out:v1"))
	require.Len(t, contents, 3)
	for at, packed := range contents {
		require.NotEqual(t, "\x7fELF", packed[:4], "it is packed again")
		_, err := kmod.Rewrite([]byte(packed), func(plain []byte) ([]byte, error) {
			return plain, sign.Verify(plain, l.signer.Certificate())
		})
		assert.NoError(t, err, at)
	}
	again, err := Sign(t.Context(), l.options("out:v1", "out:v1"), l.signer, globs(t, "/"+mods+"*.ko*"))
	require.NoError(t, err)
	assert.True(t, again.Unchanged)
}

// docker is the same image in docker's own format.
func docker(t testing.TB, layers ...*imagestest.Blob) v1.Image {
	t.Helper()
	for _, l := range layers {
		l.Type = types.DockerLayer
	}
	img := mutate.MediaType(imagestest.Image(t, layers...), types.DockerManifestSchema2)
	return mutate.ConfigMediaType(img, types.DockerConfigJSON)
}

func TestDockerFormat(t *testing.T) {
	l := newLab(t)
	imagestest.PushImage(t, l.Host+"/in:v1", docker(t, imagestest.Layer(t, map[string]string{mods + "a.ko": module("a")})))
	_, err := l.sign(t, allMods)
	require.NoError(t, err)
	img := l.image(t, "out:v1")
	wellFormed(t, img)
	m, err := img.Manifest()
	require.NoError(t, err)
	assert.Equal(t, types.DockerManifestSchema2, m.MediaType)
	assert.Equal(t, types.DockerConfigJSON, m.Config.MediaType)
	assert.Equal(t, types.DockerLayer, m.Layers[1].MediaType)
	assert.Empty(t, m.Annotations, "the format has none")
}

// TestUnknownFieldsStay: what this library does not know of is kept.
func TestUnknownFieldsStay(t *testing.T) {
	doc := object{}
	doc.set("rootfs", map[string]any{"type": "layers", "diff_ids": []string{}})
	doc.set("some.vendor", "x")
	r := &resigner{signer: newSigner(t)}
	l, err := newLayer()
	require.NoError(t, err)
	raw, err := r.config(mustMarshal(doc), l, hashOf(nil), 0)
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, json.Unmarshal(raw, &got))
	assert.Equal(t, "x", got["some.vendor"])
	_, err = r.config(mustMarshal(doc), l, hashOf(nil), 1)
	assert.ErrorIs(t, err, images.ErrUnsafe, "a layer without a diff ID")
}

// TestAnnotationsThatAreNone: what can not be read is not written over in silence.
func TestAnnotationsThatAreNone(t *testing.T) {
	r := &resigner{signer: newSigner(t)}
	for text, ok := range map[string]bool{`["a"]`: false, `{"a": 1}`: false, `null`: true, `{"a": "b"}`: true} {
		doc := object{"annotations": json.RawMessage(text)}
		err := r.annotate(doc, types.OCIManifestSchema1, hashOf(nil))
		if !ok {
			assert.ErrorIs(t, err, images.ErrUnsafe, text)
			assert.Equal(t, text, string(doc["annotations"]))
			continue
		}
		require.NoError(t, err, text)
		assert.Contains(t, string(doc["annotations"]), AnnotationBase)
		assert.Equal(t, text == `{"a": "b"}`, strings.Contains(string(doc["annotations"]), `"a":"b"`), text)
	}
}

func TestArtifactIsRefused(t *testing.T) {
	l := newLab(t)
	imagestest.PushImage(t, l.Host+"/in:v1", imagestest.Artifact(t, imagestest.Manifest{}, imagestest.Titled("a.ko", module("a"), "application/x")))
	_, err := l.sign(t, allMods)
	require.ErrorIs(t, err, images.ErrUnsafe)
	assert.ErrorContains(t, err, "artifact")
	r, err := Copy(t.Context(), l.options("in:v1", "out:v1"))
	require.NoError(t, err, "it can be copied")
	assert.True(t, r.Unchanged)
}

// TestOurPullerReadsIt pulls with the store of a node.
func TestOurPullerReadsIt(t *testing.T) {
	l := newLab(t, imagestest.Layer(t, map[string]string{mods + "a.ko": module("a"), mods + "b.ko": module("b")}))
	_, err := l.sign(t, "/"+mods+"a.ko")
	require.NoError(t, err)
	pulled := l.pull(t, l.Host+"/out:v1")
	assert.NoError(t, sign.Verify(pulled["a.ko"], l.signer.Certificate()))
	assert.Equal(t, module("b"), string(pulled["b.ko"]))
}

// pull returns the modules of 6.1.0 in an image, as a node gets them.
func (l *lab) pull(t testing.TB, ref string) map[string][]byte {
	t.Helper()
	s, err := images.Open(t.TempDir(), images.Options{})
	require.NoError(t, err)
	defer s.Close()
	tree, err := s.Ensure(context.Background(), images.Request{Ref: ref, Releases: []string{"6.1.0"}, Insecure: true})
	require.NoError(t, err)
	require.NoError(t, tree.Verify())
	out := map[string][]byte{}
	entries, err := os.ReadDir(tree.ModulesDir)
	require.NoError(t, err)
	for _, e := range entries {
		out[e.Name()], err = os.ReadFile(filepath.Join(tree.ModulesDir, e.Name()))
		require.NoError(t, err)
	}
	return out
}

// TestCopy takes an image from a registry to a layout, into an archive, and back.
func TestCopy(t *testing.T) {
	l := newLab(t, imagestest.Layer(t, map[string]string{"etc/a": "x"}), imagestest.Layer(t, map[string]string{mods + "a.ko": module("a")}))
	dir := t.TempDir()
	for _, step := range []struct{ from, to string }{
		{"in:v1", "oci:" + dir + "/one"},
		{"oci:" + dir + "/one", "oci:" + dir + "/two:v2"},
		{"oci:" + dir + "/two:v2", "oci:" + dir + "/two:v3"},
		{"oci:" + dir + "/two:v3", "out:v1"},
		{"out:v1", "other/name:v1"},
	} {
		o := l.options(step.from, step.to)
		r, err := Copy(t.Context(), o)
		require.NoError(t, err, step)
		assert.Equal(t, &Result{Image: o.To.Ref, Digest: l.digest, Unchanged: true}, r)
	}
	wellFormed(t, l.image(t, "other/name:v1"))
	_, err := Copy(t.Context(), l.options("in:v1", "oci:"+dir+"/two"))
	require.ErrorContains(t, err, "say which one by a tag")

	r, err := Sign(t.Context(), l.options("oci:"+dir+"/one", "oci:"+dir+"/one"), l.signer, globs(t, allMods))
	require.NoError(t, err)
	pulled := l.pull(t, "oci:"+dir+"/one")
	assert.NoError(t, sign.Verify(pulled["a.ko"], l.signer.Certificate()), "in place")
	assert.NotEqual(t, l.digest, r.Digest)
	_, err = os.Stat(dir + "/one/index.json.tmp")
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// TestSignatureIsAnImageOfItsOwn: a copy is signed once the signature is copied too, as docs/quickstart/air-gapped.md has it.
func TestSignatureIsAnImageOfItsOwn(t *testing.T) {
	l := newLab(t, imagestest.Layer(t, map[string]string{mods + "a.ko": module("a")}))
	cosigner := imagestest.NewSigner(t, "p256")
	keys, err := cosign.ParseKeys("cosign.pub", cosigner.PEM)
	require.NoError(t, err)
	ensure := func(ref string) error {
		s, err := images.Open(t.TempDir(), images.Options{Policy: images.Policy{Keys: keys}})
		require.NoError(t, err)
		_, err = s.Ensure(t.Context(), images.Request{Ref: ref, Releases: []string{"6.1.0"}, Insecure: true})
		return err
	}
	raw, err := l.image(t, "in:v1").RawManifest()
	require.NoError(t, err)
	subject := v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: hashOf(raw), Size: int64(len(raw))}
	imagestest.PushSimple(t, l.Host+"/in:v1", cosigner)
	made := cosigner.Bundle(t, l.digest, imagestest.PredicateSign)
	bundle, err := imagestest.BundleImage(t, subject, made, imagestest.PredicateSign).Digest()
	require.NoError(t, err)
	imagestest.PushBundle(t, l.Host+"/in:v1", made, imagestest.PredicateSign)

	tag := ":sha256-" + subject.Digest.Hex
	for name, signature := range map[string][2]string{"classic": {tag + ".sig", tag + ".sig"}, "bundle": {"@" + bundle.String(), tag}} {
		disk, inside := "oci:"+filepath.Join(t.TempDir(), "disk"), "inside-"+name
		for _, step := range []struct{ from, to string }{{"in:v1", disk}, {disk, inside + ":v1"}} {
			_, err := Copy(t.Context(), l.options(step.from, step.to))
			require.NoError(t, err)
		}
		require.ErrorIs(t, ensure(disk), images.ErrPolicy, name)
		require.ErrorIs(t, ensure(l.Host+"/"+inside+":v1"), images.ErrPolicy, name)
		for _, step := range []struct{ from, to string }{{"in" + signature[0], disk + signature[1]}, {disk + signature[1], inside + signature[1]}} {
			_, err := Copy(t.Context(), l.options(step.from, step.to))
			require.NoError(t, err)
		}
		require.NoError(t, ensure(disk), name)
		require.NoError(t, ensure(l.Host+"/"+inside+":v1"), name)
	}
}

// TestLayoutIsNotTrusted: who made the layout may not have others' files written.
func TestLayoutIsNotTrusted(t *testing.T) {
	l := newLab(t, imagestest.Layer(t, map[string]string{mods + "a.ko": module("a")}))
	outside := filepath.Join(t.TempDir(), "outside")
	require.NoError(t, os.WriteFile(outside, []byte("precious"), 0o600))
	dir := t.TempDir()
	for _, name := range []string{"oci-layout", "oci-layout.tmp", "index.json.tmp"} {
		require.NoError(t, os.Symlink(outside, filepath.Join(dir, name)))
	}
	_, err := Copy(t.Context(), l.options("in:v1", "oci:"+dir))
	require.NoError(t, err)
	l.pull(t, "oci:"+dir)
	b, err := os.ReadFile(outside)
	require.NoError(t, err)
	assert.Equal(t, "precious", string(b))

	dir = t.TempDir()
	require.NoError(t, os.Symlink(filepath.Dir(outside), filepath.Join(dir, "blobs")))
	_, err = Copy(t.Context(), l.options("in:v1", "oci:"+dir))
	require.Error(t, err)
	entries, err := os.ReadDir(filepath.Dir(outside))
	require.NoError(t, err)
	assert.Len(t, entries, 1)
}

// TestDamagedBlobInLayout: a file of the right name and size is no proof.
func TestDamagedBlobInLayout(t *testing.T) {
	blob := imagestest.Layer(t, map[string]string{mods + "a.ko": module("a")})
	l := newLab(t, blob)
	dir := t.TempDir()
	digest, err := blob.Digest()
	require.NoError(t, err)
	at := filepath.Join(dir, blobsDir, digest.Hex)
	require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
	require.NoError(t, os.WriteFile(at, bytes.Repeat([]byte("x"), len(blob.Data)), 0o600))
	_, err = Copy(t.Context(), l.options("in:v1", "oci:"+dir))
	require.NoError(t, err)
	l.pull(t, "oci:"+dir)
}
