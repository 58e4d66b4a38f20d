// SPDX-License-Identifier: Apache-2.0

package image

import (
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// twoPlatforms is an index whose images have different modules, with BuildKit's
// attestations.
func twoPlatforms(t testing.TB) v1.ImageIndex {
	t.Helper()
	return imagestest.Index(t, map[string]v1.Image{
		"linux/amd64": imagestest.Image(t, imagestest.Layer(t, map[string]string{mods + "a.ko": module("a")})),
		"linux/arm64": imagestest.Image(t, imagestest.Layer(t, map[string]string{mods + "a.ko": module("arm"), mods + "b.ko": module("b")})),
	})
}

func (l *lab) index(t testing.TB, ref string) v1.ImageIndex {
	t.Helper()
	index, err := remote.Index(mustRef(t, l.Host+"/"+ref))
	require.NoError(t, err)
	return index
}

// platforms has the descriptors of an index by platform.
func platforms(t testing.TB, index v1.ImageIndex) map[string][]v1.Descriptor {
	t.Helper()
	m, err := index.IndexManifest()
	require.NoError(t, err)
	out := map[string][]v1.Descriptor{}
	for _, desc := range m.Manifests {
		out[desc.Platform.String()] = append(out[desc.Platform.String()], desc)
	}
	return out
}

func TestIndex(t *testing.T) {
	l := newLab(t)
	old := twoPlatforms(t)
	require.NoError(t, remote.WriteIndex(mustRef(t, l.Host+"/in:v1"), old))
	oldDigest, err := old.Digest()
	require.NoError(t, err)

	r, err := l.sign(t, allMods)
	require.NoError(t, err)
	assert.Equal(t, 3, r.Signed)
	index := l.index(t, "out:v1")
	digest, err := index.Digest()
	require.NoError(t, err)
	assert.Equal(t, digest.String(), r.Digest)
	m, err := index.IndexManifest()
	require.NoError(t, err)
	assert.Equal(t, oldDigest.String(), m.Annotations[AnnotationBase])
	by := platforms(t, index)
	assert.Len(t, by, 2, "what was about the old images is gone")
	for platform, files := range map[string]int{"linux/amd64": 1, "linux/arm64": 2} {
		require.Len(t, by[platform], 1)
		img, err := index.Image(by[platform][0].Digest)
		require.NoError(t, err)
		wellFormed(t, img)
		_, contents := last(t, img)
		assert.Len(t, contents, files)
		for at, content := range contents {
			assert.NoError(t, sign.Verify([]byte(content), l.signer.Certificate()), at)
		}
		manifest, err := img.Manifest()
		require.NoError(t, err)
		assert.Equal(t, platforms(t, old)[platform][0].Digest.String(), manifest.Annotations[AnnotationBase])
	}
	again, err := Sign(t.Context(), l.options("out:v1", "out:v1"), l.signer, globs(t, allMods))
	require.NoError(t, err)
	assert.Equal(t, &Result{Image: l.Host + "/out:v1", Digest: r.Digest, Unchanged: true}, again)
}

// TestIndexWhereOneMatches: a pattern may be for one platform only, whose image alone
// changes, and loses what was about it.
func TestIndexWhereOneMatches(t *testing.T) {
	l := newLab(t)
	require.NoError(t, remote.WriteIndex(mustRef(t, l.Host+"/in:v1"), twoPlatforms(t)))
	r, err := l.sign(t, "/"+mods+"b.ko")
	require.NoError(t, err)
	assert.Equal(t, 1, r.Signed)
	before, after := platforms(t, twoPlatforms(t)), platforms(t, l.index(t, "out:v1"))
	assert.Equal(t, before["linux/amd64"], after["linux/amd64"])
	assert.NotEqual(t, before["linux/arm64"], after["linux/arm64"])
	require.Len(t, after["unknown/unknown"], 1)
	assert.Equal(t, before["linux/amd64"][0].Digest.String(), after["unknown/unknown"][0].Annotations["vnd.docker.reference.digest"])

	_, err = l.sign(t, "/"+mods+"c.ko")
	require.ErrorIs(t, err, ErrNoMatch)
	assert.ErrorContains(t, err, "/"+mods+"b.ko", "what any of the images has")
}

// TestIndexWithAnotherSystem: modules are of Linux.
func TestIndexWithAnotherSystem(t *testing.T) {
	l := newLab(t)
	files := map[string]string{mods + "a.ko": module("a")}
	index := imagestest.Index(t, map[string]v1.Image{
		"linux/amd64": imagestest.Image(t, imagestest.Layer(t, files)), "windows/amd64": imagestest.Image(t, imagestest.Layer(t, files)),
	})
	require.NoError(t, remote.WriteIndex(mustRef(t, l.Host+"/in:v1"), index))
	r, err := l.sign(t, allMods)
	require.NoError(t, err)
	assert.Equal(t, 1, r.Signed)
	assert.Equal(t, platforms(t, index)["windows/amd64"], platforms(t, l.index(t, "out:v1"))["windows/amd64"])
}

func TestIndexIsCopied(t *testing.T) {
	l := newLab(t)
	digest := imagestest.PushIndex(t, l.Host+"/in:v1", map[string]v1.Image{
		"linux/amd64": imagestest.Image(t, imagestest.Layer(t, map[string]string{mods + "a.ko": module("a")})),
	})
	dir := t.TempDir()
	_, err := Copy(t.Context(), l.options("in:v1", "oci:"+dir+"/x"))
	require.NoError(t, err)
	r, err := Copy(t.Context(), l.options("oci:"+dir+"/x", "out:v1"))
	require.NoError(t, err)
	assert.Equal(t, digest, r.Digest)
	assert.Len(t, platforms(t, l.index(t, "out:v1")), 2)
}

func TestIndexTooDeep(t *testing.T) {
	l := newLab(t)
	index := twoPlatforms(t)
	for range maxDepth {
		index = nested(index)
	}
	require.NoError(t, remote.WriteIndex(mustRef(t, l.Host+"/in:v1"), index))
	_, err := l.sign(t, allMods)
	require.ErrorIs(t, err, images.ErrLimit)
	_, err = Copy(t.Context(), l.options("in:v1", "out:v1"))
	require.ErrorIs(t, err, images.ErrLimit)
}
