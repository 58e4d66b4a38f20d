// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of a Watcher; nil counts nothing.
type Metrics struct {
	length  atomic.Pointer[func() int] // of the queue
	writes  *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	errors  *prometheus.CounterVec
	nodes   *prometheus.GaugeVec
	known   prometheus.Gauge
}

// NewMetrics registers the metrics. It panics when they are registered already.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmm_watcher_writes_total", Help: "Write requests to the API server that succeeded.",
		}, []string{"resource"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kmm_watcher_sync_duration_seconds", Help: "How long one look at a node or a Module took.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}, []string{"kind"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmm_watcher_sync_errors_total", Help: "Looks that ended in an error and are tried again.",
		}, []string{"kind"}),
		nodes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kmm_watcher_module_nodes", Help: "Nodes of a Module: selected, desired, available, failed, changing, waiting.",
		}, []string{"namespace", "name", "state"}),
		known: prometheus.NewGauge(prometheus.GaugeOpts{Name: "kmm_watcher_modules", Help: "Modules in the cluster."}),
	}
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kmm_watcher_queue_length", Help: "Nodes and Modules that wait for a look.",
	}, m.queued))
	r.MustRegister(m.writes, m.seconds, m.errors, m.nodes, m.known)
	return m
}

// queue has the length of a Watcher's queue shown, in place of another one's.
func (m *Metrics) queue(length func() int) {
	if m != nil {
		m.length.Store(&length)
	}
}

func (m *Metrics) queued() float64 {
	if length := m.length.Load(); length != nil {
		return float64((*length)())
	}
	return 0
}

func (m *Metrics) wrote(resource string) {
	if m != nil {
		m.writes.WithLabelValues(resource).Inc()
	}
}

func (m *Metrics) synced(item string, d time.Duration, err error) {
	if m == nil {
		return
	}
	kind, _, _ := strings.Cut(item, "/")
	m.seconds.WithLabelValues(kind).Observe(d.Seconds())
	if err != nil {
		m.errors.WithLabelValues(kind).Inc()
	}
}

func (m *Metrics) modules(n int) {
	if m != nil {
		m.known.Set(float64(n))
	}
}

func (m *Metrics) module(k string, r report) {
	if m == nil {
		return
	}
	namespace, name, _ := strings.Cut(k, "/")
	for state, n := range map[string]int{
		"selected": r.selected, "desired": r.desired, "available": r.available,
		"failed": r.failedTotal, "changing": r.begun, "waiting": r.held,
	} {
		m.nodes.WithLabelValues(namespace, name, state).Set(float64(n))
	}
}

func (m *Metrics) forgetModule(k string) {
	if m == nil {
		return
	}
	namespace, name, _ := strings.Cut(k, "/")
	m.nodes.DeletePartialMatch(prometheus.Labels{"namespace": namespace, "name": name})
}
