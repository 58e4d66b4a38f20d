// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestLife is a Module from beginning to end: applied, changed, deleted.
func TestLife(t *testing.T) {
	w := begin(t, "life")
	a, b := w.node("a"), w.node("b")
	first, second := w.Image("one", "mod"), w.Image("two", "mod")

	w.apply(document{name: "m", image: first})
	w.waitReady(a, "m", true)
	w.waitReady(b, "m", true)
	assert.Equal(t, "one", a.Runs("mod"))
	w.waitCondition("m", "Ready", "True/AllNodes")
	w.waitCondition("m", "Degraded", "False/NoFailures")
	s := w.waitStatus(a, "m", "Loaded")
	require.Len(t, s.KernelModules, 1)
	assert.Equal(t, "mod", s.KernelModules[0].Name)
	assert.NotEmpty(t, s.KernelModules[0].BuildID)
	assert.Equal(t, first, s.Image)
	assert.True(t, strings.HasPrefix(s.Digest, "sha256:"))
	assert.False(t, s.Since.IsZero())
	nmc, _ := w.nmc(a)
	assert.Equal(t, a.Kernel.BootID(), nmc.Status.BootID)
	assert.Equal(t, a.Kernel.Release(), nmc.Status.KernelRelease)
	assert.Equal(t, "no", nmc.Status.SecureBoot)
	assert.Equal(t, "fleet", nmc.Status.AgentVersion)
	assert.Equal(t, nmc.Generation, nmc.Status.ObservedGeneration)
	require.Len(t, nmc.OwnerReferences, 1)
	assert.Equal(t, w.getNode(a).UID, nmc.OwnerReferences[0].UID)
	w.wait("the load is told", func() error {
		if events := w.events("default", "Node", a.Name); !slices.Contains(events, "ModuleLoaded: loaded life/m") {
			return fmt.Errorf("events: %q", events)
		}
		return nil
	})

	w.wait("the Module's readiness is told", func() error {
		if events := w.events("life", "Module", "m"); !slices.Contains(events, "ModuleReady: 2 of 2 nodes run the module") {
			return fmt.Errorf("events: %q", events)
		}
		return nil
	})

	w.apply(document{name: "m", image: second})
	w.waitRuns(a, "mod", "two")
	w.waitRuns(b, "mod", "two")
	w.waitReady(a, "m", true)
	w.waitCondition("m", "Ready", "True/AllNodes")

	w.kubectl("delete", "module", "m", "-n", "life")
	w.waitGone("m")
	assert.Empty(t, a.Runs("mod"), "a deleted Module goes when its nodes have unloaded it")
	assert.Empty(t, b.Runs("mod"))
	assert.Empty(t, w.labels(a))
	w.wait("the unload is told", func() error {
		if events := w.events("default", "Node", a.Name); !strings.Contains(strings.Join(events, "\n"), "ModuleUnloaded: unloaded life/m") {
			return fmt.Errorf("events: %q", events)
		}
		return nil
	})
}
