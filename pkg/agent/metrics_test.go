// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/images"
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
		`kmmd_drift_healed_total 0`,
		`kmmd_image_fetched_bytes_total 0`,
		`kmmd_image_pull_duration_seconds_count 0`,
		`kmmd_image_pulls_total{result="failed"} 0`,
		`kmmd_image_pulls_total{result="ok"} 0`,
		`kmmd_image_resumes_total 0`,
		`kmmd_image_written_bytes_total 0`,
		`kmmd_info{kernel="` + release + `",version="v1"} 1`,
		`kmmd_invalid_documents 0`,
		`kmmd_module_state{name="bad",namespace="default",reason="InitFailed",state="Failed"} 1`,
		`kmmd_module_state{name="nic",namespace="default",reason="",state="Loaded"} 1`,
		`kmmd_modules{state="Building"} 0`,
		`kmmd_modules{state="Failed"} 1`,
		`kmmd_modules{state="Leaving"} 0`,
		`kmmd_modules{state="Loaded"} 1`,
		`kmmd_modules{state="Pending"} 0`,
		`kmmd_reconcile_duration_seconds_count 3`,
		`kmmd_reconciles_total{result="not-ok"} 1`,
		`kmmd_reconciles_total{result="ok"} 2`,
		`kmmd_rollback_failures_total 0`,
		`kmmd_rollbacks_total 1`,
		`kmmd_step_duration_seconds_count{step="hold"} 1`,
		`kmmd_step_duration_seconds_count{step="load"} 3`,
		`kmmd_step_duration_seconds_count{step="unload"} 1`,
		`kmmd_step_failures_total{step="load"} 1`,
	}, figures(t, registry))

	n.reconcile(good)
	assert.NotContains(t, strings.Join(figures(t, registry), " "), "bad", "a Module that is gone is gone here too")
}

// figure is one of figures, "" when there is none that begins so.
func figure(t *testing.T, registry *prometheus.Registry, name string) string {
	t.Helper()
	for _, line := range figures(t, registry) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return rest
		}
	}
	return ""
}

func TestMetricsOfDrift(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	w := n.swap(n.image("1", ours("1"), nil))
	metrics, registry := newMetrics()
	n.start(func(c *agent.Config) { c.Metrics = metrics })
	healed := func() string { return figure(t, registry, "kmmd_drift_healed_total") }
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, "0", healed(), "a first load heals nothing")
	require.NoError(t, n.Rmmod("dummy"))
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, "1", healed())
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, "1", healed())
	w.parameters = []string{"numdummies=7"}
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, "1", healed(), "another wish is no drift")
	require.NoError(t, n.Rmmod("dummy"))
	n.Preload(n.inTree("dummy"), "")
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, "2", healed(), "the in-tree module was put back by somebody")
}

func TestMetricsOfFailures(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	n.Hold("dummy", 1)
	w := n.swap(n.image("1", ours("1"), nil))
	lost := want{name: "lost", image: "lost:1", module: "lost"}
	n.images.fail(lost.image, images.ErrUnreachable)
	metrics, registry := newMetrics()
	synctest.Test(t, func(t *testing.T) {
		n.start(func(c *agent.Config) { c.Metrics = metrics })
		stop := n.daemon()
		defer stop()
		n.agent.SetDesired(documents(w, lost))
		advance(time.Second)
		advance(2 * time.Second)
		assert.Equal(t, "1", figure(t, registry, `kmmd_preflight_failures_total{reason="InUse"}`), "told once")
		assert.Equal(t, "1", figure(t, registry, `kmmd_preflight_failures_total{reason="ImageUnreachable"}`))
		assert.Equal(t, "1", figure(t, registry, `kmmd_retries_total{reason="ImageUnreachable"}`))
		assert.Equal(t, "2", figure(t, registry, `kmmd_modules{state="Failed"}`))
	})
}

func TestMetricsOfRollbackThatFails(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	w := n.swap(n.image("1", ours("1"), nil))
	metrics, registry := newMetrics()
	n.start(func(c *agent.Config) { c.Metrics = metrics })
	n.FailInit("dummy", syscall.EIO) // ours and the in-tree one
	n.reconcile(w)
	assert.NotEqual(t, "0", figure(t, registry, "kmmd_rollback_failures_total"))
	assert.Equal(t, "0", figure(t, registry, "kmmd_rollbacks_total"))
}

func TestMetricsOfTheStore(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.push("1", ours("1"), nil), module: "helper"}
	metrics, registry := newMetrics()
	assert.Empty(t, figure(t, registry, "kmmd_store_bytes"), "there is no store yet")
	n.start(func(c *agent.Config) { c.Metrics, c.Keeper = metrics, n.images.store })
	assert.Equal(t, "0", figure(t, registry, "kmmd_store_bytes"))
	require.True(t, n.reconcile(w).OK())
	u, err := n.images.store.Usage()
	require.NoError(t, err)
	assert.Positive(t, u.Bytes)
	assert.Equal(t, u.Bytes, u.Pinned, "it runs")
	assert.Equal(t, fmt.Sprint(u.Bytes), figure(t, registry, "kmmd_store_bytes"))
	assert.Equal(t, fmt.Sprint(u.Pinned), figure(t, registry, "kmmd_store_pinned_bytes"))
	assert.Equal(t, "1", figure(t, registry, "kmmd_store_images"))
	assert.NotEmpty(t, figure(t, registry, "kmmd_store_quota_bytes"))
}

// TestMetricsOfLeaving: whatever asks for the reason of a Module finds that of one that hangs while it leaves.
func TestMetricsOfLeaving(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	w := n.swap(n.image("1", ours("1"), nil))
	metrics, registry := newMetrics()
	n.start(func(c *agent.Config) { c.Metrics = metrics })
	require.True(t, n.reconcile(w).OK())
	n.SetState("dummy", "going")
	n.reconcile()
	assert.Equal(t, "1", figure(t, registry, `kmmd_module_state{name="nic",namespace="default",reason="NeedsReboot",state="Leaving"}`))
	assert.Equal(t, "1", figure(t, registry, `kmmd_modules{state="Leaving"}`))
	assert.Equal(t, "0", figure(t, registry, `kmmd_modules{state="Failed"}`), "nobody wants it")
}

// figures is what is scraped, without the buckets and the sums of times.
func figures(t *testing.T, registry *prometheus.Registry) []string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	var out []string
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, "_bucket{") && !strings.Contains(line, "_seconds_sum") &&
			!strings.Contains(line, "_timestamp_seconds") {
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
