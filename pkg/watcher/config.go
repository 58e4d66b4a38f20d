// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// config is a NodeModulesConfig as it is remembered: thousands of nodes times
// dozens of Modules have to fit into little memory, so that only what is decided
// upon is kept, and what is equal is shared.
type config struct {
	metav1.ObjectMeta // name, uid, resourceVersion, generation

	owner    types.UID // of the Node it belongs to
	entries  []*entry  // sorted by key
	held     []string  // keys of what it keeps without an entry, sorted
	bootID   string
	observed int64 // generation
	states   []state
}

// state is what a node says of one Module.
type state struct {
	key      unique.Handle[string]
	revision unique.Handle[string]
	state    unique.Handle[string]
	reason   unique.Handle[string]
	message  string
	since    time.Time
}

const (
	// maxMessage is how much of a node's message is remembered, in bytes.
	maxMessage = 512
	// maxStates is how many Modules a node may speak of: as many as the API server lets it.
	maxStates = 1024
)

func (c *config) entry(key string) *entry {
	if c == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(c.entries, key, func(e *entry, key string) int { return strings.Compare(e.key(), key) })
	if !ok {
		return nil
	}
	return c.entries[i]
}

// state of a Module, nil when the node has never mentioned it.
func (c *config) state(key string) *state {
	if c == nil {
		return nil
	}
	for i := range c.states {
		if c.states[i].key.Value() == key {
			return &c.states[i]
		}
	}
	return nil
}

// configs turns what the API server sends into what is remembered.
type configs struct {
	entries entries

	mu   sync.Mutex // guards last
	last map[string]*config
}

// compact is the informer's transform.
func (s *configs) compact(obj any) (any, error) {
	switch o := obj.(type) {
	case *v1beta1.NodeModulesConfig:
		c := s.read(o)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.last == nil {
			s.last = map[string]*config{}
		}
		s.last[c.Name] = c
		return c, nil
	case *config:
		return o, nil
	}
	return nil, fmt.Errorf("compact: not a NodeModulesConfig: %T", obj)
}

// forget what a node had, when its object is gone.
func (s *configs) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.last, name)
}

// collect forgets entries that no node has any more.
func (s *configs) collect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	used := map[*entry]bool{}
	for _, c := range s.last {
		for _, e := range c.entries {
			used[e] = true
		}
	}
	s.entries.keep(used)
}

func (s *configs) read(o *v1beta1.NodeModulesConfig) *config {
	c := &config{
		ObjectMeta: metav1.ObjectMeta{
			Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion, Generation: o.Generation, DeletionTimestamp: o.DeletionTimestamp,
		},
		bootID: o.Status.BootID, observed: o.Status.ObservedGeneration,
	}
	for _, r := range o.OwnerReferences {
		if r.Kind == "Node" && r.Name == o.Name {
			c.owner = r.UID
		}
	}
	s.mu.Lock()
	last := s.last[o.Name]
	s.mu.Unlock()
	if last != nil && last.UID == c.UID && last.Generation == c.Generation {
		c.entries, c.held = last.entries, last.held // the spec has not changed
	} else {
		for i := range o.Spec.Modules {
			c.entries = append(c.entries, s.entries.share(&o.Spec.Modules[i]))
		}
		for _, h := range o.Spec.Held {
			c.held = append(c.held, key(h.Namespace, h.Name))
		}
		slices.Sort(c.held)
		slices.SortFunc(c.entries, func(a, b *entry) int { return strings.Compare(a.key(), b.key()) })
	}
	for i := range o.Status.Modules[:min(len(o.Status.Modules), maxStates)] {
		m := &o.Status.Modules[i]
		st := state{
			key: unique.Make(key(m.Namespace, m.Name)), revision: unique.Make(m.Revision),
			state: unique.Make(m.State), reason: unique.Make(m.Reason), since: m.Since.Time,
		}
		if m.State != v1beta1.StateLoaded {
			st.message = strings.Clone(shorten(m.Message, maxMessage))
		}
		c.states = append(c.states, st)
	}
	return c
}
