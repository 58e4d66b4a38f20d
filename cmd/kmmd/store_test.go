// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// TestPeekAnswersAsTheStore: a plan is made of the image that a run would take.
func TestPeekAnswersAsTheStore(t *testing.T) {
	registry := imagestest.NewRegistry(t)
	dir := filepath.Join(t.TempDir(), "store")
	s, err := images.Open(dir, images.Options{})
	require.NoError(t, err)
	moved, fixed := registry.Host+"/a:latest", registry.Host+"/a:1"
	old := pushImage(t, moved)
	require.Equal(t, old, pushImage(t, fixed))
	request := func(ref, policy string) images.Request {
		return images.Request{Ref: ref, PullPolicy: policy, Releases: []string{nextKernel}, Insecure: true}
	}
	for _, ref := range []string{moved, fixed} {
		_, err := s.Ensure(t.Context(), request(ref, ""))
		require.NoError(t, err)
	}
	layer := imagestest.Layer(t, map[string]string{"opt/lib/modules/" + nextKernel + "/a.ko": "another"})
	current := imagestest.Push(t, moved, layer)
	require.Equal(t, current, imagestest.Push(t, fixed, layer))

	rows := []struct {
		name, ref, policy string
		up, down          string // digests
	}{
		{"latest, by default", moved, "", current, old},
		{"Always", fixed, images.PullAlways, current, old},
		{"a tag, by default", fixed, "", old, old},
		{"latest, IfNotPresent", moved, images.PullIfNotPresent, old, old},
		{"Never", moved, images.PullNever, old, old},
		{"a digest, Always", registry.Host + "/a@" + old, images.PullAlways, old, old},
	}
	for _, up := range []bool{true, false} {
		p, done, err := openPeek(slog.New(slog.DiscardHandler), dir, images.Options{}, false)
		require.NoError(t, err)
		for _, tt := range rows {
			want := tt.up
			if !up {
				want = tt.down
			}
			tree, err := p.Ensure(t.Context(), request(tt.ref, tt.policy))
			require.NoError(t, err, tt.name)
			assert.Equal(t, want, tree.Digest, "%s, up: %t", tt.name, up)
			assert.Equal(t, !up && tt.up != tt.down, tree.Stale, tt.name)
		}
		done()
		registry.Close()
	}
	for _, tt := range rows {
		tree, err := offline{s}.Ensure(t.Context(), request(tt.ref, tt.policy))
		require.NoError(t, err, tt.name)
		assert.Equal(t, tt.down, tree.Digest, "%s, offline", tt.name)
		assert.Equal(t, tt.up != tt.down, tree.Stale, "%s, offline", tt.name)
	}
	r := request(moved, images.PullAlways)
	r.Digest = old
	tree, err := offline{s}.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.False(t, tree.Stale, "who knows the digest need not ask")
}
