// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/spec"
)

const card, secondCard = "0000:00:02.0", "0000:00:03.0"

// cards are PCI devices of which base is the driver, on a node with files for them.
type cards struct {
	*devices.Host
	vfs int // of the first, wherever its driver is from
}

func (c cards) Of(module string) (devices.Use, error) {
	u := devices.Use{Module: module}
	if module == "base" {
		u.Bound = []devices.Device{{Bus: "pci", Address: card, Driver: "base", VFs: c.vfs}, {Bus: "pci", Address: secondCard, Driver: "base"}}
	}
	return u, nil
}

func (cards) SaveNetwork([]devices.Interface) (*devices.Network, error) {
	return nil, errors.New("there is none")
}

func (cards) RestoreNetwork(context.Context, *devices.Network) error {
	return errors.New("there is none")
}

// cardNode is a node on which base runs, of a Module that unbinds its devices and removes their virtual functions.
func cardNode(t *testing.T, vfs int) (n *node, w want) {
	t.Helper()
	n = newNode(t)
	const bus = "sys/bus/pci/"
	for _, dir := range []string{"drivers/base", "devices/" + card, "devices/" + secondCard} {
		require.NoError(t, os.MkdirAll(n.path(bus, dir), 0o755))
	}
	for _, file := range []string{"drivers/base/bind", "drivers/base/unbind", "devices/" + card + "/sriov_numvfs"} {
		require.NoError(t, os.WriteFile(n.path(bus, file), nil, 0o644))
	}
	require.NoError(t, os.WriteFile(n.path(bus, "devices", card, "sriov_totalvfs"), []byte("8\n"), 0o644))
	n.bind(card)
	n.bind(secondCard)
	n.setVFs(vfs)
	n.OnCall(func(call string) {
		switch word := strings.Fields(call); {
		case word[0] != "write":
		case word[1] == "bind":
			n.bind(word[2])
		case word[1] == "unbind":
			require.NoError(t, os.Remove(n.path(bus, "devices", word[2], "driver")))
		case word[1] == "sriov_numvfs":
			n.setVFs(int(word[2][0] - '0'))
		}
	})
	n.start(func(c *agent.Config) { c.Devices = cards{devices.Open(n.dir), vfs} })
	w = want{name: "nic", image: n.image("1", ours("1"), nil), module: "base"}
	require.True(t, n.reconcileCards(w).OK())
	n.calls()
	return n, w
}

// reconcileCards is reconcile with leave for what is around the driver.
func (n *node) reconcileCards(w want, more ...want) spec.Status {
	n.t.Helper()
	all := documents(append([]want{w}, more...)...)
	all.Modules[0].Spec.ModuleLoader.Container.BeforeUnload = []string{spec.ActionUnbind, spec.ActionSRIOVReset}
	return n.reconcileNode(all)
}

func (n *node) bind(address string) {
	require.NoError(n.t, os.Symlink("../../drivers/base", n.path("sys/bus/pci/devices", address, "driver")))
}

func (n *node) setVFs(count int) {
	links, err := filepath.Glob(n.path("sys/bus/pci/devices", card, "virtfn*"))
	require.NoError(n.t, err)
	for _, link := range links {
		require.NoError(n.t, os.Remove(link))
	}
	for i := range count {
		require.NoError(n.t, os.Symlink("../x", n.path("sys/bus/pci/devices", card, "virtfn"+string(rune('0'+i)))))
	}
}

// TestUnbindHangs: what waits for a driver is given up, what it was done for is taken back as far as that needs no module, and
// nothing more is tried until the driver has come back. Other Modules do not notice.
func TestUnbindHangs(t *testing.T) {
	n, w := cardNode(t, 0)
	n.HangDevice(secondCard, true)
	w.parameters = []string{"level=1"}
	s := one(t, n.reconcileCards(w))
	assert.Equal(t, spec.ReasonNeedsReboot, s.Reason)
	assert.Contains(t, s.Message, "unbind "+secondCard+" from base: write ")
	assert.Contains(t, s.Message, "kernel did not answer")
	assert.Equal(t, []string{"write unbind " + card, "write unbind " + secondCard, "write bind " + card}, n.calls())
	assert.Equal(t, "1", n.runs("base"), "it is not unloaded")

	other := want{name: "other", image: w.image, module: "helper"}
	for _, parameter := range []string{"level=1", "level=2"} {
		w.parameters = []string{parameter}
		assert.Equal(t, map[string]string{"nic": "Failed NeedsReboot", "other": "Loaded"}, states(n.reconcileCards(w, other)))
	}
	assert.Equal(t, []string{"load helper"}, n.calls())

	n.HangDevice(secondCard, false)
	assert.Equal(t, map[string]string{"nic": "Loaded", "other": "Loaded"}, states(n.reconcileCards(w, other)), "the new document is obeyed")
	assert.Contains(t, n.calls(), "load base level=2")
	assert.NotContains(t, n.ledger(), "journal")
}

// TestUnbindHangsForNothing: the document is as before when the driver has let go of its device, and gets it back.
func TestUnbindHangsForNothing(t *testing.T) {
	n, w := cardNode(t, 0)
	n.HangDevice(secondCard, true)
	changed := w
	changed.parameters = []string{"level=1"}
	require.Equal(t, spec.ReasonNeedsReboot, one(t, n.reconcileCards(changed)).Reason)
	require.Equal(t, spec.ReasonNeedsReboot, one(t, n.reconcileCards(w)).Reason)
	n.calls()

	n.HangDevice(secondCard, false)
	n.HangDevice(secondCard, true) // in its probe, too
	for range 2 {
		assert.Equal(t, map[string]string{"nic": "Failed NeedsReboot"}, states(n.reconcileCards(w)))
	}
	n.HangDevice(secondCard, false)
	assert.Equal(t, map[string]string{"nic": "Loaded"}, states(n.reconcileCards(w)))
	assert.Equal(t, []string{"write bind " + secondCard}, n.calls(), "once")
	assert.NotContains(t, n.ledger(), "journal")
}

// TestUnbindHangsAndComesBack: with the document as it was, what was begun is taken back to its end.
func TestUnbindHangsAndComesBack(t *testing.T) {
	n, w := cardNode(t, 2)
	n.HangDevice(card, true)
	w.parameters = []string{"level=1"}
	s := one(t, n.reconcileCards(w))
	assert.Equal(t, spec.ReasonNeedsReboot, s.Reason)
	assert.Contains(t, s.Message, "remove virtual functions of "+card+": ")
	assert.Equal(t, []string{"write sriov_numvfs 0"}, n.calls())
	n.reconcileCards(w)
	assert.Empty(t, n.calls())
	assert.NotContains(t, n.log.String(), "rolling back an interrupted change", "nor is it tried")

	n.HangDevice(card, false)
	assert.Equal(t, spec.ReasonNeedsReboot, one(t, n.reconcileCards(w)).Reason, "a refusal is remembered")
	assert.Equal(t, []string{"write sriov_numvfs 2"}, n.calls())
	assert.NotContains(t, n.ledger(), "journal")
}

// TestRestoreHangs: a driver that does not come back after it was loaded is not unloaded, nor is another one loaded, which
// would wait for the device.
func TestRestoreHangs(t *testing.T) {
	n, w := cardNode(t, 2)
	n.OnCall(func(call string) {
		switch call {
		case "write sriov_numvfs 0":
			n.setVFs(0)
		case "load base level=1":
			n.HangDevice(card, true)
		}
	})
	w.parameters = []string{"level=1"}
	s := one(t, n.reconcileCards(w))
	assert.Equal(t, spec.ReasonNeedsReboot, s.Reason)
	assert.Contains(t, s.Message, "make 2 virtual functions of "+card+": ")
	calls := n.calls()
	assert.Equal(t, "write sriov_numvfs 2", calls[len(calls)-1], "neither is unloaded what runs, nor loaded what ran")
	n.reconcileCards(w)
	assert.Empty(t, n.calls())
}
