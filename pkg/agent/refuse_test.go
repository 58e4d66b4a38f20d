// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/spec"
)

func TestRefusalIsRemembered(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	n.FailInit("base", syscall.EIO, "base: broken")
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "base", remove: []string{"dummy"}, parameters: []string{"level=1"}}
	first := n.reconcile(w)
	assert.Equal(t, map[string]string{"nic": "Failed InitFailed"}, states(first))
	n.calls()

	n.start()
	assert.Equal(t, first.Modules, n.reconcile(w).Modules, "over a restart, with the same words and time")
	assert.Empty(t, n.calls())

	w.parameters = []string{"level=2"}
	n.reconcile(w)
	assert.Contains(t, n.calls(), "load base level=2", "another document is tried")
	n.reconcile(w)
	assert.Empty(t, n.calls())

	n.start(func(c *agent.Config) { c.Retry = true })
	n.reconcile(w)
	assert.Contains(t, n.calls(), "load base level=2", "and the same one when asked to")

	n.reconcile()
	n.start()
	n.reconcile(w)
	assert.Contains(t, n.calls(), "load base level=2", "and one that was gone in between")

	n.FailInit("base", 0)
	n.start()
	n.reconcile(w)
	assert.Empty(t, n.calls())
	n.start(func(c *agent.Config) { c.Retry = true })
	assert.True(t, n.reconcile(w).OK())
	assert.NotContains(t, n.ledger(), "failures")

	n.Reboot(release)
	n.start()
	assert.True(t, n.reconcile(w).OK(), "another boot is another chance")
}

// TestResolve has what can not be resolved: nothing is touched, what ran goes
// on, and the reason names the remedy.
func TestResolve(t *testing.T) {
	n := newNode(t)
	n.AddBuiltin("ext4")
	require.NoError(t, os.WriteFile(n.path("host/lib/modules", release, "modules.builtin"), []byte("kernel/fs/ext4/ext4.ko\n"), 0o644))
	good := want{name: "nic", image: n.image("1", ours("1"), nil), module: "base"}
	n.Preload(n.inTree("dummy"), "")
	require.True(t, n.reconcile(good).OK())
	n.calls()

	magic := ours("1")
	stranger := magic["helper.ko"]
	stranger.Vermagic = release + " SMP mod_unload "
	other := magic["helper.ko"]
	other.Vermagic = "6.1.0-1-other SMP preempt mod_unload modversions "
	odd := n.image("odd", map[string]kmodtest.Spec{
		"helper.ko": stranger, "old.ko": other, "lonely.ko": {Vermagic: other.Vermagic, Depends: []string{"nowhere"}},
		"ext4.ko": magic["helper.ko"], "ring.ko": {Depends: []string{"ring2"}}, "ring2.ko": {Depends: []string{"ring"}},
	}, map[string]string{"x.bin": "x"})
	foreign := kmodtest.Build(kmodtest.Spec{Name: "foreign", Vermagic: magic["helper.ko"].Vermagic})
	binary.LittleEndian.PutUint16(foreign[18:], uint16(elf.EM_S390))
	files := n.imageOf("files", map[string]string{
		"opt/lib/modules/" + release + "/foreign.ko": string(foreign), "opt/lib/modules/" + release + "/text.ko": "#!/bin/sh\n",
	})
	empty := n.registry.Host + "/modules:empty"
	n.images.fail(empty, images.ErrNoModules)
	for _, tt := range []struct {
		name    string
		want    want
		reason  spec.Reason
		message string
		retried bool
	}{
		{"no such image", want{image: n.registry.Host + "/modules:none", module: "base"}, spec.ReasonImageNotFound, "none", true},
		{"nothing for this kernel", want{image: empty, module: "base"}, spec.ReasonNoModules, "modules:empty", false},
		{"never pulled, not there", want{image: n.registry.Host + "/modules:none", module: "base", pull: "Never"}, spec.ReasonImageNotFound, "", true},
		{"no such module", want{image: good.image, module: "nope"}, spec.ReasonModuleNotFound, "nope", false},
		{"no such dependency", want{image: odd, module: "lonely"}, spec.ReasonModuleNotFound, "nowhere", false},
		{"other build options", want{image: odd, module: "helper"}, spec.ReasonWrongKernel, "SMP preempt mod_unload modversions", false},
		{"other release", want{image: odd, module: "old"}, spec.ReasonWrongKernel, "6.1.0-1-other", false},
		{"other machine", want{image: files, module: "foreign"}, spec.ReasonWrongKernel, "this node is", false},
		{"no module file", want{image: files, module: "text"}, spec.ReasonImageInvalid, "text", false},
		{"a ring of dependencies", want{image: odd, module: "ring"}, spec.ReasonImageInvalid, "ring2", false},
		{"parameter", want{image: good.image, module: "base", parameters: []string{"levle=1"}}, spec.ReasonInvalidParameter, "levle", false},
		{"builtin", want{image: odd, module: "ext4"}, spec.ReasonBuiltin, "built into", false},
		{"removal of a builtin", want{image: good.image, module: "base", remove: []string{"ext4"}}, spec.ReasonBuiltin, "modules.builtin", false},
		{"no firmware directory", want{image: n.image("nofw", ours("1"), nil), module: "base", firmware: "/firmware"}, spec.ReasonFirmwareMissing, "/firmware", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.name = "nic"
			m := one(t, n.reconcile(tt.want))
			assert.Equal(t, spec.StateFailed, m.State)
			assert.Equal(t, tt.reason, m.Reason, m.Message)
			assert.Contains(t, m.Message, tt.message)
			assert.Equal(t, tt.retried, m.RetryAt != nil, "is it tried again?")
			assert.Empty(t, n.calls())
			assert.Equal(t, "1", n.runs("base"))
		})
	}
	t.Run("no mapping", func(t *testing.T) {
		w := documents(good)
		w.Modules[0].Spec.ModuleLoader.Container.KernelMappings = []spec.KernelMapping{{Literal: "5.4"}}
		m := one(t, n.reconcileNode(w))
		assert.Equal(t, spec.ReasonNoMapping, m.Reason)
		assert.Empty(t, n.calls())
		require.Len(t, m.Kernel, 1, "it runs on")
	})
	assert.True(t, n.reconcile(good).OK())
	assert.Empty(t, n.calls())
}

// TestReasons has each answer of the kernel to a load, and what it is called.
func TestReasons(t *testing.T) {
	for _, tt := range []struct {
		name    string
		errno   syscall.Errno
		log     string
		reason  spec.Reason
		retried bool
	}{
		{"symbol", syscall.ENOENT, "helper: Unknown symbol foo (err -2)", spec.ReasonUnknownSymbol, false},
		{"symbol version", syscall.EINVAL, "helper: disagrees about version of symbol foo", spec.ReasonSymbolVersion, false},
		{"vermagic", syscall.ENOEXEC, "helper: version magic 'a' should be 'b'", spec.ReasonWrongKernel, false},
		{"signature", syscall.EKEYREJECTED, "Loading of unsigned module is rejected", spec.ReasonSignature, false},
		{"lockdown", syscall.EPERM, "Lockdown: kmmd: unsigned module loading is restricted", spec.ReasonSignature, false},
		{"blacklist", syscall.EPERM, "Module helper is blacklisted", spec.ReasonBlacklisted, false},
		{"firmware", syscall.ENOENT, "helper: Direct firmware load for x.bin failed with error -2", spec.ReasonFirmwareMissing, false},
		{"init", syscall.ENODEV, "", spec.ReasonInitFailed, false},
		{"busy init", syscall.EBUSY, "helper: the interrupt is taken", spec.ReasonInitFailed, false},
		{"init finds the name taken", syscall.EEXIST, "helper: the name is taken", spec.ReasonInitFailed, false},
		{"a dependency in its init", syscall.EBUSY, "helper: gave up waiting for init of module base.", spec.ReasonLoadFailed, true},
		{"no right", syscall.EPERM, "", spec.ReasonLoadFailed, false},
		{"somebody writes the file", syscall.ETXTBSY, "", spec.ReasonLoadFailed, true},
		{"memory", syscall.ENOMEM, "", spec.ReasonLoadFailed, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			var log []string
			if tt.log != "" {
				log = []string{tt.log}
			}
			n.FailInit("helper", tt.errno, log...)
			w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "helper"}
			synctest.Test(t, func(t *testing.T) {
				m := one(t, n.reconcile(w))
				assert.Equal(t, tt.reason, m.Reason)
				assert.Equal(t, tt.retried, m.RetryAt != nil)
				assert.Contains(t, m.Message, tt.log)
			})
		})
	}
}

func TestBlocked(t *testing.T) {
	n := newNode(t)
	w := n.swap(n.image("1", ours("1"), nil))
	n.Preload(n.inTree("dummy"), "")
	n.SetPermanent("dummy")
	m := one(t, n.reconcile(w))
	assert.Equal(t, spec.ReasonInUse, m.Reason)
	assert.Empty(t, n.calls(), "not even autoload is held off")

	n.Reboot(release)
	n.Preload(n.inTree("dummy"), "")
	require.NoError(t, os.Rename(n.inTree("dummy"), n.path("dummy.ko")))
	n.start()
	m = one(t, n.reconcile(w))
	assert.Equal(t, spec.ReasonNoWayBack, m.Reason)
	assert.Contains(t, m.Warnings[0], "this kernel has no module dummy")
	assert.Empty(t, n.calls())
}

// TestSoftdep: what only a softdep asks for may fail.
func TestSoftdep(t *testing.T) {
	files := ours("1")
	dummy := files["dummy.ko"]
	dummy.Softdeps = []string{"pre: helper base post: side"}
	files["dummy.ko"] = dummy
	n := newNode(t)
	w := want{name: "nic", image: n.image("1", files, nil), module: "dummy"}
	n.FailInit("helper", syscall.EIO)
	m := one(t, n.reconcile(w))
	assert.Equal(t, []string{"load helper", "load base", "load dummy", "load side"}, n.calls())
	assert.Equal(t, spec.StateLoaded, m.State)
	require.NotEmpty(t, m.Warnings)
	assert.Contains(t, m.Warnings[0], "softdep not loaded")
	assert.Len(t, m.Kernel, 3)
	n.reconcile(w)
	assert.Empty(t, n.calls(), "it is not tried for ever")
	require.True(t, n.reconcile().OK())
	assert.ElementsMatch(t, []string{"unload dummy", "unload side", "unload base"}, n.calls())
}

// TestSoftdepThatIsWanted: what a softdep asks for first, and the document after it, may not fail.
func TestSoftdepThatIsWanted(t *testing.T) {
	files := ours("1")
	helper := files["helper.ko"]
	helper.Softdeps = []string{"post: dummy"}
	files["helper.ko"] = helper
	shelf := newNode(t)
	w := want{name: "nic", image: shelf.image("1", files, nil), module: "dummy", order: []string{"dummy", "helper"}}
	t.Run("its init fails", func(t *testing.T) {
		n := newNode(t)
		n.images = shelf.images
		n.Preload(n.inTree("dummy"), "")
		n.FailInit("dummy", syscall.EIO)
		n.OnCall(func(call string) {
			if call == "unload helper" {
				n.FailInit("dummy", 0) // the in-tree one is well
			}
		})
		w := w
		w.remove = []string{"dummy"}
		m := one(t, n.reconcile(w))
		assert.Equal(t, spec.ReasonInitFailed, m.Reason)
		assert.True(t, m.RolledBack)
		assert.Equal(t, "in-tree", n.runs("dummy"))
		assert.Empty(t, n.runs("helper"))
	})
	t.Run("another build runs", func(t *testing.T) {
		n := newNode(t)
		n.images = shelf.images
		n.Preload(n.inTree("dummy"), "")
		assert.Equal(t, map[string]string{"nic": "Failed WrongBuild"}, states(n.reconcile(w)))
		assert.Empty(t, n.calls())
	})
}

func TestInvalidDocumentKeepsEverything(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.image("1", ours("1"), map[string]string{"x.bin": "x"}), module: "base", firmware: "/firmware"}
	require.True(t, n.reconcile(w).OK())
	n.calls()
	invalid := &spec.Problem{File: "nic.yaml", Line: 3, Message: "is no YAML"}
	s := n.reconcileNode(spec.Node{Invalid: []error{invalid}})
	assert.Empty(t, n.calls())
	assert.FileExists(t, n.path("firmware/x.bin"))
	assert.Equal(t, []string{"nic.yaml:3: is no YAML"}, s.Invalid)
	assert.False(t, s.OK())
	assert.Empty(t, s.Modules)
	require.Len(t, s.Leaving, 1, "it runs, and nothing else says so")
	left := s.Leaving[0]
	assert.Equal(t, "nic", left.Name)
	assert.Equal(t, spec.StateFailed, left.State)
	assert.Equal(t, spec.ReasonInvalid, left.Reason)
	assert.Contains(t, left.Message, "nic.yaml:3: is no YAML")
	require.Len(t, left.Kernel, 1)
	assert.Equal(t, "base", left.Kernel[0].Name)
	assert.Nil(t, left.RetryAt)
	require.Len(t, n.reconcileNode(spec.Node{Invalid: []error{invalid, invalid}}).Leaving, 1)
	assert.Contains(t, n.reconcileNode(spec.Node{Invalid: []error{invalid, invalid}}).Leaving[0].Message, "and 1 more")
	assert.Empty(t, n.reconcileNode(spec.Node{Partial: true, Invalid: []error{invalid}}).Leaving, "who knows what is wanted")

	t.Run("others are looked after", func(t *testing.T) {
		desired := documents(want{name: "other", image: w.image, module: "helper"})
		desired.Invalid = []error{invalid}
		assert.Equal(t, map[string]string{"nic": "leaving Failed", "other": "Loaded"}, states(n.reconcileNode(desired)))
		assert.Equal(t, []string{"load helper"}, n.calls())
	})
	t.Run("without the document all goes", func(t *testing.T) {
		require.True(t, n.reconcile().OK())
		assert.Equal(t, []string{"unload base", "firmware-path", "unload helper"}, n.calls())
	})
}

// TestWithoutModuleLoader: such a Module is no business of a node; one that
// loses its moduleLoader is gone.
func TestWithoutModuleLoader(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "base"}
	require.True(t, n.reconcile(w).OK())
	desired := documents(w)
	desired.Modules[0].Spec.ModuleLoader = nil
	s := n.reconcileNode(desired)
	assert.True(t, s.OK())
	assert.Empty(t, s.Modules)
	assert.Equal(t, []string{"load base", "unload base"}, n.calls())
}

// TestWarnings are about what is allowed and probably not meant.
func TestWarnings(t *testing.T) {
	n := newNode(t)
	files := ours("1")
	base := files["base.ko"]
	base.Firmware = []string{"here.bin", "packed.bin", "missing.bin", "updated.bin", "of-kernel.bin", "many/*"}
	files["base.ko"] = base
	for _, file := range []string{"packed.bin.xz", "updates/updated.bin", "updates/" + n.Release() + "/of-kernel.bin"} {
		path := n.path("host/lib/firmware/" + file)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, nil, 0o644))
	}
	n.SetFirmware(func(string) bool { return true })
	n.SetCmdline("quiet base.level=1 base.debug nic.x=1 other.y=1")
	w := want{name: "nic", image: n.image("1", files, map[string]string{"here.bin": "x"}), module: "base", firmware: "/firmware",
		remove: []string{"nothere"}, parameters: []string{"level=1"}}
	m := one(t, n.reconcile(w))
	assert.Equal(t, spec.StateLoaded, m.State)
	assert.Equal(t, []string{
		"base may ask for the firmware missing.bin, which neither the image nor the host has",
		"the kernel's command line has options for base (debug), which only modprobe would use: put them under modprobe.parameters of the Module that loads it",
		"inTreeModulesToRemove: this kernel has no module nothere",
	}, m.Warnings)
}

var errDisk = errors.New("no space left")

// TestReportFails: what could not be reported is reported by the next look.
func TestReportFails(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "base"}
	fails := true
	n.start(func(c *agent.Config) {
		report := c.Report
		c.Report = func(ctx context.Context, s spec.Status) error {
			if fails {
				return errDisk
			}
			return report(ctx, s)
		}
	})
	n.agent.SetDesired(documents(w))
	_, err := n.agent.Reconcile(t.Context())
	require.ErrorIs(t, err, errDisk)
	assert.Equal(t, "1", n.runs("base"))
	assert.Empty(t, n.reports)
	fails = false
	_, err = n.agent.Reconcile(t.Context())
	require.NoError(t, err)
	require.Len(t, n.reports, 1)
	assert.True(t, n.reports[0].OK())
}

// TestLedgerCanNotBeWritten: nothing is changed that could not be remembered.
func TestLedgerCanNotBeWritten(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	w := n.swap(n.image("1", ours("1"), nil))
	n.start()
	require.NoError(t, os.RemoveAll(n.path("run")))
	m := one(t, n.reconcile(w))
	assert.Equal(t, spec.ReasonInternal, m.Reason)
	assert.NotNil(t, m.RetryAt)
	assert.Empty(t, n.calls())
	assert.Contains(t, m.Message, filepath.Join("run", "ledger.json"))
}
