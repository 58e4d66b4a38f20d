// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"strings"
	"testing"

	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/debian"
	"github.com/kmm-node/kmmd/test/e2e/worker"
)

// world is two nodes, one of which gets the driver.
type world struct {
	report
	overlay  overlay
	releases []string // of kernels, the older one first
	one, two *worker.Worker
}

// TestNodes is the life of kmmd in a cluster.
func TestNodes(t *testing.T) {
	w := &world{report: report{t: t}, overlay: newOverlay(t)}
	w.hidden = w.overlay.dir
	_, w.releases = debian.Kernels(t)
	t.Cleanup(w.tell)
	w.booted()
	w.installed()
	w.replaced()
	w.plugged()
	w.claimed()
	w.asked()
	w.healed()
	w.handedOver()
	w.withComponents()
	w.rebooted()
	w.deleted()
	w.uninstalled()
	w.write()
}

// tell shows what the cluster knows, for a test that failed.
func (w *world) tell() {
	if !w.t.Failed() {
		return
	}
	for _, what := range [][]string{
		{"get", "pods", "-A", "-o", "wide"}, {"get", "events", "-A"}, {"get", "nodes", "-o", "wide", "--show-labels"}, {"describe", "pods", "-A"},
		{"get", "modules", "-A", "-o", "yaml"}, {"get", "nmc", "-o", "yaml"},
		{"logs", "-n", "kmm-system", "-l", "app.kubernetes.io/name=kmmd", "--tail=50", "--prefix"},
		{"logs", "-n", "kmm-system", "-l", "app.kubernetes.io/name=kmm-watcher", "--tail=50", "--prefix"},
	} {
		out, err := cluster.Run(context.WithoutCancel(w.t.Context()), "", what...)
		w.t.Logf("--- %s\n%s%v", strings.Join(what, " "), out, err)
	}
}

// wait waits for something in the cluster.
func (w *world) wait(what string, check func() error) {
	w.t.Helper()
	lab.WaitFor(w.t, patience, what, check)
}

// rolledOut waits until all pods of a workload are as it says now, and Ready.
func (w *world) rolledOut(namespace string, workloads ...string) {
	w.t.Helper()
	w.ask(append([]string{"rollout", "status", "--timeout=15m", "-n", namespace}, workloads...)...)
}
