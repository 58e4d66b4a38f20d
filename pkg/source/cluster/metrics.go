// SPDX-License-Identifier: Apache-2.0

package cluster

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the figures of a Source. A nil *Metrics counts nothing.
type Metrics struct {
	link   prometheus.Gauge
	writes *prometheus.CounterVec
}

// NewMetrics registers the figures with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		link: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kmmd_cluster_connected", Help: "1 while the API server answers."}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kmmd_cluster_status_writes_total", Help: "Writes of the node's status, by result."}, []string{"result"}),
	}
	for _, result := range []string{"ok", "failed"} {
		m.writes.WithLabelValues(result)
	}
	r.MustRegister(m.link, m.writes)
	return m
}

func (m *Metrics) connected(yes bool) {
	if m == nil {
		return
	}
	m.link.Set(map[bool]float64{true: 1}[yes])
}

func (m *Metrics) wrote(err error) {
	if m == nil {
		return
	}
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.writes.WithLabelValues(result).Inc()
}
