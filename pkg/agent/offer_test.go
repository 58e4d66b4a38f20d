// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/devices"
)

// offeredCard is a card that base and the node's null_blk know: it has the one that was there first, until that goes.
type offeredCard struct {
	functionCard
	driver string
}

func (c *offeredCard) sync() {
	if c.n.runs(c.driver) == "" {
		c.driver = ""
	}
}

func (c *offeredCard) probe() {
	c.sync()
	for _, name := range []string{"base", "null_blk"} {
		if c.driver == "" && c.n.runs(name) != "" {
			c.driver = name
		}
	}
}

func (c *offeredCard) Of(module string) (devices.Use, error) {
	c.sync()
	u := devices.Use{Module: module}
	if module == c.driver {
		u.Bound = []devices.Device{{Bus: "pci", Address: card, Driver: module}}
	}
	return u, nil
}

func (c *offeredCard) Probe(devs []devices.Device, _ devices.Write) error {
	if len(devs) > 0 {
		c.probe()
	}
	return nil
}

// lateRollback: the new driver can not be unloaded when it is to be taken back, and the old one, of another name, is loaded beside it.
func lateRollback(t *testing.T) (*node, *offeredCard, want) {
	t.Helper()
	n := newNode(t)
	n.Preload(n.inTree("null_blk"), "")
	n.FailInit("helper", syscall.ENODEV)
	c := &offeredCard{functionCard: functionCard{n: n}, driver: "null_blk"}
	n.start(func(cfg *agent.Config) { cfg.Devices = c })
	n.OnCall(func(call string) {
		c.sync()
		if call == "load helper" { // base was loaded before
			c.probe()
			n.Hold("base", 1)
		}
	})
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "helper", remove: []string{"null_blk"}, order: []string{"helper", "base"}}
	n.reconcile(w)
	require.Equal(t, "base", c.driver)
	require.Equal(t, "in-tree", n.runs("null_blk"))
	n.OnCall(nil)
	return n, c, w
}

// TestLateRollbackOfAnotherName: when the new one has gone at last, the kernel has to be told to try the old one.
func TestLateRollbackOfAnotherName(t *testing.T) {
	n, c, w := lateRollback(t)
	n.Hold("base", 0)
	n.reconcile(w)
	assert.Empty(t, n.runs("base"))
	assert.Equal(t, "null_blk", c.driver)
	assert.NotContains(t, n.ledger(), "journal")
}

// TestKillLateRollbackOfAnotherName kills kmmd when the new one has gone: the next kmmd knows whose devices are without a driver.
func TestKillLateRollbackOfAnotherName(t *testing.T) {
	n, c, w := lateRollback(t)
	n.Hold("base", 0)
	withCard := func(cfg *agent.Config) { cfg.Devices = c }
	require.True(t, n.kill("after step", 1, documents(w), withCard))
	require.Empty(t, n.runs("base"))
	c.sync()
	require.Empty(t, c.driver)
	n.start(withCard)
	n.reconcile(w)
	assert.Equal(t, "null_blk", c.driver)
	assert.NotContains(t, n.ledger(), "journal")
}

// driverAfter plays calls with a card that dummy and helper know, and which has the one that is loaded first after it has lost one.
func driverAfter(driver string, calls []string) string {
	for _, call := range calls {
		words := strings.Fields(call)
		switch name := words[min(1, len(words)-1)]; {
		case name != "dummy" && name != "helper":
		case words[0] == "unload" && name == driver:
			driver = ""
		case words[0] == "load" && driver == "":
			driver = name
		}
	}
	return driver
}

// TestKillInTreeModuleNamedLater kills kmmd anywhere when it unloads the in-tree driver of another name, which ours ran beside.
func TestKillInTreeModuleNamedLater(t *testing.T) {
	shelf := newNode(t)
	w := want{name: "nic", image: shelf.image("1", ours("1"), nil), module: "helper"}
	for name, later := range map[string]want{
		"helper": {name: "nic", image: w.image, module: "helper", remove: []string{"dummy"}},
		"dummy":  {name: "nic", image: w.image, module: "top", remove: []string{"dummy"}, order: []string{"top", "helper"}}, // rolled back
	} {
		times := 0
		for dead := true; dead; times++ {
			n := newNode(t)
			n.images = shelf.images
			n.Preload(n.inTree("dummy"), "")
			require.True(t, n.reconcile(w).OK())
			n.calls()
			n.FailInit("top", syscall.EIO)
			if dead = n.kill("after step", times+1, documents(later)); dead {
				n.start()
				n.reconcile(later)
			}
			calls := n.calls()
			assert.Equal(t, name, driverAfter("dummy", calls), "killed after step %d: %v", times+1, calls)
			assert.NotContains(t, n.ledger(), "journal")
		}
		assert.GreaterOrEqual(t, times, 4)
	}
}
