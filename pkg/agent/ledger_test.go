// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// loadedNode runs our dummy, with base for another Module.
func loadedNode(t *testing.T) (*node, []want) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	image := n.image("1", ours("1"), map[string]string{"x.bin": "x"})
	dummy := n.swap(image)
	dummy.firmware = "/firmware"
	wants := []want{dummy, {name: "base", image: image, module: "base"}}
	require.True(t, n.reconcile(wants...).OK())
	n.calls()
	return n, wants
}

func TestLedgerIsLost(t *testing.T) {
	for _, tt := range []struct {
		name   string
		spoil  func(path string) error
		broken bool
	}{
		{"missing", os.Remove, false},
		{"empty", func(path string) error { return os.Truncate(path, 0) }, true},
		{"cut off", func(path string) error { return os.Truncate(path, 40) }, true},
		{"another bit", func(path string) error {
			data, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, bytes.Replace(data, []byte("numdummies=1"), []byte("numdummies=3"), 1), 0o600)
			}
			return err
		}, true},
		{"not ours", func(path string) error { return os.WriteFile(path, []byte("[1, 2]"), 0o600) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, wants := loadedNode(t)
			before := n.reports[len(n.reports)-1]
			require.NoError(t, tt.spoil(n.path("run/ledger.json")))
			n.start()
			s := n.reconcile(wants...)
			assert.Empty(t, n.calls(), "what runs is adopted")
			assert.Equal(t, before.Modules, s.Modules)
			if tt.broken {
				assert.FileExists(t, n.path("run/ledger.json.broken"))
				assert.Contains(t, n.log.String(), "ledger is unreadable and set aside")
			}
			require.True(t, n.reconcile().OK())
			assert.Equal(t, []string{"unload base", "unload dummy", "firmware-path", "hold"}, n.calls(), "and leaves as if nothing had been lost")
			assert.NoFileExists(t, n.path("firmware/x.bin"))
		})
	}
}

// TestPathAtBoot: without the ledger the kernel command line tells what
// firmware_class.path was.
func TestPathAtBoot(t *testing.T) {
	for _, tt := range []struct{ cmdline, want string }{
		{"quiet", ""},
		{"quiet firmware_class.path=/opt/fw ro", "/opt/fw"},
		{`firmware_class.path="/opt/fw"`, "/opt/fw"},
		{"firmware_class.path=/first firmware_class.path=/opt/fw", "/opt/fw"},
		{"firmware_class.path=", ""},
	} {
		t.Run(tt.cmdline, func(t *testing.T) {
			n, wants := loadedNode(t)
			n.SetCmdline(tt.cmdline)
			require.NoError(t, os.Remove(n.path("run/ledger.json")))
			n.start()
			require.True(t, n.reconcile(wants...).OK())
			require.True(t, n.reconcile().OK())
			path, err := n.FirmwarePath()
			require.NoError(t, err)
			assert.Equal(t, tt.want, path)
		})
	}
}

// TestHoldIsLost: somebody emptied /run/modprobe.d.
func TestHoldIsLost(t *testing.T) {
	n, wants := loadedNode(t)
	require.NoError(t, n.HoldAutoload(nil))
	n.calls()
	require.True(t, n.reconcile(wants...).OK())
	assert.Equal(t, []string{"hold dummy"}, n.calls())
	require.NoError(t, n.HoldAutoload(nil))
	require.True(t, n.reconcile().OK())
	assert.NotContains(t, n.ledger(), "holds", "its Module has gone, and a later hold does not bring it back")
}

// stiff is a kernel that says so to whoever would hold off something else.
type stiff struct {
	*kerneltest.Kernel
	err error
}

func (k *stiff) HoldAutoload(names []string) error {
	if held, err := k.Held(); k.err != nil && (err != nil || !slices.Equal(held, names)) {
		return k.err
	}
	return k.Kernel.HoldAutoload(names)
}

// TestHoldStays: the file that holds off autoload can not be removed, nor written, at first.
func TestHoldStays(t *testing.T) {
	n, wants := loadedNode(t)
	k := &stiff{n.Kernel, errors.New("input/output error")}
	n.start(func(c *agent.Config) { c.Kernel = k })
	s := n.reconcile()
	require.Len(t, s.Leaving, 1)
	assert.Contains(t, s.Leaving[0].Message, "input/output error")
	n.start()
	require.True(t, n.reconcile().OK())
	held, err := n.Held()
	require.NoError(t, err)
	assert.Empty(t, held)
	assert.NotContains(t, n.ledger(), "holds")

	n.start(func(c *agent.Config) { c.Kernel = k })
	s = n.reconcile(wants...)
	assert.Equal(t, "Failed Internal", states(s)["nic"])
	assert.NotContains(t, n.ledger(), "holds")
	k.err = nil
	n.start(func(c *agent.Config) { c.Kernel = k })
	require.True(t, n.reconcile(wants...).OK())
}

// TestHalfALedger: what a kill left of one that was being written goes, also when
// nothing is to be written any more.
func TestHalfALedger(t *testing.T) {
	n, wants := loadedNode(t)
	require.NoError(t, os.WriteFile(n.path("run/ledger.json.tmp"), []byte("{"), 0o600))
	n.start()
	require.True(t, n.reconcile(wants...).OK())
	assert.NoFileExists(t, n.path("run/ledger.json.tmp"))
}

// TestReboot: the ledger of another boot says nothing of this one.
func TestReboot(t *testing.T) {
	n, wants := loadedNode(t)
	n.Reboot(release)
	n.start()
	require.True(t, n.reconcile(wants...).OK())
	assert.Equal(t, []string{"load base", "hold dummy", "firmware-path " + n.path("firmware"), loadOurs}, n.calls())
	assert.Equal(t, n.BootID(), n.ledger()["bootID"])
	assert.Equal(t, n.BootID(), n.reports[len(n.reports)-1].BootID)
}

// TestOfAnotherBoot: a module of ours that somebody loaded at boot is not ours
// because an old ledger has its name; it is adopted because a document wants it.
func TestOfAnotherBoot(t *testing.T) {
	n, _ := loadedNode(t)
	n.Reboot(release)
	n.Preload(n.inTree("dummy"), "")
	n.start()
	require.True(t, n.reconcile().OK())
	assert.Empty(t, n.calls())
	assert.Equal(t, "in-tree", n.runs("dummy"))
	assert.NoFileExists(t, n.path("firmware/x.bin"), "its firmware survived the reboot and goes")
}

// TestOtherKernel: the mapping and the modules of the kernel that runs count.
func TestOtherKernel(t *testing.T) {
	n, wants := loadedNode(t)
	n.Reboot("6.12.0-1-other")
	n.start()
	s := n.reconcile(wants...)
	assert.Equal(t, map[string]string{"nic": "Failed NoModules", "base": "Failed NoModules"}, states(s))
	assert.Equal(t, "6.12.0-1-other", s.KernelRelease)
	assert.Empty(t, n.calls())
}

// TestHeals: what others change is put right, unless it is their business.
func TestHeals(t *testing.T) {
	n, wants := loadedNode(t)
	require.NoError(t, n.Rmmod("dummy"))
	n.Preload(n.inTree("dummy"), "numdummies=5")
	require.NoError(t, os.Remove(n.path("firmware/x.bin")))
	require.NoError(t, n.SetFirmwarePath("/elsewhere"))
	n.calls()
	s := n.reconcile(wants...)
	assert.Equal(t, map[string]string{"nic": "Loaded", "base": "Loaded"}, states(s))
	assert.Equal(t, []string{"firmware-path " + n.path("firmware"), "unload dummy", loadOurs}, n.calls())
	assert.FileExists(t, n.path("firmware/x.bin"))
}

// TestLeavingInUse: a Module that can not leave is told of until it has left.
func TestLeavingInUse(t *testing.T) {
	n, wants := loadedNode(t)
	n.Hold("dummy", 2)
	s := n.reconcile(wants[1])
	require.Len(t, s.Leaving, 1)
	assert.Equal(t, "default/nic", s.Leaving[0].Key())
	assert.Equal(t, spec.ReasonInUse, s.Leaving[0].Reason)
	assert.Contains(t, s.Leaving[0].Message, "2 references")
	assert.Len(t, s.Leaving[0].Kernel, 1)
	assert.False(t, s.OK())
	assert.Empty(t, n.calls())
	assert.FileExists(t, n.path("firmware/x.bin"), "it may still ask for it")

	n.start()
	assert.Equal(t, s.Leaving, n.reconcile(wants[1]).Leaving)
	n.Hold("dummy", 0)
	assert.True(t, n.reconcile(wants[1]).OK())
	assert.Equal(t, "unload dummy", n.calls()[0])
}

// TestLedgerFailsInUpgrade: the ledger can not be written once the old build has
// gone. That has to come back all the same, and the new one when there is room.
func TestLedgerFailsInUpgrade(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	require.True(t, n.reconcile(n.swap(n.image("1", ours("1"), nil))).OK())
	inTheWay := n.path("run/ledger.json.tmp/x")
	n.OnCall(func(call string) {
		if call == "unload dummy" {
			require.NoError(t, os.MkdirAll(inTheWay, 0o755))
		}
	})
	w := n.swap(n.image("2", ours("2"), nil))
	m := one(t, n.reconcile(w))
	assert.Equal(t, spec.StateFailed, m.State)
	assert.Equal(t, spec.ReasonInternal, m.Reason)
	assert.True(t, m.RolledBack)
	assert.Equal(t, "1", n.runs("dummy"))

	n.OnCall(nil)
	require.NoError(t, os.RemoveAll(n.path("run/ledger.json.tmp")))
	n.start()
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, "2", n.runs("dummy"))
}
