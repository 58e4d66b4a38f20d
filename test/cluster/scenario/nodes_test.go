// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/test/cluster/fleet"
)

// TestNodeLabel: a node that gets the label gets the module, and loses it with
// the label.
func TestNodeLabel(t *testing.T) {
	w := begin(t, "label")
	a := w.node("a")
	w.kubectl("label", "node", a.Name, "world-")
	b := w.node("b")
	w.apply(document{name: "m", image: w.Image("one", "mod")})
	w.waitReady(b, "m", true)
	assert.Empty(t, a.Runs("mod"))

	w.kubectl("label", "node", a.Name, "world=label")
	w.waitReady(a, "m", true)
	w.waitCondition("m", "Ready", "True/AllNodes")

	w.kubectl("label", "node", a.Name, "world=other", "--overwrite")
	w.waitRuns(a, "mod", "")
	w.waitReady(a, "m", false)
	assert.Equal(t, "one", b.Runs("mod"))
}

// TestCordonAndTaints: what Kubernetes says of a node's state never matters; a
// taint of the administrator's keeps a Module away or takes it off.
func TestCordonAndTaints(t *testing.T) {
	w := begin(t, "taint")
	a := w.node("a")
	cordoned := w.node("cordoned")
	w.kubectl("cordon", cordoned.Name)
	kept := w.node("kept", corev1.Taint{Key: "dedicated", Value: "x", Effect: corev1.TaintEffectNoSchedule})
	image := w.Image("one", "mod")
	w.apply(document{name: "m", image: image})
	w.waitReady(a, "m", true)
	w.waitReady(cordoned, "m", true)
	_, told := w.nmc(kept)
	assert.False(t, told, "an untolerated taint keeps a new Module away")

	w.kubectl("cordon", a.Name)
	require.NoError(t, w.player.SetNodeReady(t.Context(), a.Name, false))
	w.kubectl("taint", "node", a.Name, "node.kubernetes.io/disk-pressure=:NoExecute")
	w.kubectl("taint", "node", a.Name, "dedicated=x:NoSchedule")
	w.wait("the node is seen as not ready", func() error {
		for _, taint := range w.getNode(a).Spec.Taints {
			if taint.Key == corev1.TaintNodeNotReady {
				return nil
			}
		}
		return fmt.Errorf("taints %v", w.getNode(a).Spec.Taints)
	})
	w.settled()
	assert.Equal(t, "one", a.Runs("mod"))
	assert.True(t, w.ready(a, "m"))

	w.apply(document{name: "m", image: image, spec: []string{"tolerations: [{key: dedicated, operator: Exists}]"}})
	w.waitReady(kept, "m", true)

	w.apply(document{name: "m", image: image})
	w.settled()
	assert.Equal(t, "one", kept.Runs("mod"), "NoSchedule takes nothing off")

	w.kubectl("taint", "node", kept.Name, "evict=now:NoExecute")
	w.waitRuns(kept, "mod", "")
	assert.Equal(t, "one", a.Runs("mod"))
}

// TestReboot: the label goes with the boot, and comes back only with the module.
func TestReboot(t *testing.T) {
	w := begin(t, "reboot")
	a := w.node("a")
	w.apply(document{name: "m", image: w.Image("one", "mod")})
	w.waitReady(a, "m", true)

	a.Boot(fleet.Release, false)
	w.waitReady(a, "m", false)
	w.waitCondition("m", "Ready", "False/NotAllNodes")
	a.Start()
	w.waitReady(a, "m", true)
	assert.Equal(t, "one", a.Runs("mod"))
	nmc, _ := w.nmc(a)
	assert.Equal(t, a.Kernel.BootID(), nmc.Status.BootID)

	t.Run("into another kernel", func(t *testing.T) {
		a.Boot(fleet.OtherRelease, true)
		w.waitRuns(a, "mod", "one")
		w.wait("the new kernel is reported", func() error {
			nmc, _ := w.nmc(a)
			if nmc.Status.KernelRelease != fleet.OtherRelease {
				return fmt.Errorf("it is %s", nmc.Status.KernelRelease)
			}
			return nil
		})
		w.waitReady(a, "m", true)
	})
	t.Run("into one without a mapping", func(t *testing.T) {
		a.Boot("5.10.0-1-amd64", true)
		w.waitStatus(a, "m", "Failed/NoMapping")
		w.waitReady(a, "m", false)
		w.waitCondition("m", "Ready", "False/NoNodes", "1 node has a kernel that no kernelMapping matches")
		w.waitCondition("m", "Degraded", "False/NoFailures")
	})
}

// TestNodeGone: a node that is deleted takes its NodeModulesConfig along, and
// blocks no Module. One of that name that comes back starts anew.
func TestNodeGone(t *testing.T) {
	w := begin(t, "gone")
	a, b := w.node("a"), w.node("b")
	image := w.Image("one", "mod")
	w.apply(document{name: "m", image: image})
	w.waitReady(a, "m", true)
	w.waitReady(b, "m", true)

	old, _ := w.nmc(a)
	w.takeAway(a)
	w.waitCondition("m", "Ready", "True/AllNodes")

	// Reset: a machine of the same name, installed anew.
	a.Wipe()
	a.Join(map[string]string{"world": "gone"})
	w.waitReady(a, "m", true)
	nmc, _ := w.nmc(a)
	assert.NotEqual(t, old.UID, nmc.UID)

	// Gone for ever, while the Module is being deleted.
	a.Kill()
	w.kubectl("delete", "module", "m", "-n", "gone", "--wait=false")
	w.waitCondition("m", "Progressing", "True/Unloading", a.Name)
	w.waitRuns(b, "mod", "")
	w.kubectl("delete", "node", a.Name)
	w.waitGone("m")
}

// TestResetUnblocks: a machine that was started anew has no modules, whatever it
// said before.
func TestResetUnblocks(t *testing.T) {
	w := begin(t, "reset")
	a := w.node("a")
	w.apply(document{name: "m", image: w.Image("one", "mod")})
	w.waitReady(a, "m", true)
	a.Kill()
	w.kubectl("delete", "module", "m", "-n", "reset", "--wait=false")
	w.waitCondition("m", "Progressing", "True/Unloading", a.Name)
	a.Boot(fleet.Release, false) // and its agent never comes back
	w.waitGone("m")
}

// TestStuck: a module that is held is named with what holds it.
func TestStuck(t *testing.T) {
	w := begin(t, "stuck")
	a := w.node("a")
	w.apply(document{name: "m", image: w.Image("one", "mod")})
	w.waitReady(a, "m", true)
	a.Kernel.Hold("mod", 1)
	w.kubectl("delete", "module", "m", "-n", "stuck", "--wait=false")
	w.waitCondition("m", "Degraded", "True/UnloadFailed", a.Name+": InUse")
	assert.False(t, w.ready(a, "m"), "the label went before")
	w.waitEvent("default", "Node", a.Name, "ModuleUnloadFailed", "")
	a.Kernel.Hold("mod", -1)
	w.waitGone("m")
}

// settled waits until the watcher has seen all that was done so far: a Module
// that is made now has been handed out.
func (w *world) settled() {
	w.t.Helper()
	const name = "marker"
	w.applyYAML(fmt.Sprintf("apiVersion: kmm.sigs.x-k8s.io/v1beta1\nkind: Module\nmetadata: {name: %s, namespace: %s}\nspec:\n  selector: {no: node}\n  moduleLoader: {container: {modprobe: {moduleName: x}, kernelMappings: [{regexp: ., containerImage: 'x.example/x:1'}]}}\n", name, w.namespace))
	w.waitCondition(name, "Ready", "False/NoNodes")
	w.kubectl("delete", "module", name, "-n", w.namespace)
	list, err := w.api.Modules(w.namespace).List(w.t.Context(), metav1.ListOptions{})
	require.NoError(w.t, err)
	for i := range list.Items {
		require.NotEqual(w.t, name, list.Items[i].Name)
	}
}
