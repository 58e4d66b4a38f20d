// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/play"
	"github.com/kmm-node/kmmd/test/monitoring/machine"
	"github.com/kmm-node/kmmd/test/monitoring/prom"
)

const modules = `
apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: broken, namespace: drivers}
spec:
  selector: {watched: "yes"}
  rollout: {maxUnavailable: 1}
  moduleLoader:
    container:
      modprobe: {moduleName: dummy}
      kernelMappings: [{regexp: '^6', containerImage: '127.0.0.1:1/driver:1'}]
---
apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: made, namespace: drivers}
spec:
  selector: {watched: "yes"}
  moduleLoader:
    container:
      modprobe: {moduleName: dummy}
      build: {dockerfileConfigMap: {name: dockerfile}}
      kernelMappings: [{regexp: '^6', containerImage: '127.0.0.1:1/made:1'}]
`

// startWatcher runs a replica, and returns it with the address of its metrics.
func startWatcher(t *testing.T, name string) (*lab.Program, string) {
	t.Helper()
	address := prom.FreeAddress(t)
	w, err := cluster.StartWatcher(t.Context(), name, "--listen", address)
	require.NoError(t, err)
	t.Cleanup(w.Kill)
	return w, address
}

// startNode makes two nodes. One of them has a kmmd, which is its order's.
func startNode(t *testing.T) *machine.Machine {
	t.Helper()
	player := play.Start(t, cluster.Config())
	for _, name := range []string{"worker-1", "worker-2"} {
		require.NoError(t, player.AddNodes(t.Context(), play.Node{
			Name: name, Kernel: machine.Release, BootID: machine.BootID, Labels: map[string]string{"watched": "yes"},
		}))
	}
	identity, err := cluster.ServiceAccount(t.Context(), "kmm-system", "kmmd", "worker-1")
	require.NoError(t, err)
	kubeconfig, err := lab.Kubeconfig(identity, fmt.Sprintf("https://127.0.0.1:%d", cluster.Port()))
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(path, kubeconfig, 0o600))
	return machine.Start(t, fmt.Sprintf("[cluster]\nenabled = true\nnode_name = \"worker-1\"\nkubeconfig = %q\n", path))
}

// one requires that an expression has one sample, and returns its instance.
func one(t *testing.T, p *prom.Server, expr string) (instance string) {
	t.Helper()
	require.Eventually(t, func() bool {
		samples, err := p.Query(expr)
		if err != nil || len(samples) != 1 {
			return false
		}
		instance = samples[0].Metric["instance"]
		return true
	}, prom.Patience, prom.Tick, expr)
	return instance
}

// TestAlerts: what a person asks for and can not work is heard, from the node and
// from the cluster, by the names of the Module; it ends with its cause.
func TestAlerts(t *testing.T) {
	first, firstAt := startWatcher(t, "first")
	m := startNode(t)
	repository := filepath.Join("..", "..", "..")
	labDir := filepath.Join(os.Getenv("KMMD_CLUSTER"), "..", "..")
	pod := map[string]string{"namespace": "kmm-system"}
	secondAt := prom.FreeAddress(t)
	p := prom.Start(t, labDir, filepath.Join(repository, "deploy/monitoring/rules.yaml"),
		prom.Target{Job: "kmmd", Address: m.Address, Labels: pod},
		prom.Target{Job: "kmm-watcher", Address: firstAt, Labels: pod}, prom.Target{Job: "kmm-watcher", Address: secondAt, Labels: pod})
	assert.Equal(t, firstAt, one(t, p, "kmm_watcher_leader == 1"))
	for _, name := range []string{"KmmModuleNodesFailed", "KmmRolloutPaused", "KmmImageNotMade", "KmmWatcherIdle"} {
		assert.Empty(t, p.Firing(name), name)
	}

	cluster.Kubectl(t, "create", "namespace", "drivers")
	cluster.Kubectl(t, "create", "configmap", "dockerfile", "-n", "drivers", "--from-literal=dockerfile=FROM scratch")
	cluster.KubectlInput(t, modules, "apply", "-f", "-")
	for name, module := range map[string]string{
		"KmmdModuleFailed": "broken", "KmmModuleNodesFailed": "broken", "KmmRolloutPaused": "broken", "KmmImageNotMade": "made",
	} {
		a := p.Wait(name)
		require.Len(t, a, 1, name)
		assert.Equal(t, "drivers/"+module, a[0].Labels["namespace"]+"/"+a[0].Labels["name"], name)
	}
	one(t, p, `kmmd_module_state{namespace="drivers", name="made", state="Building"} == 1`)
	one(t, p, `kmm_watcher_registry_lookups_total{result="failed"} > 0`)

	// Another replica takes over, and counts alone.
	cmd, err := cluster.StartWatcher(t.Context(), "second", "--listen", secondAt)
	require.NoError(t, err)
	t.Cleanup(cmd.Kill)
	one(t, p, fmt.Sprintf(`kmm_watcher_leader{instance=%q} == 0`, secondAt))
	assert.Equal(t, firstAt, one(t, p, `kmm_watcher_module_nodes{name="broken", state="failed"} == 1`))
	first.Stop()
	one(t, p, fmt.Sprintf(`kmm_watcher_module_nodes{instance=%q, name="broken", state="failed"} == 1`, secondAt))
	one(t, p, `kmm_watcher_module_nodes{name="broken", state="failed"}`)

	cluster.Kubectl(t, "delete", "modules", "--all", "-n", "drivers", "--wait=false")
	for _, name := range []string{"KmmdModuleFailed", "KmmModuleNodesFailed", "KmmRolloutPaused", "KmmImageNotMade"} {
		p.WaitEnd(name)
	}
	cmd.Stop()
	p.Wait("KmmWatcherDown")
}

// TestKustomization: what is applied has the rules, what is scraped, and the
// dashboard where Grafana looks for it.
func TestKustomization(t *testing.T) {
	out := cluster.Kubectl(t, "kustomize", "deploy/monitoring")
	for _, part := range []string{
		"kind: PrometheusRule\n", "kind: PodMonitor\n", "kind: ConfigMap\n", "  name: kmmd-dashboard\n", `grafana_dashboard: "1"`,
		"alert: KmmdModuleFailed", "namespace: kmm-system",
	} {
		assert.Contains(t, out, part)
	}
}

// TestRequireAccess: where a token is asked for, kmm-watcher is scraped with one,
// and kmmd as ever.
func TestRequireAccess(t *testing.T) {
	out := cluster.Kubectl(t, "kustomize", lab.Overlay(t, "../../..", "deploy/monitoring", "deploy/monitoring/require-access"))
	assert.Equal(t, 1, strings.Count(out, "scheme: https\n"))
	_, watcher, found := strings.Cut(out, "kind: PodMonitor\nmetadata:\n  labels:\n    app.kubernetes.io/part-of: kmmd\n  name: kmm-watcher\n")
	require.True(t, found)
	assert.Contains(t, watcher, "      credentials:\n        key: token\n        name: kmm-metrics-token\n")

	cluster.Kubectl(t, "apply", "-f", "deploy/components/require-access/access.yaml", "-f", "deploy/monitoring/require-access/access.yaml")
	who := "--as=system:serviceaccount:kmm-system:kmm-metrics"
	lab.Wait(t, "the right is known", func() error {
		_, err := cluster.Run(t.Context(), "", "auth", "can-i", "get", "/metrics", who)
		return err
	})
	_, err := cluster.Run(t.Context(), "", "auth", "can-i", "get", "/version/secret", who)
	assert.Error(t, err)
}
