// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// stateLeaving is that of a Module whose document is gone, in kmmd_modules and
// kmmd_module_state.
const stateLeaving = "Leaving"

// nodeMetrics are gauges of how things stand: the last status, and the image
// store when it is asked.
type nodeMetrics struct {
	mu     sync.Mutex // guards the two below
	status spec.Status
	usage  func() (images.Usage, error)

	state, modules, staged, invalid, info *prometheus.Desc
	bytes, pinned, quota, trees           *prometheus.Desc
}

func newNodeMetrics() *nodeMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &nodeMetrics{
		state: desc("kmmd_module_state", "1 for the state a Module is in, with its reason.", "namespace", "name", "state", "reason"),
		modules: desc("kmmd_modules",
			"Modules of this node by state: Loaded, Pending, Building and Failed are wanted, Leaving are not any more and still there.", "state"),
		staged: desc("kmmd_staged", "1 for a Module that is ready for a kernel that does not run, 0 with the reason for one that is not.",
			"kernel", "namespace", "name", "reason"),
		invalid: desc("kmmd_invalid_documents", "Documents that can not be used; as long as there is one, nothing is unloaded."),
		info:    desc("kmmd_info", "1, with version and running kernel.", "version", "kernel"),
		bytes:   desc("kmmd_store_bytes", "Bytes of the image store."),
		pinned:  desc("kmmd_store_pinned_bytes", "Bytes of the image store that are needed and can not be removed."),
		quota:   desc("kmmd_store_quota_bytes", "Bytes that the image store may have."),
		trees:   desc("kmmd_store_images", "Images in the store, counted for each kernel and set of modules."),
	}
}

// Describe implements prometheus.Collector.
func (m *nodeMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.state, m.modules, m.staged, m.invalid, m.info, m.bytes, m.pinned, m.quota, m.trees} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *nodeMetrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	s, usage := m.status, m.usage
	m.mu.Unlock()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(m.info, 1, s.Version, s.KernelRelease)
	gauge(m.invalid, float64(len(s.Invalid)))
	for _, st := range s.Staged {
		ready := 0.0
		if st.Ready {
			ready = 1
		}
		gauge(m.staged, ready, st.Kernel, st.Namespace, st.Name, string(st.Reason))
	}
	count := map[spec.State]int{}
	known := map[string]bool{}
	for _, mod := range slices.Concat(s.Modules, s.Refused) {
		if known[mod.Key()] {
			continue // the one that is obeyed counts
		}
		known[mod.Key()] = true
		count[mod.State]++
		gauge(m.state, 1, mod.Namespace, mod.Name, string(mod.State), string(mod.Reason))
	}
	for i := range s.Leaving {
		if mod := &s.Leaving[i]; !known[stateLeaving+mod.Key()] {
			known[stateLeaving+mod.Key()] = true
			gauge(m.state, 1, mod.Namespace, mod.Name, stateLeaving, string(mod.Reason))
		}
	}
	for _, state := range []spec.State{spec.StateLoaded, spec.StatePending, spec.StateBuilding, spec.StateFailed} {
		gauge(m.modules, float64(count[state]), string(state))
	}
	gauge(m.modules, float64(len(s.Leaving)), stateLeaving)
	if usage == nil {
		return
	}
	u, err := usage()
	if err != nil {
		return // no figure rather than a wrong one; reconciling says what is wrong with the store
	}
	gauge(m.bytes, float64(u.Bytes))
	gauge(m.pinned, float64(u.Pinned))
	gauge(m.quota, float64(u.Quota))
	gauge(m.trees, float64(u.Trees))
}

func (m *Metrics) set(s spec.Status) {
	if m == nil {
		return
	}
	m.node.mu.Lock()
	defer m.node.mu.Unlock()
	m.node.status = s
}

// store has the figures of the image store asked for by each scrape. It may be
// called by any goroutine.
func (m *Metrics) store(usage func() (images.Usage, error)) {
	if m == nil {
		return
	}
	m.node.mu.Lock()
	defer m.node.mu.Unlock()
	m.node.usage = usage
}
