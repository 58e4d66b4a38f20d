// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// together notes what is loaded by one call.
type together struct {
	*kerneltest.Kernel
	sets []string
	most int // takes no more; 0: any number, less: none
}

func (k *together) LoadAll(ctx context.Context, requests []kernel.LoadRequest) []kernel.Loaded {
	var names []string
	for _, r := range requests {
		names = append(names, r.Name)
	}
	k.sets = append(k.sets, strings.Join(names, " "))
	if k.most != 0 {
		requests = requests[:max(0, min(k.most, len(requests)))]
	}
	return k.Kernel.LoadAll(ctx, requests)
}

func (n *node) together() *together {
	k := &together{Kernel: n.Kernel}
	n.start(func(c *agent.Config) { c.Kernel = k })
	return k
}

// TestLoadsAreMadeTogether: as many as the kernel takes at once, and none after one that asks for firmware.
func TestLoadsAreMadeTogether(t *testing.T) {
	for _, tt := range []struct {
		name  string
		most  int
		files map[string]kmodtest.Spec
		sets  []string
	}{
		{"all", 0, ours("1"), []string{"base middle top"}},
		{"the kernel takes two", 2, ours("1"), []string{"base middle top"}},
		{"the kernel takes none", -1, ours("1"), []string{"base middle top", "middle top"}},
		{"one asks for firmware", 0, asks(ours("1"), "middle.ko"), []string{"base middle"}},
		{"the first asks for firmware", 0, asks(ours("1"), "base.ko"), []string{"middle top"}},
		{"the last asks for firmware", 0, asks(ours("1"), "top.ko"), []string{"base middle top"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			k := n.together()
			k.most = tt.most
			s := n.reconcile(want{name: "a", image: n.image("1", tt.files, map[string]string{"fw.bin": "x"}), module: "top", firmware: "/firmware"})
			require.True(t, s.OK(), "%+v", s)
			assert.Equal(t, tt.sets, k.sets)
			loads := slices.DeleteFunc(n.calls(), func(call string) bool { return !strings.HasPrefix(call, "load ") })
			assert.Equal(t, []string{"load base", "load middle", "load top"}, loads, "each once")
			assert.Len(t, one(t, s).Kernel, 3)
		})
	}
}

func asks(files map[string]kmodtest.Spec, name string) map[string]kmodtest.Spec {
	f := files[name]
	f.Firmware = []string{"fw.bin"}
	files[name] = f
	return files
}

// TestTogetherFails: what the kernel refuses among loads that are made together is told, and undone, as by itself.
func TestTogetherFails(t *testing.T) {
	n := newNode(t)
	k := n.together()
	n.FailInit("middle", syscall.ENODEV, "middle: no such hardware (-19)")
	w := want{name: "a", image: n.image("1", ours("1"), nil), module: "top"}
	m := one(t, n.reconcile(w))
	assert.Equal(t, spec.ReasonInitFailed, m.Reason, m.Message)
	assert.Contains(t, m.Message, "load middle: finit_module: ENODEV")
	assert.Contains(t, m.Message, "middle: no such hardware (-19)")
	assert.True(t, m.RolledBack)
	assert.Equal(t, []string{"base middle top"}, k.sets)
	assert.Equal(t, []string{"load base", "load middle", "unload base"}, n.calls())
	assert.Empty(t, n.runs("base"))

	n.FailInit("middle", 0)
	w.image = n.image("2", ours("2"), nil)
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, []string{"load base", "load middle", "load top"}, n.calls())
}

// TestTogetherIsLookedAt: another build that somebody loaded meanwhile is not taken for ours.
func TestTogetherIsLookedAt(t *testing.T) {
	n := newNode(t)
	k := n.together()
	foreign := n.path("foreign/middle.ko")
	kmodtest.WriteTree(t, n.path("foreign"), map[string]kmodtest.Spec{"middle.ko": ours("9")["middle.ko"]})
	n.OnCall(func(call string) {
		if call == "load middle" {
			n.Preload(foreign, "")
		}
	})
	m := one(t, n.reconcile(want{name: "a", image: n.image("1", ours("1"), nil), module: "top"}))
	assert.Equal(t, spec.ReasonWrongBuild, m.Reason, m.Message)
	assert.Equal(t, []string{"base middle top"}, k.sets)
	assert.Empty(t, n.runs("top"))
	assert.Equal(t, "9", n.runs("middle"), "it stays, and so does what it needs")
}

// TestTogetherRace: somebody else's build that was loaded in the middle of a set is replaced where the document allows that.
func TestTogetherRace(t *testing.T) {
	n := newNode(t)
	k := n.together()
	n.beat(n.inTree("dummy"), 1)
	w := n.swap(n.image("1", ours("1"), nil))
	w.order = []string{"dummy", "helper"}
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, []string{"helper dummy"}, k.sets)
	assert.Equal(t, []string{"hold dummy", "load helper", loadOurs, "unload dummy", loadOurs}, n.calls())
	assert.Equal(t, "1", n.runs("dummy"))
}

// TestTogetherIsForgotten: what came of a load whose turn did not come is no answer to a later one.
func TestTogetherIsForgotten(t *testing.T) {
	n := newNode(t)
	k := n.together()
	n.Preload(n.inTree("dummy"), "")
	foreign := n.path("foreign/helper.ko")
	kmodtest.WriteTree(t, n.path("foreign"), map[string]kmodtest.Spec{"helper.ko": ours("9")["helper.ko"]})
	loads := 0
	n.OnCall(func(call string) {
		if !strings.HasPrefix(call, "load dummy") {
			return
		}
		if loads++; loads == 1 {
			assert.NoError(t, n.Rmmod("helper"))
			n.Preload(foreign, "")
			n.FailInit("dummy", syscall.ENODEV)
		} else {
			n.FailInit("dummy", 0)
		}
	})
	w := n.swap(n.image("1", ours("1"), nil))
	w.order = []string{"dummy", "helper"}
	m := one(t, n.reconcile(w))
	assert.Equal(t, []string{"helper dummy"}, k.sets)
	assert.Equal(t, spec.ReasonWrongBuild, m.Reason, m.Message)
	assert.Equal(t, "in-tree", n.runs("dummy"))
	assert.Equal(t, 2, loads)
	assert.NotContains(t, n.log.String(), "roll back", "it does not fail on the way")
}

// TestTogetherTakes: each step has the time of its own load.
func TestTogetherTakes(t *testing.T) {
	n := newNode(t)
	k := &slow{Kernel: n.Kernel}
	n.start(func(c *agent.Config) { c.Kernel = k })
	require.True(t, n.reconcile(want{name: "a", image: n.image("1", ours("1"), nil), module: "top"}).OK())
	for i, name := range []string{"base", "middle", "top"} {
		line := lineWith(t, n.log.String(), "load "+name)
		_, took, _ := strings.Cut(line, "took=")
		d, err := time.ParseDuration(strings.Fields(took)[0])
		require.NoError(t, err, line)
		assert.GreaterOrEqual(t, d, time.Duration(i+1)*time.Hour)
		assert.Less(t, d, time.Duration(i+1)*time.Hour+time.Minute)
	}
}

// slow says that a load took hours.
type slow struct{ *kerneltest.Kernel }

func (k *slow) LoadAll(ctx context.Context, requests []kernel.LoadRequest) []kernel.Loaded {
	done := k.Kernel.LoadAll(ctx, requests)
	for i := range done {
		done[i].Took = time.Duration(i+1) * time.Hour
	}
	return done
}

func lineWith(t *testing.T, text, word string) string {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			return line
		}
	}
	require.Fail(t, "no line with "+word, text)
	return ""
}
