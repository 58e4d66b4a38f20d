// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmm-node/kmmd/pkg/images"
)

// pullMetrics are the figures of pulls.
type pullMetrics struct {
	fetched, written, resumes prometheus.Counter
	ended                     *prometheus.CounterVec
	took                      prometheus.Histogram
	phases                    *prometheus.HistogramVec
	have, total               *prometheus.GaugeVec

	mu   sync.Mutex            // guards last
	last map[string]*pullSoFar // of the pulls under way, by reference
}

// pullSoFar is where a pull was when it was told of last.
type pullSoFar struct {
	images.Progress
	begun time.Time // the pull
	since time.Time // its phase
}

func newPullMetrics(r prometheus.Registerer) *pullMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"image"})
	}
	buckets := prometheus.ExponentialBuckets(0.005, 4, 10) // to 22 minutes
	m := &pullMetrics{
		fetched: counter("kmmd_image_fetched_bytes_total", "Bytes of layers that were fetched."),
		written: counter("kmmd_image_written_bytes_total", "Bytes of files that were taken out of layers."),
		resumes: counter("kmmd_image_resumes_total", "Broken transfers that were taken up again."),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmmd_image_pulls_total", Help: "Pulls that ended, by result."}, []string{"result"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kmmd_image_pull_duration_seconds", Help: "Time of one pull that succeeded, also of one for which the store had all.",
			Buckets: buckets}),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kmmd_image_pull_phase_duration_seconds",
			Help:    "Time of each phase of a pull: resolve asks the registry, fetch has layers arrive and extracts them meanwhile, store makes it durable.",
			Buckets: buckets}, []string{"phase"}),
		have:  gauge("kmmd_image_pull_bytes", "Bytes fetched of an image that is being pulled."),
		total: gauge("kmmd_image_pull_total_bytes", "Bytes to fetch of an image that is being pulled, as far as known."),
		last:  map[string]*pullSoFar{},
	}
	for _, result := range []string{"ok", "failed"} {
		m.ended.WithLabelValues(result) // a counter that begins at 1 shows no increase
	}
	r.MustRegister(m.fetched, m.written, m.resumes, m.ended, m.took, m.phases, m.have, m.total)
	return m
}

// Pull counts what a pull has done since it was told of last. It may be called
// by any goroutine.
func (m *Metrics) Pull(p images.Progress) {
	s, now := m.pulls, time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.last[p.Ref]
	if l == nil {
		l = &pullSoFar{Progress: images.Progress{Phase: p.Phase}, begun: now, since: now}
		s.last[p.Ref] = l
	}
	s.fetched.Add(float64(max(0, p.Bytes-l.Bytes)))
	s.written.Add(float64(max(0, p.Written-l.Written)))
	s.resumes.Add(float64(max(0, p.Resumes-l.Resumes)))
	if l.Phase != p.Phase || p.Done {
		s.phases.WithLabelValues(l.Phase).Observe(now.Sub(l.since).Seconds())
		l.since = now
	}
	l.Progress = p
	if !p.Done {
		s.have.WithLabelValues(p.Ref).Set(float64(p.Bytes))
		s.total.WithLabelValues(p.Ref).Set(float64(p.Total))
		return
	}
	delete(s.last, p.Ref)
	s.have.DeleteLabelValues(p.Ref)
	s.total.DeleteLabelValues(p.Ref)
	if p.Err != nil {
		s.ended.WithLabelValues("failed").Inc()
		return
	}
	s.ended.WithLabelValues("ok").Inc()
	s.took.Observe(now.Sub(l.begun).Seconds())
}
