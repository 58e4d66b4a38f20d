// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/spec"
)

const loadOurs = `load dummy numdummies=1 build="a b"`

// beat loads a file just before kmmd's load is carried out, that many times.
func (n *node) beat(path string, times int) {
	n.OnCall(func(call string) {
		if strings.HasPrefix(call, "load dummy") && times > 0 {
			times--
			n.Preload(path, "")
		}
	})
}

func TestRace(t *testing.T) {
	for _, tt := range []struct {
		name     string
		times    int
		calls    []string
		runs     string
		reason   spec.Reason
		rollBack bool
	}{
		{"won", 0, []string{"hold dummy", "unload dummy", loadOurs}, "1", "", false},
		{"lost once", 1, []string{"hold dummy", "unload dummy", loadOurs, "unload dummy", loadOurs}, "1", "", false},
		{"lost twice", 2, []string{"hold dummy", "unload dummy", loadOurs, "unload dummy", loadOurs, "unload dummy", loadOurs}, "1", "", false},
		{"never won", 1000, nil, "in-tree", spec.ReasonWrongBuild, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			n.Preload(n.inTree("dummy"), "")
			n.beat(n.inTree("dummy"), tt.times)
			m := one(t, n.reconcile(n.swap(n.image("1", ours("1"), nil))))
			assert.Equal(t, tt.reason, m.Reason, m.Message)
			assert.Equal(t, tt.runs, n.runs("dummy"))
			assert.Equal(t, tt.rollBack, m.RolledBack)
			if tt.calls != nil {
				assert.Equal(t, tt.calls, n.calls())
				return
			}
			assert.Less(t, len(n.calls()), 60, "it gives up")
			assert.NotNil(t, m.RetryAt, "for a while")
			assert.Contains(t, m.Message, "lost the race")
		})
	}
}

// TestRaceWithAProbe: what was loaded meanwhile is live, and its load holds it a little longer.
func TestRaceWithAProbe(t *testing.T) {
	for name, tt := range map[string]struct {
		calls  int // that it is held for
		reason spec.Reason
	}{"for a while": {3, ""}, "for good": {1000, spec.ReasonInUse}} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.Preload(n.inTree("dummy"), "")
			beaten, tried := false, 0
			n.OnCall(func(call string) {
				switch {
				case strings.HasPrefix(call, "load dummy") && !beaten:
					beaten = true
					n.Preload(n.inTree("dummy"), "")
					n.Hold("dummy", 1)
				case call == "unload dummy" && beaten:
					if tried++; tried > tt.calls {
						n.Hold("dummy", 0)
					}
				}
			})
			m := one(t, n.reconcile(n.swap(n.image("1", ours("1"), nil))))
			assert.Equal(t, tt.reason, m.Reason, m.Message)
			assert.Equal(t, tt.reason == "", n.runs("dummy") == "1")
		})
	}
}

// TestAutoloadIsHeldOff: what udev asks for between the two calls does not come.
func TestAutoloadIsHeldOff(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	tried := 0
	n.OnCall(func(call string) {
		if call == "unload dummy" || strings.HasPrefix(call, "load") {
			tried++
			assert.False(t, n.Autoload("dummy", n.inTree("dummy")), call)
		}
	})
	require.True(t, n.reconcile(n.swap(n.image("1", ours("1"), nil))).OK())
	assert.Equal(t, 2, tried)
	require.NoError(t, n.Rmmod("dummy"))
	assert.False(t, n.Autoload("dummy", n.inTree("dummy")), "nor while it is loaded")
	require.True(t, n.reconcile().OK())
	assert.True(t, n.Autoload("dummy", n.inTree("dummy")), "afterwards it may")
}

// TestSomebodyLoadsOurs: EEXIST is a question. The answer is that our build runs.
func TestSomebodyLoadsOurs(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	kmodtest.WriteTree(t, n.path("theirs"), only(ours("1"), "dummy"))
	n.beat(n.path("theirs/dummy.ko"), 1)
	m := one(t, n.reconcile(n.swap(n.image("1", ours("1"), nil))))
	assert.Equal(t, []string{"hold dummy", "unload dummy", loadOurs}, n.calls())
	assert.Equal(t, spec.StateLoaded, m.State)
	assert.Len(t, m.Kernel, 1)
}

// TestSomebodyLoadsAnother: nobody allowed to remove it, so it stays.
func TestSomebodyLoadsAnother(t *testing.T) {
	n := newNode(t)
	n.beat(n.inTree("dummy"), 1)
	w := n.swap(n.image("1", ours("1"), nil))
	w.remove = nil
	m := one(t, n.reconcile(w))
	assert.Equal(t, spec.ReasonWrongBuild, m.Reason)
	assert.Equal(t, []string{loadOurs}, n.calls())
	assert.Equal(t, "in-tree", n.runs("dummy"))

	m = one(t, n.reconcile(w))
	assert.Equal(t, spec.ReasonWrongBuild, m.Reason)
	assert.Contains(t, m.Message, "name it in inTreeModulesToRemove")
	w.remove = []string{"dummy"}
	require.True(t, n.reconcile(w).OK())
}

func TestSomebodyUnloadsFirst(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	n.OnCall(func(call string) {
		if call == "unload dummy" {
			require.NoError(t, n.Rmmod("dummy"))
		}
	})
	require.True(t, n.reconcile(n.swap(n.image("1", ours("1"), nil))).OK())
}

// TestSomebodyTakesHold: the plan saw nobody, the kernel says it is in use.
func TestSomebodyTakesHold(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	n.OnCall(func(call string) {
		if call == "unload dummy" {
			n.Hold("dummy", 1)
		}
	})
	m := one(t, n.reconcile(n.swap(n.image("1", ours("1"), nil))))
	assert.Equal(t, spec.ReasonInUse, m.Reason)
	assert.NotNil(t, m.RetryAt)
	assert.Equal(t, "in-tree", n.runs("dummy"))
	assert.Equal(t, []string{"hold dummy", "unload dummy", "hold"}, n.calls())
}

// TestHang: an init function that never returns needs a reboot, and says so.
func TestHang(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	n.HangInit("helper", "helper: waiting for ever")
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "helper", remove: []string{"dummy"}}
	m := one(t, n.reconcile(w))
	assert.Equal(t, spec.ReasonNeedsReboot, m.Reason)
	assert.Contains(t, m.Message, "waiting for ever")
	assert.Equal(t, "in-tree", n.runs("dummy"), "the other one is back")
	n.calls()
	again := one(t, n.reconcile(w))
	assert.Equal(t, spec.ReasonNeedsReboot, again.Reason)
	assert.NotContains(t, n.calls(), "load helper", "nothing more is sent after it")

	n.Reboot(release)
	n.FailInit("helper", 0)
	n.start()
	require.True(t, n.reconcile(w).OK())
}

// TestChangedFile: nothing that was changed in the store reaches the kernel.
func TestChangedFile(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	w := n.swap(n.image("1", ours("1"), nil))
	n.OnCall(func(call string) {
		if call == "unload dummy" {
			n.spoil("dummy.ko")
		}
	})
	m := one(t, n.reconcile(w))
	assert.Equal(t, spec.ReasonImageInvalid, m.Reason, m.Message)
	assert.Equal(t, "in-tree", n.runs("dummy"))
	for _, call := range n.calls() {
		assert.NotEqual(t, loadOurs, call)
	}
}

// spoil changes a file of every image in the store.
func (n *node) spoil(name string) {
	n.t.Helper()
	found := 0
	require.NoError(n.t, filepath.WalkDir(n.path("images"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != name {
			return err
		}
		found++
		return errors.Join(os.Chmod(path, 0o644), os.Truncate(path, 100))
	}))
	require.NotZero(n.t, found)
}
