// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// A node's failures are told at once as long as there are no more than maxTellings, and
// then one each tellAgain: whoever has the token of its agent may write any status.
const (
	maxTellings = 32
	tellAgain   = 10 * time.Second
)

// maxUnsaid is how many events of one item wait for an API server that does not take them.
const maxUnsaid = 2 * maxTellings

// tellings remember which events have been made, so that each thing is told
// once. A new Watcher tells the failures there are once more, under the same
// names, which the API server refuses.
type tellings struct {
	mu     sync.Mutex // guards what follows
	nodes  map[string]*nodeTellings
	unsaid map[string][]*corev1.Event // those that could not be made yet, by item on the queue
}

type nodeTellings struct {
	told     map[string]bool // failures
	unloaded []string        // keys whose modules have gone
	leaving  map[string]bool // keys that were ordered, are not any more, and are still there
	left     int             // how many failures may be told
	at       time.Time       // since when left is that
}

// node is called with mu held.
func (t *tellings) node(name string) *nodeTellings {
	if t.nodes == nil {
		t.nodes = map[string]*nodeTellings{}
	}
	n := t.nodes[name]
	if n == nil {
		n = &nodeTellings{left: maxTellings}
		t.nodes[name] = n
	}
	return n
}

func (t *tellings) forget(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.nodes, node)
	delete(t.unsaid, nodeWork+node)
}

// unsay takes what waits for the next look at an item.
func (t *tellings) unsay(item string) []*corev1.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	events := t.unsaid[item]
	delete(t.unsaid, item)
	return events
}

// later has events made at the next look at an item.
func (t *tellings) later(item string, events []*corev1.Event) {
	if len(events) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unsaid == nil {
		t.unsaid = map[string][]*corev1.Event{}
	}
	t.unsaid[item] = events[:min(len(events), maxUnsaid)]
}

// due are the events that a look at a node calls for: one for all that was
// loaded, one for all that was unloaded, and one for each failure of a Module that
// the node was asked for. There are more at another look, again from now, unless
// that is 0.
func (t *tellings) due(v view, d decision, now time.Time) (out []*corev1.Event, again time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.node(v.node.Name)
	if len(d.loaded) > 0 {
		what := strings.Join(d.loaded, ",") + v.config.bootID + v.node.ResourceVersion
		out = append(out, NodeEvent(v.node, ReasonModuleLoaded, what, "loaded "+ModuleList(d.loaded), now))
	}
	if len(n.unloaded) > 0 {
		what := strings.Join(n.unloaded, ",") + v.config.version()
		out = append(out, NodeEvent(v.node, ReasonModuleUnloaded, what, "unloaded "+ModuleList(n.unloaded), now))
		n.unloaded = nil
	}
	n.refill(now)
	n.follow(v, d)
	told := map[string]bool{}
	if v.config != nil {
		for i := range v.config.states {
			s := &v.config.states[i]
			if s.reason.Value() == "" || s.revision.Value() == "" && s.state.Value() != v1beta1.StateLeaving || !n.asked(v, s.key.Value()) {
				continue
			}
			id := fmt.Sprintf("%s %s %s", s.key.Value(), s.reason.Value(), s.since.UTC().Format(time.RFC3339))
			switch {
			case n.told[id] || told[id]:
			case n.left == 0:
				again = max(n.at.Add(tellAgain).Sub(now), time.Second)
				continue
			default:
				out = append(out, failure(v.node, s, id, now))
				n.left--
			}
			told[id] = true
		}
	}
	n.told = told
	if len(told) == 0 {
		n.told = nil
	}
	return out, again
}

func (n *nodeTellings) refill(now time.Time) {
	if n.left == maxTellings {
		n.at = now
		return
	}
	more := now.Sub(n.at) / tellAgain
	n.at = n.at.Add(more * tellAgain)
	n.left = int(min(time.Duration(n.left)+more, maxTellings))
}

// follow notes what a node is not to have any more and has not got rid of: its Module
// may be gone before it says why.
func (n *nodeTellings) follow(v view, d decision) {
	if !d.write && len(n.leaving) == 0 {
		return
	}
	leaving := map[string]bool{}
	if v.config != nil {
		for _, e := range v.config.entries {
			leaving[e.key()] = true
		}
		for k := range n.leaving {
			if v.config.state(k) != nil {
				leaving[k] = true
			}
		}
	}
	for _, e := range d.entries {
		delete(leaving, e.key())
	}
	n.leaving = leaving
	if len(leaving) == 0 {
		n.leaving = nil
	}
}

// asked reports whether a node was asked for a Module, as far as is known.
func (n *nodeTellings) asked(v view, k string) bool {
	_, wanted := slices.BinarySearchFunc(v.wants, k, func(w *want, k string) int { return strings.Compare(w.key, k) })
	return wanted || n.leaving[k] || v.config.entry(k) != nil
}

func failure(node *corev1.Node, s *state, id string, now time.Time) *corev1.Event {
	reason, what := ReasonModuleLoadFailed, "load"
	if s.state.Value() == v1beta1.StateLeaving {
		reason, what = ReasonModuleUnloadFailed, "unload"
	}
	return NodeEvent(node, reason, id, fmt.Sprintf("%s %s: %s: %s", what, s.key.Value(), s.reason.Value(), s.message), now)
}

// makeEvents creates events that a look at an item calls for, after those that could not
// be created before. Those that exist, and those for which it is too late, are no error;
// one that is refused is not tried again.
func (w *Watcher) makeEvents(ctx context.Context, item string, events []*corev1.Event) error {
	events = slices.Concat(w.events.unsay(item), events)
	for i, e := range events {
		_, err := w.cfg.Kube.CoreV1().Events(e.Namespace).Create(ctx, e, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) || ending(err) {
			continue
		}
		if err != nil {
			if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
				i++
			}
			w.events.later(item, events[i:])
			return fmt.Errorf("tell of %s %s: %w", e.InvolvedObject.Kind, e.InvolvedObject.Name, err)
		}
		w.cfg.Metrics.wrote("events")
	}
	return nil
}

// ending reports whether a request was refused because its namespace is on its
// way out.
func ending(err error) bool { return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) }

// version of a config, "" for none.
func (c *config) version() string {
	if c == nil {
		return ""
	}
	return c.ResourceVersion
}

// noteUnloaded compares two reports of a node: what it had in this boot and does
// not mention any more was unloaded.
func (w *Watcher) noteUnloaded(old, obj any) {
	before, ok := old.(*config)
	after, ok2 := obj.(*config)
	if !ok || !ok2 || before.bootID != after.bootID {
		return
	}
	var gone []string
	for i := range before.states {
		s := &before.states[i]
		had := s.state.Value() == v1beta1.StateLeaving || s.state.Value() == v1beta1.StateLoaded && s.revision.Value() != ""
		if had && after.state(s.key.Value()) == nil {
			gone = append(gone, s.key.Value())
		}
	}
	if len(gone) == 0 {
		return
	}
	w.events.mu.Lock()
	defer w.events.mu.Unlock()
	n := w.events.node(after.Name)
	if len(n.unloaded) < maxStates {
		n.unloaded = append(n.unloaded, gone...)
	}
}
