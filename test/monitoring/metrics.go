// SPDX-License-Identifier: Apache-2.0

// Package monitoring tests that alerts, runbooks, dashboard and metrics fit each
// other. It reads the metrics off the code that makes them.
package monitoring

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/source/cluster"
	"github.com/kmm-node/kmmd/pkg/watcher"
)

// Metric is one that kmmd or kmm-watcher has.
type Metric struct {
	Name, Kind, Help string // Kind is counter, gauge or histogram
	Labels           []string
}

// Metrics are all of them, those of the Go runtime and the process apart, sorted
// by name.
func Metrics() []Metric {
	r := &recorder{}
	agent.NewMetrics(r)
	cluster.NewMetrics(r)
	watcher.NewMetrics(r, "")
	slices.SortFunc(r.metrics, func(a, b Metric) int { return cmp.Compare(a.Name, b.Name) })
	return r.metrics
}

// Series are the names a scrape has for the metric.
func (m Metric) Series() []string {
	if m.Kind == "histogram" {
		return []string{m.Name + "_bucket", m.Name + "_sum", m.Name + "_count"}
	}
	return []string{m.Name}
}

// recorder is a registry that notes what is registered.
type recorder struct{ metrics []Metric }

// Register implements prometheus.Registerer.
func (r *recorder) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc, 100)
	c.Describe(descs)
	close(descs)
	for d := range descs {
		m, err := parse(d)
		if err != nil {
			return err
		}
		m.Kind = kind(c)
		r.metrics = append(r.metrics, m)
	}
	return nil
}

// MustRegister implements prometheus.Registerer.
func (r *recorder) MustRegister(collectors ...prometheus.Collector) {
	for _, c := range collectors {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// Unregister implements prometheus.Registerer.
func (r *recorder) Unregister(prometheus.Collector) bool { return false }

func kind(c prometheus.Collector) string {
	switch c.(type) {
	case prometheus.Gauge, *prometheus.GaugeVec: // before counters: a gauge has all their methods
		return "gauge"
	case prometheus.Counter, *prometheus.CounterVec:
		return "counter"
	case prometheus.Histogram, *prometheus.HistogramVec:
		return "histogram"
	}
	return "gauge" // collectors of our own have no others
}

// described is what a Desc says of itself, which has no methods for it:
//
//	Desc{fqName: "kmmd_info", help: "1, with version and running kernel.", unit: "", constLabels: {}, variableLabels: {version,kernel}}
var described = regexp.MustCompile(`^Desc\{fqName: "(\w+)", help: "([^"]*)", .*constLabels: \{\}, variableLabels: \{(.*)\}\}$`)

func parse(d *prometheus.Desc) (Metric, error) {
	m := described.FindStringSubmatch(d.String())
	if m == nil {
		return Metric{}, fmt.Errorf("read %s: client_golang describes metrics in another way now", d)
	}
	out := Metric{Name: m[1], Help: m[2]}
	if m[3] != "" {
		out.Labels = strings.Split(m[3], ",")
	}
	return out, nil
}
