// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"maps"
	"slices"
	"sync"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// tally remembers how every Module stands on every node, so that one node's
// change costs the same however many nodes there are.
type tally struct {
	mu      sync.Mutex // guards everything below
	modules map[string]*moduleTally
	nodes   map[string][]string // keys that a node has a standing of
	untold  map[string]bool     // nodes that have not been looked at since Modules have changed
}

// moduleTally is one Module on all nodes.
type moduleTally struct {
	standings map[string]*standing // by node
	counts    counts
	begun     map[string]bool // nodes that were let through and have not answered
	held      map[string]bool // nodes that wait for their turn
	failed    map[string]bool
	broken    map[string]bool // failed with what the Module says now
	present   map[string]bool
	building  map[string]bool // nodes that wait for an image
	leftover  map[string]bool // nodes that have what the Module does not ask for any more
	unmapped  int
	limit     limit
	telling   bool // it has changed, and not all nodes have been looked at since
}

// counts are the numbers of a Module's status.
type counts struct {
	selected, desired, available, plugins, current int
}

func newTally() *tally {
	return &tally{modules: map[string]*moduleTally{}, nodes: map[string][]string{}}
}

func (t *tally) module(k string) *moduleTally {
	m := t.modules[k]
	if m == nil {
		m = &moduleTally{
			standings: map[string]*standing{}, begun: map[string]bool{}, held: map[string]bool{},
			failed: map[string]bool{}, broken: map[string]bool{}, present: map[string]bool{}, building: map[string]bool{},
			leftover: map[string]bool{},
		}
		t.modules[k] = m
	}
	return m
}

// set replaces what is known of a node. It returns the Modules whose numbers
// changed, and nodes that may begin now.
func (t *tally) set(node string, standings []standing) (changed, wake []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := map[string]bool{}
	var keys []string
	for i := range standings {
		s := standings[i]
		seen[s.key] = true
		if s == (standing{key: s.key, version: s.version, current: s.current}) {
			s = standing{key: s.key} // it has nothing to do with this node
		}
		if t.module(s.key).set(node, s) {
			changed = append(changed, s.key)
			wake = append(wake, t.modules[s.key].next()...)
		}
		keys = append(keys, s.key)
	}
	for _, k := range t.nodes[node] {
		if !seen[k] && t.module(k).set(node, standing{key: k}) {
			changed = append(changed, k)
			wake = append(wake, t.modules[k].next()...)
		}
	}
	t.nodes[node] = keys
	if len(keys) == 0 {
		delete(t.nodes, node)
	}
	return changed, wake
}

// forget a node that is gone, also where it was let through or held, and no standing was
// set since. It returns what set does.
func (t *tally) forget(node string) (changed, wake []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, m := range t.modules {
		waited := m.begun[node] || m.held[node]
		if m.set(node, standing{key: k}) || waited {
			changed = append(changed, k)
			wake = append(wake, m.next()...)
		}
	}
	delete(t.nodes, node)
	return changed, wake
}

// but are the nodes of which something is known, without those of some names.
func (t *tally) but(names []string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string]bool{}
	for n := range t.nodes {
		out[n] = true
	}
	for _, m := range t.modules {
		maps.Copy(out, m.begun)
		maps.Copy(out, m.held)
	}
	for _, n := range names {
		delete(out, n)
	}
	return slices.Sorted(maps.Keys(out))
}

// tell notes that some Modules have changed: how they stand is not known before
// told was said of all these nodes.
func (t *tally) tell(keys, nodes []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys {
		t.module(k).telling = len(nodes) > 0
	}
	t.untold = map[string]bool{}
	for _, n := range nodes {
		t.untold[n] = true
	}
}

// told notes that a node has been looked at, or is gone. It returns the Modules
// of which it is known now how they stand.
func (t *tally) told(node string) (keys []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.untold[node] {
		return nil
	}
	delete(t.untold, node)
	if len(t.untold) > 0 {
		return nil
	}
	for k, m := range t.modules {
		if m.telling {
			m.telling = false
			keys = append(keys, k)
		}
	}
	return keys
}

// set changes one standing, and reports whether it was another one.
func (m *moduleTally) set(node string, s standing) bool {
	old := m.standings[node]
	if old == nil {
		old = &standing{key: s.key}
	}
	if *old == s {
		m.mark(node, &s)
		return false
	}
	m.count(old, -1)
	m.count(&s, 1)
	if s == (standing{key: s.key}) {
		delete(m.standings, node)
	} else {
		m.standings[node] = &s
	}
	m.mark(node, &s)
	return true
}

func (m *moduleTally) mark(node string, s *standing) {
	put := func(set map[string]bool, in bool) {
		if in {
			set[node] = true
		} else {
			delete(set, node)
		}
	}
	// One that is told what reloads nothing goes on as it was: its turn is still to come.
	put(m.begun, s.settling && (!s.available || m.begun[node]))
	put(m.held, s.held)
	put(m.failed, s.failed())
	put(m.broken, s.failed() && s.desired && s.current)
	put(m.present, s.present)
	put(m.building, s.building)
	put(m.leftover, s.leftover)
}

func (m *moduleTally) count(s *standing, by int) {
	for _, c := range []struct {
		n  *int
		is bool
	}{
		{&m.counts.selected, s.selected}, {&m.counts.desired, s.desired}, {&m.counts.available, s.available},
		{&m.counts.plugins, s.plugin}, {&m.counts.current, s.desired && s.current && s.available}, {&m.unmapped, s.unmapped},
	} {
		if c.is {
			*c.n += by
		}
	}
}

// versions are those that nodes have of a Module.
func (t *tally) versions(k string) map[string]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string]bool{}
	if m := t.modules[k]; m != nil {
		for _, s := range m.standings {
			if s.version != "" {
				out[s.version] = true
			}
		}
	}
	return out
}

// report is what a Module's status is made of.
type report struct {
	counts
	begun, held, unmapped int
	changing              []string     // nodes that have begun, at most maxNamed
	failed, present       []standingOn // by node; failed at most maxNamed, present too
	failedTotal           int
	mixed                 bool // not all that have failed have the same reason
	presentTotal          int
	paused                bool
	telling               bool     // what the Module says now has not reached all nodes
	untold                int      // those it has not reached, where that is known
	building              int      // nodes that wait for an image
	leftover              int      // nodes that have what the Module does not ask for any more
	unloading             []string // of these, at most maxNamed
	images                []v1beta1.ModuleImage
	needed                []v1beta1.ModuleImage // those of images that a node wants
	decided               int64                 // the Generation that all of images were decided upon for; 0 is none
}

// standingOn is a standing with its node.
type standingOn struct {
	node string
	standing
}

// maxNamed is how many nodes a message names.
const maxNamed = 5

func (t *tally) report(k string) report {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.modules[k]
	if m == nil {
		return report{}
	}
	r := report{
		counts: m.counts, begun: len(m.begun), changing: first(m.begun), held: len(m.held), unmapped: m.unmapped,
		failed: m.name(m.failed), failedTotal: len(m.failed), mixed: m.mixed(),
		present: m.name(m.present), presentTotal: len(m.present),
		paused: len(m.held) > 0 && m.paused(), telling: m.telling, building: len(m.building),
		leftover: len(m.leftover), unloading: first(m.leftover),
	}
	if m.telling {
		r.untold = len(t.untold)
	}
	return r
}

// first gives the first of some nodes, by name.
func first(nodes map[string]bool) []string {
	var names []string
	for n := range nodes { // often all that there are: they are not sorted for a few
		if len(names) == maxNamed && n > names[maxNamed-1] {
			continue
		}
		i, _ := slices.BinarySearch(names, n)
		names = slices.Insert(names, i, n)
		names = names[:min(len(names), maxNamed)]
	}
	return names
}

// mixed reports whether nodes have failed for different reasons.
func (m *moduleTally) mixed() bool {
	reason := ""
	for n := range m.failed {
		if s := m.standings[n]; s != nil && reason != "" && s.reason != reason {
			return true
		} else if s != nil {
			reason = s.reason
		}
	}
	return false
}

// name gives how the first of some nodes stand.
func (m *moduleTally) name(nodes map[string]bool) []standingOn {
	var out []standingOn
	for _, n := range first(nodes) {
		if s := m.standings[n]; s != nil {
			out = append(out, standingOn{n, *s})
		}
	}
	return out
}

// drop forgets a Module that is gone, once no node has anything of it.
func (t *tally) drop(k string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.modules[k]; m != nil && len(m.standings) == 0 {
		delete(t.modules, k)
	}
}
