// SPDX-License-Identifier: Apache-2.0

package images

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// update is a driver image whose newest layer changes; the others do not.
type update struct {
	t      *testing.T
	reg    *imagestest.Registry
	s      *Store
	layers []*imagestest.Blob // base, firmware
}

func newUpdate(t *testing.T) *update {
	t.Helper()
	return &update{t: t, reg: imagestest.NewRegistry(t), s: openStore(t), layers: []*imagestest.Blob{
		imagestest.Layer(t, map[string]string{"usr/bin/cc": "compiler"}),
		imagestest.Layer(t, map[string]string{"firmware/b.bin": "b"}),
	}}
}

// pull pushes a version and pulls it; it returns its tree and which layers were
// asked for.
func (u *update) pull(version string) (tree *Tree, asked string) {
	u.t.Helper()
	newest := imagestest.Layer(u.t, map[string]string{mods + "a.ko": version, mods + "modules.dep": "a a.ko\n", "firmware/a.bin": version})
	r := request(u.reg.Host + "/kmod:" + version)
	r.Modules, r.Closure = []string{"a"}, listed
	layers := append([]*imagestest.Blob{u.layers[0], u.layers[1]}, newest)
	imagestest.Push(u.t, r.Ref, layers...)
	u.reg.Requests()
	tree, err := u.s.Ensure(u.t.Context(), r)
	require.NoError(u.t, err)
	require.NoError(u.t, tree.Verify())
	assert.Equal(u.t, map[string]string{"a.ko": version, "modules.dep": "a a.ko\n"}, contents(u.t, tree.ModulesDir))
	assert.Equal(u.t, "b", contents(u.t, tree.FirmwareDir)["b.bin"])
	var words []string
	for _, request := range u.reg.Requests() {
		for i, name := range []string{"base", "firmware", "newest"} {
			digest, err := layers[i].Digest()
			require.NoError(u.t, err)
			if strings.HasSuffix(request, digest.String()) {
				words = append(words, name)
			}
		}
	}
	return tree, strings.Join(words, " ")
}

func (u *update) listing(layer int) string {
	digest, err := u.layers[layer].Digest()
	require.NoError(u.t, err)
	return u.s.listingPath(digest.Hex)
}

func TestListedLayersAreNotFetchedAgain(t *testing.T) {
	u := newUpdate(t)
	_, asked := u.pull("v1")
	assert.Equal(t, "newest firmware base", asked)
	_, asked = u.pull("v2")
	assert.Equal(t, "newest", asked)
}

func TestListedLayersAreFetchedWhenNeeded(t *testing.T) {
	tests := []struct {
		name   string
		damage func(t *testing.T, u *update, first *Tree) // done after the first pull
		asked  string
	}{
		{"nothing", func(*testing.T, *update, *Tree) {}, "newest"},
		{"no listing", func(t *testing.T, u *update, _ *Tree) { require.NoError(t, os.Remove(u.listing(0))) }, "newest base"},
		{"a changed byte in it", func(t *testing.T, u *update, _ *Tree) {
			b, err := os.ReadFile(u.listing(1))
			require.NoError(t, err)
			b[len(b)/2] ^= 1
			require.NoError(t, os.WriteFile(u.listing(1), b, 0o600))
		}, "newest firmware"},
		{"cut", func(t *testing.T, u *update, _ *Tree) { require.NoError(t, os.Truncate(u.listing(1), 20)) }, "newest firmware"},
		{"a file of it is damaged", func(t *testing.T, _ *update, first *Tree) {
			p := filepath.Join(first.FirmwareDir, "b.bin")
			require.NoError(t, os.Chmod(p, 0o600))
			require.NoError(t, os.WriteFile(p, []byte("c"), 0o600))
		}, "newest firmware"},
		{"a file of it is gone", func(t *testing.T, u *update, first *Tree) {
			require.NoError(t, os.Remove(u.s.content(first.files["firmware/b.bin"].SHA256)))
		}, "newest firmware"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := newUpdate(t)
			first, _ := u.pull("v1")
			tt.damage(t, u, first)
			_, asked := u.pull("v2")
			assert.Equal(t, tt.asked, asked)
		})
	}
}

func TestOddNamesAreNotListed(t *testing.T) {
	u := newUpdate(t)
	u.layers[0] = imagestest.Layer(t, map[string]string{"usr/bin/odd\xff": "1"})
	u.pull("v1")
	_, asked := u.pull("v2")
	assert.Equal(t, "newest base", asked)
}

func TestListingsGoWithTheLastImage(t *testing.T) {
	u := newUpdate(t)
	first, _ := u.pull("v1")
	u.pull("v2")
	assert.Len(t, names(t, u.s.path(layersPart)), 4)
	require.NoError(t, u.s.Pin("me", first.Digest))
	_, _, err := u.s.Prune(PruneOptions{})
	require.NoError(t, err)
	assert.Len(t, names(t, u.s.path(layersPart)), 3)
	_, err = u.s.Remove(first.Digest)
	require.ErrorIs(t, err, ErrPinned)
	require.NoError(t, u.s.Pin("me"))
	_, err = u.s.Remove(first.Digest)
	require.NoError(t, err)
	assert.Empty(t, names(t, u.s.path(layersPart)))
}
