// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/spec"
)

const nicAlias = "pci:v00001AF4d00001000"

// coldCard is a card for which the node's dummy has an alias, and which a dummy of any build drives. What hangs on it is not in use.
type coldCard struct {
	functionCard
	alias  string
	errno  syscall.Errno // with which the init function of ours fails
	policy []string
}

func (c *coldCard) Driverless() []string {
	if c.n.runs("dummy") != "" {
		return []string{"pci:v00008086d00007190"}
	}
	return []string{"acpi:PNP0C0F:", c.alias}
}

func (c *coldCard) config(cfg *agent.Config) {
	cfg.Devices, cfg.Kernel, cfg.NeverLoad = c, &coldKernel{c.n.Kernel, c}, c.policy
}

// coldKernel finds the card just before ours is loaded, and udev asks for the in-tree driver.
type coldKernel struct {
	*kerneltest.Kernel
	c *coldCard
}

func (k *coldKernel) Load(ctx context.Context, r kernel.LoadRequest) error {
	if r.Name == "dummy" && r.File.Name() != k.c.n.inTree("dummy") {
		assert.False(k.c.n.t, k.Autoload("dummy", k.c.n.inTree("dummy")), "it is held off")
		k.FailInit("dummy", k.c.errno)
		defer k.FailInit("dummy", 0)
	}
	return k.Kernel.Load(ctx, r)
}

// coldNode is a node with such a card, whose in-tree driver has not been loaded yet.
func coldNode(t *testing.T) (*node, *coldCard) {
	t.Helper()
	n := newNode(t)
	magic := kerneltest.Vermagic(release)
	kmodtest.WriteTree(t, n.path("host/lib/modules", release, "kernel"), map[string]kmodtest.Spec{
		"dummy.ko": {InTree: true, Vermagic: magic, Depends: []string{"core"}, Imports: []string{"core_symbol"}, Aliases: []string{"pci:v00001AF4d*"},
			Params: []kmodtest.Param{{Name: "numdummies", Type: "int"}}},
	})
	c := &coldCard{functionCard: functionCard{n: n}, alias: nicAlias, errno: syscall.EIO}
	n.start(c.config)
	return n, c
}

// held is what is held off.
func (n *node) held() []string {
	n.t.Helper()
	held, err := n.Held()
	require.NoError(n.t, err)
	return held
}

// TestStandIn: where the kernel has refused ours, the node's own driver is not without devices that it was kept from.
func TestStandIn(t *testing.T) {
	for _, tt := range []struct {
		name   string
		alias  string
		conf   string // of the node's modprobe.d
		policy []string
		errno  syscall.Errno
		calls  []string
		runs   string
	}{
		{"its device waits", nicAlias, "", nil, syscall.EIO, []string{"hold", "load core", "load dummy"}, "in-tree"},
		{"with its options", nicAlias, "options dummy numdummies=2\n", nil, syscall.EIO, []string{"hold", "load core", "load dummy numdummies=2"}, "in-tree"},
		{"without a softdep that the node does not want", nicAlias, "softdep dummy pre: null_blk\ninstall null_blk /bin/true\n", nil, syscall.EIO,
			[]string{"hold", "load core", "load dummy"}, "in-tree"},
		{"without a softdep that is never loaded", nicAlias, "softdep dummy post: null_blk\n", []string{"null_blk"}, syscall.EIO,
			[]string{"hold", "load core", "load dummy"}, "in-tree"},
		{"no such device", "pci:v00008086d00001000", "", nil, syscall.EIO, []string{"hold"}, ""},
		{"the node does not want it", nicAlias, "blacklist dummy\n", nil, syscall.EIO, []string{"hold"}, ""},
		{"the node has another way", nicAlias, "install dummy /bin/true\n", nil, syscall.EIO, []string{"hold"}, ""},
		{"policy", nicAlias, "", []string{"core"}, syscall.EIO, []string{"hold"}, ""},
		{"it is tried again soon", nicAlias, "", nil, syscall.ENOMEM, []string{"hold"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, c := coldNode(t)
			c.alias, c.errno, c.policy = tt.alias, tt.errno, tt.policy
			require.NoError(t, os.MkdirAll(n.path("host/etc/modprobe.d"), 0o755))
			require.NoError(t, os.WriteFile(n.path("host/etc/modprobe.d/node.conf"), []byte(tt.conf), 0o644))
			n.start(c.config)
			w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "dummy", remove: []string{"dummy"}}
			s := n.reconcile(w)
			assert.Equal(t, append([]string{"hold dummy", "load dummy"}, tt.calls...), n.calls())
			assert.Equal(t, map[syscall.Errno]spec.Reason{syscall.EIO: spec.ReasonInitFailed, syscall.ENOMEM: spec.ReasonLoadFailed}[tt.errno], one(t, s).Reason)
			assert.Equal(t, tt.runs, n.runs("dummy"))
			assert.Empty(t, n.held())
			assert.Equal(t, tt.runs != "", strings.Contains(one(t, s).Message, "; dummy runs instead, from "+n.inTree("dummy")), one(t, s).Message)
			n.calls()
			assert.Equal(t, s, n.reconcile(w))
			assert.Empty(t, n.calls(), "once")
		})
	}
}

// removedByHand is coldNode where ours has run, in place of the in-tree one, until somebody removed it; now it fails.
func removedByHand(t *testing.T, w want) (*node, *coldCard, want) {
	t.Helper()
	n, c := coldNode(t)
	c.errno = 0
	n.Preload(n.inTree("core"), "")
	n.Preload(n.inTree("dummy"), "")
	w.name, w.image = "nic", n.image("1", ours("1"), nil)
	require.True(t, n.reconcile(w).OK())
	require.NoError(t, n.Rmmod("dummy"))
	c.errno = syscall.EIO
	n.calls()
	return n, c, w
}

// TestStandInAfterRmmod: what ran is not there any more, and can not be loaded again.
func TestStandInAfterRmmod(t *testing.T) {
	n, c, w := removedByHand(t, want{module: "dummy", remove: []string{"dummy"}})
	s := n.reconcile(w)
	assert.Equal(t, []string{"load dummy", "hold", "load dummy"}, n.calls())
	assert.Equal(t, "in-tree", n.runs("dummy"))
	assert.Equal(t, spec.ReasonInitFailed, one(t, s).Reason)
	assert.Equal(t, s, n.reconcile(w))
	n.start(c.config)
	assert.Equal(t, one(t, s).Message, one(t, n.reconcile(w)).Message)
	c.sync()
	c.words["pf"] = "configured"
	blocked := one(t, n.reconcile(w))
	assert.Equal(t, spec.ReasonInUse, blocked.Reason)
	assert.Contains(t, blocked.Message, "; before that: "+one(t, s).Message, "what its interface is used for by now is not what was wrong")
	clear(c.words)
	assert.Equal(t, one(t, s).Message, one(t, n.reconcile(w)).Message)
	assert.Empty(t, n.calls())

	c.errno = 0
	w.image = n.image("2", ours("2"), nil)
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, []string{"hold dummy", "unload dummy", "load dummy"}, n.calls())
	assert.Equal(t, []string{"dummy"}, n.held())
	require.True(t, n.reconcile().OK())
	assert.Empty(t, n.held())
}

// TestStandInNoDevice: without a device the node's own driver is not loaded, but can be.
func TestStandInNoDevice(t *testing.T) {
	n, c, w := removedByHand(t, want{module: "dummy", remove: []string{"dummy", "null_blk"}})
	c.alias = "usb:v1D6Bp0002"
	n.reconcile(w)
	assert.Equal(t, []string{"load dummy", "hold"}, n.calls())
}

// TestStandInBesideOurs: as long as something of the image runs, only what a device waits for is held off no longer.
func TestStandInBesideOurs(t *testing.T) {
	n, c, w := removedByHand(t, want{module: "dummy", remove: []string{"dummy", "null_blk"}, order: []string{"dummy", "helper"}})
	n.reconcile(w)
	assert.Equal(t, []string{"load dummy", "hold null_blk", "load dummy"}, n.calls())
	assert.Equal(t, "1", n.runs("helper"))
	c.errno = 0
	w.image = n.image("2", ours("2"), nil)
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, []string{"dummy", "null_blk"}, n.held())
}

// TestStandInForNobodyElse: what another Module replaces, too, is held off for that.
func TestStandInForNobodyElse(t *testing.T) {
	n, _ := coldNode(t)
	other := want{name: "another", image: n.image("1", ours("1"), nil), module: "helper", remove: []string{"dummy"}}
	w := want{name: "nic", image: other.image, module: "top", remove: []string{"dummy"}}
	n.FailInit("top", syscall.ENODEV)
	assert.Equal(t, map[string]string{"another": "Loaded", "nic": "Failed InitFailed"}, states(n.reconcile(other, w)))
	assert.Empty(t, n.runs("dummy"))
	assert.Equal(t, []string{"dummy"}, n.held())
}

// TestStandInLate: the rollback comes to its end when somebody has closed what they had opened.
func TestStandInLate(t *testing.T) {
	n, c := coldNode(t)
	c.errno = 0
	n.FailInit("helper", syscall.ENODEV)
	n.OnCall(func(call string) {
		if call == "load helper" {
			n.Hold("dummy", 1)
		}
	})
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "helper", remove: []string{"dummy"}, order: []string{"helper", "dummy"}}
	n.reconcile(w)
	require.Equal(t, "1", n.runs("dummy"))
	n.Hold("dummy", 0)
	n.start(c.config)
	n.reconcile(w)
	assert.Equal(t, "in-tree", n.runs("dummy"))
	assert.NotContains(t, n.ledger(), "journal")
}

// TestStandInAfterAKill: what was begun is not gone on with by the next kmmd.
func TestStandInAfterAKill(t *testing.T) {
	for name, play := range map[string]func(n *node, w want){
		"no image": func(n *node, w want) { n.images.fail(w.image, images.ErrNoModules) },
		"a block that may end": func(n *node, _ want) {
			require.NoError(n.t, os.Remove(n.path("firmware.json")))
			require.NoError(n.t, os.WriteFile(n.path("firmware/nic.bin"), []byte("somebody's"), 0o644))
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, c := coldNode(t)
			w := want{name: "nic", image: n.image("1", ours("1"), map[string]string{"nic.bin": "fw"}), module: "dummy", remove: []string{"dummy"}, firmware: "/firmware"}
			require.True(t, n.kill("after step", 2, documents(w), c.config))
			require.Equal(t, []string{"dummy"}, n.held())
			play(n, w)
			n.start(c.config)
			s := n.reconcile(w)
			assert.NotEqual(t, spec.ReasonInitFailed, one(t, s).Reason, "it was not tried")
			assert.Equal(t, "in-tree", n.runs("dummy"), one(t, s).Message)
			assert.Empty(t, n.held())
			assert.NotContains(t, n.ledger(), "journal")
		})
	}
}

// stiffCold is to coldKernel what stiff is to another.
type stiffCold struct {
	coldKernel
	err error
}

func (k *stiffCold) HoldAutoload(names []string) error {
	return (&stiff{k.Kernel, k.err}).HoldAutoload(names)
}

// TestStandInIsHeldOff: the file that holds autoload off can not be removed at first.
func TestStandInIsHeldOff(t *testing.T) {
	n, c, w := removedByHand(t, want{module: "dummy", remove: []string{"dummy"}})
	k := &stiffCold{coldKernel{n.Kernel, c}, errors.New("input/output error")}
	n.start(c.config, func(cfg *agent.Config) { cfg.Kernel = k })
	assert.Contains(t, one(t, n.reconcile(w)).Message, "; roll back: input/output error")
	assert.Empty(t, n.runs("dummy"))
	k.err = nil
	assert.NotContains(t, one(t, n.reconcile(w)).Message, "roll back")
	assert.Equal(t, "in-tree", n.runs("dummy"))
	assert.Empty(t, n.held())
}

// TestKillStandIn kills kmmd anywhere on the way: the next one gets there.
func TestKillStandIn(t *testing.T) {
	for _, ran := range []bool{false, true} {
		for _, where := range []string{"after step", "before call"} {
			times := 0
			for dead := true; dead; times++ {
				n, c := coldNode(t)
				w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "dummy", remove: []string{"dummy"}}
				if ran {
					n, c, w = removedByHand(t, want{module: "dummy", remove: []string{"dummy"}})
				}
				dead = n.kill(where, times+1, documents(w), c.config)
				n.start(c.config)
				n.reconcile(w)
				assert.Equal(t, "in-tree", n.runs("dummy"), "%s %d", where, times+1)
				assert.Empty(t, n.held())
				assert.NotContains(t, n.ledger(), "journal")
			}
			assert.GreaterOrEqual(t, times, 2, "%s, %t", where, ran)
		}
	}
}

// togetherToo makes coldKernel's loads of those that are made together, too.
type togetherToo struct{ *coldKernel }

func (k togetherToo) LoadAll(ctx context.Context, requests []kernel.LoadRequest) (out []kernel.Loaded) {
	for _, r := range requests {
		err := k.Load(ctx, r)
		out = append(out, kernel.Loaded{Err: err})
		if err != nil {
			break
		}
	}
	return out
}

// TestStandInIsNotInTheWay of a dependency that the image brings: with the node's own, the next image could not be loaded.
func TestStandInIsNotInTheWay(t *testing.T) {
	n, c := coldNode(t)
	n.start(c.config, func(cfg *agent.Config) { cfg.Kernel = togetherToo{&coldKernel{n.Kernel, c}} })
	withCore := func(version string) map[string]kmodtest.Spec {
		magic := kerneltest.Vermagic(release)
		return map[string]kmodtest.Spec{
			"core.ko":  {Vermagic: magic, Version: version, Exports: []string{"core_symbol"}},
			"dummy.ko": {Vermagic: magic, Version: version, Depends: []string{"core"}, Imports: []string{"core_symbol"}},
		}
	}
	w := want{name: "nic", image: n.image("1", withCore("1"), nil), module: "dummy", remove: []string{"dummy"}}
	assert.Equal(t, spec.ReasonInitFailed, one(t, n.reconcile(w)).Reason)
	assert.Empty(t, n.runs("core"))
	c.errno = 0
	w.image = n.image("2", withCore("2"), nil)
	s := n.reconcile(w)
	assert.True(t, s.OK(), s)
}

// TestStandInForOneOfTwo: what another Module is to have, whose turn comes later, is not loaded for this one.
func TestStandInForOneOfTwo(t *testing.T) {
	n, _ := coldNode(t)
	other := want{name: "zother", module: "core", remove: []string{"core"}, image: n.image("core", map[string]kmodtest.Spec{
		"core.ko": {Vermagic: kerneltest.Vermagic(release), Exports: []string{"core_symbol"}},
	}, nil)}
	w := want{name: "nic", image: n.image("1", only(ours("1"), "dummy"), nil), module: "dummy", remove: []string{"dummy"}}
	assert.Equal(t, map[string]string{"nic": "Failed InitFailed", "zother": "Loaded"}, states(n.reconcile(w, other)))

	n, _ = coldNode(t) // also when its image comes late
	w.image = n.image("1", only(ours("1"), "dummy"), nil)
	other.image = n.image("core", map[string]kmodtest.Spec{
		"core.ko": {Vermagic: kerneltest.Vermagic(release), Exports: []string{"core_symbol"}},
	}, nil)
	n.images.delay(other.image, 4*time.Second)
	assert.Equal(t, map[string]string{"nic": "Failed InitFailed", "zother": "Loaded"}, states(n.reconcile(w, other)))
}

// TestStandInBesideASoftdep: whatever build of a softdep runs is in nobody's way.
func TestStandInBesideASoftdep(t *testing.T) {
	n, c := coldNode(t)
	magic := kerneltest.Vermagic(release)
	w := want{name: "nic", module: "dummy", remove: []string{"dummy"}, image: n.image("1", map[string]kmodtest.Spec{
		"core.ko":  {Vermagic: magic, Version: "1"},
		"dummy.ko": {Vermagic: magic, Version: "1", Softdeps: []string{"pre: core"}},
	}, nil)}
	n.start(c.config, func(cfg *agent.Config) { cfg.Kernel = togetherToo{&coldKernel{n.Kernel, c}} })
	n.reconcile(w)
	assert.Equal(t, "in-tree", n.runs("dummy"))
}

// upCard is a card whose interface the node configures as soon as its own driver is there.
type upCard struct{ *coldCard }

func (c upCard) Of(module string) (devices.Use, error) {
	u, err := c.coldCard.Of(module)
	for i := range u.Interfaces {
		u.Interfaces[i].Up, u.Interfaces[i].Addresses = c.n.runs("dummy") == "in-tree", nil
	}
	return u, err
}

// TestStandInWaitsForTheImage: a kmmd that was killed after the load, and whose image takes its time, goes on when it is there.
func TestStandInWaitsForTheImage(t *testing.T) {
	n, c := coldNode(t)
	c.errno = 0
	config := func(cfg *agent.Config) { cfg.Devices, cfg.Kernel = upCard{c}, n.Kernel }
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "dummy", remove: []string{"dummy"}, pull: images.PullAlways}
	require.True(t, n.kill("after step", 2, documents(w), config))
	n.images.delay(w.image, 4*time.Second)
	n.start(config)
	s := n.reconcile(w)
	assert.True(t, s.OK(), s)
	assert.Equal(t, []string{"dummy"}, n.held())
	assert.Empty(t, n.ledger()["standIn"])
}

// TestStandInAfterTheWait plays what ends the wait for the image of a change that was interrupted.
func TestStandInAfterTheWait(t *testing.T) {
	waiting := func(n *node, w want) {
		ctx, cancel := context.WithTimeout(n.t.Context(), 3500*time.Millisecond)
		defer cancel()
		n.agent.SetDesired(documents(w))
		_, err := n.agent.Reconcile(ctx)
		require.ErrorIs(n.t, err, context.DeadlineExceeded)
		require.Empty(n.t, n.runs("dummy"))
	}
	for name, end := range map[string]func(n *node, c *coldCard, w want){
		"there is none": func(n *node, _ *coldCard, w want) {
			n.images.fail(w.image, images.ErrNotFound)
			assert.Equal(n.t, spec.ReasonImageNotFound, one(n.t, n.reconcile(w)).Reason)
		},
		"there is none, and kmmd has started anew": func(n *node, c *coldCard, w want) {
			waiting(n, w)
			n.images.fail(w.image, images.ErrNotFound)
			n.start(c.config)
			n.reconcile(w)
		},
		"it comes, and its firmware is in the way": func(n *node, _ *coldCard, w want) {
			require.NoError(n.t, os.Remove(n.path("firmware.json")))
			require.NoError(n.t, os.WriteFile(n.path("firmware/nic.bin"), []byte("somebody's"), 0o644))
			assert.Equal(n.t, spec.ReasonFirmwareConflict, one(n.t, n.reconcile(w)).Reason)
		},
		"the Module is gone": func(n *node, _ *coldCard, w want) {
			waiting(n, w)
			n.reconcile()
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, c := coldNode(t)
			c.errno = 0
			w := want{name: "nic", image: n.image("1", ours("1"), map[string]string{"nic.bin": "fw"}), module: "dummy", remove: []string{"dummy"},
				firmware: "/firmware", pull: images.PullAlways}
			require.True(t, n.kill("after step", 2, documents(w), c.config))
			n.images.delay(w.image, 4*time.Second)
			n.start(c.config)
			end(n, c, w)
			assert.Equal(t, "in-tree", n.runs("dummy"))
			assert.Empty(t, n.ledger()["standIn"])
		})
	}
}

// TestStandInLateIsHeldOff: what can not be held off no longer at first is tried again.
func TestStandInLateIsHeldOff(t *testing.T) {
	n, c, w := removedByHand(t, want{module: "dummy", remove: []string{"dummy"}})
	digest := one(t, n.reports[len(n.reports)-1]).Digest
	k := &stiffCold{coldKernel{n.Kernel, c}, errors.New("input/output error")}
	require.True(t, n.kill("after step", 1, documents(w), func(cfg *agent.Config) { cfg.Devices = c }))
	ref := w.image + " " + digest
	n.images.delay(ref, 4*time.Second)
	n.images.fail(ref, images.ErrUnauthorized)
	n.start(c.config, func(cfg *agent.Config) { cfg.Kernel = k })
	n.reconcile(w)
	require.Equal(t, []string{"dummy"}, n.held())
	k.err = nil
	n.reconcile(w)
	assert.Equal(t, "in-tree", n.runs("dummy"))
	assert.Empty(t, n.held())
}
