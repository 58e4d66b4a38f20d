// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Metrics are the agent's figures. A nil *Metrics counts nothing.
type Metrics struct {
	reconciles *prometheus.CounterVec
	seconds    prometheus.Histogram
	steps      *prometheus.HistogramVec
	failures   *prometheus.CounterVec
	rollbacks  prometheus.Counter
	pulls      *pullMetrics

	mu     sync.Mutex // guards status
	status spec.Status
	state  *prometheus.Desc
	info   *prometheus.Desc
	staged *prometheus.Desc
}

// NewMetrics registers the figures with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		reconciles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmmd_reconciles_total", Help: "Looks at the whole node, by result: ok when all is as wanted."}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kmmd_reconcile_duration_seconds", Help: "Time of one look at the whole node, changes included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10)}),
		steps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kmmd_step_duration_seconds", Help: "Time of one step that was done, by kind.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10)}, []string{"step"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmmd_step_failures_total", Help: "Steps that failed, by kind."}, []string{"step"}),
		rollbacks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kmmd_rollbacks_total", Help: "Changes that were undone whole."}),
		state: prometheus.NewDesc("kmmd_module_state", "1 for the state a Module is in, with its reason.",
			[]string{"namespace", "name", "state", "reason"}, nil),
		staged: prometheus.NewDesc("kmmd_staged", "1 for a Module that is ready for a kernel that does not run, 0 with the reason for one that is not.",
			[]string{"kernel", "namespace", "name", "reason"}, nil),
		info: prometheus.NewDesc("kmmd_info", "1, with version and running kernel.", []string{"version", "kernel"}, nil),
	}
	m.pulls = newPullMetrics(r)
	r.MustRegister(m.reconciles, m.seconds, m.steps, m.failures, m.rollbacks, m)
	return m
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.state
	ch <- m.staged
	ch <- m.info
}

// Collect implements prometheus.Collector with the last status.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	s := m.status
	m.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(m.info, prometheus.GaugeValue, 1, s.Version, s.KernelRelease)
	for _, st := range s.Staged {
		ready := 0.0
		if st.Ready {
			ready = 1
		}
		ch <- prometheus.MustNewConstMetric(m.staged, prometheus.GaugeValue, ready, st.Kernel, st.Namespace, st.Name, string(st.Reason))
	}
	known := map[string]bool{}
	for _, mod := range slices.Concat(s.Modules, s.Refused) {
		if known[mod.Key()] {
			continue // the one that is obeyed counts
		}
		known[mod.Key()] = true
		ch <- prometheus.MustNewConstMetric(m.state, prometheus.GaugeValue, 1, mod.Namespace, mod.Name, string(mod.State), string(mod.Reason))
	}
}

func (m *Metrics) set(s spec.Status) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status = s
}

func (m *Metrics) reconciled(d time.Duration, ok bool) {
	if m == nil {
		return
	}
	result := "ok"
	if !ok {
		result = "not-ok"
	}
	m.reconciles.WithLabelValues(result).Inc()
	m.seconds.Observe(d.Seconds())
}

func (m *Metrics) step(s plan.Step, d time.Duration, err error) {
	if m == nil {
		return
	}
	if err != nil {
		m.failures.WithLabelValues(plan.Kind(s)).Inc()
		return
	}
	m.steps.WithLabelValues(plan.Kind(s)).Observe(d.Seconds())
}

func (m *Metrics) rolledBack() {
	if m != nil {
		m.rollbacks.Inc()
	}
}
