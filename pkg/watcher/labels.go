// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"strings"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// wantLabels notes the labels that a node should have because of one Module.
func (r *renderer) wantLabels(k string, w *want, s *standing) {
	namespace, name, _ := strings.Cut(k, "/")
	if s.available {
		ready := v1beta1.ReadyLabel(namespace, name)
		r.labels[ready] = ""
		if _, was := r.node.Labels[ready]; !was {
			r.loaded = append(r.loaded, k)
		}
		if s.version != "" {
			r.labels[v1beta1.VersionReadyLabel(namespace, name)] = s.version
		}
	}
	if w == nil || w.role == "" {
		return
	}
	for _, p := range r.plugins {
		if p.key != k || p.role != w.role || !p.ready {
			continue
		}
		if !s.available && w.entry != nil {
			continue // on its way out
		}
		s.plugin = true
		label := v1beta1.DevicePluginReadyLabel(namespace, name)
		if w.role == v1beta1.RoleDRA {
			label = v1beta1.DRAReadyLabel(namespace, name)
		}
		r.labels[label] = ""
	}
}

// difference turns the labels as they should be into a change.
func (r *renderer) difference() {
	r.decision.labels = map[string]*string{}
	for k := range r.node.Labels {
		if _, wanted := r.labels[k]; !wanted && ownLabel(k) {
			r.decision.labels[k] = nil
		}
	}
	for k, v := range r.labels {
		if was, ok := r.node.Labels[k]; !ok || was != v {
			r.decision.labels[k] = &v
		}
	}
}

// ownLabel reports whether a label of a node is one that only this package
// writes.
func ownLabel(k string) bool {
	rest, ok := strings.CutPrefix(k, v1beta1.LabelPrefix)
	if !ok || strings.HasPrefix(rest, "version-module.") {
		return false
	}
	for _, suffix := range []string{".ready", ".device-plugin-ready", ".dra-ready"} {
		// namespace.name.ready; the deprecated name.ready is somebody else's.
		if id, ok := strings.CutSuffix(rest, suffix); ok && strings.Contains(id, ".") {
			return true
		}
	}
	return false
}
