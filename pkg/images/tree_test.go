// SPDX-License-Identifier: Apache-2.0

package images

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

func TestCopyFile(t *testing.T) {
	reg := imagestest.NewRegistry(t)
	s := openStore(t)
	r := Request{Ref: reg.Host + "/drivers:v1", Releases: []string{testRelease}, Insecure: true}
	imagestest.Push(t, r.Ref, imagestest.Layer(t, map[string]string{mods + "a.ko": "a", mods + "sub/b.ko": "b"}))
	tree, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	b := filepath.Join(tree.ModulesDir, "sub/b.ko")
	require.NoError(t, CopyFile(filepath.Join(tree.ModulesDir, "a.ko"), io.Discard))
	require.NoError(t, CopyFile(b, io.Discard))
	require.ErrorIs(t, CopyFile(filepath.Join(tree.ModulesDir, "c.ko"), io.Discard), ErrDigest, "no file of the image")
	require.ErrorIs(t, CopyFile(filepath.Join(t.TempDir(), "c.ko"), io.Discard), ErrDigest, "not in a store")

	require.NoError(t, os.Chmod(b, 0o644))
	require.NoError(t, os.WriteFile(b, []byte("c"), 0o644))
	require.ErrorIs(t, CopyFile(b, io.Discard), ErrDigest)
	require.NoError(t, CopyFile(filepath.Join(tree.ModulesDir, "a.ko"), io.Discard), "the others are as good as before")

	_, _, err = s.Prune(PruneOptions{})
	require.NoError(t, err)
	assert.ErrorIs(t, CopyFile(b, io.Discard), ErrDigest, "not there any more")
}
