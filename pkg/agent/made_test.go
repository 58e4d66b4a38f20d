// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// made is the wish for a Module whose image the cluster makes; it is there when
// it has a digest.
func made(w want, digest string) spec.Node {
	n := documents(w)
	n.Modules[0].Made = spec.MadeBy([]int{0}, map[string]string{})
	if digest != "" {
		n.Modules[0].Made.Digests[w.image] = digest
	}
	return n
}

func TestWaitsForAnImageThatTheClusterMakes(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.registry.Host + "/modules:1", module: "dummy"}
	n.registry.Requests()
	s := n.reconcileNode(made(w, ""))
	got := one(t, s)
	assert.Equal(t, spec.StateBuilding, got.State)
	assert.Empty(t, got.Reason, "it is no failure")
	assert.Nil(t, got.RetryAt, "it waits to be told")
	assert.Contains(t, got.Message, w.image)
	assert.False(t, s.OK())
	assert.Empty(t, n.registry.Requests(), "the registry is left alone")
	assert.Empty(t, n.images.asked)

	n.push("1", ours("1"), nil)
	digest, err := images.Lookup(t.Context(), images.Request{Ref: w.image, Insecure: true})
	require.NoError(t, err)
	s = n.reconcileNode(made(w, digest))
	assert.True(t, s.OK(), s.Modules)
	assert.Equal(t, "1", n.runs("dummy"))
	assert.Equal(t, digest, one(t, s).Digest)
	assert.Equal(t, w.image, one(t, s).Image)
}

// TestMadeImageIsTheOneThatWasMade: the tag may stand for anything by now.
func TestMadeImageIsTheOneThatWasMade(t *testing.T) {
	n := newNode(t)
	ref := n.push("1", ours("1"), nil)
	first, err := images.Lookup(t.Context(), images.Request{Ref: ref, Insecure: true})
	require.NoError(t, err)
	n.push("1", ours("2"), nil)
	w := want{name: "nic", image: ref, module: "dummy"}
	require.True(t, n.reconcileNode(made(w, first)).OK())
	assert.Equal(t, "1", n.runs("dummy"))

	second, err := images.Lookup(t.Context(), images.Request{Ref: ref, Insecure: true})
	require.NoError(t, err)
	require.NotEqual(t, first, second)
	require.True(t, n.reconcileNode(made(w, second)).OK())
	assert.Equal(t, "2", n.runs("dummy"), "a new build is loaded")

	assert.Equal(t, spec.StateBuilding, one(t, n.reconcileNode(made(w, ""))).State)
	assert.Equal(t, "2", n.runs("dummy"), "what runs stays while the next is built")
}
