// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// limit is a Module's rollout: how many nodes may change at a time, and after how
// many failures no other one begins. The zero value limits nothing.
type limit struct {
	max     *intstr.IntOrString
	pauseAt int
}

func limitOf(r *v1beta1.Rollout) limit {
	if r == nil {
		return limit{}
	}
	l := limit{max: r.MaxUnavailable, pauseAt: 1}
	if r.PauseOnFailures != nil {
		l.pauseAt = int(*r.PauseOnFailures)
	}
	return l
}

// set what a Module asks for. It returns the nodes that may begin now.
func (t *tally) setLimit(k string, l limit) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.module(k)
	m.limit = l
	return m.next()
}

// admit lets a node begin to change, if its turn has come. It is remembered as
// one that has begun until set says that it has answered; one that has to wait,
// as held. The turn goes by name among those that are held.
func (t *tally) admit(k, node string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.module(k)
	if m.begun[node] || m.limit == (limit{}) {
		return true
	}
	m.held[node] = true
	before := 0
	for n := range m.held {
		if n < node {
			before++
		}
	}
	if before >= m.free() {
		return false
	}
	delete(m.held, node)
	m.begun[node] = true
	return true
}

// hasBegun is admit for somebody who only looks.
func (t *tally) hasBegun(k, node string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.module(k)
	return m.begun[node] || m.limit == (limit{})
}

// paused reports whether too many nodes have failed.
func (m *moduleTally) paused() bool { return m.limit.pauseAt > 0 && len(m.broken) >= m.limit.pauseAt }

// free is how many nodes more may begin. After the first failure no more do than
// could fail without going beyond the limit.
func (m *moduleTally) free() int {
	free := 1 << 30
	if m.limit.max != nil {
		n, err := intstr.GetScaledValueFromIntOrPercent(m.limit.max, m.counts.desired, true)
		if err != nil {
			n = 1 // the API server refuses such a value
		}
		free = max(n, 1) - len(m.begun)
	}
	if m.limit.pauseAt > 0 && len(m.broken) > 0 {
		free = min(free, m.limit.pauseAt-len(m.broken)-len(m.begun))
	}
	return free
}

// next are held nodes whose turn it is.
func (m *moduleTally) next() []string {
	free := m.free()
	if free < 1 || len(m.held) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(m.held))
	return names[:min(free, len(names))]
}
