// SPDX-License-Identifier: Apache-2.0

package imagestest

import (
	"archive/tar"
	"os"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/require"
)

// AddToLayout puts an image or index into the OCI image layout in dir, which it
// makes if need be, and returns its digest. The annotations are those of its
// entry in index.json; "org.opencontainers.image.ref.name" is the tag.
func AddToLayout(t testing.TB, dir string, what mutate.Appendable, annotations map[string]string) string {
	t.Helper()
	p, err := layout.FromPath(dir)
	if err != nil {
		p, err = layout.Write(dir, empty.Index)
		require.NoError(t, err)
	}
	switch what := what.(type) {
	case v1.Image:
		err = p.AppendImage(what, layout.WithAnnotations(annotations))
	case v1.ImageIndex:
		err = p.AppendIndex(what, layout.WithAnnotations(annotations))
	default:
		require.Fail(t, "neither image nor index")
	}
	require.NoError(t, err)
	digest, err := what.Digest()
	require.NoError(t, err)
	return digest.String()
}

// Tagged is the annotation that gives an entry of a layout its tag.
func Tagged(tag string) map[string]string {
	return map[string]string{"org.opencontainers.image.ref.name": tag}
}

// Archive writes a layout as the tar that oci-archive: names.
func Archive(t testing.TB, dir, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	w := tar.NewWriter(f)
	require.NoError(t, w.AddFS(os.DirFS(dir)))
	require.NoError(t, w.Close())
	require.NoError(t, f.Close())
}
