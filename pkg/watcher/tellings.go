// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// tellings remember which events have been made, so that each thing is told
// once. A new Watcher tells the failures there are once more, under the same
// names, which the API server refuses.
type tellings struct {
	mu       sync.Mutex // guards the two below
	told     map[string]map[string]bool
	unloaded map[string][]string // by node: keys whose modules have gone
}

func (t *tellings) forget(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.told, node)
	delete(t.unloaded, node)
}

// due are the events that a look at a node calls for: one for all that was
// loaded, one for all that was unloaded, and one for each failure.
func (t *tellings) due(v view, d decision, now time.Time) []*corev1.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*corev1.Event
	if len(d.loaded) > 0 {
		what := strings.Join(d.loaded, ",") + v.config.bootID + v.node.ResourceVersion
		out = append(out, NodeEvent(v.node, ReasonModuleLoaded, what, "loaded "+ModuleList(d.loaded), now))
	}
	if gone := t.unloaded[v.node.Name]; len(gone) > 0 {
		delete(t.unloaded, v.node.Name)
		what := strings.Join(gone, ",") + v.config.version()
		out = append(out, NodeEvent(v.node, ReasonModuleUnloaded, what, "unloaded "+ModuleList(gone), now))
	}
	told := map[string]bool{}
	if v.config != nil {
		for i := range v.config.states {
			s := &v.config.states[i]
			if s.reason.Value() == "" || s.revision.Value() == "" && s.state.Value() != v1beta1.StateLeaving {
				continue
			}
			id := fmt.Sprintf("%s %s %s", s.key.Value(), s.reason.Value(), s.since.UTC().Format(time.RFC3339))
			if !t.told[v.node.Name][id] {
				out = append(out, failure(v.node, s, id, now))
			}
			told[id] = true
		}
	}
	if t.told == nil {
		t.told = map[string]map[string]bool{}
	}
	t.told[v.node.Name] = told
	if len(told) == 0 {
		delete(t.told, v.node.Name)
	}
	return out
}

func failure(node *corev1.Node, s *state, id string, now time.Time) *corev1.Event {
	reason, what := ReasonModuleLoadFailed, "load"
	if s.state.Value() == v1beta1.StateLeaving {
		reason, what = ReasonModuleUnloadFailed, "unload"
	}
	return NodeEvent(node, reason, id, fmt.Sprintf("%s %s: %s: %s", what, s.key.Value(), s.reason.Value(), s.message), now)
}

// makeEvents creates events; those that exist, and those for which it is too late,
// are no error.
func (w *Watcher) makeEvents(ctx context.Context, events []*corev1.Event) error {
	for _, e := range events {
		_, err := w.cfg.Kube.CoreV1().Events(e.Namespace).Create(ctx, e, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) || ending(err) {
			continue
		}
		if err != nil {
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
	if w.events.unloaded == nil {
		w.events.unloaded = map[string][]string{}
	}
	w.events.unloaded[after.Name] = append(w.events.unloaded[after.Name], gone...)
}
