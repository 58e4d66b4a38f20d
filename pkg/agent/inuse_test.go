// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/record"
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

func (c *functionCard) interfaces() []string { return []string{"pf", "vf"}[:1+min(c.vfs, 1)] }

// saveWords keeps what interfaces have as what is lost, which goes into the ledger as it is.
func saveWords(words map[string]string, interfaces []devices.Interface) *devices.Network {
	n := &devices.Network{Saved: time.Now()}
	for _, i := range interfaces {
		if words[i.Name] != "" {
			n.Lost = append(n.Lost, i.Name)
		}
	}
	return n
}

func (c *functionCard) SaveNetwork(interfaces []devices.Interface) (*devices.Network, error) {
	c.sync()
	return saveWords(c.words, interfaces), nil
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

func (c *functionCard) Probe([]devices.Device, devices.Write) error { return nil }
func (c *functionCard) Driverless() []string                        { return nil }

func (c *functionCard) ResetSRIOV(devices.Device, devices.Write) (before int, err error) {
	c.sync()
	before, c.vfs = c.vfs, 0
	delete(c.words, "vf")
	return before, nil
}

func (c *functionCard) SetSRIOV(_ devices.Device, vfs int, _ devices.Write) error {
	c.sync()
	if c.vfs != vfs {
		c.vfs = vfs
		delete(c.words, "vf")
	}
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

// TestLateRollbackOfACard: what a card has is given back to the build that can not be unloaded yet, and again to the old one.
func TestLateRollbackOfACard(t *testing.T) {
	for name, restarted := range map[string]bool{"at once": false, "after a restart": true} {
		t.Run(name, func(t *testing.T) {
			n, w := heldSwap(t)
			document := w.document()
			document.Metadata.Annotations = map[string]string{
				spec.AnnotationAllowInUse: spec.UseNetwork, spec.AnnotationBeforeUnload: spec.ActionSRIOVReset,
			}
			c := &functionCard{n: n, driver: n.runs("dummy"), vfs: 1, words: map[string]string{"pf": "configured", "vf": "configured"}}
			withCard := func(cfg *agent.Config) { cfg.Devices = c }
			n.start(withCard)
			desired, vfs := spec.Node{Modules: []spec.Module{document}}, 1
			has := func(build string) {
				t.Helper()
				c.sync()
				assert.Equal(t, build, c.driver)
				assert.Equal(t, vfs, c.vfs)
				assert.Equal(t, map[string]string{"pf": "configured", "vf": "configured"}, c.words)
			}
			n.reconcileNode(desired)
			has("1")
			n.OnCall(nil)
			c.vfs, vfs = 4, 4 // somebody makes more, and uses them
			n.reconcileNode(desired)
			has("1")
			if restarted {
				n.start(withCard)
			}
			n.Hold("dummy", 0)
			n.reconcileNode(desired)
			has("in-tree")
			for _, key := range []string{"journal", "networks", "sriov"} {
				assert.NotContains(t, n.ledger(), key)
			}
		})
	}
}

// TestAnotherChangeBeforeALateRollback: interfaces are waited for once their old driver is back, whichever change took it.
func TestAnotherChangeBeforeALateRollback(t *testing.T) {
	n, w := heldSwap(t)
	c := &twoCards{n: n, driver: map[string]string{"dummy": "in-tree"}, words: map[string]string{"dummy": "configured"}}
	n.start(func(cfg *agent.Config) { cfg.Devices = c })
	allowed := func(w want) spec.Node {
		document := w.document()
		document.Metadata.Annotations = map[string]string{spec.AnnotationAllowInUse: spec.UseNetwork}
		return spec.Node{Modules: []spec.Module{document}}
	}
	require.False(t, one(t, n.reconcileNode(allowed(w))).RolledBack)
	require.Equal(t, "1", n.runs("dummy"))
	n.OnCall(nil)
	n.Hold("dummy", 0)
	w.image = n.image("2", ours("2"), nil)
	m := one(t, n.reconcileNode(allowed(w)))
	assert.True(t, m.RolledBack, m.Message)
	c.sync()
	assert.Equal(t, map[string]string{"dummy": "in-tree"}, c.driver)
	assert.Equal(t, map[string]string{"dummy": "configured"}, c.words)
	assert.NotContains(t, n.ledger(), "journal")
	assert.NotContains(t, n.log.String(), "interfaces: ", "each was there when it was waited for")
}

// TestFailureAfterInterfacesAreBack: what interfaces had is given back a second time when a later step fails.
func TestFailureAfterInterfacesAreBack(t *testing.T) {
	n := newNode(t)
	c := newTwoCards(n)
	n.start(func(cfg *agent.Config) { cfg.Devices = c })
	w := want{name: "nic", image: n.image("1", ours("1"), map[string]string{"nic.bin": "1"}), module: "dummy", remove: []string{"dummy"}, firmware: "/firmware"}
	next := want{name: "nic", image: n.image("2", ours("2"), nil), module: "dummy", remove: []string{"dummy"}}
	desired := make([]spec.Node, 2)
	for i, w := range []want{w, next} {
		document := w.document()
		document.Metadata.Annotations = map[string]string{spec.AnnotationAllowInUse: spec.UseNetwork}
		desired[i].Modules = []spec.Module{document}
	}
	require.True(t, n.reconcileNode(desired[0]).OK())
	require.NoError(t, os.Mkdir(n.path("firmware.json.tmp"), 0o755)) // the firmware can not be removed
	m := one(t, n.reconcileNode(desired[1]))
	assert.True(t, m.RolledBack, m.Message)
	c.sync()
	assert.Equal(t, "1", c.driver["dummy"])
	assert.Equal(t, "configured", c.words["dummy"])
}

// twoCards are network cards that dummy and null_blk drive, each with an interface of one word, which it loses with its driver.
type twoCards struct {
	n      *node
	driver map[string]string // by module: the build it has been with
	words  map[string]string // by module: of its interface
	absent string            // the module whose interface does not come back
	waits  []time.Duration   // how long each interface may take that does not
}

var _ agent.Devices = (*twoCards)(nil)

func newTwoCards(n *node) *twoCards {
	c := &twoCards{n: n, driver: map[string]string{}, words: map[string]string{}}
	for _, module := range []string{"dummy", "null_blk"} {
		n.Preload(n.inTree(module), "")
		c.driver[module], c.words[module] = "in-tree", "configured"
	}
	return c
}

func (c *twoCards) sync() {
	for module, before := range c.driver {
		if now := c.n.runs(module); now != before {
			c.driver[module], c.words[module] = now, ""
		}
	}
}

func (c *twoCards) Of(module string) (devices.Use, error) {
	c.sync()
	u := devices.Use{Module: module}
	if c.n.runs(module) == "" {
		return u, devices.ErrNotLoaded
	}
	if word, ok := c.words[module]; ok && module != c.absent {
		u.Interfaces = []devices.Interface{{Name: module, Up: word != ""}}
	}
	return u, nil
}

func (c *twoCards) SaveNetwork(interfaces []devices.Interface) (*devices.Network, error) {
	c.sync()
	return saveWords(c.words, interfaces), nil
}

func (c *twoCards) RestoreNetwork(ctx context.Context, n *devices.Network) error {
	c.sync()
	var err error
	for _, module := range n.Lost {
		if c.n.runs(module) == "" || module == c.absent {
			err = devices.ErrMissing
			end, _ := ctx.Deadline()
			c.waits = append(c.waits, time.Until(end).Round(time.Second))
			continue
		}
		c.words[module] = "configured"
	}
	return err
}

func (c *twoCards) Probe([]devices.Device, devices.Write) error                      { return nil }
func (c *twoCards) Driverless() []string                                             { return nil }
func (c *twoCards) Bind([]devices.Device, devices.Write) error                       { return nil }
func (c *twoCards) Unbind([]devices.Device, devices.Write) error                     { return nil }
func (c *twoCards) ResetSRIOV(devices.Device, devices.Write) (before int, err error) { return 0, nil }
func (c *twoCards) SetSRIOV(devices.Device, int, devices.Write) error                { return nil }

// twoDrivers asks for our dummy and null_blk, of these images.
func twoDrivers(n *node, tags ...string) []spec.Node {
	var out []spec.Node
	for _, tag := range tags {
		files := ours(tag)
		files["null_blk.ko"] = files["helper.ko"]
		document := want{name: "nic", image: n.image(tag, files, nil), module: "dummy", remove: []string{"dummy", "null_blk"},
			order: []string{"dummy", "null_blk"}}.document()
		document.Metadata.Annotations = map[string]string{spec.AnnotationAllowInUse: spec.UseNetwork}
		out = append(out, spec.Node{Modules: []spec.Module{document}})
	}
	return out
}

// TestKillTwoCards kills kmmd anywhere in the exchange of two drivers of interfaces, also when one of them has gone and the
// other one has not: what the next kmmd saves does not take the place of what was saved.
func TestKillTwoCards(t *testing.T) {
	shelf := newNode(t)
	desired := twoDrivers(shelf, "1")[0]
	for _, where := range []string{"after step", "before call"} {
		times := 0
		for dead := true; dead; times++ {
			n := newNode(t)
			n.images = shelf.images
			c := newTwoCards(n)
			withCards := func(cfg *agent.Config) { cfg.Devices = c }
			if dead = n.kill(where, times+1, desired, withCards); dead {
				n.start(withCards)
				require.True(t, n.reconcileNode(desired).OK())
			}
			c.sync()
			assert.Equal(t, map[string]string{"dummy": "1", "null_blk": "1"}, c.driver)
			assert.Equal(t, map[string]string{"dummy": "configured", "null_blk": "configured"}, c.words, "killed %s %d", where, times+1)
			assert.NotContains(t, n.ledger(), "networks")
		}
		assert.GreaterOrEqual(t, times, 3)
	}
}

// TestInterfaceComesLate: what an interface had that did not come back is kept over other changes, until it does.
func TestInterfaceComesLate(t *testing.T) {
	n := newNode(t)
	c := newTwoCards(n)
	n.start(func(cfg *agent.Config) { cfg.Devices = c })
	desired := twoDrivers(n, "1", "2", "3")
	n.OnCall(func(call string) {
		if call == "unload null_blk" {
			c.absent = "null_blk"
		}
	})
	for _, d := range desired[:2] {
		assert.Equal(t, spec.ReasonInterfaceLost, one(t, n.reconcileNode(d)).Reason)
		assert.Equal(t, "in-tree", n.runs("dummy"))
	}
	n.OnCall(nil)
	c.absent = ""
	n.reconcileNode(desired[2])
	assert.Equal(t, "3", n.runs("dummy"))
	assert.Equal(t, map[string]string{"dummy": "configured", "null_blk": "configured"}, c.words)
	assert.NotContains(t, n.ledger(), "networks")
}

// TestInterfaceThatNeverComes: it is waited for whenever its driver has come or gone, and else hardly: nothing is done for others
// meanwhile.
func TestInterfaceThatNeverComes(t *testing.T) {
	n := newNode(t)
	c := newTwoCards(n)
	n.start(func(cfg *agent.Config) { cfg.Devices = c })
	desired := twoDrivers(n, "1", "2")
	n.OnCall(func(call string) {
		if call == "unload null_blk" {
			c.absent = "null_blk"
		}
	})
	const long, short = 30 * time.Second, 5 * time.Second
	n.reconcileNode(desired[0])
	assert.Equal(t, []time.Duration{long, long, short}, c.waits, "of the new driver, of the old one, and once more")
	for range 2 {
		c.waits = nil
		n.reconcileNode(desired[0])
		assert.Equal(t, []time.Duration{short}, c.waits, "nothing has changed")
	}
	c.waits = nil
	n.reconcileNode(desired[1])
	assert.Equal(t, []time.Duration{long, long, short}, c.waits)
	c.absent = ""
	n.reconcileNode(desired[1])
	assert.Equal(t, "configured", c.words["null_blk"])
	assert.NotContains(t, n.ledger(), "journal")
}

// TestNetworkOfAnEarlierLedger: one version wrote a single configuration, another one writes several.
func TestNetworkOfAnEarlierLedger(t *testing.T) {
	for name, networks := range map[string]string{
		"one":     `{"Saved":"2026-01-01T00:00:00Z","Links":null,"Lost":["dummy","null_blk"]}`,
		"several": `[{"Saved":"2026-01-01T00:00:00Z","Links":null,"Lost":["dummy"]},{"Saved":"2026-01-01T00:00:00Z","Links":null,"Lost":["null_blk"]}]`,
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			c := newTwoCards(n)
			c.words = map[string]string{"dummy": "", "null_blk": ""}
			ledger := `{"bootID":"` + n.BootID() + `","networks":{"default/nic":` + networks + `}}`
			require.NoError(t, os.WriteFile(n.path("run/ledger.json"), record.Seal([]byte(ledger)), 0o600))
			n.start(func(cfg *agent.Config) { cfg.Devices = c })
			require.True(t, n.reconcileNode(twoDrivers(n, "1")[0]).OK())
			assert.Equal(t, map[string]string{"dummy": "configured", "null_blk": "configured"}, c.words)
		})
	}
}
