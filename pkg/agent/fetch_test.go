// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// TestImageBeatsHostBehindHost: top needs user, which only the host has, and that
// needs core, which both have. Nothing in the image says so.
func TestImageBeatsHostBehindHost(t *testing.T) {
	n := newNode(t)
	magic := kerneltest.Vermagic(release)
	ref := n.push("1", map[string]kmodtest.Spec{
		"top.ko":  {Vermagic: magic, Version: "1", Depends: []string{"user"}},
		"core.ko": {Vermagic: magic, Version: "1", Exports: []string{"core_symbol"}},
	}, nil)
	s := n.reconcile(want{name: "nic", image: ref, module: "top"})
	assert.True(t, s.OK(), s.Modules)
	assert.Equal(t, "1", n.runs("top"))
	assert.Equal(t, "in-tree", n.runs("user"))
	assert.Equal(t, "1", n.runs("core"))
}

// TestWeakUpdates: top needs weak, which the host has for an older kernel, and as a link for this one and the next.
func TestWeakUpdates(t *testing.T) {
	n := newNode(t)
	n.nextKernel()
	kmodtest.WriteTree(t, n.path("host/lib/modules/5.0.0-old/extra"), map[string]kmodtest.Spec{"weak.ko": {Vermagic: kerneltest.Vermagic(release), Version: "old"}})
	for _, r := range []string{release, next} {
		require.NoError(t, os.MkdirAll(n.path("host/lib/modules", r, "weak-updates"), 0o755))
		require.NoError(t, os.Symlink("/lib/modules/5.0.0-old/extra/weak.ko", n.path("host/lib/modules", r, "weak-updates/weak.ko")))
	}
	top := map[string]kmodtest.Spec{"top.ko": {Vermagic: kerneltest.Vermagic(release), Version: "1", Depends: []string{"weak"}}}
	s := n.reconcile(want{name: "nic", image: n.push("1", top, nil), module: "top"})
	assert.True(t, s.OK(), s.Modules)
	assert.Equal(t, "1", n.runs("top"))
	assert.Equal(t, "old", n.runs("weak"))

	built := kmodtest.Build(kmodtest.Spec{Name: "top", Vermagic: kerneltest.Vermagic(next), Depends: []string{"weak"}})
	ref := n.registry.Host + "/modules:next"
	imagestest.Push(t, ref, imagestest.Layer(t, map[string]string{"opt/lib/modules/" + next + "/top.ko": string(built)}))
	n.agent.SetDesired(documents(want{name: "nic", image: ref, module: "top"}))
	list, err := n.agent.Stage(t.Context(), next)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{next + " nic": "ready"}, staged(list))
}
