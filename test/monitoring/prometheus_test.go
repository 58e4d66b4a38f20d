// SPDX-License-Identifier: Apache-2.0

package monitoring_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/docs"
	"github.com/kmm-node/kmmd/test/monitoring/machine"
	"github.com/kmm-node/kmmd/test/monitoring/prom"
)

// lab is where test/vm/setup has put Prometheus.
func lab(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("KMMD_LAB")
	if dir == "" {
		t.Skip("KMMD_LAB does not name a lab; make unit does, after make setup-vm")
	}
	return dir
}

func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), prom.Tool(t, lab(t), "promtool"), args...)
	cmd.Stdin, cmd.Dir = strings.NewReader(stdin), deploy
	out, err := cmd.CombinedOutput()
	assert.NoError(t, err, "%s", out)
}

func TestPromtool(t *testing.T) {
	promtool(t, "", "test", "rules", "rules-test.yaml")
}

// TestCommands: what the page says of promtool is done.
func TestCommands(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	shell, err := docs.NewShell(root, "PATH="+filepath.Dir(prom.Tool(t, lab(t), "promtool"))+":"+os.Getenv("PATH"))
	require.NoError(t, err)
	defer shell.Close()
	r := docs.Reader{Shell: shell, Root: root, Dir: root}
	for _, path := range docs.Labs()["monitoring"].Pages {
		r.Read(t, path, "monitoring")
	}
}

// TestScrapeConfig: Debian's Prometheus is built without the part that asks a
// cluster for its pods, so that is taken out.
func TestScrapeConfig(t *testing.T) {
	text := readFile(t, filepath.Join(deploy, "prometheus.yaml"))
	discovery := regexp.MustCompile(`(?m)^  kubernetes_sd_configs:\n  - role: pod\n    namespaces: .*\n`)
	require.Len(t, discovery.FindAllString(text, -1), 2)
	path := filepath.Join(t.TempDir(), "prometheus.yaml")
	require.NoError(t, os.WriteFile(path, []byte(discovery.ReplaceAllString(text, "")), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(path), "rules.yaml"), []byte(readFile(t, filepath.Join(deploy, "rules.yaml"))), 0o600))
	promtool(t, "", "check", "config", path)
}

// TestSchemas: Grafana and the Prometheus operator know all fields, and miss none.
func TestSchemas(t *testing.T) {
	lab(t) // its libraries are fetched the first time
	dir, err := filepath.Abs(deploy)
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), "go", "-C", "schema", "run", ".", dir).CombinedOutput()
	assert.NoError(t, err, "%s", out)
}

const brokenModule = `
apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: broken, namespace: drivers}
spec:
  moduleLoader:
    container:
      containerImage: 127.0.0.1:1/driver:1
      kernelMappings: [{regexp: .}]
      modprobe: {moduleName: dummy}
`

// TestAlertsOfANode: a real kmmd is told to load what can not be had, a real
// Prometheus scrapes it, and the alert is there with what a person needs; it ends
// when the cause is gone.
func TestAlertsOfANode(t *testing.T) {
	dir := lab(t)
	m := machine.Start(t, "")
	promtool(t, m.Scrape(), "check", "metrics")
	gone := prom.FreeAddress(t)
	p := prom.Start(t, dir, filepath.Join(deploy, "rules.yaml"),
		prom.Target{Job: "kmmd", Address: m.Address, Labels: map[string]string{"namespace": "kmm-system", "pod": "kmmd-x7v5q", "node": "worker-1"}},
		prom.Target{Job: "kmmd", Address: gone})
	assert.Equal(t, gone, p.Wait("KmmdDown")[0].Labels["instance"])
	assert.Empty(t, p.Firing("KmmdModuleFailed"))

	m.Put("broken.yaml", brokenModule)
	alerts := p.Wait("KmmdModuleFailed")
	require.Len(t, alerts, 1)
	assert.Equal(t, map[string]string{
		"alertname": "KmmdModuleFailed", "severity": "warning", "state": "Failed", "namespace": "drivers", "name": "broken",
		"job": "kmmd", "instance": m.Address, "pod": "kmmd-x7v5q", "node": "worker-1",
	}, alerts[0].Labels)
	assert.Contains(t, alerts[0].Annotations["description"], "drivers/broken on "+m.Address+" can not be loaded: ImageUnreachable.")

	m.Put("half.yaml", strings.Replace(brokenModule, "modprobe:", "mod", 1))
	p.Wait("KmmdInvalidDocuments")
	m.Remove("half.yaml")
	m.Remove("broken.yaml")
	p.WaitEnd("KmmdInvalidDocuments")
	p.WaitEnd("KmmdModuleFailed")
	checkExpressions(t, p)
	count, err := p.Query(`count({job="kmmd", __name__!~"ALERTS.*"})`)
	require.NoError(t, err)
	t.Logf("series of a node: %v", count)
}

// checkExpressions: Prometheus takes what the dashboard and the pages ask.
func checkExpressions(t *testing.T, p *prom.Server) {
	t.Helper()
	ask := func(where, expr string) {
		_, err := p.Query(expr)
		assert.NoError(t, err, "%s: %s", where, expr)
	}
	variables := strings.NewReplacer("$__rate_interval", "1m", "$namespace", ".*", "$name", ".*")
	for _, panel := range panels(t) {
		for _, target := range panel.Targets {
			ask("panel "+panel.Title, variables.Replace(target.Expr))
		}
	}
	pages, err := filepath.Glob(filepath.Join(runbooks, "*.md"))
	require.NoError(t, err)
	code := regexp.MustCompile("`([^`\n]*(?:kmmd_|kmm_watcher_)[^`\n]*)`")
	for _, page := range append(pages, "../../docs/monitoring.md") {
		for _, m := range code.FindAllStringSubmatch(readFile(t, page), -1) {
			if m[1] != "kmmd_" && m[1] != "kmm_watcher_" && m[1] != "kmm_watcher_leader` 0" {
				ask(page, m[1])
			}
		}
	}
}
