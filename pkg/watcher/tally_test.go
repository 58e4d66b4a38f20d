// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

func noAccounts() cache.SharedIndexInformer {
	return cache.NewSharedIndexInformerWithOptions(nil, &corev1.ServiceAccount{}, cache.SharedIndexInformerOptions{})
}

func standings(s standing) []standing { s.key = "ns/a"; return []standing{s} }

func most(v intstr.IntOrString) limit { return limit{max: &v, pauseAt: 2} }

func TestRollout(t *testing.T) {
	tally := newTally()
	tally.setLimit("ns/a", most(intstr.FromInt32(2)))
	var begun []string
	for i := range 5 {
		node := fmt.Sprintf("n%d", i)
		held := standing{desired: true, available: true, held: true}
		if tally.admit("ns/a", node) {
			begun = append(begun, node)
			held = standing{desired: true, settling: true, current: true}
		}
		tally.set(node, standings(held))
	}
	assert.Equal(t, []string{"n0", "n1"}, begun)
	assert.True(t, tally.admit("ns/a", "n0"), "asked again")
	assert.False(t, tally.admit("ns/a", "n2"))

	_, wake := tally.set("n0", standings(standing{desired: true, available: true, current: true}))
	assert.Equal(t, []string{"n2"}, wake, "one has answered, one may begin")
	require.True(t, tally.admit("ns/a", "n2"))
	tally.set("n2", standings(standing{desired: true, settling: true, current: true}))

	failed := standing{desired: true, current: true, reason: "InitFailed"}
	_, wake = tally.set("n1", standings(failed))
	assert.Empty(t, wake, "one may fail more, and one is changing")
	_, wake = tally.set("n2", standings(failed))
	assert.Empty(t, wake)
	assert.False(t, tally.admit("ns/a", "n3"), "two are")
	r := tally.report("ns/a")
	assert.True(t, r.paused)
	assert.Equal(t, 2, r.held)

	// The Module is mended: what failed was what it said before.
	_, wake = tally.set("n1", standings(standing{desired: true, settling: true, current: true}))
	assert.Empty(t, wake, "one is changing, one has failed")
	_, wake = tally.set("n2", standings(standing{desired: true, settling: true, current: true}))
	assert.Empty(t, wake, "two are changing")
	_, wake = tally.set("n1", standings(standing{desired: true, available: true, current: true}))
	assert.Equal(t, []string{"n3"}, wake)

	tally.set("n1", nil)
	tally.set("n2", nil)
	assert.Equal(t, 3, tally.report("ns/a").desired, "nodes that are gone do not count")
	assert.Equal(t, 0, tally.report("ns/a").begun)
}

// TestRolloutAfterALesserChange: nodes that have not answered an order that reloads nothing have not had their turn.
func TestRolloutAfterALesserChange(t *testing.T) {
	tally := newTally()
	tally.setLimit("ns/a", most(intstr.FromInt32(1)))
	told := standing{desired: true, available: true, settling: true, current: true}
	for _, node := range []string{"n0", "n1"} {
		tally.set(node, standings(told))
	}
	assert.Zero(t, tally.report("ns/a").begun)
	assert.False(t, tally.hasBegun("ns/a", "n0"))
	require.True(t, tally.admit("ns/a", "n0"))
	assert.False(t, tally.admit("ns/a", "n1"))
	tally.set("n0", standings(told))
	assert.False(t, tally.admit("ns/a", "n1"), "a label that is still seen is no answer")
	_, wake := tally.set("n0", standings(standing{desired: true, available: true, current: true}))
	assert.Equal(t, []string{"n1"}, wake)
}

func TestRolloutPercent(t *testing.T) {
	tally := newTally()
	tally.setLimit("ns/a", most(intstr.FromString("30%")))
	for i := range 10 {
		tally.set(fmt.Sprintf("n%d", i), standings(standing{desired: true, held: true}))
	}
	n := 0
	for i := range 10 {
		if tally.admit("ns/a", fmt.Sprintf("n%d", i)) {
			n++
		}
	}
	assert.Equal(t, 3, n)
}

func TestNoRollout(t *testing.T) {
	tally := newTally()
	tally.setLimit("ns/a", limitOf(nil))
	for i := range 100 {
		node := fmt.Sprintf("n%d", i)
		require.True(t, tally.admit("ns/a", node))
		tally.set(node, standings(standing{desired: true, current: true, reason: "InitFailed"}))
	}
}

// TestWhoHoldsARolloutUp: the nodes that have begun are named, some of them where there are many.
func TestWhoHoldsARolloutUp(t *testing.T) {
	tally := newTally()
	eight := intstr.FromInt32(8)
	tally.setLimit("ns/a", limitOf(&v1beta1.Rollout{MaxUnavailable: &eight}))
	for i := range 9 {
		node := fmt.Sprintf("n%d", i)
		require.Equal(t, i < 8, tally.admit("ns/a", node))
		if i < 7 {
			tally.set(node, standings(standing{desired: true, settling: true, present: true}))
		}
	}
	r := tally.report("ns/a")
	assert.Equal(t, "8 nodes are changing (n0, n1, n2, n3, n4 and 3 more)", changing(r))
	for i := range 7 {
		tally.set(fmt.Sprintf("n%d", i), standings(standing{desired: true, current: true, available: true, present: true}))
	}
	assert.Equal(t, "1 node is changing (n7)", changing(tally.report("ns/a")), "one that was let through and has not been written to yet")
}

func TestTally(t *testing.T) {
	tally := newTally()
	changed, _ := tally.set("n", []standing{{key: "ns/a", selected: true, desired: true, version: "1"}, {key: "ns/b"}})
	assert.Equal(t, []string{"ns/a"}, changed)
	changed, _ = tally.set("n", []standing{{key: "ns/a", selected: true, desired: true, version: "1"}, {key: "ns/b"}})
	assert.Empty(t, changed, "nothing is new")
	assert.Equal(t, map[string]bool{"1": true}, tally.versions("ns/a"))
	changed, _ = tally.set("n", nil)
	assert.Equal(t, []string{"ns/a"}, changed)
	assert.Equal(t, counts{}, tally.report("ns/a").counts)
	tally.drop("ns/a")
	tally.drop("ns/b")
	assert.Empty(t, tally.modules)
	assert.Empty(t, tally.nodes)
}

// TestNothingIsLeftOfAModule that is gone, also when that is seen before its nodes are.
func TestNothingIsLeftOfAModule(t *testing.T) {
	w := idle(fake.NewClientset(), nil)
	defer w.queue.ShutDown()
	m := module("a", "1")
	require.NoError(t, w.nodes.GetStore().Add(labelled()))
	require.NoError(t, w.modules.GetStore().Add(m))
	round := func() {
		wants, changed := w.rebuild()
		w.takeStock(wants)
		w.publish(wants, changed, []string{"n"})
	}
	round()
	require.Contains(t, w.tally.modules, "ns/a")
	require.NoError(t, w.modules.GetStore().Delete(m))
	require.NoError(t, w.syncModule(t.Context(), "ns/a"))
	round()
	for w.queue.Len() > 0 {
		item, _ := w.queue.cluster.Get()
		require.NoError(t, w.sync(t.Context(), item))
		w.queue.Done(item)
	}
	assert.Empty(t, w.tally.modules)
}

// TestNothingIsLeftOfANode that is gone: one that was let through, or held, before it had a standing; and one that went
// while stock was taken.
func TestNothingIsLeftOfANode(t *testing.T) {
	tally := newTally()
	tally.setLimit("ns/a", most(intstr.FromInt32(1)))
	require.True(t, tally.admit("ns/a", "n0"))
	require.False(t, tally.admit("ns/a", "n1"))
	require.False(t, tally.admit("ns/a", "n2"))
	assert.Equal(t, []string{"n0", "n2"}, tally.but([]string{"n1"}))
	changed, wake := tally.forget("n0")
	assert.Equal(t, []string{"ns/a"}, changed)
	assert.Equal(t, []string{"n1"}, wake)
	tally.forget("n1")
	assert.True(t, tally.admit("ns/a", "n2"))
	changed, _ = tally.forget("n1")
	assert.Empty(t, changed, "twice is no news")

	w := idle(fake.NewClientset(), nil)
	defer w.queue.ShutDown()
	m := module("a", "1")
	require.NoError(t, w.modules.GetStore().Add(m))
	w.tally.set("gone", standings(standing{desired: true, settling: true}))
	w.roles, w.bindings = storeOf(&rbacv1.Role{}, nil), storeOf(&rbacv1.RoleBinding{}, nil)
	w.tellAll(t.Context())
	for w.queue.cluster.Len() > 0 {
		item, _ := w.queue.cluster.Get()
		if item == nodeWork+"gone" {
			require.NoError(t, w.sync(t.Context(), item))
		}
		w.queue.Done(item)
	}
	assert.Zero(t, w.tally.report("ns/a").desired)
	assert.Zero(t, w.tally.report("ns/a").begun)
}

// TestLeftoverIsNamed: nodes that are to unload what their Module does not ask for any more.
func TestLeftoverIsNamed(t *testing.T) {
	tally := newTally()
	for i := range 7 {
		tally.set(fmt.Sprintf("n%d", i), standings(standing{desired: true, present: true, leftover: true}))
	}
	pluginOnly := module("a", "1", withPlugin, func(m *v1beta1.Module) { m.Spec.ModuleLoader = nil })
	say := func() string {
		return meta.FindStatusCondition(moduleStatus(pluginOnly, tally.report("ns/a"), nil).Conditions, v1beta1.ConditionReady).Message
	}
	assert.Contains(t, say(), "7 nodes have not unloaded the module yet (n0, n1, n2, n3, n4 and 2 more)")
	tally.forget("n0")
	for i := range 5 {
		tally.set(fmt.Sprintf("n%d", i+1), standings(standing{desired: true}))
	}
	assert.Contains(t, say(), "1 node has not unloaded the module yet (n6)")
}

// TestTelling: a Module that has changed is not ready because its nodes were
// ready with what it was.
func TestTelling(t *testing.T) {
	tally := newTally()
	tally.tell([]string{"ns/a", "ns/b"}, []string{"n1", "n2"})
	assert.True(t, tally.report("ns/a").telling)
	assert.Equal(t, 2, tally.report("ns/a").untold)
	assert.Empty(t, tally.told("n1"))
	assert.Empty(t, tally.told("n1"), "twice is not two")
	assert.Empty(t, tally.told("n3"))
	tally.tell([]string{"ns/c"}, []string{"n1", "n2", "n3"}) // before n2 was told of the first change
	for _, n := range []string{"n1", "n2"} {
		assert.Empty(t, tally.told(n))
	}
	for _, k := range []string{"ns/a", "ns/b", "ns/c"} {
		assert.True(t, tally.report(k).telling)
	}
	assert.ElementsMatch(t, []string{"ns/a", "ns/b", "ns/c"}, tally.told("n3"))
	assert.False(t, tally.report("ns/a").telling)
	assert.Empty(t, tally.told("n3"))
	tally.tell([]string{"ns/a"}, nil)
	assert.False(t, tally.report("ns/a").telling, "there is no node to tell")
}

func TestModuleStatus(t *testing.T) {
	failed := []standingOn{{"n1", standing{reason: "InUse", message: "held by fio"}}, {"n2", standing{reason: "InUse"}}}
	tests := []struct {
		name    string
		module  *v1beta1.Module
		report  report
		problem error
		want    [3]string // Ready, Progressing, Degraded
	}{
		{"no node", module("a", "1"), report{}, nil,
			[3]string{"False NoNodes 0 of 0 nodes run the module", "False Complete no node is changing", "False NoFailures no node has failed"}},
		{"all", module("a", "1"), report{counts: counts{selected: 2, desired: 2, available: 2, current: 2}}, nil,
			[3]string{"True AllNodes 2 of 2 nodes run the module", "False Complete no node is changing", "False NoFailures no node has failed"}},
		{"just changed", module("a", "1"), report{counts: counts{selected: 2, desired: 2, available: 2, current: 2}, telling: true, paused: true}, nil,
			[3]string{"False NotAllNodes not all nodes have been told of the change", "True RollingOut nodes are about to be told of the change", "False NoFailures no node has failed"}},
		{"half told", module("a", "1"), report{counts: counts{selected: 4, desired: 4, available: 4, current: 3}, telling: true, untold: 3, begun: 1}, nil,
			[3]string{"False NotAllNodes not all nodes have been told of the change", "True RollingOut 1 node is changing, 3 have not been told of the change", "False NoFailures no node has failed"}},
		{"rolling", module("a", "1"), report{counts: counts{desired: 3, available: 2, current: 1}, begun: 1, held: 1}, nil,
			[3]string{"False NotAllNodes 1 of 3 nodes run the module, 1 more run it as it was before", "True RollingOut 1 node is changing, 1 waits", "False NoFailures no node has failed"}},
		{"held up", module("a", "1"), report{counts: counts{desired: 3, available: 2}, begun: 1, changing: []string{"n2"}, held: 2}, nil,
			[3]string{"False NotAllNodes 0 of 3 nodes run the module, 2 more run it as it was before", "True RollingOut 1 node is changing (n2), 2 wait", "False NoFailures no node has failed"}},
		{"many change", module("a", "1"), report{counts: counts{desired: 9}, telling: true, untold: 1, begun: 7, changing: []string{"n1", "n2", "n3", "n4", "n5"}}, nil,
			[3]string{"False NotAllNodes not all nodes have been told of the change", "True RollingOut 7 nodes are changing (n1, n2, n3, n4, n5 and 2 more), 1 has not been told of the change", "False NoFailures no node has failed"}},
		{"paused", module("a", "1"), report{counts: counts{desired: 9}, held: 7, paused: true, failed: failed, failedTotal: 2}, nil,
			[3]string{"False NotAllNodes 0 of 9 nodes run the module", "False RolloutPaused 2 nodes have failed; 7 nodes were not begun. Change the Module, or mend the nodes, and it goes on", "True InUse n1: InUse: held by fio; n2: InUse"}},
		{"many failed", module("a", "1"), report{counts: counts{desired: 9}, failed: append(failed, standingOn{"n3", standing{reason: "NoSpace"}}), failedTotal: 9}, nil,
			[3]string{"False NotAllNodes 0 of 9 nodes run the module", "False Complete no node is changing", "True NodesFailed n1: InUse: held by fio; n2: InUse; n3: NoSpace; and 6 more"}},
		{"deleted", module("a", "1", deleted), report{present: failed[:1], presentTotal: 1, failed: failed[:1], failedTotal: 1}, nil,
			[3]string{"False Unloading the Module is being deleted", "True Unloading waiting for n1: InUse: held by fio", "True UnloadFailed waiting for n1: InUse: held by fio"}},
		{"no mapping", module("a", "1"), report{counts: counts{desired: 1, available: 1, current: 1}, unmapped: 2}, nil,
			[3]string{"True AllNodes 1 of 1 nodes run the module; 2 nodes have a kernel that no kernelMapping matches", "False Complete no node is changing", "False NoFailures no node has failed"}},
		{"plugin only", module("a", "1", withPlugin, func(m *v1beta1.Module) { m.Spec.ModuleLoader = nil }), report{counts: counts{selected: 3, desired: 2, plugins: 2}}, nil,
			[3]string{"True AllNodes 2 of 2 nodes run the plugin", "False Complete no node is changing", "False NoFailures no node has failed"}},
		{"plugin only, and the module is not gone", module("a", "1", withPlugin, func(m *v1beta1.Module) { m.Spec.ModuleLoader = nil }), report{counts: counts{selected: 2, desired: 2, plugins: 2}, leftover: 1, unloading: []string{"n1"}}, nil,
			[3]string{"False NotAllNodes 2 of 2 nodes run the plugin; 1 node has not unloaded the module yet (n1), which the Module does not ask for any more", "False Complete no node is changing", "False NoFailures no node has failed"}},
		{"problem", module("a", "1"), report{}, errors.New("apply DaemonSet: no"),
			[3]string{"False NoNodes 0 of 0 nodes run the module", "False Complete no node is changing", "True PluginFailed apply DaemonSet: no"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.module.Generation = 7
			s := moduleStatus(tt.module, tt.report, tt.problem)
			assert.Equal(t, int64(7), s.ObservedGeneration)
			for i, kind := range []string{v1beta1.ConditionReady, v1beta1.ConditionProgressing, v1beta1.ConditionDegraded} {
				c := meta.FindStatusCondition(s.Conditions, kind)
				require.NotNil(t, c)
				assert.Equal(t, tt.want[i], fmt.Sprintf("%s %s %s", c.Status, c.Reason, c.Message))
			}
		})
	}
}

// TestReasonOfAll: a message names a few of the nodes that failed; the reason is about all of them.
func TestReasonOfAll(t *testing.T) {
	m, counted := module("a", "1"), newTally()
	fail := func(node, reason string) string {
		counted.set(node, []standing{{key: "ns/a", desired: true, current: true, present: true, reason: reason}})
		return meta.FindStatusCondition(moduleStatus(m, counted.report("ns/a"), nil).Conditions, v1beta1.ConditionDegraded).Reason
	}
	for i := range maxNamed + 1 {
		assert.Equal(t, "InUse", fail(fmt.Sprintf("n%d", i), "InUse"))
	}
	assert.Equal(t, reasonNodesFailed, fail("n9", "InitFailed"))
	assert.Equal(t, "InUse", fail("n9", "InUse"))
}

// TestPluginOnlyStaysOffTaints: a Module that is a plugin only is Ready when that runs
// where its DaemonSet can, and a node that was tainted later keeps its pod.
func TestPluginOnlyStaysOffTaints(t *testing.T) {
	m := module("a", "1", withPlugin, func(m *v1beta1.Module) { m.Spec.ModuleLoader = nil })
	tainted := func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule}}
	}
	w := &Watcher{tally: newTally()}
	wants := wanted(m)
	w.wants.Store(&wants)
	pod := []pluginPod{{key: "ns/a", role: v1beta1.RoleDevicePlugin, ready: true}}
	for _, v := range []view{
		{node: aNode("worker"), plugins: pod}, {node: aNode("tainted later", tainted), plugins: pod}, {node: aNode("control", tainted)},
	} {
		v.wants = wants
		w.tally.set(v.node.Name, render(v, func(string) bool { return true }).standings)
	}
	r := w.standing(m)
	assert.Equal(t, r.desired, r.available, "no alert")
	s := moduleStatus(m, r, nil)
	assert.Equal(t, v1beta1.DaemonSetStatus{NodesMatchingSelectorNumber: 3, DesiredNumber: 2, AvailableNumber: 2}, s.DevicePlugin)
	c := meta.FindStatusCondition(s.Conditions, v1beta1.ConditionReady)
	assert.Equal(t, "True AllNodes 2 of 2 nodes run the plugin", fmt.Sprintf("%s %s %s", c.Status, c.Reason, c.Message))
}

// TestModuleEvents: each change is told once.
func TestModuleEvents(t *testing.T) {
	m := module("a", "1")
	m.Generation = 1
	next := func(r report) []string {
		s := moduleStatus(m, r, nil)
		var out []string
		for _, e := range moduleEvents(m, s, time.Unix(1, 0)) {
			out = append(out, e.Type+" "+e.Reason+": "+e.Message)
		}
		m.Status = s
		return out
	}
	all := report{counts: counts{desired: 1, available: 1, current: 1}}
	bad := report{counts: counts{desired: 2}, failed: []standingOn{{"n1", standing{reason: "InUse", message: "x"}}}, failedTotal: 1}
	paused := bad
	paused.paused, paused.held = true, 1
	assert.Empty(t, next(report{}))
	assert.Equal(t, []string{"Normal ModuleReady: 1 of 1 nodes run the module"}, next(all))
	assert.Empty(t, next(all))
	assert.Equal(t, []string{"Warning ModuleDegraded: InUse: n1: InUse: x"}, next(bad))
	assert.Empty(t, next(bad))
	assert.Len(t, next(paused), 1)
	assert.Equal(t, []string{"Normal ModuleReady: 1 of 1 nodes run the module"}, next(all))
	m.Generation = 2
	assert.Equal(t, []string{"Normal ModuleReady: 1 of 1 nodes run the module"}, next(all), "of what it says now")
}
