// SPDX-License-Identifier: Apache-2.0

package images

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

func TestVerifyFile(t *testing.T) {
	reg := imagestest.NewRegistry(t)
	s := openStore(t)
	r := Request{Ref: reg.Host + "/drivers:v1", Releases: []string{testRelease}, Insecure: true}
	imagestest.Push(t, r.Ref, imagestest.Layer(t, map[string]string{mods + "a.ko": "a", mods + "sub/b.ko": "b"}))
	tree, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	b := filepath.Join(tree.ModulesDir, "sub/b.ko")
	require.NoError(t, VerifyFile(filepath.Join(tree.ModulesDir, "a.ko")))
	require.NoError(t, VerifyFile(b))
	require.ErrorIs(t, VerifyFile(filepath.Join(tree.ModulesDir, "c.ko")), ErrDigest, "no file of the image")
	require.ErrorIs(t, VerifyFile(filepath.Join(t.TempDir(), "c.ko")), ErrDigest, "not in a store")

	require.NoError(t, os.Chmod(b, 0o644))
	require.NoError(t, os.WriteFile(b, []byte("c"), 0o644))
	require.ErrorIs(t, VerifyFile(b), ErrDigest)
	require.NoError(t, VerifyFile(filepath.Join(tree.ModulesDir, "a.ko")), "the others are as good as before")

	_, _, err = s.Prune(PruneOptions{})
	require.NoError(t, err)
	assert.ErrorIs(t, VerifyFile(b), ErrDigest, "not there any more")
}
