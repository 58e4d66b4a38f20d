// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/e2e/worker"
)

// rebooted: the node is shut down and boots into another kernel, for which the
// Module has another image. Nobody has to do anything.
func (w *world) rebooted() {
	w.step("The node boots into another kernel")
	before := w.bootID()
	w.one.PowerOff()
	w.one.Boot(w.releases[1])
	w.one.WaitShell()
	w.wait("the node tells of its boot", func() error {
		if now := w.bootID(); now == before {
			return fmt.Errorf("it is still %s", now)
		}
		return nil
	})
	w.ask("wait", "--for=condition=Ready", "--timeout=15m", "node", "worker-1")
	w.wait("the driver for this kernel is loaded", func() error {
		if d := look(w.one); d.build != buildOf(w.t, w.releases[1], "dummy") {
			return fmt.Errorf("it runs %v", d)
		}
		return nil
	})
	w.ask("wait", "--for=jsonpath={.metadata.labels.kmm\\.node\\.kubernetes\\.io/drivers\\.dummy\\.ready}", "--timeout=15m", "node", "worker-1")
	w.rolledOut("drivers", "daemonset/dummy-device-plugin", "deployment/workload")
	w.runsOurs(w.one, w.releases[1])
	w.kubectl("get", "nmc")
	w.works(w.releases[1])
}

func (w *world) bootID() string {
	return w.ask("get", "node", "worker-1", "-o", "jsonpath={.status.nodeInfo.bootID}")
}

// deleted: the Module goes, and all that came with it.
func (w *world) deleted() {
	w.step("Delete the Module")
	w.kubectl("delete", "-f", "test/e2e/testdata/workload.yaml")
	w.kubectl("delete", "--timeout=15m", "-f", "test/e2e/testdata/module.yaml")
	d := look(w.one)
	assert.Empty(w.t, d)
	w.print("# worker-1: no dummy is loaded; files in /var/lib/firmware: %s", w.one.Run("find /var/lib/firmware -type f | wc -l"))
	assert.Equal(w.t, "0", w.one.Run("find /var/lib/firmware -type f | wc -l"))
	assert.NotContains(w.t, w.ask("get", "nodes", "--show-labels"), "kmm.node.kubernetes.io/")
	w.wait("the plugin has gone", func() error {
		if pods := w.ask("get", "pods,daemonsets", "-n", "drivers", "-o", "name"); pods != "" {
			return fmt.Errorf("there is %s", pods)
		}
		return nil
	})
	w.kubectl("get", "daemonsets,pods", "-n", "drivers")
	w.kubectl("get", "nodes", "--show-labels")
	w.runsInTree(w.two, w.releases[1])
}

// uninstalled: nothing of it is left but what the nodes keep on their disks.
func (w *world) uninstalled() {
	w.step("Uninstall")
	for node, starts := range map[string]string{"worker-1": "1", "worker-2": "0"} { // worker-1 has booted again
		for _, a := range w.agents(node) {
			assert.Equal(w.t, starts, a.restarts, "%s was started again by a boot only", a.name)
		}
	}
	w.allowed()
	w.ask("delete", "--timeout=15m", "-k", w.overlay.dir)
	w.print("$ kubectl delete -k overlay")
	for _, node := range []*worker.Worker{w.one, w.two} {
		w.wait(node.Name()+" runs none of it", func() error {
			if out := node.Run("pgrep -x kmmd; pgrep -x kmm-watcher; true"); out != "" {
				return fmt.Errorf("there is %s", out)
			}
			return nil
		})
	}
	assert.Empty(w.t, w.ask("get", "namespaces,clusterroles,crds,validatingadmissionpolicies", "-o", "name", "-l", "app.kubernetes.io/part-of=kmmd"))
	w.runsInTree(w.two, w.releases[1])
}

// allowed requires that the API server has let kmmd and kmm-watcher do all that they
// tried.
func (w *world) allowed() {
	w.t.Helper()
	requests, err := cluster.Requests(w.t.Context(), 0)
	require.NoError(w.t, err)
	count := map[string]int{}
	for _, r := range requests {
		if account, ok := strings.CutPrefix(r.User, "system:serviceaccount:kmm-system:"); ok {
			count[account]++
			assert.NotContains(w.t, []int{http.StatusUnauthorized, http.StatusForbidden}, r.Code, "%+v", r)
		}
	}
	w.print("# requests to the API server, none of them forbidden: kmmd %d, kmm-watcher %d", count["kmmd"], count["kmm-watcher"])
	assert.NotZero(w.t, count["kmmd"])
	assert.NotZero(w.t, count["kmm-watcher"])
}

// runsInTree requires that a node runs the driver of its kernel.
func (w *world) runsInTree(node *worker.Worker, release string) {
	w.t.Helper()
	d := look(node)
	assert.Equal(w.t, inTreeBuild(w.t, release), d.build)
	assert.Empty(w.t, d.taint)
	w.print("# %s: dummy of the kernel is loaded: build-id %s, taint %q", node.Name(), d.build, d.taint)
}

// runsOurs requires that a node runs the driver of the image.
func (w *world) runsOurs(node *worker.Worker, release string) driverOf {
	w.t.Helper()
	d := look(node)
	assert.Equal(w.t, buildOf(w.t, release, "dummy"), d.build)
	assert.True(w.t, strings.HasPrefix(d.taint, "O"), d.taint)
	assert.Equal(w.t, "2", d.parameter)
	assert.Equal(w.t, "for "+release, node.Run("cat /var/lib/firmware/dummy.bin"))
	w.print("# %s: dummy of the image is loaded: build-id %s, taint %q, numdummies %s", node.Name(), d.build, d.taint, d.parameter)
	return d
}
