// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// killed is what a test panics with in place of a SIGKILL.
type killed struct{}

// story is a change of a node that is killed in the middle.
type story struct {
	name   string
	inTree []string // what runs before
	fails  string   // a module of ours that can not be loaded any more
	before []want   // what was loaded before, undisturbed; images are tags
	wants  []want   // what the killed agent was told
	after  []want   // what the next one is told, if not the same
	runs   map[string]string
	state  string // of every Module in the end
	once   []string
	fw     string // content of nic.bin in the end
	there  string // its content before all, and
	left   string // after the Module has left; "" is that there is none
}

func stories() []story {
	full := want{name: "nic", image: "1", module: "dummy", remove: []string{"dummy", "null_blk"}, parameters: []string{"numdummies=1"},
		order: []string{"dummy", "top"}, firmware: "/firmware"}
	upgrade := full
	upgrade.image = "2"
	failing := full
	failing.module, failing.order, failing.parameters = "helper", []string{"helper", "middle"}, nil
	failingUpgrade := upgrade
	failingUpgrade.order = []string{"dummy", "side", "top"}
	all := map[string]string{"dummy": "1", "base": "1", "middle": "1", "top": "1", "null_blk": ""}
	before := map[string]string{"dummy": "in-tree", "null_blk": "in-tree", "base": "", "middle": "", "top": "", "helper": ""}
	ours := []string{"load dummy numdummies=1", "load base", "load middle", "load top"}
	none := map[string]string{"dummy": "", "base": "", "middle": "", "top": "", "null_blk": ""}
	both := []string{"dummy", "null_blk"}
	return []story{
		{name: "swap", inTree: both, wants: []want{full}, runs: all, state: "Loaded", once: ours, fw: "1"},
		{name: "failing swap", inTree: both, fails: "helper", wants: []want{failing}, runs: before, state: "Failed InitFailed"},
		{name: "swap, then the document is gone", inTree: both, wants: []want{full}, after: []want{}, runs: nil},
		{name: "upgrade", inTree: both, before: []want{full}, wants: []want{upgrade},
			runs: map[string]string{"dummy": "2", "base": "2", "middle": "2", "top": "2"}, state: "Loaded", fw: "2"},
		{name: "failing upgrade", before: []want{full}, fails: "side", wants: []want{failingUpgrade}, runs: all, state: "Failed InitFailed", fw: "1"},
		{name: "failing upgrade, taken back", before: []want{full}, fails: "side", wants: []want{failingUpgrade}, after: []want{full},
			runs: all, state: "Loaded", fw: "1"},
		{name: "upgrade, then another that fails", before: []want{full}, fails: "side", wants: []want{upgrade}, after: []want{failingUpgrade},
			runs: all, state: "Failed InitFailed", fw: "1"},
		{name: "upgrade, with firmware that was there", before: []want{full}, wants: []want{upgrade},
			runs: map[string]string{"dummy": "2", "base": "2", "middle": "2", "top": "2"}, state: "Loaded", fw: "2", there: "1"},
		{name: "failing upgrade, with firmware that was there", before: []want{full}, fails: "side", wants: []want{failingUpgrade},
			runs: all, state: "Failed InitFailed", fw: "1", there: "1", left: "1"},
		{name: "leave, with firmware that was there", before: []want{full}, wants: []want{}, after: []want{full}, runs: all, state: "Loaded", fw: "1", there: "1", left: "1"},
		{name: "leave", inTree: both, before: []want{full}, wants: []want{}, runs: none},
		{name: "leave, then it is back", before: []want{full}, wants: []want{}, after: []want{full}, runs: all, state: "Loaded", fw: "1"},
	}
}

// TestKill kills kmmd after its first step, after the second, and so on, and
// before its first call to the kernel, and so on. The next kmmd ends where the
// killed one would have.
func TestKill(t *testing.T) {
	shelf := newNode(t) // of its images; making them is what takes time
	refs := map[string]string{}
	for _, tag := range []string{"1", "2"} {
		refs[tag] = shelf.image(tag, ours(tag), map[string]string{"nic.bin": tag})
	}
	for _, st := range stories() {
		st.before, st.wants, st.after = with(refs, st.before), with(refs, st.wants), with(refs, st.after)
		t.Run(st.name, func(t *testing.T) {
			for _, where := range []string{"after step", "before call"} {
				times := 0
				for st.play(t, shelf.images, where, times+1) {
					times++
				}
				assert.GreaterOrEqual(t, times, 3, "it was killed %s 1, 2, and so on", where)
			}
		})
	}
}

// play tells the story once, with one kill. It reports whether there was one.
func (st story) play(t *testing.T, images *stock, where string, count int) (dead bool) {
	t.Run(fmt.Sprintf("%s %d", where, count), func(t *testing.T) {
		n := newNode(t)
		require.NoError(t, n.SetFirmwarePath("/opt/fw"))
		for _, name := range st.inTree {
			n.Preload(n.inTree(name), "")
		}
		n.images = images
		if st.there != "" {
			n.hasFirmware("nic.bin", st.there)
		}
		if st.before != nil {
			require.True(t, n.reconcile(st.before...).OK())
		}
		if st.fails != "" {
			n.FailInit(st.fails, syscall.EIO)
		}
		n.calls()
		if dead = n.kill(where, count, documents(st.wants...)); !dead {
			return
		}
		if st.after == nil {
			st.after = st.wants
		}
		n.start()
		s := n.reconcile(st.after...)
		st.check(n)
		if where == "after step" {
			st.checkOnce(n)
		}
		for name, state := range states(s) {
			assert.Equal(t, st.state, state, "%s: %+v", name, s)
		}
		assert.NotContains(t, n.ledger(), "journal", "nothing is left to undo")
		n.calls()
		assert.Equal(t, s, n.reconcile(st.after...))
		assert.Empty(t, n.calls(), "a second look changes nothing")
		if st.there != "" {
			assert.True(t, n.reconcile().OK())
			if st.left == "" {
				assert.NoFileExists(t, n.path("firmware/nic.bin"))
			} else {
				assert.Equal(t, st.left, readFile(t, n.path("firmware/nic.bin")))
			}
		}
	})
	return dead
}

// with puts in the references of the images' tags.
func with(refs map[string]string, wants []want) []want {
	if wants == nil {
		return nil
	}
	out := []want{}
	for _, w := range wants {
		w.image = refs[w.image]
		out = append(out, w)
	}
	return out
}

// kill starts a kmmd that dies. It reports false when it was done before.
func (n *node) kill(where string, count int, desired spec.Node, change ...func(*agent.Config)) (dead bool) {
	die := func() {
		if count--; count == 0 {
			panic(killed{})
		}
	}
	if where == "before call" {
		n.OnCall(func(string) { die() })
	} else {
		change = append(change, func(c *agent.Config) { c.AfterStep = die })
	}
	defer n.OnCall(nil)
	defer func() {
		switch p := recover(); p {
		case nil:
		case killed{}:
			dead = true
		default:
			panic(p)
		}
	}()
	n.start(change...)
	n.reconcileNode(desired)
	return false
}

// checkOnce: what ran already was not loaded a second time.
func (st story) checkOnce(n *node) {
	n.t.Helper()
	for _, load := range st.once {
		count := 0
		for _, call := range n.Calls() {
			if call == load {
				count++
			}
		}
		assert.Equal(n.t, 1, count, "%s: %v", load, n.Calls())
	}
}

// check compares with how the story has to end.
func (st story) check(n *node) {
	n.t.Helper()
	for name, build := range st.runs {
		assert.Equal(n.t, build, n.runs(name), name)
	}
	path, err := n.FirmwarePath()
	require.NoError(n.t, err)
	held, err := n.Held()
	require.NoError(n.t, err)
	if st.fw == "" {
		assert.NoFileExists(n.t, n.path("firmware/nic.bin"))
		assert.Equal(n.t, "/opt/fw", path)
		assert.Empty(n.t, held)
		return
	}
	assert.Equal(n.t, st.fw, readFile(n.t, n.path("firmware/nic.bin")))
	assert.Equal(n.t, n.path("firmware"), path)
	assert.Equal(n.t, "dummy null_blk", strings.Join(held, " "))
}

// TestKillThenRace: what runs again after a failure is what ran before the
// first try, not what somebody loaded while kmmd was dead.
func TestKillThenRace(t *testing.T) {
	n := newNode(t)
	first := want{name: "nic", image: n.image("1", ours("1"), nil), module: "dummy", remove: []string{"dummy"}}
	second := first
	second.image, second.module, second.order = n.image("2", ours("2"), nil), "side", []string{"side", "dummy"}
	require.True(t, n.reconcile(first).OK())
	n.FailInit("side", syscall.EIO)
	require.True(t, n.kill("after step", 1, documents(second)), "after the unload")
	require.Empty(t, n.runs("dummy"))
	n.Preload(n.inTree("dummy"), "")
	n.calls()
	n.start()
	assert.Equal(t, map[string]string{"nic": "Failed InitFailed"}, states(n.reconcile(second)))
	assert.Equal(t, "1", n.runs("dummy"))
	assert.Equal(t, []string{"unload dummy", "load dummy", "load base", "load side", "unload base", "unload dummy", "load dummy"}, n.calls())
}
