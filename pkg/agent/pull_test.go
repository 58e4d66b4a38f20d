// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// TestPullHangs: a registry that never answers keeps nobody waiting: other Modules
// are loaded and looked after, and the one that hangs may get another image.
func TestPullHangs(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	first, second := n.swap(n.image("1", ours("1"), nil)), n.swap(n.image("2", ours("2"), nil))
	base := want{name: "zbase", image: n.image("3", ours("3"), nil), module: "base"}
	n.images.hang(first.image, true)
	synctest.Test(t, func(t *testing.T) {
		n.start()
		stop := n.daemon()
		defer stop()
		n.agent.SetDesired(documents(first, base))
		advance(10 * time.Second)
		assert.Equal(t, "3", n.runs("base"), "the other one is loaded")
		assert.Equal(t, "in-tree", n.runs("dummy"))
		assert.Equal(t, map[string]string{"nic": "Pending", "zbase": "Loaded"}, states(n.last()))
		assert.Equal(t, "the image is being got", n.last().Modules[0].Message)
		assert.False(t, n.agent.Ready(), "not before the first Module has its image, or is known to get none")

		require.NoError(t, n.Unload(context.Background(), "base", 0))
		start := time.Now()
		n.agent.Trigger()
		synctest.Wait()
		assert.Equal(t, "3", n.runs("base"), "and looked after")
		assert.Equal(t, start, time.Now(), "at once")
		reports := len(n.reports)
		advance(10 * time.Minute)
		assert.Len(t, n.reports, reports, "nothing more is told")
		assert.Len(t, n.images.asked, 2, "it is asked for once")

		n.agent.SetDesired(documents(second, base))
		synctest.Wait()
		assert.Equal(t, "2", n.runs("dummy"), "another image counts at once")
		assert.True(t, n.last().OK())
		assert.True(t, n.agent.Ready())
	})
}

// TestPlanWaits: an image that takes its time is in the plan, or in the error.
func TestPlanWaits(t *testing.T) {
	n := newNode(t)
	late := want{name: "late", image: n.image("1", ours("1"), nil), module: "base"}
	never := want{name: "never", image: n.image("2", ours("2"), nil), module: "helper"}
	n.images.delay(late.image, time.Minute)
	synctest.Test(t, func(t *testing.T) {
		n.start()
		n.agent.SetDesired(documents(late))
		p, unresolved, err := n.agent.Plan(t.Context())
		require.NoError(t, err)
		assert.Empty(t, unresolved)
		require.Len(t, p.Transactions, 1)
		assert.Equal(t, "default/late", p.Transactions[0].Owner)
	})
	n.images.hang(never.image, true)
	synctest.Test(t, func(t *testing.T) {
		n.start()
		n.agent.SetDesired(documents(late, never))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, _, err := n.agent.Plan(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// TestPullLate: what comes late is used when it comes, and is told with the reason
// of the last try until then.
func TestPullLate(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	w := n.swap(n.image("1", ours("1"), nil))
	synctest.Test(t, func(t *testing.T) {
		n.images.fail(w.image, images.ErrUnreachable)
		n.start()
		stop := n.daemon()
		defer stop()
		n.agent.SetDesired(documents(w))
		synctest.Wait()
		failed := one(t, n.last())
		assert.Equal(t, spec.ReasonImageUnreachable, failed.Reason)

		n.images.fail(w.image, nil)
		n.images.delay(w.image, 20*time.Second)
		advance(10 * time.Second)
		m := one(t, n.last())
		assert.Equal(t, spec.StateFailed, m.State, "it fails until the next try has come to an end")
		assert.Equal(t, failed.Message, m.Message)
		advance(13 * time.Second)
		assert.True(t, n.last().OK())
		assert.Equal(t, "1", n.runs("dummy"))
	})
}

// TestReconcileWaits: who wants it done once gets all of it.
func TestReconcileWaits(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	w := n.swap(n.image("1", ours("1"), nil))
	same := want{name: "same", image: w.image, module: "base"}
	synctest.Test(t, func(t *testing.T) {
		n.images.delay(w.image, time.Minute)
		start := time.Now()
		n.start()
		n.agent.SetDesired(documents(w, same))
		status, err := n.agent.Reconcile(t.Context())
		require.NoError(t, err)
		assert.True(t, status.OK())
		assert.Equal(t, 2*time.Minute, time.Since(start), "one image is got once at a time")
	})
	w.image = n.image("2", ours("2"), nil)
	synctest.Test(t, func(t *testing.T) {
		n.images.hang(w.image, true)
		n.start()
		n.agent.SetDesired(documents(w))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := n.agent.Reconcile(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// TestTagMoves: what a tag stands for is asked when the document is another one, and in another boot; a kmmd that starts
// anew leaves a driver alone that works.
func TestTagMoves(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.push("main", ours("1"), nil), module: "dummy", pull: images.PullAlways}
	first := one(t, n.reconcile(w))
	require.Equal(t, []string{"load dummy"}, n.calls())
	require.Equal(t, w.image, n.push("main", ours("2"), nil))

	n.start()
	s := one(t, n.reconcile(w))
	assert.Equal(t, spec.StateLoaded, s.State)
	assert.Equal(t, first.Digest, s.Digest)
	assert.Empty(t, n.calls(), "after a restart")

	n.registry.Close() // and no registry is needed
	n.start()
	assert.Equal(t, first, one(t, n.reconcile(w)))
	assert.Empty(t, n.calls())
}

// TestOtherDocumentAsksTheTag: a document that has changed is a reason to ask; so is the one before, when it comes back.
func TestOtherDocumentAsksTheTag(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.push("main", ours("1"), nil), module: "dummy", pull: images.PullAlways}
	first := one(t, n.reconcile(w)).Digest
	n.push("main", ours("2"), nil)
	other := w
	other.version = "v2"
	second := one(t, n.reconcile(other)).Digest
	assert.NotEqual(t, first, second)
	assert.Equal(t, "2", n.runs("dummy"))
	n.push("main", ours("3"), nil)
	n.start()
	assert.NotEqual(t, second, one(t, n.reconcile(w)).Digest)
	assert.Equal(t, "3", n.runs("dummy"))

	n.push("main", ours("4"), nil)
	n.Reboot(release)
	n.start()
	n.reconcile(w)
	assert.Equal(t, "4", n.runs("dummy"), "in another boot")

	n.push("main", ours("5"), nil)
	n.reconcile()
	n.reconcile(w)
	assert.Equal(t, "5", n.runs("dummy"), "a Module that was gone")
}

// TestSettledImageIsLost: when nobody has the image any more that runs, or it may not be used, the tag says what to do.
func TestSettledImageIsLost(t *testing.T) {
	for _, err := range []error{images.ErrNotFound, images.ErrNotCached, images.ErrPolicy} {
		t.Run(err.Error(), func(t *testing.T) {
			n := newNode(t)
			w := want{name: "nic", image: n.push("main", ours("1"), nil), module: "dummy", pull: images.PullIfNotPresent}
			s := one(t, n.reconcile(w))
			require.Equal(t, spec.StateLoaded, s.State)
			n.images.fail(w.image+" "+s.Digest, err)
			n.start()
			assert.Equal(t, s, one(t, n.reconcile(w)), "the tag was not pushed again")
		})
	}
}

// TestDigestAndRestart: an image that the document names by its digest is that after a restart, too.
func TestDigestAndRestart(t *testing.T) {
	n := newNode(t)
	digest := one(t, n.reconcile(want{name: "nic", image: n.push("main", ours("1"), nil), module: "dummy"})).Digest
	for _, image := range []string{n.registry.Host + "/modules:main@" + digest, n.registry.Host + "/modules@" + digest} {
		w := want{name: "nic", image: image, module: "dummy"}
		before := n.reconcile(w)
		require.True(t, before.OK(), before)
		n.start()
		assert.Equal(t, before, n.reconcile(w))
	}
}

// TestStaleIsNotSettled: an image of the store that stands in for one which nobody was asked for is no answer for the whole
// boot, be it that of a kmmd which asks no registry at all.
func TestStaleIsNotSettled(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.push("main", ours("1"), nil), module: "dummy", pull: images.PullAlways}
	n.reconcile(w)
	n.push("main", ours("2"), nil)
	n.Reboot(release)
	n.start(func(c *agent.Config) { c.Images = unreachable{n.images} })
	assert.Contains(t, one(t, n.reconcile(w)).Warnings[0], "could not be asked")
	assert.Equal(t, "1", n.runs("dummy"))
	n.start()
	n.reconcile(w)
	assert.Equal(t, "2", n.runs("dummy"))
}

// unreachable has what the store has.
type unreachable struct{ *stock }

func (u unreachable) Ensure(ctx context.Context, r images.Request) (*images.Tree, error) {
	r.PullPolicy = images.PullNever
	t, err := u.store.Ensure(ctx, r)
	if err == nil {
		t.Stale = true
	}
	return t, err
}

// TestRefusedIsNotSettled: a driver that ran, was taken away, and is refused, leaves room for an image that was mended.
func TestRefusedIsNotSettled(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.push("main", ours("1"), nil), module: "dummy", pull: images.PullAlways}
	require.True(t, n.reconcile(w).OK())
	require.NoError(t, n.Rmmod("dummy"))
	n.FailInit("dummy", syscall.EIO)
	require.Equal(t, spec.ReasonInitFailed, one(t, n.reconcile(w)).Reason)
	n.push("main", ours("2"), nil)
	n.FailInit("dummy", 0)
	n.start()
	assert.True(t, n.reconcile(w).OK())
	assert.Equal(t, "2", n.runs("dummy"))
}

// TestRefusedInPart: as long as something of the image runs, it is the image.
func TestRefusedInPart(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.push("main", ours("1"), nil), module: "dummy", order: []string{"dummy", "helper"}, pull: images.PullAlways}
	require.True(t, n.reconcile(w).OK())
	require.NoError(t, n.Rmmod("helper"))
	n.FailInit("helper", syscall.EIO)
	require.Equal(t, spec.ReasonInitFailed, one(t, n.reconcile(w)).Reason)
	require.Equal(t, "1", n.runs("dummy"))
	n.push("main", ours("2"), nil)
	n.calls()
	n.start()
	n.reconcile(w)
	assert.Empty(t, n.calls())
	assert.Equal(t, "1", n.runs("dummy"))
}

// TestRequiredDigest: what kmmd knows of a tag does not make a digest of it.
func TestRequiredDigest(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.push("main", ours("1"), nil), module: "dummy"}
	require.True(t, n.reconcile(w).OK())
	require.NoError(t, n.images.store.Close())
	store, err := images.Open(n.path("images"), images.Options{Policy: images.Policy{RequireDigest: true}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	n.images.store = store
	n.start()
	assert.Equal(t, spec.ReasonPolicy, one(t, n.reconcile(w)).Reason)
}
