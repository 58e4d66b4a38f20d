// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
)

// Metrics are those of a Watcher; nil counts nothing.
type Metrics struct {
	length  atomic.Pointer[func() int] // of the queue
	writes  *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	errors  *prometheus.CounterVec
	reads   *prometheus.CounterVec
	garbled *prometheus.CounterVec
	nodes   *prometheus.GaugeVec
	paused  *prometheus.GaugeVec
	trials  *prometheus.GaugeVec
	known   prometheus.Gauge
	leader  prometheus.Gauge
	images  *imageMetrics
}

// NewMetrics registers the metrics of a program of that version. It panics when
// they are registered already.
func NewMetrics(r prometheus.Registerer, version string) *Metrics {
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
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmm_watcher_read_errors_total", Help: "Lists that failed, and requests to watch, but for those that are tried again without a list: connection refused, too many requests.",
		}, []string{"resource"}),
		garbled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmm_watcher_unreadable_statuses_total", Help: "Objects read whose status no program can read; it counts as none.",
		}, []string{"kind"}),
		nodes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kmm_watcher_module_nodes", Help: "Nodes of a Module: selected, desired, available, failed, changing, waiting, building, unmapped.",
		}, []string{"namespace", "name", "state"}),
		paused: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kmm_watcher_rollout_paused", Help: "1 while a Module is not handed to further nodes, since too many have failed.",
		}, []string{"namespace", "name"}),
		trials: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kmm_watcher_preflight_modules", Help: "Modules of a PreflightValidation by status: Success, Failure, InProgress.",
		}, []string{"preflight", "status"}),
		known: prometheus.NewGauge(prometheus.GaugeOpts{Name: "kmm_watcher_modules", Help: "Modules in the cluster."}),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kmm_watcher_leader", Help: "1 for the replica that works, 0 for one that waits for the lease or has not read the cluster yet.",
		}),
		images: newImageMetrics(r),
	}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kmm_watcher_info", Help: "1, with the version."}, []string{"version"})
	info.WithLabelValues(version).Set(1)
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kmm_watcher_queue_length", Help: "Nodes and Modules that wait for a look.",
	}, m.queued))
	r.MustRegister(m.writes, m.seconds, m.errors, m.reads, m.garbled, m.nodes, m.paused, m.trials, m.known, m.leader, info)
	return m
}

// begin notes that the work has begun.
func (m *Metrics) begin() {
	if m != nil {
		m.leader.Set(1)
	}
}

// end takes back what only the replica that works can know: another one tells it
// from now on, and both together would count everything twice.
func (m *Metrics) end() {
	if m == nil {
		return
	}
	m.leader.Set(0)
	m.known.Set(0)
	m.length.Store(nil)
	m.nodes.Reset()
	m.paused.Reset()
	m.trials.Reset()
	m.images.states.Reset()
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

func (m *Metrics) notRead(resource string) {
	if m != nil {
		m.reads.WithLabelValues(resource).Inc()
	}
}

func (m *Metrics) unreadable(kind string) {
	if m != nil {
		m.garbled.WithLabelValues(kind).Inc()
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
		"failed": r.failedTotal, "changing": r.begun, "waiting": r.held, "building": r.building, "unmapped": r.unmapped,
	} {
		m.nodes.WithLabelValues(namespace, name, state).Set(float64(n))
	}
	paused := 0.0
	if r.paused {
		paused = 1
	}
	m.paused.WithLabelValues(namespace, name).Set(paused)
	m.images.count(namespace, name, r.images)
}

// preflight sets how a PreflightValidation stands.
func (m *Metrics) preflight(name string, trials map[string]trial) {
	if m == nil {
		return
	}
	n := map[string]int{v1beta2.VerificationSuccess: 0, v1beta2.VerificationFailure: 0, v1beta2.VerificationInProgress: 0}
	for _, t := range trials {
		n[t.status]++
	}
	for status, n := range n {
		m.trials.WithLabelValues(name, status).Set(float64(n))
	}
}

func (m *Metrics) forgetPreflight(name string) {
	if m != nil {
		m.trials.DeletePartialMatch(prometheus.Labels{"preflight": name})
	}
}

func (m *Metrics) forgetModule(k string) {
	if m == nil {
		return
	}
	namespace, name, _ := strings.Cut(k, "/")
	of := prometheus.Labels{"namespace": namespace, "name": name}
	m.nodes.DeletePartialMatch(of)
	m.paused.DeletePartialMatch(of)
	m.images.states.DeletePartialMatch(of)
}
