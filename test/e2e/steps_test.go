// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/e2e/worker"
)

// booted: two nodes, on which the kernel's own driver is loaded.
func (w *world) booted() {
	w.step("Nodes boot, and are Ready")
	port := startRegistry(w.t, w.releases)
	w.one = worker.New(w.t, cluster, worker.Options{Name: "worker-1", Address: "10.0.2.15", Pods: "10.244.1.0/24", Registry: port})
	w.two = worker.New(w.t, cluster, worker.Options{Name: "worker-2", Address: "10.0.2.16", Pods: "10.244.2.0/24", Registry: port})
	w.one.Boot(w.releases[0])
	w.two.Boot(w.releases[1])
	w.one.WaitShell()
	w.two.WaitShell()
	w.wait("the nodes register", func() error {
		_, err := cluster.Run(w.t.Context(), "", "get", "node", "worker-1", "worker-2")
		return err
	})
	w.ask("wait", "--for=condition=Ready", "--timeout=15m", "node", "--all")
	w.kubectl("get", "nodes", "-o", "wide")
	w.runsInTree(w.one, w.releases[0])
	w.runsInTree(w.two, w.releases[1])
}

// installed: what ships, as it ships, with the rights that it asks for and no
// more.
func (w *world) installed() {
	w.step("Install")
	w.overlay.set(w.t, version(w.t, "kmmd"))
	w.kubectl("apply", "--server-side", "-k", w.overlay.dir)
	w.rolledOut("kmm-system", "daemonset/kmmd", "deployment/kmm-watcher")
	w.kubectl("get", "pods", "-n", "kmm-system", "-o", "wide")
	for _, node := range []*worker.Worker{w.one, w.two} {
		kmmd, watcher := rights(node, "kmmd"), rights(node, "kmm-watcher")
		w.print("# %s: kmmd:        %s\n# %[1]s: kmm-watcher: %[3]s", node.Name(), kmmd, watcher)
		assert.Equal(w.t, "user 0, capabilities 00000004000b1004, seccomp 2, no new privileges 1, AppArmor unconfined, network of its own", kmmd)
		assert.Equal(w.t, "user 65532, capabilities 0000000000000000, seccomp 2, no new privileges 1, AppArmor cri-containerd.apparmor.d (enforce), network of its own", watcher)
	}
}

// rights is what the kernel says of a program of a node.
func rights(node *worker.Worker, program string) string {
	return node.Run(`pid=$(pgrep -ox ` + program + `) || exit
field() { awk -v field="$1:" '$1 == field { print $2 }' "/proc/$pid/status"; }
network="of its own"
[ "$(readlink /proc/1/ns/net)" != "$(readlink "/proc/$pid/ns/net")" ] || network="of the node"
echo "user $(field Uid), capabilities $(field CapBnd), seccomp $(field Seccomp), no new privileges $(field NoNewPrivs)," \
	"AppArmor $(tr -d '\0' </proc/$pid/attr/current), network $network"`)
}

// replaced: a Module replaces the driver of the kernel on the node that it selects.
func (w *world) replaced() {
	w.step("Replace the driver of the kernel")
	w.kubectl("create", "namespace", "drivers")
	w.kubectl("apply", "-f", "test/e2e/testdata/module.yaml")
	w.kubectl("label", "node", "worker-1", "driver=dummy")
	w.ask("wait", "--for=condition=Ready", "--timeout=15m", "-n", "drivers", "module/dummy")
	w.wait("one node has it", func() error {
		if desired := w.ask("get", "module", "dummy", "-n", "drivers", "-o", "jsonpath={.status.moduleLoader.desiredNumber}"); desired != "1" {
			return fmt.Errorf("%s have", desired)
		}
		return nil
	})
	w.ask("wait", "--for=condition=Ready", "--timeout=15m", "-n", "drivers", "module/dummy")
	w.kubectl("get", "modules", "-n", "drivers")
	w.kubectl("get", "nmc")
	w.kubectl("get", "nodes", "-L", "kmm.node.kubernetes.io/drivers.dummy.ready")
	w.labelled("kmm.node.kubernetes.io/drivers.dummy.ready", "worker-1")
	w.runsOurs(w.one, w.releases[0])
	w.runsInTree(w.two, w.releases[1])
}

// labelled requires that these nodes have a label, and no others.
func (w *world) labelled(label string, nodes ...string) {
	w.t.Helper()
	assert.ElementsMatch(w.t, nodes, strings.Fields(w.ask("get", "nodes", "-l", label, "-o", "jsonpath={.items[*].metadata.name}")))
}

// plugged: the device plugin runs there, and a workload gets a device.
func (w *world) plugged() {
	w.step("A device plugin, and a workload that needs it")
	w.rolledOut("drivers", "daemonset/dummy-device-plugin")
	w.kubectl("apply", "-f", "test/e2e/testdata/workload.yaml")
	w.rolledOut("drivers", "deployment/workload")
	w.works(w.releases[0])
}

// works requires that plugin and workload are on the one node, with our driver.
func (w *world) works(release string) {
	w.t.Helper()
	w.kubectl("get", "pods", "-n", "drivers", "-o", "wide")
	assert.Equal(w.t, []string{"worker-1", "worker-1"},
		strings.Fields(w.ask("get", "pods", "-n", "drivers", "--field-selector=status.phase=Running", "-o", "jsonpath={.items[*].spec.nodeName}")))
	w.labelled("kmm.node.kubernetes.io/drivers.dummy.device-plugin-ready", "worker-1")
	w.kubectl("get", "nodes", "-o", `custom-columns=NODE:.metadata.name,DEVICES:.status.allocatable.lab\.example/dummy`)
	assert.Equal(w.t, "2", w.devices("worker-1"))
	assert.Empty(w.t, w.devices("worker-2"))
	said := w.show("logs", "-n", "drivers", "deployment/workload")
	assert.Regexp(w.t, "works with dummy[01] of build "+buildOf(w.t, release, "dummy"), said)
}

// devices are how many a node offers.
func (w *world) devices(node string) string {
	return w.ask("get", "node", node, "-o", `jsonpath={.status.allocatable.lab\.example/dummy}`)
}

// asked: what a person may want to know.
func (w *world) asked() {
	w.step("Ask the node")
	pod := w.agents("worker-1")[0].name
	const config = "--config=/etc/kmmd/config/kmmd.toml"
	w.show("exec", "-n", "kmm-system", pod, "--", "kmmd", "status", config)
	w.show("exec", "-n", "kmm-system", pod, "--", "kmmd", "plan", config)
	w.show("logs", "-n", "kmm-system", pod)
	bundle := w.reach("exec", "-n", "kmm-system", pod, "--", "kmmd", "bundle", config, "--to", "-")
	assert.Equal(w.t, "\x1f\x8b", bundle[:min(2, len(bundle))], "a bundle is compressed by gzip")
	described := w.ask("describe", "node", "worker-1")
	assert.Regexp(w.t, `ModuleLoaded .*drivers/dummy`, described)
	for line := range strings.Lines(described) {
		if strings.Contains(line, "ModuleLoaded") {
			w.print("$ kubectl describe node worker-1\n%s", line)
		}
	}
}

// agent is a pod of the DaemonSet.
type agent struct{ name, image, ready, restarts string }

// agents of a node, which are two while one takes over from the other.
func (w *world) agents(node string) []agent {
	w.t.Helper()
	out := w.ask("get", "pods", "-n", "kmm-system", "-l", "app.kubernetes.io/name=kmmd", "--field-selector=spec.nodeName="+node, "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.spec.containers[0].image} {.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}{"\n"}{end}`)
	var agents []agent
	for line := range strings.Lines(out) {
		f := append(strings.Fields(line), "", "", "", "")
		agents = append(agents, agent{f[0], f[1], f[2], f[3]})
	}
	return agents
}

// healed: somebody unloads the driver on the node.
func (w *world) healed() {
	w.step("Somebody unloads the driver")
	before := look(w.one)
	w.print("# worker-1: rmmod dummy")
	w.one.Run("rmmod dummy")
	w.wait("it is loaded again", func() error {
		if d := look(w.one); d.build != before.build {
			return fmt.Errorf("it runs %v", d)
		}
		return nil
	})
	assert.NotEqual(w.t, before.load, w.runsOurs(w.one, w.releases[0]).load)
}

// handedOver: another image of kmmd, by a rolling update of the DaemonSet. The new
// one is ready before the old one goes, and the driver does not notice.
func (w *world) handedOver() {
	w.step("Another image of kmmd")
	before := w.drivers()
	w.overlay.set(w.t, nextTag)
	w.ask("apply", "--server-side", "-k", w.overlay.dir)
	w.print("$ kubectl apply --server-side -k overlay")
	both := false
	w.wait("the new pod has taken over", func() error {
		now := w.agents("worker-1")
		ready := slices.ContainsFunc(now, func(a agent) bool { return a.ready == "true" })
		require.True(w.t, ready, "at all times one of them is ready: %v", now)
		both = both || len(now) == 2
		if len(now) != 1 || !strings.HasSuffix(now[0].image, ":"+nextTag) {
			return fmt.Errorf("there are %v", now)
		}
		return nil
	})
	assert.True(w.t, both, "for a while there were two")
	w.rolledOut("kmm-system", "daemonset/kmmd")
	w.kubectl("get", "pods", "-n", "kmm-system", "-l", "app.kubernetes.io/name=kmmd", "-o", "wide")
	assert.Contains(w.t, w.show("logs", "-n", "kmm-system", w.agents("worker-1")[0].name), "ready to take over")
	w.untouched(before)
	w.labelled("kmm.node.kubernetes.io/drivers.dummy.ready", "worker-1")
}

// drivers of both nodes.
func (w *world) drivers() []driverOf { return []driverOf{look(w.one), look(w.two)} }

// untouched requires that they are those of before, and of the same load.
func (w *world) untouched(before []driverOf) {
	w.t.Helper()
	after := w.drivers()
	assert.Equal(w.t, before, after)
	w.print("# worker-1, worker-2: the drivers are those of before, and were not loaded again")
}

// withComponents: kmmd in the network of the node, kmm-watcher by HTTPS.
func (w *world) withComponents() {
	w.step("Components host-network, require-access, status-page")
	before := w.drivers()
	w.overlay.set(w.t, nextTag, "host-network", "require-access", "status-page")
	w.ask("apply", "--server-side", "-k", w.overlay.dir)
	w.print("$ kubectl apply --server-side -k overlay")
	w.rolledOut("kmm-system", "daemonset/kmmd", "deployment/kmm-watcher")
	w.kubectl("get", "pods", "-n", "kmm-system", "-o", "wide")
	kmmd := rights(w.one, "kmmd")
	w.print("# worker-1: kmmd: %s", kmmd)
	assert.Contains(w.t, kmmd, "network of the node")
	w.untouched(before)
}
