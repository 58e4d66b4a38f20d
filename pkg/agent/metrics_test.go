// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
)

func TestMetrics(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	image := n.image("1", ours("1"), nil)
	good := n.swap(image)
	bad := want{name: "bad", image: image, module: "top"}
	n.FailInit("top", syscall.EIO)
	metrics, registry := newMetrics()
	n.start(func(c *agent.Config) { c.Metrics = metrics })
	n.reconcile(good)
	n.reconcile(good)
	n.reconcile(good, bad)
	assert.Equal(t, []string{
		`kmmd_image_fetched_bytes_total 0`,
		`kmmd_image_resumes_total 0`,
		`kmmd_image_written_bytes_total 0`,
		`kmmd_info{kernel="` + release + `",version="v1"} 1`,
		`kmmd_module_state{name="bad",namespace="default",reason="InitFailed",state="Failed"} 1`,
		`kmmd_module_state{name="nic",namespace="default",reason="",state="Loaded"} 1`,
		`kmmd_reconcile_duration_seconds_count 3`,
		`kmmd_reconciles_total{result="not-ok"} 1`,
		`kmmd_reconciles_total{result="ok"} 2`,
		`kmmd_rollbacks_total 1`,
		`kmmd_step_duration_seconds_count{step="hold"} 1`,
		`kmmd_step_duration_seconds_count{step="load"} 3`,
		`kmmd_step_duration_seconds_count{step="unload"} 1`,
		`kmmd_step_failures_total{step="load"} 1`,
	}, figures(t, registry))

	n.reconcile(good)
	assert.NotContains(t, strings.Join(figures(t, registry), " "), "bad", "a Module that is gone is gone here too")
}

// figures is what is scraped, without the buckets and the sums of times.
func figures(t *testing.T, registry *prometheus.Registry) []string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	var out []string
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, "_bucket{") && !strings.Contains(line, "_seconds_sum") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// BenchmarkReconcile is the look that finds nothing to do: 20 Modules, each
// with a swap, on a node with their in-tree files.
func BenchmarkReconcile(b *testing.B) {
	n := newNode(b)
	files := ours("1")
	var wants []want
	for i := range 20 {
		name := fmt.Sprintf("mod%d", i)
		files[name+".ko"] = files["dummy.ko"]
		wants = append(wants, want{name: name, module: name, remove: []string{"dummy"}, parameters: []string{"numdummies=2"}})
	}
	image := n.image("1", files, nil)
	for i := range wants {
		wants[i].image = image
	}
	desired := documents(wants...)
	require.True(b, n.reconcileNode(desired).OK())
	n.calls()
	b.ReportAllocs()
	for b.Loop() {
		n.agent.SetDesired(desired)
		if _, err := n.agent.Reconcile(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	require.Empty(b, n.calls())
}
