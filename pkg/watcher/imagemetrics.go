// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// imageMetrics are those of images that the cluster makes.
type imageMetrics struct {
	states  *prometheus.GaugeVec
	jobs    *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	lookups *prometheus.CounterVec
}

func newImageMetrics(r prometheus.Registerer) *imageMetrics {
	m := &imageMetrics{
		states: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kmm_watcher_module_images", Help: "Images that the cluster makes for a Module, one for each kernel, by state: Ready, Building, Failed.",
		}, []string{"namespace", "name", "state"}),
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmm_watcher_image_jobs_total",
			Help: "Jobs that make images and have ended, by result, and where they failed by stage: Build, Sign, Push.",
		}, []string{"result", "stage"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kmm_watcher_image_job_duration_seconds", Help: "Time from the creation of such a Job to its end, by result.",
			Buckets: prometheus.ExponentialBuckets(5, 2, 12), // to 2.8 hours
		}, []string{"result"}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmm_watcher_registry_lookups_total", Help: "Questions to registries whether an image is there, by answer: found, not-found, failed.",
		}, []string{"result"}),
	}
	r.MustRegister(m.states, m.jobs, m.seconds, m.lookups)
	return m
}

// count sets how the images of a Module stand; one that has none has no figures.
func (m *imageMetrics) count(namespace, name string, images []v1beta1.ModuleImage) {
	if len(images) == 0 {
		m.states.DeletePartialMatch(prometheus.Labels{"namespace": namespace, "name": name})
		return
	}
	n := map[string]int{v1beta1.ImageReady: 0, v1beta1.ImageBuilding: 0, v1beta1.ImageFailed: 0}
	for i := range images {
		n[images[i].State]++
	}
	for state, n := range n {
		m.states.WithLabelValues(namespace, name, state).Set(float64(n))
	}
}

// made counts a Job, nil for one that is gone, when the image that it was to make
// is not Building any more.
func (m *Metrics) made(was, now v1beta1.ModuleImage, job *jobView) {
	if m == nil || was.State != v1beta1.ImageBuilding || now.State == v1beta1.ImageBuilding || now.Job == "" || now.Stage == stageRegistry {
		return
	}
	result, stage := "ok", ""
	if now.State == v1beta1.ImageFailed {
		result, stage = "failed", now.Stage
	}
	m.images.jobs.WithLabelValues(result, stage).Inc()
	if job != nil && !job.ended.IsZero() {
		m.images.seconds.WithLabelValues(result).Observe(job.ended.Sub(job.created).Seconds())
	}
}

// asked counts what a registry has answered.
func (m *Metrics) asked(digest string, err error) {
	if m == nil {
		return
	}
	result := "found"
	switch {
	case err != nil:
		result = "failed"
	case digest == "":
		result = "not-found"
	}
	m.images.lookups.WithLabelValues(result).Inc()
}
