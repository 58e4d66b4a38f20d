// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/cluster/fleet"
	"github.com/kmm-node/kmmd/test/cluster/lab"
)

// private is a cluster and a world for a test that stops a part of it.
func private(t *testing.T, namespace string) *world {
	t.Helper()
	return beginIn(t, lab.New(t, options), namespace)
}

// TestWatcherKilled: two run, one works; it is killed in the middle of a rollout,
// and the other one goes on with it.
func TestWatcherKilled(t *testing.T) {
	t.Parallel()
	w := private(t, "killed")
	first := newWatcher(t, w.cluster, "first")
	w.wait("the first one leads", func() error { return leads(first) })
	second := newWatcher(t, w.cluster, "second")

	var machines []*fleet.Machine
	for i := range 4 {
		machines = append(machines, w.node(fmt.Sprint(i)))
	}
	rollout := []string{"rollout: {maxUnavailable: 1}"}
	w.apply(document{name: "m", image: w.Image("one", "mod"), spec: rollout})
	for _, m := range machines {
		w.waitReady(m, "m", true)
	}
	machines[1].Kill() // the change gets stuck here
	w.apply(document{name: "m", image: w.Image("two", "mod"), spec: rollout})
	w.waitRuns(machines[0], "mod", "two")
	w.waitReady(machines[1], "m", false)
	first.Kill()
	w.wait("the second one leads", func() error { return leads(second) })
	w.kubectl("annotate", "module", "m", "-n", "killed", "look=again")
	assert.Equal(t, "one", machines[2].Runs("mod"), "one at a time still holds")
	machines[1].Start()
	for _, m := range machines {
		w.waitRuns(m, "mod", "two")
		w.waitReady(m, "m", true)
	}

	third := newWatcher(t, w.cluster, "third")
	second.Stop()
	w.wait("the third one leads at once", func() error { return leads(third) })
	w.kubectl("delete", "module", "m", "-n", "killed")
	w.waitGone("m")
}

func leads(p *lab.Program) error {
	if !strings.Contains(p.Log(), "the cluster is known") {
		return fmt.Errorf("log: %s", p.Log())
	}
	return nil
}

// TestFinalizerLost: somebody replaces a Module by one without finalizers while no
// watcher runs. The next one touches nothing, and puts the finalizer back.
func TestFinalizerLost(t *testing.T) {
	t.Parallel()
	w := private(t, "lost")
	first := newWatcher(t, w.cluster, "first")
	a := w.node("a")
	m := document{name: "m", image: w.Image("one", "mod"), spec: []string{"imageRepoSecret: {name: pull}"}}
	w.apply(m)
	w.waitReady(a, "m", true)
	order, _ := w.nmc(a)
	role := func() string {
		return w.kubectl("get", "role", "kmmd-pull-secrets", "-n", "lost", "-o", "jsonpath={.metadata.uid}")
	}
	granted := role()
	first.Stop()
	a.Kernel.ResetCalls()
	w.cluster.KubectlInput(t, w.yaml(m), "replace", "-f", "-")
	finalizers := func() string {
		return w.kubectl("get", "module", "m", "-n", "lost", "-o", "jsonpath={.metadata.finalizers}")
	}
	require.Empty(t, finalizers())

	second := newWatcher(t, w.cluster, "second")
	w.wait("the second one leads", func() error { return leads(second) })
	w.wait("the finalizer is back", func() error {
		if finalizers() == "" {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	w.waitCondition("m", "Ready", "True/AllNodes")
	assert.Empty(t, a.Kernel.Calls(), "nothing was touched")
	assert.True(t, w.ready(a, "m"))
	now, _ := w.nmc(a)
	assert.Equal(t, order.Generation, now.Generation, "nothing else was ordered meanwhile")
	assert.Equal(t, granted, role(), "the right to read the pull secret was not taken back")
}

// TestServerStopped: the API server is away for a minute. Nothing changes on the
// nodes, which start anew meanwhile; all goes on afterwards.
func TestServerStopped(t *testing.T) {
	t.Parallel()
	w := private(t, "stopped")
	newWatcher(t, w.cluster, "first")
	a, b, c := w.node("a"), w.node("b"), w.node("c")
	w.apply(document{name: "m", image: w.Image("one", "mod")})
	for _, m := range []*fleet.Machine{a, b, c} {
		w.waitReady(m, "m", true)
	}
	w.cluster.StopAPIServer()
	back := time.After(time.Minute)
	for _, m := range []*fleet.Machine{a, b, c} {
		m.Kernel.ResetCalls()
	}
	b.Kill()
	b.Start()
	c.Kill()
	c.Restart(fleet.Release) // nobody can be told of the new boot
	w.waitRuns(c, "mod", "one")
	<-back
	assert.Empty(t, a.Kernel.Calls(), "nothing was touched")
	assert.Empty(t, b.Kernel.Calls(), "what runs was adopted")
	require.NoError(t, w.cluster.StartAPIServer(t.Context()))
	_, err := w.player.Reboot(t.Context(), c.Name, c.Kernel.BootID(), fleet.Release)
	require.NoError(t, err)

	w.apply(document{name: "m", image: w.Image("two", "mod")})
	for _, m := range []*fleet.Machine{a, b, c} {
		w.waitRuns(m, "mod", "two")
		w.waitReady(m, "m", true)
	}
}

// TestAgentKilled: the modules stay, the label stays, and an agent that comes
// back touches nothing.
func TestAgentKilled(t *testing.T) {
	w := begin(t, "agent")
	a := w.node("a")
	w.apply(document{name: "m", image: w.Image("one", "mod")})
	w.waitReady(a, "m", true)
	a.Kill()
	w.settled()
	assert.True(t, w.ready(a, "m"))
	a.Kernel.ResetCalls()
	before, _ := w.nmc(a)
	mark, err := cluster.Mark(t.Context())
	require.NoError(t, err)
	a.Start()
	w.settled()
	after, _ := w.nmc(a)
	assert.Equal(t, before.Status, after.Status)
	assert.Empty(t, a.Kernel.Calls())
	assert.Empty(t, w.writes(mark, a.Name), "an agent that comes back has nothing to say")

	a.Kill()
	w.apply(document{name: "m", image: w.Image("two", "mod")})
	w.waitReady(a, "m", false)
	a.Start()
	w.waitReady(a, "m", true)
	assert.Equal(t, "two", a.Runs("mod"))
}

// TestDrift: a module that somebody removes is back; one that can not come back
// costs the label.
func TestDrift(t *testing.T) {
	w := begin(t, "drift")
	a := w.node("a")
	w.apply(document{name: "m", image: w.Image("one", "mod")})
	w.waitReady(a, "m", true)
	a.Kernel.FailInit("mod", 5, "mod: no device")
	require.NoError(t, a.Kernel.Rmmod("mod"))
	s := w.waitStatus(a, "m", "Failed/InitFailed")
	assert.Contains(t, s.Message, "mod: no device", "the kernel's own words")
	w.waitReady(a, "m", false)
	w.waitCondition("m", "Degraded", "True/InitFailed", "mod: no device")
	w.waitEvent("default", "Node", a.Name, "ModuleLoadFailed", ": load drift/m: InitFailed")
}
