// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// functionCard is a network card that dummy drives: with the interface pf, and vf of a
// virtual function. What is configured on either is one word. It loses all of
// that, and the function, with its driver.
type functionCard struct {
	n      *node
	driver string // the build it has been with
	vfs    int
	words  map[string]string // of interfaces that have one
}

var _ agent.Devices = (*functionCard)(nil)

func (c *functionCard) sync() {
	if now := c.n.runs("dummy"); now != c.driver {
		c.driver, c.vfs, c.words = now, 0, map[string]string{}
	}
}

func (c *functionCard) pci() devices.Device {
	return devices.Device{Bus: "pci", Address: card, Driver: "dummy", VFs: c.vfs}
}

func (c *functionCard) Of(module string) (devices.Use, error) {
	c.sync()
	u := devices.Use{Module: module}
	if c.n.runs(module) == "" {
		return u, devices.ErrNotLoaded
	}
	if module != "dummy" {
		return u, nil
	}
	u.Bound = []devices.Device{c.pci()}
	for _, name := range c.interfaces() {
		u.Interfaces = append(u.Interfaces, devices.Interface{Name: name, Up: c.words[name] != ""})
	}
	return u, nil
}

func (c *functionCard) interfaces() []string { return []string{"pf", "vf"}[:1+c.vfs] }

// SaveNetwork keeps the words as what is lost, which goes into the ledger as it is.
func (c *functionCard) SaveNetwork(interfaces []devices.Interface) (*devices.Network, error) {
	c.sync()
	n := &devices.Network{Saved: time.Now()}
	for _, i := range interfaces {
		if c.words[i.Name] != "" {
			n.Lost = append(n.Lost, i.Name)
		}
	}
	return n, nil
}

func (c *functionCard) RestoreNetwork(_ context.Context, n *devices.Network) error {
	c.sync()
	for _, name := range n.Lost {
		if !slices.Contains(c.interfaces(), name) {
			return devices.ErrMissing
		}
		c.words[name] = "configured"
	}
	return nil
}

func (c *functionCard) Bind([]devices.Device, devices.Write) error   { return nil }
func (c *functionCard) Unbind([]devices.Device, devices.Write) error { return nil }

func (c *functionCard) ResetSRIOV(devices.Device, devices.Write) (before int, err error) {
	c.sync()
	before, c.vfs = c.vfs, 0
	delete(c.words, "vf")
	return before, nil
}

func (c *functionCard) SetSRIOV(_ devices.Device, vfs int, _ devices.Write) error {
	c.sync()
	c.vfs = vfs
	return nil
}

// TestKillVirtualFunctions kills kmmd anywhere in the exchange of a driver whose
// virtual function has a configured interface: the next kmmd gives it back, with
// the driver it loads.
func TestKillVirtualFunctions(t *testing.T) {
	shelf := newNode(t)
	document := want{name: "nic", image: shelf.image("1", ours("1"), nil), module: "dummy", remove: []string{"dummy"}}.document()
	document.Metadata.Annotations = map[string]string{
		spec.AnnotationAllowInUse: spec.UseNetwork, spec.AnnotationBeforeUnload: spec.ActionSRIOVReset,
	}
	for _, where := range []string{"after step", "before call"} {
		times := 0
		for dead := true; dead; times++ {
			n := newNode(t)
			n.images = shelf.images
			n.Preload(n.inTree("dummy"), "")
			c := &functionCard{n: n, driver: n.runs("dummy"), vfs: 1, words: map[string]string{"pf": "configured", "vf": "configured"}}
			withCard := func(cfg *agent.Config) { cfg.Devices = c }
			desired := spec.Node{Modules: []spec.Module{document}}
			dead = n.kill(where, times+1, desired, withCard)
			if dead {
				n.start(withCard)
				s := n.reconcileNode(desired)
				require.True(t, s.OK(), "%+v", s)
			}
			assert.Equal(t, "1", n.runs("dummy"))
			assert.Equal(t, 1, c.vfs, "killed %s %d", where, times+1)
			assert.Equal(t, []string{"pf", "vf"}, slices.Sorted(maps.Keys(c.words)), "killed %s %d", where, times+1)
			assert.NotContains(t, n.ledger(), "journal", "nothing is left to undo")
		}
		assert.GreaterOrEqual(t, times, 3)
	}
}
