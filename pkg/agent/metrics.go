// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Metrics are the agent's figures. A nil *Metrics counts nothing.
type Metrics struct {
	reconciles *prometheus.CounterVec
	seconds    prometheus.Histogram
	last       prometheus.Gauge
	steps      *prometheus.HistogramVec
	failures   *prometheus.CounterVec
	refusals   *prometheus.CounterVec
	retries    *prometheus.CounterVec
	rollbacks  prometheus.Counter
	stuck      prometheus.Counter
	drift      prometheus.Counter
	pulls      *pullMetrics
	node       *nodeMetrics
}

// NewMetrics registers the figures with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		reconciles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmmd_reconciles_total", Help: "Looks at the whole node, by result: ok when all is as wanted."}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kmmd_reconcile_duration_seconds", Help: "Time of one look at the whole node, changes included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10)}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kmmd_last_reconcile_timestamp_seconds", Help: "When the last look at the whole node ended, in Unix time; 0 before the first."}),
		steps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kmmd_step_duration_seconds", Help: "Time of one step that was done, by kind: load, unload and others.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10)}, []string{"step"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmmd_step_failures_total", Help: "Steps that failed, by kind."}, []string{"step"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmmd_preflight_failures_total",
			Help: "Modules for which something was found to be missing or wrong before anything was changed, by reason; each finding once."},
			[]string{"reason"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmmd_retries_total", Help: "Further tries for a Module that had failed, by the reason of that."}, []string{"reason"}),
		rollbacks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kmmd_rollbacks_total", Help: "Changes that were undone whole."}),
		stuck: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kmmd_rollback_failures_total", Help: "Tries to undo a change that left something of it."}),
		drift: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kmmd_drift_healed_total", Help: "Modules that were brought back after somebody else had changed the node."}),
	}
	m.pulls, m.node = newPullMetrics(r), newNodeMetrics()
	r.MustRegister(m.reconciles, m.seconds, m.last, m.steps, m.failures, m.refusals, m.retries, m.rollbacks, m.stuck, m.drift, m.node)
	return m
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
	m.last.SetToCurrentTime()
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

func (m *Metrics) refused(reason spec.Reason) {
	if m != nil {
		m.refusals.WithLabelValues(string(reason)).Inc()
	}
}

func (m *Metrics) retried(reason spec.Reason) {
	if m != nil {
		m.retries.WithLabelValues(string(reason)).Inc()
	}
}

func (m *Metrics) rolledBack() {
	if m != nil {
		m.rollbacks.Inc()
	}
}

func (m *Metrics) notRolledBack() {
	if m != nil {
		m.stuck.Inc()
	}
}

func (m *Metrics) healed() {
	if m != nil {
		m.drift.Inc()
	}
}
