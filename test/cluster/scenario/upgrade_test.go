// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/test/cluster/fleet"
)

// pods of a Module's plugin on a machine: the images they run.
func (w *world) pods(m *fleet.Machine) []string {
	w.t.Helper()
	list, err := w.kube.CoreV1().Pods(w.namespace).List(w.t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + m.Name})
	require.NoError(w.t, err)
	var out []string
	for i := range list.Items {
		out = append(out, list.Items[i].Spec.Containers[0].Image)
	}
	return out
}

func (w *world) waitPods(m *fleet.Machine, want ...string) {
	w.t.Helper()
	w.wait(fmt.Sprintf("plugins on %s: %q", m.Name, want), func() error {
		if got := w.pods(m); !slices.Equal(got, want) {
			return fmt.Errorf("they are %q", got)
		}
		return nil
	})
}

func (w *world) waitLabel(m *fleet.Machine, label, want string) {
	w.t.Helper()
	w.wait(fmt.Sprintf("%s has %s=%s", m.Name, label, want), func() error {
		if got, ok := w.labels(m)[label]; !ok || got != want {
			return fmt.Errorf("it has %v", w.labels(m))
		}
		return nil
	})
}

func plugin(image string) string { return fmt.Sprintf("devicePlugin: {container: {image: %q}}", image) }

// TestPlugin: its pod is where the module is ready, leaves before an unload, and
// is reported.
func TestPlugin(t *testing.T) {
	w := begin(t, "plugin")
	a := w.node("a")
	w.apply(document{name: "m", image: w.Image("one", "mod"), spec: []string{plugin("x.example/plugin:1")}})
	w.waitPods(a, "x.example/plugin:1")
	w.waitLabel(a, "plugin.m.device-plugin-ready", "")
	w.wait("it is counted", func() error {
		m, err := w.api.Modules("plugin").Get(t.Context(), "m", metav1.GetOptions{})
		if err == nil && m.Status.DevicePlugin.AvailableNumber != 1 {
			return fmt.Errorf("%v", m.Status.DevicePlugin)
		}
		return err
	})

	w.player.Pause(a.Name) // its pods do not end
	w.apply(document{name: "m", image: w.Image("two", "mod"), spec: []string{plugin("x.example/plugin:1")}})
	w.waitReady(a, "m", false)
	w.settled()
	assert.Equal(t, "one", a.Runs("mod"), "as long as the plugin runs, nothing is unloaded")
	assert.NotContains(t, w.labels(a), "plugin.m.device-plugin-ready")
	w.player.Resume(a.Name)
	w.waitRuns(a, "mod", "two")
	w.waitLabel(a, "plugin.m.device-plugin-ready", "")

	w.apply(document{name: "m", image: w.Image("two", "mod")})
	w.waitPods(a)
	assert.Equal(t, "two", a.Runs("mod"))
	w.waitReady(a, "m", true)

	w.kubectl("delete", "module", "m", "-n", "plugin")
	w.waitRuns(a, "mod", "")
}

// TestPluginOnly: without moduleLoader there is only the plugin, on the selector.
func TestPluginOnly(t *testing.T) {
	w := begin(t, "only")
	a := w.node("a")
	w.apply(document{name: "m", spec: []string{plugin("x.example/plugin:1")}})
	w.waitPods(a, "x.example/plugin:1")
	w.waitLabel(a, "only.m.device-plugin-ready", "")
	w.waitCondition("m", "Ready", "True/AllNodes")
	_, told := w.nmc(a)
	assert.False(t, told)
	w.kubectl("delete", "module", "m", "-n", "only")
	w.waitPods(a)
	w.wait("the label is gone", func() error {
		if l := w.labels(a); len(l) > 0 {
			return fmt.Errorf("%v", l)
		}
		return nil
	})
}

// TestPluginOutlivesModule: a Module that loads nothing any more is unloaded, and its plugin goes on.
func TestPluginOutlivesModule(t *testing.T) {
	w := begin(t, "outlives")
	a := w.node("a")
	image := w.Image("one", "mod")
	for _, version := range []string{"", "v1"} {
		name := "m" + version
		var container []string
		if version != "" {
			container = []string{"version: " + version}
			w.kubectl("label", "node", a.Name, "kmm.node.kubernetes.io/version-module.outlives."+name+"="+version)
		}
		w.apply(document{name: name, image: image, container: container, spec: []string{plugin("x.example/plugin:1")}})
		w.waitRuns(a, "mod", "one")
		w.waitPods(a, "x.example/plugin:1")
		a.Kill()
		w.apply(document{name: name, spec: []string{plugin("x.example/plugin:1")}})
		w.waitCondition(name, "Ready", "False/NotAllNodes", "1 node has not unloaded the module yet")
		a.Start()
		w.waitRuns(a, "mod", "")
		w.waitCondition(name, "Ready", "True/AllNodes")
		w.waitPods(a, "x.example/plugin:1")
		w.waitLabel(a, "outlives."+name+".device-plugin-ready", "")
		w.kubectl("delete", "module", name, "-n", "outlives")
		w.waitPods(a)
	}
}

// TestDRA: the driver's DaemonSet and its DeviceClasses, which nobody else's are
// touched for.
func TestDRA(t *testing.T) {
	w := begin(t, "dra")
	a := w.node("a")
	w.applyYAML("apiVersion: resource.k8s.io/v1\nkind: DeviceClass\nmetadata: {name: foreign.example}\nspec: {}\n")
	t.Cleanup(func() { w.kubectl("delete", "deviceclass", "foreign.example") })
	image := w.Image("one", "mod")
	dra := func(classes string) []string {
		return []string{"dra: {driverName: d.example, container: {image: 'x.example/dra:1'}, deviceClasses: [" + classes + "]}"}
	}
	const only = `device.driver == "d.example"`
	w.apply(document{name: "m", image: image, spec: dra("{name: one.example, selectors: [{cel: {expression: '" + only + "'}}]}, {name: two.example}")})
	w.waitPods(a, "x.example/dra:1")
	w.waitLabel(a, "dra.m.dra-ready", "")
	classes := func() string {
		return w.kubectl("get", "deviceclasses", "-l", v1beta1.ModuleNamespaceLabel+"=dra", "-o", "jsonpath={.items[*].metadata.name}")
	}
	waitClasses := func(want string) {
		t.Helper()
		w.wait("DeviceClasses "+want, func() error {
			if got := classes(); got != want {
				return fmt.Errorf("%s", got)
			}
			return nil
		})
	}
	waitClasses("one.example two.example")
	for name, change := range map[string][]string{
		"one is away":    {"delete", "deviceclass", "one.example"},
		"one is another": {"patch", "deviceclass", "one.example", "--type=merge", "-p", `{"spec":{"selectors":[{"cel":{"expression":"true"}}]}}`},
	} {
		w.kubectl(change...)
		w.wait(name+": what somebody does by hand is mended", func() error {
			got := w.kubectl("get", "deviceclass", "one.example", "--ignore-not-found", "-o", "jsonpath={.spec.selectors[*].cel.expression}")
			if got != only {
				return fmt.Errorf("it selects %q", got)
			}
			return nil
		})
	}
	w.apply(document{name: "m", image: image, spec: dra("{name: two.example}, {name: foreign.example}")})
	waitClasses("two.example")
	w.waitCondition("m", "Degraded", "True/PluginFailed", "foreign.example")
	w.kubectl("delete", "module", "m", "-n", "dra")
	waitClasses("")
	w.kubectl("get", "deviceclass", "foreign.example")
}

// TestOrderedUpgrade: nodes change when their version label does, one by one, and
// not before; the plugin leaves first and comes back.
func TestOrderedUpgrade(t *testing.T) {
	w := begin(t, "ordered")
	a, b := w.node("a"), w.node("b")
	const label = v1beta1.LabelPrefix + "version-module.ordered.m"
	version := func(v, image, pluginImage string) document {
		return document{name: "m", image: image, container: []string{"version: " + v}, spec: []string{plugin(pluginImage)}}
	}
	w.kubectl("label", "node", a.Name, label+"=v1")
	w.apply(version("v1", w.Image("one", "mod"), "x.example/plugin:1"))
	w.waitLabel(a, "ordered.m.version.ready", "v1")
	w.waitPods(a, "x.example/plugin:1")
	w.settled()
	assert.Empty(t, b.Runs("mod"), "no label, no module")
	w.kubectl("label", "node", b.Name, label+"=v1")
	w.waitLabel(b, "ordered.m.version.ready", "v1")
	w.waitPods(b, "x.example/plugin:1")

	w.apply(version("v2", w.Image("two", "mod"), "x.example/plugin:2"))
	w.settled()
	assert.Equal(t, "one", a.Runs("mod"), "the node's label still says v1")
	assert.Equal(t, "v1", w.labels(a)["ordered.m.version.ready"])

	w.player.Pause(a.Name)
	w.kubectl("label", "node", a.Name, label+"=v2", "--overwrite")
	w.waitReady(a, "m", false)
	w.settled()
	assert.Equal(t, "one", a.Runs("mod"), "the plugin has to leave first")
	w.player.Resume(a.Name)
	w.waitLabel(a, "ordered.m.version.ready", "v2")
	assert.Equal(t, "two", a.Runs("mod"))
	w.waitPods(a, "x.example/plugin:2")
	w.waitPods(b, "x.example/plugin:1")
	assert.Equal(t, "one", b.Runs("mod"))

	// A node of the old version that is started anew gets the old version again.
	b.Boot(fleet.Release, true)
	w.waitRuns(b, "mod", "one")
	w.waitLabel(b, "ordered.m.version.ready", "v1")

	w.kubectl("label", "node", b.Name, label+"-")
	w.waitRuns(b, "mod", "")
	w.waitPods(b)
	w.kubectl("label", "node", b.Name, label+"=v2")
	w.waitLabel(b, "ordered.m.version.ready", "v2")
	w.waitPods(b, "x.example/plugin:2")
	w.wait("the old DaemonSet is gone", func() error {
		if names := strings.Fields(w.kubectl("get", "ds", "-n", "ordered", "-o", "name")); len(names) != 1 {
			return fmt.Errorf("%v", names)
		}
		return nil
	})
}

// TestRollout: a broken image stops after as many failures as allowed, and a
// mended Module goes on.
func TestRollout(t *testing.T) {
	w := begin(t, "rollout")
	var machines []*fleet.Machine
	for i := range 6 {
		machines = append(machines, w.node(fmt.Sprint(i)))
	}
	rollout := []string{"rollout: {maxUnavailable: 2, pauseOnFailures: 2}"}
	one, broken, two := w.Image("one", "mod"), w.BrokenImage("broken"), w.Image("two", "mod")
	w.apply(document{name: "m", image: one, spec: rollout})
	for _, m := range machines {
		w.waitReady(m, "m", true)
	}
	w.apply(document{name: "m", image: broken, spec: rollout})
	w.waitCondition("m", "Progressing", "False/RolloutPaused", "2 nodes have failed; 4 nodes were not begun")
	w.waitCondition("m", "Degraded", "True/NoModules", machines[0].Name+": NoModules")
	w.settled()
	failed := 0
	for _, m := range machines {
		assert.Equal(t, "one", m.Runs("mod"), "nobody is without a driver")
		if s, _ := w.nodeStatus(m, "m"); s.State == v1beta1.StateFailed {
			failed++
		} else {
			assert.True(t, w.ready(m, "m"), m.Name)
		}
	}
	assert.Equal(t, 2, failed)

	w.apply(document{name: "m", image: two, spec: rollout})
	for _, m := range machines {
		w.waitRuns(m, "mod", "two")
		w.waitReady(m, "m", true)
	}
	w.waitCondition("m", "Ready", "True/AllNodes")
	w.waitCondition("m", "Progressing", "False/Complete")
}

// heldUp has two nodes run m, of an image "one", and then changes it to "two": a is off and has the only place, b waits.
func (w *world) heldUp() (a, b *fleet.Machine) {
	w.t.Helper()
	a, b = w.node("a"), w.node("b")
	rollout := []string{"rollout: {maxUnavailable: 1}"}
	w.apply(document{name: "m", image: w.Image("one", "mod"), spec: rollout})
	w.waitReady(a, "m", true)
	w.waitReady(b, "m", true)
	a.Kill()
	w.apply(document{name: "m", image: w.Image("two", "mod"), spec: rollout})
	w.wait("one changes, one waits", func() error {
		if message := w.waitCondition("m", "Progressing", "True/RollingOut"); message != "1 node is changing ("+a.Name+"), 1 waits" {
			return fmt.Errorf("%s", message)
		}
		return nil
	})
	return a, b
}

// TestOneAtATime: while one node is changing, no other one begins.
func TestOneAtATime(t *testing.T) {
	w := begin(t, "single")
	a, b := w.heldUp()
	assert.Equal(t, "one", b.Runs("mod"))
	a.Start()
	w.waitRuns(b, "mod", "two")
	w.waitReady(a, "m", true)
}

// TestOneAtATimeAfterALesserChange: nodes that have not answered yet to a change that reloads nothing do not all begin with the next one.
func TestOneAtATimeAfterALesserChange(t *testing.T) {
	w := begin(t, "lesser")
	a, b := w.node("a"), w.node("b")
	rollout := []string{"rollout: {maxUnavailable: 1}"}
	one, two := w.Image("one", "mod"), w.Image("two", "mod")
	w.apply(document{name: "m", image: one, spec: rollout})
	for _, m := range []*fleet.Machine{a, b} {
		w.waitReady(m, "m", true)
		m.Kill()
	}
	w.apply(document{name: "m", image: one, spec: rollout, container: []string{"imagePullPolicy: Never"}})
	for _, m := range []*fleet.Machine{a, b} {
		w.wait(m.Name+" is told", func() error {
			if nmc, ok := w.nmc(m); !ok || nmc.Spec.Modules[0].ModuleLoader.Container.ImagePullPolicy != "Never" {
				return fmt.Errorf("%v", nmc.Spec)
			}
			return nil
		})
		assert.True(t, w.ready(m, "m"))
	}
	w.apply(document{name: "m", image: two, spec: rollout})
	w.waitCondition("m", "Progressing", "True/RollingOut", "1 node is changing ("+a.Name+"), 1 waits")
	assert.True(t, w.ready(b, "m"))
	for _, m := range []*fleet.Machine{a, b} {
		m.Start()
		w.waitRuns(m, "mod", "two")
	}
	w.waitCondition("m", "Ready", "True/AllNodes")
}

// TestObjectGoneInARollout: a node whose object is made again, as after its Node was, keeps the driver whose turn has not come.
func TestObjectGoneInARollout(t *testing.T) {
	w := begin(t, "objectgone")
	a, b := w.heldUp()
	w.kubectl("delete", "nmc", b.Name)
	w.apply(document{name: "other", image: w.Image("one", "other"), module: "other"})
	w.waitReady(b, "other", true)
	assert.Equal(t, "one", b.Runs("mod"))
	a.Start()
	w.waitRuns(b, "mod", "two")
	w.waitReady(a, "m", true)
	w.waitReady(b, "m", true)
	nmc, ok := w.nmc(b)
	require.True(t, ok)
	assert.Empty(t, nmc.Spec.Held)
}
