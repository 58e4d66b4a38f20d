// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
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

// TestLateRollbackOfAnotherName: the new driver can not be unloaded when it is to be taken back, and the old one, of another name,
// is loaded beside it. When the new one has gone at last, the kernel has to be told to try the old one.
func TestLateRollbackOfAnotherName(t *testing.T) {
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
	n.Hold("base", 0)
	n.reconcile(w)
	assert.Empty(t, n.runs("base"))
	assert.Equal(t, "null_blk", c.driver)
	assert.NotContains(t, n.ledger(), "journal")
}
