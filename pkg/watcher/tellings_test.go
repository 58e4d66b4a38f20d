// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unique"

	"github.com/stretchr/testify/assert"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// tellingsOf are the events that a look calls for: "REASON: MESSAGE".
func tellingsOf(t *tellings, v view, now time.Time) []string {
	events, _ := t.due(v, render(v, func(string) bool { return true }), now)
	var out []string
	for _, e := range events {
		out = append(out, e.Reason+": "+e.Message)
	}
	return out
}

func TestFailuresAreToldOnce(t *testing.T) {
	var said tellings
	a, now := module("a", "1"), time.Unix(1_000_000, 0)
	v := view{node: labelled(), wants: wanted(a), config: has(given(a), told(a, "Failed/InitFailed"))}
	assert.Len(t, tellingsOf(&said, v, now), 1)
	assert.Empty(t, tellingsOf(&said, v, now))
	v.config = has(given(a), told(a, "Failed/InUse"))
	assert.Len(t, tellingsOf(&said, v, now), 1)
}

// TestLeavingIsTold also when nothing else in the cluster mentions the Module any more.
func TestLeavingIsTold(t *testing.T) {
	var said tellings
	a, now := module("a", "1"), time.Unix(1_000_000, 0)
	leaving := told(a, "Leaving/InUse")
	assert.Empty(t, tellingsOf(&said, view{node: labelled(), config: has(given(a), told(a, "Loaded"))}, now), "the order goes")
	assert.Equal(t, []string{"ModuleUnloadFailed: unload ns/a: InUse: "}, tellingsOf(&said, view{node: labelled(), config: has(nil, leaving)}, now))
	assert.Empty(t, tellingsOf(&said, view{node: labelled(), config: has(nil, leaving)}, now))
	assert.Empty(t, tellingsOf(&said, view{node: labelled(), config: has(nil)}, now))
	leaving.since = time.Unix(5, 0)
	assert.Empty(t, tellingsOf(&said, view{node: labelled(), config: has(nil, leaving)}, now), "it was gone, and nobody has ordered it since")
}

// TestNodeThatTalksTooMuch: whoever has the token of an agent may write any status.
func TestNodeThatTalksTooMuch(t *testing.T) {
	var said tellings
	now := time.Unix(1_000_000, 0)
	var unknown []state
	for i := range 5000 {
		unknown = append(unknown, state{
			key: unique.Make(fmt.Sprintf("ns/%d", i)), revision: unique.Make("r"), state: unique.Make("Leaving"), reason: unique.Make("InUse"),
		})
	}
	v := view{node: labelled(), wants: wanted(module("a", "1")), config: has(nil, unknown...)}
	assert.Empty(t, tellingsOf(&said, v, now), "Modules that nobody has asked this node for")

	var modules []*v1beta1.Module
	var failed []state
	for i := range 100 {
		m := module(fmt.Sprintf("m%02d", i), "1")
		modules, failed = append(modules, m), append(failed, told(m, "Failed/InitFailed"))
	}
	v = view{node: labelled(), wants: wanted(modules...), config: has(given(modules...), failed...)}
	first := tellingsOf(&said, v, now)
	assert.Len(t, first, maxTellings)
	all := len(first)
	for range 100 {
		now = now.Add(tellAgain)
		next := tellingsOf(&said, v, now)
		assert.LessOrEqual(t, len(next), 1)
		all += len(next)
	}
	assert.Equal(t, 100, all, "what was held back is told later, each once")
	for n := range 10 {
		for i := range failed {
			failed[i].since = time.Unix(int64(n), 0)
		}
		all += len(tellingsOf(&said, v, now))
	}
	assert.LessOrEqual(t, all, 100+maxTellings, "another time makes no more of it")

	other := v
	other.node = labelled()
	other.node.Name = "other"
	assert.Len(t, tellingsOf(&said, other, now), maxTellings, "another node is not silenced")
}

// TestHeldBackTellings: the node is looked at again for them.
func TestHeldBackTellings(t *testing.T) {
	var said tellings
	a, now := module("a", "1"), time.Unix(1_000_000, 0)
	v := view{node: labelled(), wants: wanted(a), config: has(given(a), told(a, "Failed/InitFailed"))}
	decided := decision{}
	for i := range maxTellings {
		v.config.states[0].since = time.Unix(int64(i), 0)
		events, again := said.due(v, decided, now)
		assert.Len(t, events, 1)
		assert.Zero(t, again)
	}
	v.config.states[0].since = time.Unix(maxTellings, 0)
	events, again := said.due(v, decided, now)
	assert.Empty(t, events)
	assert.Equal(t, tellAgain, again)
	said.forget("n")
	events, _ = said.due(v, decided, now)
	assert.Len(t, events, 1)
}

// TestReadIsBounded: so is what is remembered of a status, whatever the API server lets through.
func TestReadIsBounded(t *testing.T) {
	nmc := &v1beta1.NodeModulesConfig{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	for i := range 5000 {
		nmc.Status.Modules = append(nmc.Status.Modules, v1beta1.NodeModuleStatus{
			Namespace: "ns", Name: fmt.Sprint(i), State: "Failed", Reason: "InUse", Message: strings.Repeat("x", 1000),
		})
	}
	var s configs
	c := s.read(nmc)
	assert.Len(t, c.states, maxStates)
	assert.LessOrEqual(t, len(c.states[0].message), maxMessage)
}
