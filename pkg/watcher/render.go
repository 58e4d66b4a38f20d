// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// want is a Module as every node sees it. It is made anew when the Module
// changes, and not changed.
type want struct {
	key    string
	module *v1beta1.Module
	entry  *entry // nil without moduleLoader
	// made are the entries of kernels whose image the cluster makes and of which it
	// is known whether it is there: entry itself while it is not.
	made map[string]*entry
	// given says that nodes may have it: it is not being deleted, and its
	// finalizer is there.
	given bool
	role  string // of its plugin's pods; "" without
}

// pluginPod is a pod of a Module's plugin on a node.
type pluginPod struct {
	key, role string
	ready     bool
	versioned bool // of the DaemonSet of a version: it runs where that is ready, whatever its Module says now
}

// view is everything that is decided upon for one node.
type view struct {
	node    *corev1.Node
	config  *config // nil: it has none yet
	wants   []*want // sorted by key
	plugins []pluginPod
}

// standing is how one Module stands on one node.
type standing struct {
	key       string
	selected  bool   // the selector matches
	desired   bool   // the node should run it, in whatever version
	available bool   // it does, and has the label
	held      bool   // waits for its turn in a rollout
	later     bool   // goes on with its last order, if it had one: what its Module says now is not for it yet
	building  bool   // waits for an image that the cluster makes
	settling  bool   // was told, and has not answered
	unmapped  bool   // no kernel mapping for the kernel that runs
	present   bool   // has not got rid of it
	leftover  bool   // has the module, though its Module has nothing but a plugin now
	plugin    bool   // its plugin's pod is Ready
	current   bool   // what the node has is what the Module says now
	version   string // that the node has
	reason    string // of a failure
	message   string
}

func (s *standing) failed() bool { return s.reason != "" && !s.unmapped }

// decision is what has to be written for a node. The labels come first: what
// is about to be unloaded is not ready any more.
type decision struct {
	labels    map[string]*string // to change; nil takes the label away
	entries   []*entry           // the whole spec, with
	keeps     []string           // keys of what the node keeps of an object before this one
	write     bool               // the spec differs
	loaded    []string           // keys that become ready by labels
	waiting   []string           // keys whose plugin has to leave first
	leaving   []string           // keys that the write unloads, and that have a plugin
	standings []standing
}

// render decides about one node. admit asks whether a node may begin to change,
// and may be asked several times.
func render(v view, admit func(key string) bool) decision {
	r := renderer{view: v, admit: admit, labels: map[string]string{}}
	r.booted = v.config != nil && (v.node.Status.NodeInfo.BootID == "" || v.config.bootID == v.node.Status.NodeInfo.BootID)
	keys := map[string]*want{}
	for _, w := range v.wants {
		keys[w.key] = w
	}
	note := func(k string) {
		if _, known := keys[k]; !known {
			keys[k] = nil // its Module is gone
		}
	}
	if v.config != nil {
		for _, e := range v.config.entries {
			note(e.key())
		}
		for i := range v.config.states {
			note(v.config.states[i].key.Value())
		}
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		r.one(k, keys[k])
	}
	r.write = r.write || v.config != nil && !slices.Equal(r.keeps, v.config.held)
	r.difference()
	return r.decision
}

type renderer struct {
	view
	decision
	admit  func(string) bool
	booted bool              // what the node reports is about the boot that runs
	labels map[string]string // as they should be
}

// one decides about one Module; w is nil when it is gone.
func (r *renderer) one(k string, w *want) {
	current := r.config.entry(k)
	target, s := r.target(k, w, current)
	st := r.config.state(k)
	if !r.booted {
		st = nil
	}
	next, off := current, false
	change := !same(current, target)
	release := r.node.Status.NodeInfo.KernelVersion
	awaits := target != nil && target.awaits(release)
	gated := change && target != nil && !awaits && (current == nil || reloads(current, target, release))
	switch {
	case !change:
	case gated && !r.admit(k):
		s.held = true
	case current == nil || target != nil && !gated && !awaits:
		next = target
	case r.usedByPlugin(k, w, &s):
		off = true
		r.waiting = append(r.waiting, k)
	default:
		off, next = true, target
		if w != nil && w.role != "" && w.entry != nil {
			r.leaving = append(r.leaving, k)
		}
	}
	r.write = r.write || !same(next, current)
	// Of an image that is made it may not be known yet whether it is there.
	keeps := current == nil && next == nil && (r.config == nil || slices.Contains(r.config.held, k))
	s.later = s.later && keeps
	if keeps && (s.held || s.later || s.building) {
		r.keeps = append(r.keeps, k)
	}
	if next != nil {
		r.entries = append(r.entries, next)
		s.version = next.version()
	}
	s.available = !off && current != nil && r.ready(current, st)
	answered := st != nil && target != nil && st.revision.Value() == target.Revision && settled(st) &&
		(s.available || r.observed())
	s.current = same(next, target) && !s.building
	s.building = s.building || awaits
	s.settling = target != nil && !s.held && !answered && !s.building
	// It may be loading just now what it is not to have any more.
	busy := r.booted && w != nil && s.selected && !r.observed()
	if st != nil {
		r.judge(&s, st, next)
	}
	s.present = s.present || current != nil || next != nil
	s.leftover = s.present && w != nil && w.entry == nil
	s.present = s.present || busy
	r.wantLabels(k, w, &s)
	r.standings = append(r.standings, s)
}

// target is what the node should have of a Module: its entry as it is now, as it
// was, or none.
func (r *renderer) target(k string, w *want, current *entry) (*entry, standing) {
	s := standing{key: k}
	if w == nil || w.module == nil {
		return nil, s
	}
	onlyPlugin := w.entry == nil
	takes, _ := TakesPart(w.module, r.node, current != nil || onlyPlugin && r.hasPlugin(k))
	s.selected = matches(w.module.Spec.Selector, r.node.Labels)
	// One that has lost its finalizer is not handed out to more nodes; it stays
	// where it is until the finalizer is back.
	lost := !w.given && w.module.DeletionTimestamp == nil
	if onlyPlugin {
		s.desired = (w.given || lost && r.hasPlugin(k)) && takes && w.role != "" // its DaemonSet runs where taints let it
		return nil, s
	}
	switch {
	case !takes || !w.given && !lost:
		// A taint that keeps it away does not take it off.
		s.later, _ = TakesPart(w.module, r.node, true)
		s.later = s.later && current == nil && (w.given || lost)
		return nil, s
	case lost:
		s.desired, s.later = current != nil, current == nil
		return current, s
	}
	target := w.entry
	if version := w.entry.version(); version != "" {
		asked, ok := r.node.Labels[v1beta1.VersionLabel(w.module.Namespace, w.module.Name)]
		switch {
		case !ok:
			target = nil
		case asked != version:
			s.desired, s.later = current != nil, current == nil
			return current, s // the node stays at what it has until its label says otherwise
		}
	}
	if target != nil && target.Made != nil {
		target = r.image(w, current, &s)
	}
	s.desired = target != nil || s.building
	return target, s
}

// image is the entry with the image of the node's kernel, where the cluster makes
// it. Until that is there, a node keeps what it can load.
func (r *renderer) image(w *want, current *entry, s *standing) *entry {
	release := r.node.Status.NodeInfo.KernelVersion
	if c, ok := w.entry.choice(release); !ok || !c.Awaited {
		return w.entry // another mapping wins, or none
	}
	target := w.made[release]
	if target == nil || target.awaits(release) && current != nil && !current.awaits(release) && current.fits(release) {
		s.building = true
		return current
	}
	return target
}

func matches(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func (r *renderer) hasPlugin(k string) bool {
	return slices.ContainsFunc(r.plugins, func(p pluginPod) bool { return p.key == k })
}

// usedByPlugin reports whether a pod is there that leaves when the module is not ready
// any more, or leaves anyway. The plugin of a Module that loads none stays on the nodes
// that its selector takes: whether it keeps the module from being unloaded is known to
// the node.
func (r *renderer) usedByPlugin(k string, w *want, s *standing) bool {
	stays := w != nil && w.entry == nil && w.given && s.selected
	return slices.ContainsFunc(r.plugins, func(p pluginPod) bool {
		return p.key == k && (!stays || p.role != w.role || p.versioned)
	})
}

// observed reports whether the node's answer is about the last order. One to an
// order before that may name the same revision: between the two was another.
func (r *renderer) observed() bool { return r.config.observed >= r.config.Generation }

// ready says whether the node runs this entry. While it has not yet answered to
// one that makes no difference to its modules, it stays what it was.
func (r *renderer) ready(e *entry, st *state) bool {
	if st == nil || st.state.Value() != v1beta1.StateLoaded {
		return false
	}
	if st.revision.Value() == e.Revision && r.observed() {
		return true
	}
	_, was := r.node.Labels[v1beta1.ReadyLabel(e.Namespace, e.Name)]
	return was
}

// settled reports whether the node has done what it can.
func settled(st *state) bool {
	return st.state.Value() == v1beta1.StateLoaded || st.state.Value() == v1beta1.StateFailed
}

// judge says what is wrong, and whether the node still has modules of it. next is
// what it is told; what it said of anything else does not count any more.
func (r *renderer) judge(s *standing, st *state, next *entry) {
	state, reason := st.state.Value(), st.reason.Value()
	ours := st.revision.Value() != "" || state == v1beta1.StateLeaving // else a document on the node
	s.present = ours
	if reason == "" || !ours {
		return
	}
	if state != v1beta1.StateLeaving && (next == nil || st.revision.Value() != next.Revision) {
		return
	}
	s.reason, s.message = reason, st.message
	if reason == string(spec.ReasonNoMapping) {
		s.unmapped, s.desired = true, false
	}
}
