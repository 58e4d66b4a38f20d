// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

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
