// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
	"github.com/kmm-node/kmmd/pkg/page"
)

// Snapshot is what the Watcher knows, for people. It asks the API server for
// nothing, and may be called at any time; before Ready it lacks what has not been
// read yet.
func (w *Watcher) Snapshot() page.Cluster {
	return picture(scene{
		at: time.Now(), wants: *w.wants.Load(), standings: w.tally.all(), images: w.makings.list,
		nodes: w.nodes.GetStore().List(), validations: w.validations.GetStore().List(),
		config: func(node string) *config { c, _ := get[*config](w.configs, node); return c },
	})
}

// all is how every Module stands, by key, with what has nothing to do with it
// left out.
func (t *tally) all() map[string][]standingOn {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[string][]standingOn, len(t.modules))
	for k, m := range t.modules {
		on := make([]standingOn, 0, len(m.standings))
		for node, s := range m.standings {
			on = append(on, standingOn{node, *s})
		}
		out[k] = on
	}
	return out
}

// scene is what a picture is made of.
type scene struct {
	at          time.Time
	wants       []*want // sorted by key
	standings   map[string][]standingOn
	nodes       []any // *corev1.Node
	validations []any // *v1beta2.PreflightValidation
	config      func(node string) *config
	images      func(*v1beta1.Module) []v1beta1.ModuleImage
}

// picture puts facts together.
func picture(s scene) page.Cluster {
	out := page.Cluster{At: s.at.UTC(), Nodes: len(s.nodes), Modules: []page.Module{}}
	nodes := make(map[string]*corev1.Node, len(s.nodes))
	for _, obj := range s.nodes {
		if n, ok := obj.(*corev1.Node); ok {
			nodes[n.Name] = n
		}
	}
	seen := map[string]bool{}
	for _, m := range s.wants {
		seen[m.key] = true
		p := modulePicture(m.module)
		p.Images = s.images(m.module)
		p.Nodes = nodePictures(m, s.standings[m.key], nodes, s.config)
		out.Modules = append(out.Modules, p)
	}
	for k, on := range s.standings {
		if !seen[k] && len(on) > 0 { // its Module is gone, and nodes still have it
			p := page.Module{Deleting: true, Nodes: nodePictures(&want{key: k}, on, nodes, s.config)}
			p.Namespace, p.Name, _ = strings.Cut(k, "/")
			out.Modules = append(out.Modules, p)
		}
	}
	slices.SortFunc(out.Modules, func(a, b page.Module) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	for _, obj := range s.validations {
		if v, ok := obj.(*v1beta2.PreflightValidation); ok {
			out.Validations = append(out.Validations, page.Validation{
				Name: v.Name, Kernel: v.Spec.KernelVersion, Conditions: v.Status.Conditions, Modules: v.Status.Modules,
			})
		}
	}
	slices.SortFunc(out.Validations, func(a, b page.Validation) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func modulePicture(m *v1beta1.Module) page.Module {
	p := page.Module{Namespace: m.Namespace, Name: m.Name, Deleting: m.DeletionTimestamp != nil, Conditions: m.Status.Conditions}
	if m.Spec.Rollout != nil {
		l := limitOf(m.Spec.Rollout)
		p.Rollout = &page.Rollout{PauseOnFailures: l.pauseAt}
		if l.max != nil {
			p.Rollout.MaxUnavailable = l.max.String()
		}
	}
	return p
}

func nodePictures(m *want, on []standingOn, nodes map[string]*corev1.Node, config func(string) *config) []page.Node {
	out := make([]page.Node, 0, len(on))
	for i := range on {
		s := &on[i]
		state := stateOf(m, &s.standing)
		if state == "" {
			continue
		}
		n := page.Node{Name: s.node, State: state, Reason: s.reason, Message: s.message, Version: s.version}
		if node := nodes[s.node]; node != nil {
			n.Kernel = node.Status.NodeInfo.KernelVersion
			if state == page.Excluded {
				n.Message = whyNot(m.module, node)
			}
		}
		if st := config(s.node).state(m.key); st != nil && tellsOf(st, state) {
			n.Since = st.since.UTC()
		}
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b page.Node) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// whyNot says why a node that is selected is not to run a Module.
func whyNot(m *v1beta1.Module, node *corev1.Node) string {
	if takes, why := TakesPart(m, node, false); !takes {
		return why
	}
	if m.Spec.ModuleLoader == nil || m.Spec.ModuleLoader.Container.Version == "" {
		return ""
	}
	label, version := v1beta1.VersionLabel(m.Namespace, m.Name), m.Spec.ModuleLoader.Container.Version
	switch asked, ok := node.Labels[label]; {
	case !ok:
		return fmt.Sprintf("the node has no label %s, which says what version it is to run", label)
	case asked != version:
		return fmt.Sprintf("the node's label %s asks for version %q, the Module is %q", label, asked, version)
	}
	return ""
}

// tellsOf reports whether what a node says is about the state that is shown.
func tellsOf(st *state, shown page.State) bool {
	switch shown {
	case page.Loaded, page.Older:
		return st.state.Value() == v1beta1.StateLoaded
	case page.Failed, page.Unmapped:
		return st.reason.Value() != ""
	case page.Leaving:
		return st.state.Value() == v1beta1.StateLeaving
	}
	return false
}

// stateOf is a standing in one word; "" when the node has nothing to do with the
// Module.
func stateOf(m *want, s *standing) page.State {
	onlyPlugin := m.module != nil && m.module.Spec.ModuleLoader == nil
	switch {
	case s.failed():
		return page.Failed
	case s.unmapped:
		return page.Unmapped
	case s.leftover:
		return page.Leaving
	case onlyPlugin && s.plugin:
		return page.Loaded
	case onlyPlugin && s.desired:
		return page.Changing
	case s.present && !s.desired && !s.later:
		return page.Leaving
	case s.held:
		return page.Waiting
	case s.building:
		return page.Building
	case s.settling || s.desired && !s.available:
		return page.Changing
	case s.available && s.version != versionOf(m):
		return page.Older
	case s.available:
		return page.Loaded
	case s.selected:
		return page.Excluded
	}
	return ""
}

// versionOf is what the Module says now.
func versionOf(m *want) string {
	if m.entry == nil {
		return ""
	}
	return m.entry.version()
}
