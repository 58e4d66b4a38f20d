// SPDX-License-Identifier: Apache-2.0

package monitoring_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/monitoring"
)

const (
	deploy   = "../../deploy/monitoring"
	runbooks = "../../docs/runbooks"
)

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}

func readRules(t *testing.T) *monitoring.Rules {
	t.Helper()
	rules, err := monitoring.ReadRules(filepath.Join(deploy, "rules.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, rules.Alerts())
	return rules
}

// series are all names that a scrape can have.
func series() map[string]bool {
	out := map[string]bool{}
	for _, m := range monitoring.Metrics() {
		for _, name := range m.Series() {
			out[name] = true
		}
	}
	return out
}

// TestMetricNames: base units and suffixes as Prometheus wants them, and help for
// a person.
func TestMetricNames(t *testing.T) {
	for _, m := range monitoring.Metrics() {
		assert.Regexp(t, `^(kmmd|kmm_watcher)_[a-z_]+$`, m.Name)
		assert.Equal(t, m.Kind == "counter", strings.HasSuffix(m.Name, "_total"), m.Name)
		if m.Kind == "histogram" {
			assert.Regexp(t, `_seconds$`, m.Name)
		}
		assert.Regexp(t, `^\S.*\.$`, m.Help, m.Name)
		for _, label := range m.Labels {
			assert.NotContains(t, []string{"job", "instance", "node", "pod", "message", "err", "digest"}, label, "%s: the scrape has it, or it is without bounds", m.Name)
		}
	}
}

func TestGeneratedFiles(t *testing.T) {
	assert.Equal(t, monitoring.PrometheusRule(readFile(t, filepath.Join(deploy, "rules.yaml"))),
		readFile(t, filepath.Join(deploy, "prometheusrule.yaml")), "make gen")
	assert.Equal(t, monitoring.Page(monitoring.Metrics()), readFile(t, "../../docs/reference/metrics.md"), "make gen")
}

func TestAlerts(t *testing.T) {
	known, seen := series(), map[string]bool{}
	for _, a := range readRules(t).Alerts() {
		t.Run(a.Alert, func(t *testing.T) {
			assert.False(t, seen[a.Alert], "twice")
			seen[a.Alert] = true
			assert.Contains(t, []string{"critical", "warning", "info"}, a.Labels["severity"])
			assert.NotEmpty(t, a.Annotations["summary"])
			assert.NotEmpty(t, a.Annotations["description"])
			assert.Equal(t, "https://github.com/kmm-node/kmmd/blob/main/docs/runbooks/"+a.Alert+".md", a.Annotations["runbook_url"])
			for _, name := range monitoring.Named(a.Expr + " " + a.Annotations["description"]) {
				assert.True(t, known[name], "%s: nothing has a metric of that name", name)
			}
			page := readFile(t, filepath.Join(runbooks, a.Alert+".md"))
			assert.True(t, strings.HasPrefix(page, "# "+a.Alert+"\n"), "the title")
			for _, part := range []string{"\n## What it means\n", "\n## What to look at\n", "\n## What to do\n"} {
				assert.Contains(t, page, part)
			}
		})
	}
	pages, err := filepath.Glob(filepath.Join(runbooks, "Kmm*.md"))
	require.NoError(t, err)
	for _, page := range pages {
		name := strings.TrimSuffix(filepath.Base(page), ".md")
		assert.True(t, seen[name], "%s: there is no such alert", page)
	}
	assert.Len(t, pages, len(seen))
}

var link = regexp.MustCompile(`\]\(([^)#]+)`)

// TestPages: what they name exists, metrics and other pages.
func TestPages(t *testing.T) {
	known := series()
	pages, err := filepath.Glob(filepath.Join(runbooks, "*.md"))
	require.NoError(t, err)
	for _, page := range append(pages, "../../docs/monitoring.md") {
		text := readFile(t, page)
		for _, name := range monitoring.Named(text) {
			if name == "kmm_watcher_" || name == "kmmd_" {
				continue
			}
			assert.True(t, known[name], "%s: %s: nothing has a metric of that name", page, name)
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			assert.FileExists(t, filepath.Join(filepath.Dir(page), m[1]), page)
		}
	}
}

// panel is a panel of the dashboard, as far as tests look at it.
type panel struct {
	ID          int
	Title, Type string
	Description string
	Targets     []struct{ Expr string }
	GridPos     struct{ X, Y, W, H int }
}

func panels(t *testing.T) []panel {
	t.Helper()
	var d struct{ Panels []panel }
	require.NoError(t, json.Unmarshal([]byte(readFile(t, filepath.Join(deploy, "dashboard.json"))), &d))
	require.NotEmpty(t, d.Panels)
	return d.Panels
}

// TestDashboard: what is asked for exists, and every metric is shown, but for
// those that are there to be asked for.
func TestDashboard(t *testing.T) {
	known, shown, ids := series(), map[string]bool{}, map[int]bool{}
	for _, p := range panels(t) {
		assert.False(t, ids[p.ID], "id %d twice", p.ID)
		ids[p.ID] = true
		assert.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		if p.Type != "row" {
			assert.NotEmpty(t, p.Description, p.Title)
			assert.NotEmpty(t, p.Targets, p.Title)
		}
		for _, target := range p.Targets {
			for _, name := range monitoring.Named(target.Expr) {
				assert.True(t, known[name], "panel %q: nothing has a metric of the name %s", p.Title, name)
				shown[name] = true
			}
		}
	}
	var hidden []string
	for _, m := range monitoring.Metrics() {
		if !slices.ContainsFunc(m.Series(), func(name string) bool { return shown[name] }) {
			hidden = append(hidden, m.Name)
		}
	}
	assert.Equal(t, []string{
		"kmm_watcher_info", "kmm_watcher_modules", "kmmd_image_pull_bytes", "kmmd_image_pull_total_bytes", "kmmd_reconciles_total",
		"kmmd_store_bytes", "kmmd_store_images",
	}, hidden)
}
