// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"slices"
	"strings"
)

// Annotations of a Module that say what may be done to a driver in use. Their
// values are words separated by commas.
const (
	// AnnotationAllowInUse is on Modules. It names uses that do not stop a replacement:
	// network.
	AnnotationAllowInUse = "kmm.node.kubernetes.io/allow-in-use"
	// AnnotationBeforeUnload is on Modules. It names what is done before an unload:
	// unbind, sriov-reset.
	AnnotationBeforeUnload = "kmm.node.kubernetes.io/before-unload"
)

// The words of allowInUse and beforeUnload.
const (
	// UseNetwork: network interfaces lose their driver for a moment and get their
	// addresses, routes, rules, neighbours, stacked links and settings of
	// /proc/sys/net back.
	UseNetwork = "network"
	// ActionUnbind: devices are unbound from the driver first.
	ActionUnbind = "unbind"
	// ActionSRIOVReset: sriov_numvfs is set to 0 first, and back afterwards
	// where the new driver can.
	ActionSRIOVReset = "sriov-reset"
)

// words joins a list of the container with the annotation of the same meaning.
func (m *Module) words(list []string, annotation string) []string {
	out := slices.Clone(list)
	for _, w := range strings.Split(m.Metadata.Annotations[annotation], ",") {
		if w = strings.TrimSpace(w); w != "" && !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}

// validateInUse refuses words that mean nothing: a misspelt permission must not
// look like one.
func (m *Module) validateInUse(f *findings) {
	c := &m.Spec.ModuleLoader.Container
	for _, s := range []struct {
		list              []string
		field, annotation string
		known             []string
	}{
		{c.AllowInUse, containerField + ".allowInUse", AnnotationAllowInUse, []string{UseNetwork}},
		{c.BeforeUnload, containerField + ".beforeUnload", AnnotationBeforeUnload, []string{ActionUnbind, ActionSRIOVReset}},
	} {
		for i, w := range s.list {
			if !slices.Contains(s.known, w) {
				f.add(fmt.Sprintf("%s[%d]", s.field, i), "%q is none of %s", w, strings.Join(s.known, ", "))
			}
		}
		for _, w := range m.words(nil, s.annotation) {
			if !slices.Contains(s.known, w) {
				f.add("metadata.annotations."+s.annotation, "%q is none of %s", w, strings.Join(s.known, ", "))
			}
		}
	}
}
