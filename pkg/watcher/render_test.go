// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unique"

	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// module is a Module "ns/name" whose image has a tag, for all nodes with the
// label w.
func module(name, tag string, change ...func(*v1beta1.Module)) *v1beta1.Module {
	m := &v1beta1.Module{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Finalizers: []string{v1beta1.ModuleFinalizer}},
		Spec: v1beta1.ModuleSpec{
			Selector: map[string]string{"w": ""},
			ModuleLoader: &v1beta1.ModuleLoaderSpec{Container: v1beta1.ModuleLoaderContainerSpec{
				Modprobe:       v1beta1.ModprobeSpec{ModuleName: "mod"},
				KernelMappings: []v1beta1.KernelMapping{{Regexp: "^6", ContainerImage: "reg.example/x:" + tag}},
			}},
		},
	}
	for _, c := range change {
		c(m)
	}
	return m
}

func version(v string) func(*v1beta1.Module) {
	return func(m *v1beta1.Module) { m.Spec.ModuleLoader.Container.Version = v }
}

func policy(p corev1.PullPolicy) func(*v1beta1.Module) {
	return func(m *v1beta1.Module) { m.Spec.ModuleLoader.Container.ImagePullPolicy = p }
}

func withPlugin(m *v1beta1.Module) { m.Spec.DevicePlugin = &v1beta1.DevicePluginSpec{} }

func withoutLoader(m *v1beta1.Module) { m.Spec.ModuleLoader = nil }

func unfinalized(m *v1beta1.Module) { m.Finalizers = nil }

func deleted(m *v1beta1.Module) { m.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }

func wanted(modules ...*v1beta1.Module) []*want {
	w := &Watcher{informers: informers{accounts: noAccounts()}}
	var out []*want
	for _, m := range modules {
		out = append(out, w.wantOf(m, nil))
	}
	sortWants(out)
	return out
}

// told is a node's answer: STATE or STATE/REASON about a Module of some tag.
func told(m *v1beta1.Module, answer string) state {
	st, reason, _ := strings.Cut(answer, "/")
	revision := ""
	if m.Spec.ModuleLoader != nil {
		revision = wanted(m)[0].entry.Revision
	}
	return state{
		key: unique.Make(key(m.Namespace, m.Name)), revision: unique.Make(revision),
		state: unique.Make(st), reason: unique.Make(reason),
	}
}

func has(entries []*entry, states ...state) *config {
	return &config{ObjectMeta: metav1.ObjectMeta{Name: "n", Generation: 1}, bootID: "boot", observed: 1, entries: entries, states: states}
}

func given(modules ...*v1beta1.Module) []*entry {
	var out []*entry
	for _, w := range wanted(modules...) {
		out = append(out, w.entry)
	}
	return out
}

func labelled(labels ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"w": ""}}}
	n.Status.NodeInfo = corev1.NodeSystemInfo{BootID: "boot", KernelVersion: "6.1.0-1-amd64"}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		n.Labels[k] = v
	}
	return n
}

// say puts a decision into words: labels, the spec when it is written, and what
// is waited for.
func say(d decision) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(d.labels)) {
		short := strings.TrimPrefix(k, v1beta1.LabelPrefix)
		if v := d.labels[k]; v == nil {
			out = append(out, "-"+short)
		} else {
			out = append(out, "+"+short+"="+*v)
		}
	}
	if d.write {
		var spec []string
		for _, e := range d.entries {
			image := e.ModuleLoader.Container.KernelMappings[0].ContainerImage
			spec = append(spec, e.Name+image[strings.LastIndex(image, ":"):])
		}
		for _, k := range d.keeps {
			spec = append(spec, "keep "+k)
		}
		out = append(out, fmt.Sprintf("write%v", spec))
	}
	for _, k := range d.waiting {
		out = append(out, "plugin of "+k+" has to go")
	}
	for _, s := range d.standings {
		if s.held {
			out = append(out, s.key+" is held")
		}
	}
	return strings.Join(out, ", ")
}

const (
	isReady   = v1beta1.LabelPrefix + "ns.a.ready"
	atVersion = v1beta1.LabelPrefix + "ns.a.version.ready"
	asked     = v1beta1.LabelPrefix + "version-module.ns.a"
)

// TestFirstOrder: a node that had another object before this one is not to unload what its first order can not be about yet.
func TestFirstOrder(t *testing.T) {
	a, b, v2 := module("a", "1"), module("b", "1"), module("a", "2", version("v2"))
	tainted := func(effect corev1.TaintEffect) *corev1.Node {
		n := labelled()
		n.Spec.Taints = []corev1.Taint{{Key: "maintenance", Effect: effect}}
		return n
	}
	tolerant := module("b", "1")
	tolerant.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	kept := func(entries []*entry, states ...state) *config {
		c := has(entries, states...)
		c.held = []string{"ns/a"}
		return c
	}
	loaded := told(b, "Loaded")
	readyB := strings.Replace(isReady, "ns.a", "ns.b", 1)
	for _, tt := range []struct {
		name   string
		wants  []*want
		config *config
		node   *corev1.Node
		want   string
	}{
		{"held", wanted(a, b), nil, labelled(), "write[b:1 keep ns/a], ns/a is held"},
		{"all are held", wanted(a), nil, labelled(), "ns/a is held"},
		{"another version", wanted(v2, b), nil, labelled(asked + "=v1"), "write[b:1 keep ns/a]"},
		{"no version", wanted(v2, b), nil, labelled(), "write[b:1]"},
		{"no finalizer", wanted(module("a", "1", unfinalized), b), nil, labelled(), "write[b:1 keep ns/a]"},
		{"a taint that keeps away", wanted(a, tolerant), nil, tainted(corev1.TaintEffectNoSchedule), "write[b:1 keep ns/a]"},
		{"a taint that takes off", wanted(a, tolerant), nil, tainted(corev1.TaintEffectNoExecute), "write[b:1]"},
		{"an image of which nothing is known", append([]*want{built("1")}, wanted(b)...), nil, labelled(), "write[b:1 keep ns/a]"},
		{"and then it is not there", append([]*want{built("1", "")}, wanted(b)...), kept(given(b), loaded), labelled(readyB), "write[a:1 b:1]"},
		{"being deleted", wanted(module("a", "1", deleted), b), nil, labelled(), "write[b:1]"},
		{"being deleted, and tainted", wanted(module("a", "1", deleted), tolerant), nil, tainted(corev1.TaintEffectNoSchedule), "write[b:1]"},
		{"not selected", wanted(a), nil, &corev1.Node{}, ""},
		{"and then nothing else", wanted(a, b), kept(given(b), loaded), labelled(readyB), "ns/a is held"},
		{"and then it is deleted", wanted(module("a", "1", deleted), b), kept(given(b), loaded), labelled(readyB), "write[b:1]"},
		{"and then its Module is gone", wanted(b), kept(given(b), loaded), labelled(readyB), "write[b:1]"},
		{"and then it is not selected", wanted(a), kept(nil), &corev1.Node{}, "write[]"},
		{"it was never there", wanted(a, b), has(given(b), loaded), labelled(readyB), "ns/a is held"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := view{node: tt.node, config: tt.config, wants: tt.wants}
			assert.Equal(t, tt.want, say(render(v, func(k string) bool { return k != "ns/a" })))
		})
	}
	d := render(view{node: labelled(readyB), config: kept(given(b), loaded), wants: wanted(a, b)}, func(string) bool { return true })
	assert.Equal(t, "write[a:1 b:1]", say(d), "its turn has come")
}

func TestRender(t *testing.T) {
	a1, a2 := module("a", "1"), module("a", "2")
	v1, v2 := module("a", "1", version("v1")), module("a", "2", version("v2"))
	p1, p2 := module("a", "1", withPlugin), module("a", "2", withPlugin)
	otherBoot := has(given(a1), told(a1, "Loaded"))
	otherBoot.bootID = "before"
	older := has(given(p1), told(p1, "Loaded")) // its order was 1, then another, and now as before
	older.Generation, older.observed = 3, 1
	pod := pluginPod{key: "ns/a", role: v1beta1.RoleDevicePlugin, ready: true}
	ofVersion := pod
	ofVersion.versioned = true
	pluginOnly := module("a", "1", withPlugin, withoutLoader)
	unselected := labelled()
	unselected.Labels = nil
	tests := []struct {
		name    string
		wants   []*want
		config  *config
		node    *corev1.Node
		plugins []pluginPod
		hold    bool
		want    string
	}{
		{"nothing is asked", nil, nil, labelled(), nil, false, ""},
		{"first", wanted(a1, module("b", "1")), nil, labelled(), nil, false, "write[a:1 b:1]"},
		{"not selected", wanted(a1), nil, &corev1.Node{}, nil, false, ""},
		{"no finalizer yet", wanted(module("a", "1", unfinalized)), nil, labelled(), nil, false, ""},
		{"finalizer lost", wanted(module("a", "1", unfinalized)), has(given(a1), told(a1, "Loaded")), labelled(isReady), nil, false, ""},
		{"finalizer lost, and changed", wanted(module("a", "2", unfinalized)), has(given(a1), told(a1, "Loaded")), labelled(isReady), nil, false, ""},
		{"finalizer lost, with a plugin", wanted(module("a", "1", withPlugin, unfinalized)), has(given(p1), told(p1, "Loaded")), labelled(isReady), []pluginPod{pod}, false, "+ns.a.device-plugin-ready="},
		{"finalizer lost, no longer selected", wanted(module("a", "1", unfinalized)), has(given(a1), told(a1, "Loaded")), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{isReady: ""}}}, nil, false, "-ns.a.ready, write[]"},
		{"finalizer gone with the Module", wanted(module("a", "1", unfinalized, deleted)), has(given(a1), told(a1, "Loaded")), labelled(isReady), nil, false, "-ns.a.ready, write[]"},
		{"told, not answered", wanted(a1), has(given(a1)), labelled(), nil, false, ""},
		{"working", wanted(a1), has(given(a1), told(a1, "Pending")), labelled(), nil, false, ""},
		{"loaded", wanted(a1), has(given(a1), told(a1, "Loaded")), labelled(), nil, false, "+ns.a.ready="},
		{"at rest", wanted(a1), has(given(a1), told(a1, "Loaded")), labelled(isReady), nil, false, ""},
		{"failed later", wanted(a1), has(given(a1), told(a1, "Failed/InitFailed")), labelled(isReady), nil, false, "-ns.a.ready"},
		{"another boot", wanted(a1), otherBoot, labelled(isReady), nil, false, "-ns.a.ready"},
		{"changed", wanted(a2), has(given(a1), told(a1, "Loaded")), labelled(isReady), nil, false, "-ns.a.ready, write[a:2]"},
		{"changed, answer is about before", wanted(a2), has(given(a2), told(a1, "Loaded")), labelled(), nil, false, ""},
		{"changed and changed back, answer is of before", wanted(p1), older, labelled(), nil, false, ""},
		{"something else has changed, not answered yet", wanted(p1), older, labelled(isReady), nil, false, ""},
		{"changed, nothing to reload", wanted(module("a", "1", policy("Never"))), has(given(a1), told(a1, "Loaded")), labelled(isReady), nil, false, "write[a:1]"},
		{"and not answered yet", wanted(module("a", "1", policy("Never"))), has(given(module("a", "1", policy("Never"))), told(a1, "Loaded")), labelled(isReady), nil, false, ""},
		{"the registry is asked again", wanted(module("a", "1", policy("Always"))), has(given(a1), told(a1, "Loaded")), labelled(isReady), nil, false, "-ns.a.ready, write[a:1]"},
		{"plugin goes first", wanted(p2), has(given(p1), told(p1, "Loaded")), labelled(isReady), []pluginPod{pod}, false, "-ns.a.ready, plugin of ns/a has to go"},
		{"plugin stays without the module", wanted(pluginOnly), has(given(p1), told(p1, "Loaded")), labelled(isReady), []pluginPod{pod}, false, "+ns.a.device-plugin-ready=, -ns.a.ready, write[]"},
		{"plugin goes first, it is being deleted", wanted(module("a", "1", withPlugin, withoutLoader, deleted)), has(given(p1), told(p1, "Loaded")), labelled(isReady), []pluginPod{pod}, false, "+ns.a.device-plugin-ready=, -ns.a.ready, plugin of ns/a has to go"},
		{"plugin goes first, the node is not selected", wanted(pluginOnly), has(given(p1), told(p1, "Loaded")), unselected, []pluginPod{pod}, false, "+ns.a.device-plugin-ready=, plugin of ns/a has to go"},
		{"plugin goes first, the Module has none any more", wanted(module("a", "1", withoutLoader)), has(given(p1), told(p1, "Loaded")), labelled(isReady), []pluginPod{pod}, false, "-ns.a.ready, plugin of ns/a has to go"},
		{"plugin goes first, the Module has another one", wanted(module("a", "1", withoutLoader, func(m *v1beta1.Module) { m.Spec.DRA = &v1beta1.DRASpec{} })), has(given(p1), told(p1, "Loaded")), labelled(isReady), []pluginPod{pod}, false, "-ns.a.ready, plugin of ns/a has to go"},
		{"plugin of a version goes first", wanted(pluginOnly), has(given(v1), told(v1, "Loaded")), labelled(isReady, atVersion+"=v1"), []pluginPod{ofVersion}, false, "+ns.a.device-plugin-ready=, -ns.a.ready, -ns.a.version.ready, plugin of ns/a has to go"},
		{"plugin has gone", wanted(p2), has(given(p1), told(p1, "Loaded")), labelled(), nil, false, "write[a:2]"},
		{"plugin is ready", wanted(p1), has(given(p1), told(p1, "Loaded")), labelled(isReady), []pluginPod{pod}, false, "+ns.a.device-plugin-ready="},
		{"being deleted", wanted(module("a", "1", deleted)), has(given(a1), told(a1, "Loaded")), labelled(isReady), nil, false, "-ns.a.ready, write[]"},
		{"Module has gone", nil, has(given(a1), told(a1, "Loaded")), labelled(isReady), nil, false, "-ns.a.ready, write[]"},
		{"no longer selected", wanted(a1), has(given(a1), told(a1, "Loaded")), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{isReady: ""}}}, nil, false, "-ns.a.ready, write[]"},
		{"held back", wanted(a2), has(given(a1), told(a1, "Loaded")), labelled(isReady), nil, true, "ns/a is held"},
		{"held back at first", wanted(a1), nil, labelled(), nil, true, "ns/a is held"},
		{"a removal is never held", nil, has(given(a1)), labelled(), nil, true, "write[]"},
		{"version, no label", wanted(v1), nil, labelled(), nil, false, ""},
		{"version, label", wanted(v1), nil, labelled(asked + "=v1"), nil, false, "write[a:1]"},
		{"version, loaded", wanted(v1), has(given(v1), told(v1, "Loaded")), labelled(asked + "=v1"), nil, false, "+ns.a.ready=, +ns.a.version.ready=v1"},
		{"version, Module is newer", wanted(v2), has(given(v1), told(v1, "Loaded")), labelled(asked+"=v1", isReady, atVersion+"=v1"), nil, false, ""},
		{"version, Module is newer, none there", wanted(v2), nil, labelled(asked + "=v1"), nil, false, ""},
		{"version, label is newer too", wanted(v2), has(given(v1), told(v1, "Loaded")), labelled(asked+"=v2", isReady, atVersion+"=v1"), nil, false, "-ns.a.ready, -ns.a.version.ready, write[a:2]"},
		{"version, label taken away", wanted(v2), has(given(v1), told(v1, "Loaded")), labelled(isReady, atVersion+"=v1"), nil, false, "-ns.a.ready, -ns.a.version.ready, write[]"},
		{"labels of others stay", nil, nil, labelled(v1beta1.LabelPrefix+"version-module.ns.gone=v1", v1beta1.LabelPrefix+"old.ready", "x.example/ns.a.ready"), nil, false, ""},
		{"labels of Modules long gone", nil, nil, labelled(isReady, atVersion+"=v1", v1beta1.LabelPrefix+"ns.a.b.dra-ready"), nil, false, "-ns.a.b.dra-ready, -ns.a.ready, -ns.a.version.ready"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := view{node: tt.node, config: tt.config, wants: tt.wants, plugins: tt.plugins}
			assert.Equal(t, tt.want, say(render(v, func(string) bool { return !tt.hold })))
		})
	}
}

// TestStanding is about what counts, for the Module's status and its end.
func TestStanding(t *testing.T) {
	a1, a2 := module("a", "1"), module("a", "2")
	leaving := told(a1, "Leaving/InUse")
	own := told(a1, "Loaded")
	own.revision = unique.Make("")
	otherBoot := has(given(a1), told(a1, "Loaded"))
	otherBoot.bootID = "before"
	behind := has(nil)
	behind.Generation = 2
	older, failedOlder := has(given(a1), told(a1, "Loaded")), has(given(a1), told(a1, "Failed/InitFailed"))
	older.Generation, failedOlder.Generation = 3, 3
	pluginOnly := module("a", "1", withPlugin, withoutLoader)
	tests := []struct {
		name   string
		wants  []*want
		config *config
		want   string
	}{
		{"told, its answer is to an older order", wanted(a1), older, "selected desired settling present current"},
		{"told, it failed with an older order", wanted(a1), failedOlder, "selected desired settling present current InitFailed"},
		{"told", wanted(a1), has(given(a1)), "selected desired settling present current"},
		{"loaded", wanted(a1), has(given(a1), told(a1, "Loaded")), "selected desired available present current"},
		{"loaded, the finalizer is lost", wanted(module("a", "1", unfinalized)), has(given(a1), told(a1, "Loaded")), "selected desired available present current"},
		{"failed", wanted(a1), has(given(a1), told(a1, "Failed/InitFailed")), "selected desired present current InitFailed"},
		{"no mapping", wanted(a1), has(given(a1), told(a1, "Failed/NoMapping")), "selected unmapped present current NoMapping"},
		{"failed with what it had before", wanted(a2), has(given(a1), told(a1, "Failed/InitFailed")), "selected desired settling present current"},
		{"failed before, told anew", wanted(a2), has(given(a2), told(a1, "Failed/InitFailed")), "selected desired settling present current"},
		{"going", wanted(module("a", "1", deleted)), has(nil, told(a1, "Loaded")), "selected present current"},
		{"stuck", wanted(module("a", "1", deleted)), has(nil, leaving), "selected present current InUse"},
		{"gone", wanted(module("a", "1", deleted)), has(nil), "selected current"},
		{"may be loading", wanted(module("a", "1", deleted)), behind, "selected present current"},
		{"gone by a reboot", wanted(module("a", "1", deleted)), &config{bootID: "before", states: []state{told(a1, "Loaded")}}, "selected current"},
		{"a document of the node's own", wanted(module("a", "1", deleted)), has(nil, own), "selected current"},
		{"booted anew", wanted(a1), otherBoot, "selected desired settling present current"},
		{"only the plugin is left, not told", wanted(pluginOnly), has(given(a1), told(a1, "Loaded")), "selected desired present leftover current"},
		{"only the plugin is left, stuck", wanted(pluginOnly), has(nil, leaving), "selected desired present leftover current InUse"},
		{"only the plugin is left", wanted(pluginOnly), has(nil), "selected desired current"},
		{"only the plugin is left, something else has changed", wanted(pluginOnly), behind, "selected desired present current"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := render(view{node: labelled(), config: tt.config, wants: tt.wants}, func(string) bool { return true })
			assert.Equal(t, tt.want, sayStanding(d.standings[0]))
		})
	}
}

func sayStanding(s standing) string {
	var out []string
	for _, w := range []struct {
		word string
		is   bool
	}{
		{"selected", s.selected}, {"desired", s.desired}, {"available", s.available}, {"held", s.held}, {"settling", s.settling},
		{"unmapped", s.unmapped}, {"present", s.present}, {"leftover", s.leftover}, {"plugin", s.plugin}, {"current", s.current}, {s.reason, s.reason != ""},
	} {
		if w.is {
			out = append(out, w.word)
		}
	}
	return strings.Join(out, " ")
}
