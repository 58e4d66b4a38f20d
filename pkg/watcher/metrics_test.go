// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/assert"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
)

// figures is what is scraped, without the buckets of times.
func figures(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	var out []string
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, "_bucket{") {
			out = append(out, strings.TrimPrefix(strings.TrimSpace(line), "kmm_watcher_"))
		}
	}
	return strings.Join(out, "\n")
}

// TestMetricsEndWithTheLease: a replica that has lost the lease has no word about
// Modules; the one that works now has.
func TestMetricsEndWithTheLease(t *testing.T) {
	r := prometheus.NewRegistry()
	m := NewMetrics(r, "v1")
	idle := "info{version=\"v1\"} 1\nleader 0\nmodules 0\nqueue_length 0"
	assert.Equal(t, idle, figures(t, r))
	m.begin()
	m.queue(func() int { return 3 })
	m.modules(2)
	m.module("a/nic", report{
		counts: counts{selected: 9, desired: 8, available: 2}, failedTotal: 3, begun: 1, held: 4, building: 5, unmapped: 6, paused: true,
		images: []v1beta1.ModuleImage{{State: v1beta1.ImageFailed}, {State: v1beta1.ImageReady}},
	})
	m.module("a/other", report{})
	m.preflight("6.12", map[string]trial{"a/nic": {status: v1beta2.VerificationFailure}, "a/other": {status: v1beta2.VerificationSuccess}})
	m.preflight("gone", nil)
	m.forgetPreflight("gone")
	assert.Equal(t, `info{version="v1"} 1
leader 1
module_images{name="nic",namespace="a",state="Building"} 0
module_images{name="nic",namespace="a",state="Failed"} 1
module_images{name="nic",namespace="a",state="Ready"} 1
module_nodes{name="nic",namespace="a",state="available"} 2
module_nodes{name="nic",namespace="a",state="building"} 5
module_nodes{name="nic",namespace="a",state="changing"} 1
module_nodes{name="nic",namespace="a",state="desired"} 8
module_nodes{name="nic",namespace="a",state="failed"} 3
module_nodes{name="nic",namespace="a",state="selected"} 9
module_nodes{name="nic",namespace="a",state="unmapped"} 6
module_nodes{name="nic",namespace="a",state="waiting"} 4
module_nodes{name="other",namespace="a",state="available"} 0
module_nodes{name="other",namespace="a",state="building"} 0
module_nodes{name="other",namespace="a",state="changing"} 0
module_nodes{name="other",namespace="a",state="desired"} 0
module_nodes{name="other",namespace="a",state="failed"} 0
module_nodes{name="other",namespace="a",state="selected"} 0
module_nodes{name="other",namespace="a",state="unmapped"} 0
module_nodes{name="other",namespace="a",state="waiting"} 0
modules 2
preflight_modules{preflight="6.12",status="Failure"} 1
preflight_modules{preflight="6.12",status="InProgress"} 0
preflight_modules{preflight="6.12",status="Success"} 1
queue_length 3
rollout_paused{name="nic",namespace="a"} 1
rollout_paused{name="other",namespace="a"} 0`, figures(t, r))

	m.module("a/nic", report{})
	assert.NotContains(t, figures(t, r), "module_images", "it makes none any more")
	m.forgetModule("a/nic")
	assert.NotContains(t, figures(t, r), "nic")
	m.end()
	assert.Equal(t, idle, figures(t, r))
}

func TestMetricsOfImageJobs(t *testing.T) {
	r := prometheus.NewRegistry()
	m := NewMetrics(r, "v1")
	image := func(state, stage string) v1beta1.ModuleImage {
		return v1beta1.ModuleImage{State: state, Stage: stage, Job: "nic-publish-1"}
	}
	building := image(v1beta1.ImageBuilding, stageBuild)
	created := time.Unix(1000, 0)
	ended := &jobView{created: created, ended: created.Add(40 * time.Second)}
	for _, tt := range []struct {
		name     string
		was, now v1beta1.ModuleImage
		job      *jobView
	}{
		{"made", building, image(v1beta1.ImageReady, ""), ended},
		{"failed", building, image(v1beta1.ImageFailed, stageSign), ended},
		{"gone", building, image(v1beta1.ImageFailed, stageBuild), nil},
		{"under way", building, image(v1beta1.ImageBuilding, stageSign), &jobView{created: created, running: true}},
		{"counted before", image(v1beta1.ImageReady, ""), image(v1beta1.ImageReady, ""), ended},
		{"begun", image(v1beta1.ImageFailed, stageBuild), building, nil},
		{"made, and the registry does not answer", building, image(v1beta1.ImageFailed, stageRegistry), ended},
		{"found in the registry", v1beta1.ModuleImage{}, v1beta1.ModuleImage{State: v1beta1.ImageReady}, nil},
	} {
		t.Run(tt.name, func(*testing.T) { m.made(tt.was, tt.now, tt.job) })
	}
	m.asked("sha256:1", nil)
	m.asked("", nil)
	m.asked("", errors.New("no route to host"))
	assert.Equal(t, `image_job_duration_seconds_sum{result="failed"} 40
image_job_duration_seconds_count{result="failed"} 1
image_job_duration_seconds_sum{result="ok"} 40
image_job_duration_seconds_count{result="ok"} 1
image_jobs_total{result="failed",stage="Build"} 1
image_jobs_total{result="failed",stage="Sign"} 1
image_jobs_total{result="ok",stage=""} 1
info{version="v1"} 1
leader 0
modules 0
queue_length 0
registry_lookups_total{result="failed"} 1
registry_lookups_total{result="found"} 1
registry_lookups_total{result="not-found"} 1`, figures(t, r))
	var none *Metrics
	none.begin()
	none.made(building, building, nil)
	none.asked("", nil)
	none.end()
}
