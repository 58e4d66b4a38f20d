// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"fmt"
	"testing"
	"time"
	"unique"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
	"github.com/kmm-node/kmmd/pkg/page"
)

// aNode has the label that module selects.
func aNode(name string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"w": ""}},
		Status:     corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{BootID: "boot", KernelVersion: "6.1.0-1-amd64"}},
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func runs(modules ...string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		for _, m := range modules {
			n.Labels[v1beta1.ReadyLabel("ns", m)] = ""
		}
	}
}

func rollout(m *v1beta1.Module) {
	one := intstr.FromInt32(1)
	m.Spec.Rollout = &v1beta1.Rollout{MaxUnavailable: &one}
}

// look is what a Reader shows of some objects.
func look(modules []*v1beta1.Module, nodes []any, configs map[string]*config) page.Cluster {
	var all []*config
	for _, c := range configs {
		all = append(all, c)
	}
	had := entriesOf(all)
	s := scene{
		at: time.Unix(0, 0), nodes: nodes, config: func(n string) *config { return configs[n] },
		images:      func(m *v1beta1.Module) []v1beta1.ModuleImage { return m.Status.Images },
		validations: []any{&v1beta2.PreflightValidation{ObjectMeta: metav1.ObjectMeta{Name: "v"}}},
	}
	for _, m := range modules {
		s.wants = append(s.wants, wantSeen(m, had[key(m.Namespace, m.Name)]))
	}
	sortWants(s.wants)
	s.standings = stand(s.wants, nodes, s.config)
	return picture(s)
}

func TestLook(t *testing.T) {
	now, before := module("a", "2"), module("a", "1")
	limited, limitedBefore := module("a", "2", rollout), module("a", "1", rollout)
	building := module("a", "1", func(m *v1beta1.Module) { m.Spec.ModuleLoader.Container.Build = &v1beta1.Build{} })
	made := building.DeepCopy()
	made.Status.Images = []v1beta1.ModuleImage{{Kernel: "6.1.0-1-amd64", Image: "reg.example/x:1", State: "Ready", Digest: "sha256:00"}}
	pluginOnly := module("a", "1", withPlugin)
	pluginOnly.Spec.ModuleLoader = nil
	pluginOnlyDeleted := pluginOnly.DeepCopy()
	deleted(pluginOnlyDeleted)
	dedicated := func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "dedicated", Effect: corev1.TaintEffectNoSchedule}}
	}
	since := metav1.NewTime(time.Unix(100, 0)).Time
	loaded := told(now, "Loaded")
	loaded.since = since
	kept := func(states ...state) *config {
		c := has(nil, states...)
		c.held = []string{"ns/a"}
		return c
	}
	other := aNode("n", func(n *corev1.Node) { n.Labels[v1beta1.VersionLabel("ns", "a")] = "v1" })
	otherVersion := `the node's label kmm.node.kubernetes.io/version-module.ns.a asks for version "v1", the Module is "v2"`
	failedNow := told(now, "Failed/InUse")
	failedNow.message = "eth0"
	for _, tt := range []struct {
		name    string
		module  *v1beta1.Module
		node    *corev1.Node
		config  *config
		state   page.State
		message string
	}{
		{"loaded", now, aNode("n", runs("a")), has(given(now), loaded), page.Loaded, ""},
		{"failed", now, aNode("n"), has(given(now), failedNow), page.Failed, "eth0"},
		{"no mapping", now, aNode("n"), has(given(now), told(now, "Failed/NoMapping")), page.Unmapped, ""},
		{"told just now", now, aNode("n"), has(given(now)), page.Changing, ""},
		{"not told yet", now, aNode("n"), nil, page.Changing, ""},
		{"is being changed", now, aNode("n", runs("a")), has(given(before), told(before, "Loaded")), page.Changing, ""},
		{"waits for its turn", limited, aNode("n", runs("a")), has(given(limitedBefore), told(limitedBefore, "Loaded")), page.Waiting, ""},
		{"started anew", now, aNode("n", func(n *corev1.Node) { n.Status.NodeInfo.BootID = "next" }), has(given(now), loaded), page.Changing, ""},
		{"image is made", building, aNode("n"), nil, page.Building, ""},
		{"image is there", made, aNode("n"), nil, page.Changing, ""},
		{"older version", module("a", "2", version("v2")), aNode("n", runs("a"), func(n *corev1.Node) {
			n.Labels[v1beta1.VersionLabel("ns", "a")] = "v1"
		}), has(given(module("a", "1", version("v1"))), told(module("a", "1", version("v1")), "Loaded")), page.Older, ""},
		{"no version", module("a", "2", version("v2")), aNode("n"), nil, page.Excluded, "the node has no label kmm.node.kubernetes.io/version-module.ns.a, which says what version it is to run"},
		{"taint", now, aNode("n", dedicated), nil, page.Excluded, "the node's taint dedicated:NoSchedule is not tolerated"},
		{"another version, and never had it", module("a", "2", version("v2")), other, nil, page.Excluded, otherVersion},
		{"another version, and keeps it", module("a", "2", version("v2")), other, kept(loaded), page.Excluded, otherVersion},
		{"another version, and has lost it", module("a", "2", version("v2")), other, has(nil, told(now, "Leaving")), page.Leaving, ""},
		{"taint, and keeps it", now, aNode("n", dedicated), kept(loaded), page.Excluded, "the node's taint dedicated:NoSchedule is not tolerated"},
		{"image is not known, and keeps it", building, aNode("n"), kept(loaded), page.Building, ""},
		{"waits for its turn, and keeps it", limited, aNode("n"), kept(loaded), page.Waiting, ""},
		{"not selected", now, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, nil, "", ""},
		{"being deleted", module("a", "1", deleted), aNode("n"), has(given(module("a", "1")), told(module("a", "1"), "Loaded")), page.Leaving, ""},
		{"gone", nil, aNode("n"), has(nil, told(now, "Leaving")), page.Leaving, ""},
		{"plugin ready", pluginOnly, aNode("n", func(n *corev1.Node) { n.Labels[v1beta1.DevicePluginReadyLabel("ns", "a")] = "" }), nil, page.Loaded, ""},
		{"plugin ready, and the module is not gone", pluginOnly, aNode("n", func(n *corev1.Node) { n.Labels[v1beta1.DevicePluginReadyLabel("ns", "a")] = "" }), has(nil, told(now, "Leaving")), page.Leaving, ""},
		{"plugin not ready, and the module is not gone", pluginOnly, aNode("n"), has(given(now), loaded), page.Leaving, ""},
		{"plugin not ready", pluginOnly, aNode("n"), nil, page.Changing, ""},
		{"plugin only, taint", pluginOnly, aNode("n", dedicated), nil, page.Excluded, "the node's taint dedicated:NoSchedule is not tolerated"},
		{"plugin only, being deleted", pluginOnlyDeleted, aNode("n"), nil, page.Excluded, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			configs := map[string]*config{}
			if tt.config != nil {
				configs["n"] = tt.config
			}
			var modules []*v1beta1.Module
			if tt.module != nil {
				modules = []*v1beta1.Module{tt.module}
			}
			c := look(modules, []any{tt.node}, configs)
			require.Len(t, c.Modules, 1)
			if tt.state == "" {
				assert.Empty(t, c.Modules[0].Nodes)
				return
			}
			require.Len(t, c.Modules[0].Nodes, 1)
			n := c.Modules[0].Nodes[0]
			assert.Equal(t, tt.state, n.State)
			assert.Equal(t, tt.message, n.Message)
			assert.Equal(t, tt.node.Status.NodeInfo.KernelVersion, n.Kernel)
			assert.Equal(t, tt.name == "loaded", !n.Since.IsZero(), "%v", n.Since)
		})
	}
}

// TestLookSecrets: a Reader does not know a ServiceAccount's pull secrets, and
// still sees that the node has what the Module says.
func TestLookSecrets(t *testing.T) {
	m := module("a", "1")
	e := newEntry(m, []string{"of-the-account"})
	st := told(m, "Loaded")
	st.revision = unique.Make(e.Revision)
	c := look([]*v1beta1.Module{m}, []any{aNode("n", runs("a"))}, map[string]*config{"n": has([]*entry{e}, st)})
	assert.Equal(t, page.Loaded, c.Modules[0].Nodes[0].State)
}

// TestSameSeen: a Watcher shows what a Reader does.
func TestSameSeen(t *testing.T) {
	m := module("a", "1", rollout)
	m.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: "False"}}
	nodes := []any{aNode("n2"), aNode("n1", runs("a")), aNode("n3", func(n *corev1.Node) { n.Labels = nil })}
	configs := map[string]*config{"n1": has(given(m), told(m, "Loaded")), "n2": has(given(m), told(m, "Failed/InUse"))}
	seen := look([]*v1beta1.Module{m}, nodes, configs)

	tally := newTally()
	wants := wanted(m)
	tally.setLimit("ns/a", limitOf(m.Spec.Rollout))
	for _, obj := range nodes {
		n := obj.(*corev1.Node)
		tally.set(n.Name, render(view{node: n, wants: wants, config: configs[n.Name]}, func(k string) bool { return tally.admit(k, n.Name) }).standings)
	}
	known := picture(scene{
		at: time.Unix(0, 0), nodes: nodes, wants: wants, standings: tally.all(),
		config: func(n string) *config { return configs[n] }, images: func(*v1beta1.Module) []v1beta1.ModuleImage { return nil },
		validations: []any{&v1beta2.PreflightValidation{ObjectMeta: metav1.ObjectMeta{Name: "v"}}},
	})
	assert.Equal(t, seen, known)
	assert.Equal(t, 3, known.Nodes)
	require.Len(t, known.Modules[0].Nodes, 2)
	assert.Equal(t, "n1", known.Modules[0].Nodes[0].Name, "sorted by name")
	assert.Equal(t, &page.Rollout{MaxUnavailable: "1", PauseOnFailures: 1}, known.Modules[0].Rollout)
	require.Len(t, known.Validations, 1)
}

// BenchmarkPicture is a Watcher's snapshot, and BenchmarkLook a Reader's, of 5,000
// nodes and 20 Modules.
func BenchmarkPicture(b *testing.B) {
	modules, nodes, configs := manyNodes()
	wants, tally := wanted(modules...), newTally()
	for _, obj := range nodes {
		n := obj.(*corev1.Node)
		tally.set(n.Name, render(view{node: n, wants: wants, config: configs[n.Name]}, func(string) bool { return true }).standings)
	}
	for b.Loop() {
		picture(scene{
			nodes: nodes, wants: wants, standings: tally.all(), config: func(n string) *config { return configs[n] },
			images: func(*v1beta1.Module) []v1beta1.ModuleImage { return nil },
		})
	}
}

func BenchmarkLook(b *testing.B) {
	modules, nodes, configs := manyNodes()
	for b.Loop() {
		look(modules, nodes, configs)
	}
}

func manyNodes() ([]*v1beta1.Module, []any, map[string]*config) {
	var modules []*v1beta1.Module
	var states []state
	for i := range 20 {
		modules = append(modules, module(fmt.Sprintf("m%d", i), "1"))
		states = append(states, told(modules[i], "Loaded"))
	}
	entries := given(modules...)
	var nodes []any
	configs := map[string]*config{}
	for i := range 5000 {
		n := aNode(fmt.Sprintf("node-%d", i))
		nodes = append(nodes, n)
		configs[n.Name] = has(entries, states...)
	}
	return modules, nodes, configs
}
