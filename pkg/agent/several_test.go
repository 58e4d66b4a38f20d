// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// states are the states of a status by Module, with the reason.
func states(s spec.Status) map[string]string {
	out := map[string]string{}
	for _, m := range s.Modules {
		out[m.Name] = string(m.State)
		if m.Reason != "" {
			out[m.Name] += " " + string(m.Reason)
		}
	}
	for _, m := range s.Leaving {
		out[m.Name] = "leaving " + string(m.State)
	}
	return out
}

func TestSharedDependency(t *testing.T) {
	n := newNode(t)
	image := n.image("1", ours("1"), nil)
	top, side := want{name: "top", image: image, module: "top"}, want{name: "side", image: image, module: "side"}
	require.True(t, n.reconcile(top, side).OK())
	assert.Equal(t, []string{"load base", "load side", "load middle", "load top"}, n.calls())
	require.True(t, n.reconcile(top).OK())
	assert.Equal(t, []string{"unload side"}, n.calls(), "base is also top's")
	require.True(t, n.reconcile(top, side).OK())
	n.calls()
	require.True(t, n.reconcile().OK())
	assert.Equal(t, []string{"unload side", "unload top", "unload middle", "unload base"}, n.calls(), "both go, and nothing is left")
}

// TestSharedImages: the same build of base in two images is shared, and nobody
// takes it from the other by turns.
func TestSharedImages(t *testing.T) {
	n := newNode(t)
	top := want{name: "top", image: n.image("1", only(ours("1"), "base", "middle", "top"), nil), module: "top"}
	side := want{name: "side", image: n.image("2", only(ours("1"), "base", "side"), nil), module: "side"}
	require.True(t, n.reconcile(top, side).OK())
	n.calls()
	ledger := n.ledger()
	require.True(t, n.reconcile(top, side).OK())
	assert.Empty(t, n.calls())
	assert.Equal(t, ledger, n.ledger())
}

func TestRollBackLeavesOthersDependencies(t *testing.T) {
	n := newNode(t)
	n.FailInit("top", syscall.EIO)
	image := n.image("1", ours("1"), nil)
	s := n.reconcile(want{name: "base", image: image, module: "base"}, want{name: "top", image: image, module: "top"})
	assert.Equal(t, map[string]string{"base": "Loaded", "top": "Failed InitFailed"}, states(s))
	assert.Equal(t, []string{"load base", "load middle", "load top", "unload middle"}, n.calls())
	assert.NotContains(t, n.ledger(), "journal")
}

// TestRollBackOfAnAdoptedDependency: base ran before and is ours by adoption.
func TestRollBackOfAnAdoptedDependency(t *testing.T) {
	n := newNode(t)
	image := n.image("1", ours("1"), nil)
	require.True(t, n.reconcile(want{name: "base", image: image, module: "base"}).OK())
	n.calls()
	n.FailInit("top", syscall.EIO)
	require.NoError(t, os.Remove(n.path("run/ledger.json")))
	n.start()
	s := n.reconcile(want{name: "top", image: image, module: "top"})
	assert.Equal(t, map[string]string{"top": "Failed InitFailed"}, states(s))
	assert.Equal(t, []string{"load middle", "load top", "unload middle"}, n.calls())
	assert.Equal(t, "1", n.runs("base"), "what kmmd did not load it does not take away")
}

func TestBothRemoveTheSame(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	n.FailInit("helper", syscall.EIO)
	image := n.image("1", ours("1"), nil)
	wants := []want{
		{name: "a", image: image, module: "base", remove: []string{"dummy"}},
		{name: "b", image: image, module: "helper", remove: []string{"dummy"}},
	}
	s := n.reconcile(wants...)
	assert.Equal(t, map[string]string{"a": "Loaded", "b": "Failed InitFailed"}, states(s))
	assert.Empty(t, n.runs("dummy"), "the rollback of b does not bring back what a has removed")
	assert.Equal(t, []string{"hold dummy", "unload dummy", "load base", "load helper"}, n.calls())
	held, err := n.Held()
	require.NoError(t, err)
	assert.Equal(t, []string{"dummy"}, held)
}

// TestRename: the same modules under another document's name stay.
func TestRename(t *testing.T) {
	n := newNode(t)
	w := want{name: "old", image: n.image("1", ours("1"), nil), module: "top"}
	require.True(t, n.reconcile(w).OK())
	n.calls()
	w.name = "new"
	s := n.reconcile(w)
	assert.Equal(t, map[string]string{"new": "Loaded"}, states(s))
	assert.Empty(t, n.calls())
	assert.Len(t, one(t, s).Kernel, 3)

	w.name, w.image = "newer", n.image("2", ours("2"), nil)
	s = n.reconcile(w)
	assert.Equal(t, map[string]string{"newer": "Loaded"}, states(s), "with another build the old one leaves first")
	assert.Equal(t, []string{"unload top", "unload middle", "unload base", "load base", "load middle", "load top"}, n.calls())
	assert.NotContains(t, n.log.String(), "level=ERROR", "a swap of names is no error")
}

// TestHostDependencyOfAnImage: side's image brings its own base; hostuser's
// depends on the node's core, which another image replaces.
func TestHostDependencyOfAnImage(t *testing.T) {
	n := newNode(t)
	files := ours("1")
	core := files["base.ko"]
	core.Exports = []string{"core_symbol"}
	own := want{name: "a", image: n.image("core", map[string]kmodtest.Spec{"core.ko": core}, nil), module: "core"}
	user := want{name: "b", image: n.image("1", only(files, "hostuser"), nil), module: "hostuser"}
	s := n.reconcile(own, user)
	assert.Equal(t, map[string]string{"a": "Loaded", "b": "Loaded"}, states(s))
	assert.Equal(t, []string{"load core", "load hostuser"}, n.calls())

	s = n.reconcile(user)
	assert.Equal(t, map[string]string{"a": "leaving Failed", "b": "Loaded"}, states(s), "core is in use")
	require.NoError(t, n.Rmmod("hostuser"))
	s = n.reconcile(user)
	assert.Equal(t, map[string]string{"b": "Loaded"}, states(s))
	assert.Equal(t, "in-tree", n.runs("core"))
	assert.Equal(t, []string{"unload core", "load core", "load hostuser"}, n.calls())
}

// TestHostDependencyAfterABoot: in whatever order their names are, the image's core comes before who would take the node's.
func TestHostDependencyAfterABoot(t *testing.T) {
	for _, provider := range []string{"a", "z"} {
		t.Run(provider, func(t *testing.T) {
			n := newNode(t)
			files := ours("1")
			core := files["base.ko"]
			core.Exports = []string{"core_symbol"}
			own := want{name: provider, image: n.image("core", map[string]kmodtest.Spec{"core.ko": core}, nil), module: "core", remove: []string{"core"}}
			user := want{name: "b", image: n.image("1", only(files, "hostuser"), nil), module: "hostuser"}
			require.True(t, n.reconcile(own).OK())
			require.True(t, n.reconcile(own, user).OK())
			n.Reboot(release)
			n.start()
			n.calls()
			s := n.reconcile(own, user)
			assert.Equal(t, map[string]string{provider: "Loaded", "b": "Loaded"}, states(s))
			assert.Equal(t, []string{"hold core", "load core", "load hostuser"}, n.calls())
			assert.Equal(t, "1", n.runs("core"))
		})
	}
}

// TestSoftdepThatAnotherRemoves: kmmd does not load for one what another has removed.
func TestSoftdepThatAnotherRemoves(t *testing.T) {
	files := ours("1")
	helper := files["helper.ko"]
	helper.Softdeps = []string{"pre: null_blk"}
	files["helper.ko"] = helper
	for _, first := range []string{"a", "b", "both"} {
		t.Run("first "+first, func(t *testing.T) {
			n := newNode(t)
			if first == "a" {
				n.Preload(n.inTree("null_blk"), "")
			}
			image := n.image("1", files, nil)
			wants := map[string][]want{
				"a": {{name: "a", image: image, module: "base", remove: []string{"null_blk"}}},
				"b": {{name: "b", image: image, module: "helper"}},
			}
			require.True(t, n.reconcile(wants[first]...).OK())
			both := append(wants["a"], wants["b"]...)
			for range 2 {
				s := n.reconcile(both...)
				assert.Equal(t, map[string]string{"a": "Loaded", "b": "Loaded"}, states(s))
				assert.Empty(t, n.runs("null_blk"))
				n.start()
			}
			n.calls()
			n.reconcile(both...)
			assert.Empty(t, n.calls())
			require.True(t, n.reconcile(wants["b"]...).OK())
			assert.Equal(t, []string{"unload base", "hold", "load null_blk"}, n.calls(), "it is loaded when nobody minds")
		})
	}
}

// TestSoftdepsOfTwoBuilds: the one that runs stays, and follows when its Module goes.
func TestSoftdepsOfTwoBuilds(t *testing.T) {
	n := newNode(t)
	image := func(version, module string) string {
		files := ours(version)
		f := files[module+".ko"]
		f.Softdeps = []string{"pre: helper"}
		files[module+".ko"] = f
		return n.image(version, files, nil)
	}
	a := want{name: "a", image: image("1", "base"), module: "base"}
	b := want{name: "b", image: image("2", "dummy"), module: "dummy"}
	s := n.reconcile(a, b)
	assert.Equal(t, map[string]string{"a": "Loaded", "b": "Loaded"}, states(s))
	assert.Equal(t, []string{"load helper", "load base", "load dummy"}, n.calls())
	require.True(t, n.reconcile(a, b).OK())
	assert.Empty(t, n.calls())
	require.True(t, n.reconcile(b).OK())
	assert.Equal(t, []string{"unload base", "unload helper", "load helper"}, n.calls())
	assert.Equal(t, "2", n.runs("helper"))
}

// TestEntryOfAnotherBuild: a ledger entry of a build that has gone does not
// make its owner one of the next build.
func TestEntryOfAnotherBuild(t *testing.T) {
	n := newNode(t)
	a := want{name: "a", image: n.image("1", ours("1"), nil), module: "base"}
	b := want{name: "b", image: n.image("2", ours("2"), nil), module: "base"}
	require.True(t, n.reconcile(a).OK())
	require.NoError(t, n.Rmmod("base"))
	a.image = n.registry.Host + "/modules:none"
	s := n.reconcile(a, b)
	assert.Equal(t, map[string]string{"a": "Failed ImageNotFound", "b": "Loaded"}, states(s))
	assert.Empty(t, s.Modules[0].Kernel)
	assert.Len(t, s.Modules[1].Kernel, 1)
	n.calls()
	n.reconcile(a)
	assert.Equal(t, []string{"unload base"}, n.calls())
}

func TestFirmwareOfTwo(t *testing.T) {
	n := newNode(t)
	require.NoError(t, n.SetFirmwarePath("/opt/fw"))
	a := want{name: "a", image: n.image("1", ours("1"), map[string]string{"shared.bin": "s", "a.bin": "a"}), module: "base", firmware: "/firmware"}
	b := want{name: "b", image: n.image("2", ours("1"), map[string]string{"shared.bin": "s", "b.bin": "b"}), module: "helper", firmware: "/firmware"}
	require.True(t, n.reconcile(a, b).OK())
	require.True(t, n.reconcile(b).OK())
	assert.NoFileExists(t, n.path("firmware/a.bin"))
	assert.FileExists(t, n.path("firmware/shared.bin"))
	path, err := n.FirmwarePath()
	require.NoError(t, err)
	assert.Equal(t, n.path("firmware"), path)

	require.True(t, n.reconcile(a, b).OK())
	require.True(t, n.reconcile().OK())
	assert.NoFileExists(t, n.path("firmware/shared.bin"))
	path, err = n.FirmwarePath()
	require.NoError(t, err)
	assert.Equal(t, "/opt/fw", path, "two that go at once restore it too")
}

func TestFirmwareConflict(t *testing.T) {
	n := newNode(t)
	a := want{name: "a", image: n.image("1", ours("1"), map[string]string{"x.bin": "a"}), module: "base", firmware: "/firmware"}
	b := want{name: "b", image: n.image("2", ours("1"), map[string]string{"x.bin": "b"}), module: "helper", firmware: "/firmware"}
	s := n.reconcile(a, b)
	assert.Equal(t, map[string]string{"a": "Loaded", "b": "Failed FirmwareConflict"}, states(s))
	assert.Contains(t, s.Modules[1].Message, "x.bin")
	assert.Contains(t, s.Modules[1].Message, "default/a")
	assert.Equal(t, map[string]string{"b": "Loaded"}, states(n.reconcile(b)))
}

// TestFirmwareThatWasThere: what the KMM operator has copied is used, and goes by the next image; it is there again when that image's
// module is refused.
func TestFirmwareThatWasThere(t *testing.T) {
	for name, boot := range map[string]bool{"same boot": false, "after a boot": true} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.hasFirmware("nic.bin", "old")
			n.hasFirmware("other.bin", "not the image's")
			w := n.swap(n.image("1", ours("1"), map[string]string{"nic.bin": "old"}))
			w.firmware = "/firmware"
			require.True(t, n.reconcile(w).OK())
			if boot {
				n.Reboot(release)
				n.start()
				require.True(t, n.reconcile(w).OK())
			}
			w.image = n.image("2", ours("2"), map[string]string{"nic.bin": "new"})
			seen := n.refuseFirst("dummy", func() string { return readFile(t, n.path("firmware/nic.bin")) })
			assert.True(t, one(t, n.reconcile(w)).RolledBack)
			assert.Equal(t, []string{"new", "old"}, *seen)
			n.OnCall(nil)
			require.True(t, n.reconcile().OK())
			assert.Equal(t, "old", readFile(t, n.path("firmware/nic.bin")), "it is as it was before all")

			w.image = n.image("3", ours("1"), map[string]string{"nic.bin": "old"})
			require.True(t, n.reconcile(w).OK())
			w.image = n.image("4", ours("2"), map[string]string{"nic.bin": "newest"})
			require.True(t, n.reconcile(w).OK())
			assert.Equal(t, "newest", readFile(t, n.path("firmware/nic.bin")))
			w.image = n.image("5", ours("1"), map[string]string{"nic.bin": "newest", "other.bin": "the image's"})
			assert.Equal(t, map[string]string{"nic": "Failed FirmwareConflict"}, states(n.reconcile(w)))
			require.True(t, n.reconcile().OK())
			assert.NoFileExists(t, n.path("firmware/nic.bin"))
			assert.Equal(t, "not the image's", readFile(t, n.path("firmware/other.bin")))
		})
	}
}

func TestConflictBlocksBothAndNoOther(t *testing.T) {
	n := newNode(t)
	image, newer := n.image("1", ours("1"), nil), n.image("2", ours("2"), nil)
	a, b := want{name: "a", image: image, module: "base"}, want{name: "b", image: newer, module: "base"}
	c := want{name: "c", image: image, module: "helper"}
	s := n.reconcile(a, b, c)
	assert.Equal(t, map[string]string{"a": "Failed Conflict", "b": "Failed Conflict", "c": "Loaded"}, states(s))
	assert.Equal(t, []string{"load helper"}, n.calls())
	s = n.reconcile(b, c)
	assert.Equal(t, map[string]string{"b": "Loaded", "c": "Loaded"}, states(s))
}

// TestLoadingOrder: modulesLoadingOrder of documents goes from the top down.
func TestLoadingOrder(t *testing.T) {
	n := newNode(t)
	image := n.image("1", ours("1"), nil)
	w := want{name: "nic", image: image, module: "dummy", order: []string{"dummy", "helper", "side"}}
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, []string{"load base", "load side", "load helper", "load dummy"}, n.calls())

	// dummy has taken side without a symbol of it.
	n.Hold("side", 1)
	n.OnCall(func(call string) {
		if call == "unload dummy" {
			n.Hold("side", 0)
		}
	})
	require.True(t, n.reconcile().OK())
	assert.Equal(t, []string{"unload dummy", "unload helper", "unload side", "unload base"}, n.calls())
}

// TestTriedForNothing: what is held by nobody that is known is tried once the others have gone; they come back, and it is
// not tried every two minutes.
func TestTriedForNothing(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "dummy", order: []string{"dummy", "side"}}
	require.True(t, n.reconcile(w).OK())
	n.calls()
	n.Hold("side", 1)
	w.image = n.image("2", ours("2"), nil)
	s := n.reconcile(w).Modules[0]
	assert.Equal(t, []string{"unload dummy", "unload side", "load dummy"}, n.calls())
	assert.Equal(t, spec.ReasonInUse, s.Reason)
	assert.Contains(t, s.Message, "rolled back: dummy runs again")
	require.NotNil(t, s.RetryAt)
	assert.Greater(t, time.Until(*s.RetryAt), 90*time.Second)
	n.reconcile(w)
	assert.Empty(t, n.calls())
}

// TestSeldomAfterABlock: a cheap look that found the Module in use before, or in between, makes no costly try come sooner.
func TestSeldomAfterABlock(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "dummy", order: []string{"dummy", "side"}}
	second := n.image("2", ours("2"), nil)
	synctest.Test(t, func(t *testing.T) {
		n.start()
		stop := n.daemon()
		defer stop()
		n.agent.SetDesired(documents(w))
		synctest.Wait()
		n.Hold("side", 1)
		n.Hold("dummy", 1) // in use: nothing is tried
		w.image = second
		n.agent.SetDesired(documents(w))
		synctest.Wait()
		advance(5 * time.Second)
		n.calls()
		taken := func(d time.Duration) (times int) {
			advance(d)
			for _, call := range n.calls() {
				if call == "unload dummy" {
					times++
				}
			}
			return times
		}
		n.Hold("dummy", 0) // not any more; side stays so
		assert.Equal(t, 1, taken(time.Minute))
		n.Hold("dummy", 1)
		n.agent.Trigger()
		synctest.Wait()
		n.Hold("dummy", 0)
		n.agent.Trigger()
		synctest.Wait()
		assert.Zero(t, taken(time.Second))
		assert.LessOrEqual(t, taken(10*time.Minute), 2)
	})
}

// TestCostlyTryIsNotForgotten: a look that finds the driver in use, for whatever reason the last try has failed, makes none come sooner.
func TestCostlyTryIsNotForgotten(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "dummy"}
	require.True(t, n.reconcile(w).OK())
	w.image = n.image("2", ours("2"), nil)
	n.FailInit("dummy", syscall.ENOMEM)
	n.OnCall(func(call string) {
		if call == "unload dummy" {
			n.FailInit("dummy", syscall.ENOMEM)
		}
	})
	n.reconcile(w)
	n.FailInit("dummy", 0)
	n.reconcile(w) // what ran comes back
	require.Equal(t, "1", n.runs("dummy"))
	n.calls()
	for range 3 {
		n.Hold("dummy", 1)
		n.reconcile(w)
		n.Hold("dummy", 0)
		n.reconcile(w)
	}
	assert.Empty(t, n.calls())
}

// TestLeftBehind: a dependency out of the image that somebody uses stays when its Module goes, and is no stranger to the next one.
func TestLeftBehind(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "top"}
	require.True(t, n.reconcile(w).OK())
	n.calls()
	other := n.path("other.ko")
	require.NoError(t, os.WriteFile(other, kmodtest.Build(kmodtest.Spec{Name: "other", Depends: []string{"base"}, Imports: []string{"base_symbol"}, Vermagic: kerneltest.Vermagic(release)}), 0o600))
	n.Preload(other, "")
	require.True(t, n.reconcile().OK())
	assert.Equal(t, []string{"unload top", "unload middle"}, n.calls())
	w.image = n.image("2", ours("2"), nil)
	assert.Equal(t, spec.ReasonInUse, one(t, n.reconcile(w)).Reason)
	require.NoError(t, n.Rmmod("other"))
	n.start()
	assert.True(t, n.reconcile(w).OK())
	assert.Equal(t, "2", n.runs("base"))
}

// TestOwnComesBack: the node's own driver, which a rollback has brought in place of what had outlived its Module, is the node's.
func TestOwnComesBack(t *testing.T) {
	n := newNode(t)
	magic := kerneltest.Vermagic(release)
	kmodtest.WriteTree(t, n.path("host/lib/modules", release, "kernel"), map[string]kmodtest.Spec{
		"base.ko": {InTree: true, Vermagic: magic, Exports: []string{"base_symbol"}},
	})
	require.True(t, n.reconcile(want{name: "nic", image: n.image("1", ours("1"), nil), module: "top"}).OK())
	other := n.path("other.ko")
	require.NoError(t, os.WriteFile(other, kmodtest.Build(kmodtest.Spec{Name: "other", Depends: []string{"base"}, Imports: []string{"base_symbol"}, Vermagic: magic}), 0o600))
	n.Preload(other, "")
	require.True(t, n.reconcile().OK())
	require.NoError(t, n.Rmmod("other"))
	n.FailInit("dummy", syscall.EIO)
	s := one(t, n.reconcile(want{name: "disk", image: n.image("2", ours("2"), nil), module: "dummy", remove: []string{"base"}}))
	assert.Contains(t, s.Message, "rolled back: base runs again")
	assert.Empty(t, n.ledger()["modules"])
	n.reconcile()
	assert.Equal(t, "in-tree", n.runs("base"))
}
