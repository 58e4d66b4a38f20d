// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// keeping starts an agent that looks after the store, and prunes at each look
// what nobody needs.
func (n *node) keeping() {
	n.t.Helper()
	n.start(func(c *agent.Config) {
		c.Keeper, c.KeepUnused, c.Resync = n.images.store, time.Nanosecond, time.Nanosecond
	})
}

// kept are the images in the store with the owners that need them.
func (n *node) kept() map[string][]string {
	n.t.Helper()
	list, err := n.images.store.List()
	require.NoError(n.t, err)
	out := map[string][]string{}
	for _, s := range list {
		for _, ref := range s.Refs {
			out[ref] = append(out[ref], s.PinnedBy...)
		}
	}
	return out
}

func TestKeepImages(t *testing.T) {
	n := newNode(t)
	n.keeping()
	one, two, three := n.push("1", ours("1"), nil), n.push("2", ours("2"), nil), n.push("3", ours("3"), nil)
	w := want{name: "nic", image: one, module: "helper"}
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, map[string][]string{one: {"default/nic"}}, n.kept())

	w.image = two
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, map[string][]string{one: {"default/nic"}, two: {"default/nic"}}, n.kept(), "the one before may be wanted back")
	w.image = three
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, map[string][]string{two: {"default/nic"}, three: {"default/nic"}}, n.kept())

	n.keeping() // a restarted daemon knows nothing else
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, map[string][]string{two: {"default/nic"}, three: {"default/nic"}}, n.kept())

	require.True(t, n.reconcile().OK())
	assert.Empty(t, n.kept())
}

// TestKeepWhatAFailedUpgradeNeeds: the images that run stay for as long as the
// wanted one does not.
func TestKeepWhatAFailedUpgradeNeeds(t *testing.T) {
	n := newNode(t)
	n.keeping()
	one, two := n.push("1", ours("1"), nil), n.push("2", only(ours("2"), "dummy"), nil)
	w := want{name: "nic", image: one, module: "helper"}
	require.True(t, n.reconcile(w).OK())
	w.image = two
	s := n.reconcile(w)
	assert.Equal(t, spec.ReasonModuleNotFound, s.Modules[0].Reason)
	assert.Equal(t, map[string][]string{one: {"default/nic"}, two: {"default/nic"}}, n.kept())
	n.keeping()
	assert.Equal(t, "1", n.runs("helper"))
	w.image = n.registry.Host + "/modules:gone"
	n.reconcile(w)
	assert.Contains(t, n.kept(), one, "also when the wanted one can not be had")
}

// TestModulesThatWentUnseen: pins of a document that was removed while no kmmd
// ran are let go.
func TestModulesThatWentUnseen(t *testing.T) {
	n := newNode(t)
	n.keeping()
	one := n.push("1", ours("1"), nil)
	require.True(t, n.reconcile(want{name: "nic", image: one, module: "helper"}).OK())
	n.Reboot(release)
	n.keeping()
	assert.Equal(t, map[string][]string{one: {"default/nic"}}, n.kept(), "until somebody says what is wanted")
	require.True(t, n.reconcile().OK())
	assert.Empty(t, n.kept())
}

// TestInvalidDocumentKeepsImages: what is wanted is not known then.
// TestDamagedPins: a restarted daemon has its own written anew, and lets go of the
// others.
func TestDamagedPins(t *testing.T) {
	n := newNode(t)
	n.keeping()
	old, ref := n.push("1", ours("1"), nil), n.push("2", ours("2"), nil)
	w := want{name: "nic", image: ref, module: "helper"}
	require.True(t, n.reconcile(want{name: "old", image: old, module: "base"}, w).OK())
	pins, err := filepath.Glob(n.path("images/pins/*.json"))
	require.NoError(t, err)
	require.Len(t, pins, 2)
	for _, path := range pins {
		require.NoError(t, os.WriteFile(path, nil, 0o600))
	}
	n.keeping()
	require.True(t, n.reconcile(w).OK())
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, map[string][]string{ref: {"default/nic"}}, n.kept())
}

func TestInvalidDocumentKeepsImages(t *testing.T) {
	n := newNode(t)
	n.keeping()
	one := n.push("1", ours("1"), nil)
	require.True(t, n.reconcile(want{name: "nic", image: one, module: "helper"}).OK())
	n.reconcileNode(spec.Node{Invalid: []error{spec.ErrInvalid}})
	assert.Equal(t, map[string][]string{one: {"default/nic"}}, n.kept())
}

// TestStagedImagesAreKept: also for a kernel that will be booted.
func TestStagedImagesAreKept(t *testing.T) {
	n := newNode(t)
	n.nextKernel()
	n.keeping()
	ref := n.bothKernels("both")
	w := want{name: "nic", image: ref, module: "top"}
	require.True(t, n.reconcile(w).OK())
	require.NoError(t, n.agent.Prestage(t.Context()))
	assert.True(t, n.reconcile(w).OK())
	list, err := n.images.store.List()
	require.NoError(t, err)
	require.Len(t, list, 2)
	for _, s := range list {
		assert.Contains(t, s.PinnedBy, "default/nic")
		assert.Contains(t, s.PinnedBy, "default/nic@"+next)
	}
	freed, _, err := n.images.store.Prune(images.PruneOptions{})
	require.NoError(t, err)
	assert.Zero(t, freed)
	require.True(t, n.reconcile().OK())
	assert.Empty(t, n.kept())
}

// TestRollbackVerifies: an older image's file that was changed since is not
// loaded, not even to have anything at all.
func TestRollbackVerifies(t *testing.T) {
	n := newNode(t)
	n.keeping()
	w := want{name: "nic", image: n.push("1", ours("1"), nil), module: "top"}
	require.True(t, n.reconcile(w).OK())
	ledger := n.ledger()["modules"].(map[string]any)
	path := ledger["top"].(map[string]any)["file"].(map[string]any)["path"].(string)
	require.NoError(t, os.Chmod(path, 0o644))
	require.NoError(t, os.WriteFile(path, append([]byte(readFile(t, path)), 0), 0o644))
	w.image = n.push("2", ours("2"), nil)
	n.FailInit("top", syscall.EIO)
	n.calls()
	s := n.reconcile(w)
	assert.Equal(t, spec.StateFailed, s.Modules[0].State)
	assert.Contains(t, s.Modules[0].Message, "digest mismatch")
	tries := 0
	for _, c := range n.calls() {
		if strings.HasPrefix(c, "load top") {
			tries++
		}
	}
	assert.Equal(t, 1, tries, "the new one only")
}

// TestPinnedBeforeTheNextPull: an image that was just found is not removed to make
// room for the next Module's.
func TestPinnedBeforeTheNextPull(t *testing.T) {
	n := newNode(t)
	one, two := n.push("1", only(ours("1"), "helper"), nil), n.push("2", only(ours("2"), "dummy"), nil)
	store, err := images.Open(n.path("small"), images.Options{Quota: int64(len(kmodtest.Build(ours("2")["dummy.ko"]))) + 100})
	require.NoError(t, err)
	n.images.store = store
	n.keeping()
	s := n.reconcile(want{name: "a", image: one, module: "helper"}, want{name: "b", image: two, module: "dummy"})
	assert.Equal(t, map[string]string{"a": "Loaded", "b": "Failed NoSpace"}, states(s))
	assert.Equal(t, "1", n.runs("helper"))
}

// slowDisk is a store that takes its time to write pins, and notes who does not wait.
type slowDisk struct {
	*images.Store
	pinned  atomic.Bool
	hurried chan string
}

func (s *slowDisk) Pin(owner string, digests ...string) error {
	select {
	case who := <-s.hurried:
		s.hurried <- who
	case <-time.After(100 * time.Millisecond): // nobody came: all wait
	}
	defer s.pinned.Store(true)
	return s.Store.Pin(owner, digests...)
}

func (s *slowDisk) Ensure(ctx context.Context, r images.Request) (*images.Tree, error) {
	if strings.HasSuffix(r.Ref, ":2") && !s.pinned.Load() {
		s.hurried <- r.Ref
	}
	return s.Store.Ensure(ctx, r)
}

// TestPinsAreWaitedFor: an image is pinned while its modules are loaded, but none is
// pulled, for which another one may be removed, until that is done.
func TestPinsAreWaitedFor(t *testing.T) {
	n := newNode(t)
	one, two := n.push("1", only(ours("1"), "helper"), nil), n.push("2", only(ours("2"), "dummy"), nil)
	disk := &slowDisk{Store: n.images.store, hurried: make(chan string, 1)}
	n.start(func(c *agent.Config) { c.Images, c.Keeper = disk, disk })
	require.True(t, n.reconcile(want{name: "a", image: one, module: "helper"}, want{name: "b", image: two, module: "dummy"}).OK())
	assert.Empty(t, disk.hurried)
	assert.Equal(t, map[string][]string{one: {"default/a"}, two: {"default/b"}}, n.kept())
}
