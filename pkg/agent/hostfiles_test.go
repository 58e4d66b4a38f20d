// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// move has a package put one of the node's own modules elsewhere, "" for nowhere.
func (n *node) move(name, to string) (back func()) {
	n.t.Helper()
	from, kept := n.inTree(name), n.path("kept.ko")
	if to != "" {
		kept = n.path("host/lib/modules", release, to)
		require.NoError(n.t, os.MkdirAll(filepath.Dir(kept), 0o755))
	}
	require.NoError(n.t, os.Rename(from, kept))
	n.depmod(to)
	return func() {
		require.NoError(n.t, os.Rename(kept, from))
		n.depmod("kernel/" + name + ".ko")
	}
}

// depmod writes an index with just these, so that it is another one.
func (n *node) depmod(paths ...string) {
	n.t.Helper()
	text := strings.TrimPrefix(strings.Join(paths, ":\n")+":\n", ":\n")
	require.NoError(n.t, os.WriteFile(n.path("host/lib/modules", release, "modules.dep"), []byte(text), 0o644))
}

// TestWayBackHeals: what could not be undone is done once it can.
func TestWayBackHeals(t *testing.T) {
	n := newNode(t)
	w := n.swap(n.image("1", ours("1"), nil))
	n.Preload(n.inTree("dummy"), "")
	back := n.move("dummy", "")
	require.Equal(t, spec.ReasonNoWayBack, one(t, n.reconcile(w)).Reason)
	asked := len(n.images.asked)
	n.reconcile(w)
	require.Len(t, n.images.asked, asked, "nothing has changed")
	back()
	m := one(t, n.reconcile(w))
	assert.Equal(t, spec.StateLoaded, m.State, m.Message)
	assert.Equal(t, "1", n.runs("dummy"))
}

// TestWayBackGoes: what could be undone when the files were looked for, and can not any more when it is time, is not begun.
func TestWayBackGoes(t *testing.T) {
	n := newNode(t)
	w := n.swap(n.image("1", ours("1"), nil))
	n.Preload(n.inTree("dummy"), "")
	n.Hold("dummy", 1)
	require.Equal(t, spec.ReasonInUse, one(t, n.reconcile(w)).Reason)
	back := n.move("dummy", "")
	n.Hold("dummy", 0)
	for range 2 { // as it was found, and looked for anew
		m := one(t, n.reconcile(w))
		assert.Equal(t, spec.ReasonNoWayBack, m.Reason, m.Message)
		assert.Contains(t, m.Message, "could not be loaded again")
		assert.False(t, m.RolledBack)
		assert.Empty(t, n.calls())
		assert.Equal(t, "in-tree", n.runs("dummy"))
	}
	back()
	m := one(t, n.reconcile(w))
	assert.Equal(t, spec.StateLoaded, m.State, m.Message)
}

// TestDependencyMoves: nothing is taken away for a module whose dependency is not where it was.
func TestDependencyMoves(t *testing.T) {
	n := newNode(t)
	w := n.swap(n.image("1", only(ours("1"), "hostuser"), nil))
	w.module, w.parameters = "hostuser", nil
	n.Preload(n.inTree("dummy"), "")
	n.Hold("dummy", 1)
	require.Equal(t, spec.ReasonInUse, one(t, n.reconcile(w)).Reason)
	n.move("core", "updates/core.ko")
	n.Hold("dummy", 0)
	m := one(t, n.reconcile(w))
	assert.Equal(t, spec.ReasonModuleNotFound, m.Reason, m.Message)
	assert.Empty(t, n.calls())
	m = one(t, n.reconcile(w))
	assert.Equal(t, spec.StateLoaded, m.State, m.Message)
	assert.Equal(t, "in-tree", n.runs("core"))
}

// TestRollBackToWhatIsThere: the driver that ran comes back from where its file is by now, or as what it is by now.
func TestRollBackToWhatIsThere(t *testing.T) {
	for name, change := range map[string]func(n *node){
		"moved": func(n *node) { n.move("dummy", "updates/dummy.ko") },
		"built anew": func(n *node) {
			kmodtest.WriteTree(n.t, n.path("host/lib/modules", release, "kernel"), map[string]kmodtest.Spec{
				"dummy.ko": {InTree: true, Vermagic: kerneltest.Vermagic(release), Version: "2"},
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			w := n.swap(n.image("1", ours("1"), nil))
			n.Preload(n.inTree("dummy"), "")
			n.refuseFirst("dummy", sync.OnceValue(func() string {
				change(n)
				return ""
			}))
			m := one(t, n.reconcile(w))
			assert.True(t, m.RolledBack, m.Message)
			assert.NotContains(t, m.Message, "roll back:")
			assert.Equal(t, "in-tree", n.runs("dummy"))
		})
	}
}
