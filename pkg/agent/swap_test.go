// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// swap is the main job: our dummy for the in-tree one.
func (n *node) swap(image string) want {
	return want{name: "nic", image: image, module: "dummy", remove: []string{"dummy"}, parameters: []string{"numdummies=1", "build=a b"}}
}

func TestSwap(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "numdummies=3")
	image := n.image("1", ours("1"), map[string]string{"nic.bin": "fw", "sub/x.bin": "x"})
	w := n.swap(image)
	w.firmware, w.version = "/firmware", "2024a"
	s := n.reconcile(w)
	assert.Equal(t, []string{
		"hold dummy",
		"firmware-path " + n.path("firmware"),
		"unload dummy",
		`load dummy numdummies=1 build="a b"`,
	}, n.calls())
	assert.Equal(t, "1", n.runs("dummy"))
	content, err := os.ReadFile(n.path("firmware/sub/x.bin"))
	require.NoError(t, err)
	assert.Equal(t, "x", string(content))

	m := one(t, s)
	assert.True(t, s.OK())
	assert.Equal(t, release, s.KernelRelease)
	assert.Equal(t, n.BootID(), s.BootID)
	assert.Equal(t, "v1", s.Version)
	assert.Equal(t, "default/nic", m.Key())
	assert.Equal(t, spec.StateLoaded, m.State)
	assert.Empty(t, m.Reason)
	assert.Empty(t, m.Message)
	assert.Empty(t, m.Warnings)
	assert.Equal(t, image, m.Image)
	assert.Regexp(t, "^sha256:[0-9a-f]{64}$", m.Digest)
	assert.Equal(t, "2024a", m.Version)
	running, err := n.Module("dummy")
	require.NoError(t, err)
	assert.Equal(t, []spec.LoadedModule{{Name: "dummy", BuildID: running.BuildID, Parameters: w.parameters}}, m.Kernel)
	assert.Nil(t, m.RetryAt)
}

func TestNothingToDo(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	w := n.swap(n.image("1", ours("1"), map[string]string{"nic.bin": "fw"}))
	w.firmware = "/firmware"
	before := n.reconcile(w)
	n.calls()
	for _, path := range []string{"run", "firmware", "."} { // whoever writes there, fails
		require.NoError(t, os.Chmod(n.path(path), 0o555))
		t.Cleanup(func() { require.NoError(t, os.Chmod(n.path(path), 0o755)) })
	}
	ledger, err := os.Stat(n.path("run/ledger.json"))
	require.NoError(t, err)
	for range 3 {
		assert.Equal(t, before, n.reconcile(w), "the same status, with the same time")
	}
	n.start()
	assert.Equal(t, before, n.reconcile(w), "after a restart too")
	assert.Empty(t, n.calls())
	again, err := os.Stat(n.path("run/ledger.json"))
	require.NoError(t, err)
	assert.True(t, os.SameFile(ledger, again), "the ledger is not written again")
	assert.Len(t, n.reports, 1)
	assert.NotContains(t, n.log.String(), "ledger")
}

func TestFailingLoadIsRolledBack(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "numdummies=3")
	n.Preload(n.inTree("null_blk"), "")
	n.FailInit("helper", syscall.ENODEV, "helper: no such hardware")
	w := want{name: "nic", image: n.image("1", ours("1"), map[string]string{"nic.bin": "fw"}), module: "helper",
		remove: []string{"dummy", "null_blk"}, order: []string{"helper", "base"}, firmware: "/firmware"}
	s := n.reconcile(w)
	assert.Equal(t, []string{
		"hold dummy null_blk",
		"firmware-path " + n.path("firmware"),
		"unload null_blk", "unload dummy",
		"load base", "load helper",
		"unload base",
		"firmware-path",
		"load dummy numdummies=3", "load null_blk nr_devices=0",
		"hold",
	}, n.calls())
	m := one(t, s)
	assert.Equal(t, spec.StateFailed, m.State)
	assert.Equal(t, spec.ReasonInitFailed, m.Reason)
	assert.True(t, m.RolledBack)
	assert.Contains(t, m.Message, "helper: no such hardware")
	assert.Contains(t, m.Message, "rolled back: dummy runs again from "+n.inTree("dummy"))
	assert.Contains(t, m.Message, "rolled back: null_blk runs again")
	assert.Empty(t, m.Kernel)
	assert.Nil(t, m.RetryAt, "the kernel would say the same again")
	assert.NoFileExists(t, n.path("firmware/nic.bin"))
	assert.Equal(t, "in-tree", n.runs("dummy"))
	dummy, err := n.Module("dummy")
	require.NoError(t, err)
	assert.Equal(t, "3", dummy.Parameters["numdummies"])
	assert.NotContains(t, n.ledger(), "journal")
	assert.Empty(t, n.ledger()["modules"])

	assert.Equal(t, s, n.reconcile(w), "and is not tried again")
	assert.Empty(t, n.calls())
}

func TestFailingUpgradeIsRolledBack(t *testing.T) {
	n := newNode(t)
	first := n.swap(n.image("1", ours("1"), map[string]string{"nic.bin": "old", "gone.bin": "g"}))
	first.firmware = "/firmware"
	require.True(t, n.reconcile(first).OK())
	n.calls()
	second := first
	second.image = n.image("2", ours("2"), map[string]string{"nic.bin": "new"})
	// The new build fails, the old one does not.
	n.OnCall(func(call string) {
		if call == "unload dummy" {
			n.FailInit("dummy", syscall.EIO)
			n.OnCall(func(string) {
				n.OnCall(func(string) { n.FailInit("dummy", 0) })
			})
		}
	})
	s := n.reconcile(second)
	assert.Equal(t, []string{"unload dummy", `load dummy numdummies=1 build="a b"`, `load dummy numdummies=1 build="a b"`}, n.calls())
	m := one(t, s)
	assert.Equal(t, spec.ReasonInitFailed, m.Reason)
	assert.True(t, m.RolledBack)
	assert.Equal(t, "1", n.runs("dummy"))
	require.Len(t, m.Kernel, 1, "what runs is still ours")
	for path, want := range map[string]string{"nic.bin": "old", "gone.bin": "g"} {
		content, err := os.ReadFile(n.path("firmware", path))
		require.NoError(t, err)
		assert.Equal(t, want, string(content))
	}
	assert.Equal(t, second.image, m.Image)

	require.True(t, n.reconcile(first).OK(), "the old document is met")
	assert.Empty(t, n.calls(), "with nothing to do")
}

func TestUpgradeAndLeave(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	w := want{name: "nic", image: n.image("1", ours("1"), map[string]string{"nic.bin": "1"}), module: "top", remove: []string{"dummy"}, firmware: "/firmware"}
	require.NoError(t, n.SetFirmwarePath("/opt/fw"))
	require.True(t, n.reconcile(w).OK())
	n.calls()

	// Only base is another build: what stands on it is loaded again.
	files := ours("1")
	files["base.ko"] = ours("2")["base.ko"]
	w.image = n.image("2", files, map[string]string{"nic.bin": "2"})
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, []string{"unload top", "unload middle", "unload base", "load base", "load middle", "load top"}, n.calls())

	s := n.reconcile()
	assert.Equal(t, []string{"unload top", "unload middle", "unload base", "firmware-path /opt/fw", "hold"}, n.calls())
	assert.True(t, s.OK())
	assert.Empty(t, s.Modules)
	assert.Empty(t, n.runs("dummy"), "the in-tree module does not come back by itself")
	assert.NoDirExists(t, n.path("firmware/nic.bin"))
	assert.Empty(t, n.ledger()["modules"])
	assert.NotContains(t, n.ledger(), "holds")
	assert.NotContains(t, n.ledger(), "firmwarePathBefore")
}

func TestPathThatWasRightBefore(t *testing.T) {
	n := newNode(t)
	require.NoError(t, n.SetFirmwarePath(n.path("firmware"))) // as firmware_class.path= of the kernel command line does
	n.calls()
	w := want{name: "nic", image: n.image("1", ours("1"), map[string]string{"nic.bin": "1"}), module: "helper", firmware: "/firmware"}
	require.True(t, n.reconcile(w).OK())
	require.True(t, n.reconcile().OK())
	assert.Equal(t, []string{"load helper", "unload helper"}, n.calls(), "what kmmd has not set it does not take back")
}

func TestParameters(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "base", parameters: []string{"level=1"}}
	require.True(t, n.reconcile(w).OK())
	w.parameters = []string{"level=2"}
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, []string{"load base level=1", "unload base", "load base level=2"}, n.calls())

	t.Run("what can not be is refused before anything is touched", func(t *testing.T) {
		w.parameters = []string{"level=x", "size=3"}
		m := one(t, n.reconcile(w))
		assert.Equal(t, spec.ReasonInvalidParameter, m.Reason)
		assert.Contains(t, m.Message, "level")
		assert.Contains(t, m.Message, "size")
		assert.Empty(t, n.calls())
		assert.Equal(t, "1", n.runs("base"), "what ran goes on")
		assert.Len(t, m.Kernel, 1)
	})
}

// TestRollbackParameters: what the old module ran with comes back as far as the kernel shows it and takes it again, and what
// does not is said.
func TestRollbackParameters(t *testing.T) {
	n := newNode(t)
	kmodtest.WriteTree(t, filepath.Dir(n.inTree("dummy")), map[string]kmodtest.Spec{"dummy.ko": {
		InTree: true, Vermagic: kerneltest.Vermagic(release),
		Params: []kmodtest.Param{{Name: "on", Type: "bint"}, {Name: "mode", Type: "policy"}, {Name: "numdummies", Type: "int"}},
	}})
	n.Preload(n.inTree("dummy"), "on=1 mode=fast numdummies=3")
	n.refuseFirst("dummy", func() string { return "" })
	m := one(t, n.reconcile(n.swap(n.image("1", ours("1"), nil))))
	require.True(t, m.RolledBack, m.Message)
	assert.Contains(t, m.Message, "runs again from "+n.inTree("dummy")+" (the kernel does not show its parameters mode, or would not take back")
	running, err := n.Module("dummy")
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"on": "1", "mode": "0", "numdummies": "3"}, running.Parameters)
}

// TestFlags: what a document allows is asked of the kernel only where the kernel needs it, since that taints it, voids the
// signature and is refused without CONFIG_MODULE_FORCE_LOAD.
func TestFlags(t *testing.T) {
	const otherRelease = "6.1.0-1-other SMP preempt mod_unload modversions "
	for _, tt := range []struct {
		name     string
		vermagic string
		versions string // as in kmodtest.Spec
		unknown  bool   // what the kernel has behind its release
		load     []string
		want     string // of the flags; "refused" by kmmd
	}{
		{name: "another release", vermagic: otherRelease, want: "refused"},
		{name: "another release, allowed", vermagic: otherRelease, load: []string{"--force-vermagic"}},
		{name: "both kinds of CRCs", vermagic: otherRelease, versions: "both", load: []string{"--force-vermagic"}},
		{name: "other CRCs than the kernel goes by", vermagic: otherRelease, versions: "ext", load: []string{"--force-vermagic"}, want: " ignore-vermagic"},
		{name: "without CRCs", vermagic: otherRelease, versions: "none", load: []string{"--force-vermagic"}, want: " ignore-vermagic"},
		{name: "CRCs ignored", vermagic: otherRelease, load: []string{"-f"}, want: " ignore-vermagic ignore-modversions"},
		{name: "other options", vermagic: release + " SMP mod_unload modversions ", load: []string{"--force-vermagic"}, want: " ignore-vermagic"},
		{name: "the kernel's own", vermagic: kerneltest.Vermagic(release), load: []string{"--force-vermagic"}},
		{name: "the kernel's own, CRCs ignored", vermagic: kerneltest.Vermagic(release), load: []string{"-f"}, want: " ignore-modversions"},
		{name: "not known", vermagic: otherRelease, unknown: true, load: []string{"--force-vermagic"}, want: " ignore-vermagic"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			if !tt.unknown {
				n.Preload(n.inTree("core"), "")
			}
			files := only(ours("1"), "helper")
			helper := files["helper.ko"]
			helper.Vermagic, helper.Versions = tt.vermagic, tt.versions
			files["helper.ko"] = helper
			s := n.reconcile(want{name: "nic", image: n.image("1", files, nil), module: "helper", load: tt.load})
			if tt.want == "refused" {
				assert.Equal(t, spec.ReasonWrongKernel, one(t, s).Reason)
				assert.Empty(t, n.calls())
				return
			}
			require.True(t, s.OK(), "%+v", s)
			assert.Equal(t, []string{"load helper" + tt.want}, n.calls())
		})
	}
}
