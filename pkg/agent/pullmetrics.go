// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmm-node/kmmd/pkg/images"
)

// pullMetrics are the figures of pulls.
type pullMetrics struct {
	fetched, written, resumes prometheus.Counter
	ended                     *prometheus.CounterVec
	have, total               *prometheus.GaugeVec

	mu   sync.Mutex                 // guards last
	last map[string]images.Progress // of the pulls under way, by reference
}

func newPullMetrics(r prometheus.Registerer) *pullMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"image"})
	}
	m := &pullMetrics{
		fetched: counter("kmmd_image_fetched_bytes_total", "Bytes of layers that were fetched."),
		written: counter("kmmd_image_written_bytes_total", "Bytes of files that were taken out of layers."),
		resumes: counter("kmmd_image_resumes_total", "Broken transfers that were taken up again."),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmmd_image_pulls_total", Help: "Pulls that ended, by result."}, []string{"result"}),
		have:  gauge("kmmd_image_pull_bytes", "Bytes fetched of an image that is being pulled."),
		total: gauge("kmmd_image_pull_total_bytes", "Bytes to fetch of an image that is being pulled, as far as known."),
		last:  map[string]images.Progress{},
	}
	r.MustRegister(m.fetched, m.written, m.resumes, m.ended, m.have, m.total)
	return m
}

// Pull counts what a pull has done since it was told of last. It may be called
// by any goroutine.
func (m *Metrics) Pull(p images.Progress) {
	s := m.pulls
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.last[p.Ref]
	s.fetched.Add(float64(max(0, p.Bytes-before.Bytes)))
	s.written.Add(float64(max(0, p.Written-before.Written)))
	s.resumes.Add(float64(max(0, p.Resumes-before.Resumes)))
	if !p.Done {
		s.last[p.Ref] = p
		s.have.WithLabelValues(p.Ref).Set(float64(p.Bytes))
		s.total.WithLabelValues(p.Ref).Set(float64(p.Total))
		return
	}
	delete(s.last, p.Ref)
	s.have.DeleteLabelValues(p.Ref)
	s.total.DeleteLabelValues(p.Ref)
	result := "ok"
	if p.Err != nil {
		result = "failed"
	}
	s.ended.WithLabelValues(result).Inc()
}
