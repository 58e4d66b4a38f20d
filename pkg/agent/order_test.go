// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// order is what a cluster asks a node for: Modules whose revision is given
// behind their name.
func order(generation int64, revision string, wants ...want) spec.Node {
	n := documents(wants...)
	n.Generation = generation
	for i := range n.Modules {
		n.Modules[i].Revision = revision
	}
	return n
}

// during is an image store that does something else while it is asked.
type during struct {
	agent.Images
	do func(images.Request)
}

func (d *during) Ensure(ctx context.Context, r images.Request) (*images.Tree, error) {
	d.do(r)
	return d.Images.Ensure(ctx, r)
}

func TestRevisionIsOfWhatWasDone(t *testing.T) {
	n := newNode(t)
	w := want{name: "a", image: n.image("1", ours("1"), nil), module: "base"}
	next := w
	next.parameters = []string{"level=2"}
	n.start(func(c *agent.Config) {
		c.Images = &during{c.Images, func(images.Request) { n.agent.SetDesired(order(8, "new", next)) }}
	})
	n.agent.SetDesired(order(7, "old", w))
	s, err := n.agent.Reconcile(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "old", one(t, s).Revision, "what came in the meantime has not been done")
	assert.EqualValues(t, 7, s.ObservedGeneration)
	s, err = n.agent.Reconcile(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "new", one(t, s).Revision)
	assert.EqualValues(t, 8, s.ObservedGeneration)
	assert.Equal(t, []string{"level=2"}, one(t, s).Kernel[0].Parameters)
}

func TestObeyedOrderIsReported(t *testing.T) {
	n := newNode(t)
	w := want{name: "a", image: n.image("1", ours("1"), nil), module: "base", pull: images.PullIfNotPresent}
	n.reconcileNode(order(1, "r1", w))
	n.calls()
	asked := len(n.images.asked)
	for range 2 {
		n.reconcileNode(order(2, "r1", w))
	}
	require.Len(t, n.reports, 2, "once for each generation")
	assert.EqualValues(t, 2, n.reports[1].ObservedGeneration)
	n.reconcileNode(order(3, "r2", w))
	require.Len(t, n.reports, 3)
	assert.Equal(t, "r2", one(t, n.reports[2]).Revision)
	assert.Equal(t, n.reports[0].Modules[0].Since, n.reports[2].Modules[0].Since)

	changed := order(4, "r3", w)
	changed.Modules[0].PullSecrets = []string{"reg"}
	n.reconcileNode(changed)
	assert.Len(t, n.images.asked, asked, "an image that is there is not asked for again")
	changed = order(5, "r4", w)
	changed.Modules[0].Metadata.Annotations = map[string]string{"note": "x"}
	s := n.reconcileNode(changed)
	assert.Equal(t, "r4", one(t, s).Revision)
	assert.Empty(t, n.calls(), "nothing of this changes the kernel")
}

func TestRefusedKeepsWhatRuns(t *testing.T) {
	n := newNode(t)
	image := n.image("1", ours("1"), nil)
	a, b := want{name: "a", image: image, module: "base"}, want{name: "b", image: image, module: "helper"}
	require.True(t, n.reconcileNode(order(1, "r1", a, b)).OK())
	n.calls()
	refused := spec.Node{Generation: 2, Refused: []spec.Refused{{
		Namespace: "default", Name: "a", Revision: "r2", Reason: spec.ReasonInvalid, Message: "Module default/a (cluster): bad",
	}}}
	s := n.reconcileNode(refused)
	assert.Equal(t, []string{"unload helper"}, n.calls(), "the other one is known to be gone")
	assert.False(t, s.OK())
	require.Len(t, s.Refused, 1)
	m := s.Refused[0]
	assert.Equal(t, "default/a r2 Failed Invalid Module default/a (cluster): bad",
		strings.Join([]string{m.Key(), m.Revision, string(m.State), string(m.Reason), m.Message}, " "))
	assert.Equal(t, "base", m.Kernel[0].Name)
	n.reconcileNode(refused)
	assert.Equal(t, 1, strings.Count(n.log.String(), "order is not obeyed"))
	assert.Len(t, n.reports, 2)
	_, unresolved, err := n.agent.Plan(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "Invalid", unresolved["default/a"].Reason)

	assert.True(t, n.reconcileNode(order(3, "r1", a)).OK(), "mended")
	assert.Empty(t, n.calls())
}

func TestRefusedBesideOneThatIsObeyed(t *testing.T) {
	n := newNode(t)
	m, r := newMetrics()
	n.start(func(c *agent.Config) { c.Metrics = m })
	both := documents(want{name: "a", image: n.image("1", ours("1"), nil), module: "base"})
	both.Refused = []spec.Refused{{Namespace: "default", Name: "a", Revision: "r", Reason: spec.ReasonConflict, Message: "in a file too"}}
	s := n.reconcileNode(both)
	assert.Equal(t, spec.StateLoaded, one(t, s).State)
	assert.Empty(t, s.Modules[0].Revision)
	require.Len(t, s.Refused, 1)
	assert.Equal(t, spec.ReasonConflict, s.Refused[0].Reason)
	families, err := r.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == "kmmd_module_state" {
			assert.Len(t, f.GetMetric(), 1)
		}
	}
	_, unresolved, err := n.agent.Plan(t.Context())
	require.NoError(t, err)
	assert.Empty(t, unresolved)
}

func TestNotAllHaveSpoken(t *testing.T) {
	n := newNode(t)
	n.FailInit("helper", syscall.ENODEV, "helper: no such hardware")
	image := n.image("1", ours("1"), nil)
	a, b := want{name: "a", image: image, module: "base"}, want{name: "b", image: image, module: "helper"}
	n.reconcile(a, b)
	n.start()
	n.calls()
	s := n.reconcileNode(spec.Node{Partial: true})
	assert.True(t, s.Partial)
	assert.Empty(t, s.Leaving)
	assert.Empty(t, n.calls(), "who wants it may still come")
	s = n.reconcile(a, b)
	assert.Empty(t, n.calls(), "what the kernel has refused is not forgotten")
	assert.Equal(t, map[string]string{"a": "Loaded", "b": "Failed InitFailed"}, states(s))
	n.reconcileNode(spec.Node{Partial: true})
	n.start() // also not by the ledger
	n.reconcile(a, b)
	assert.Empty(t, n.calls())
	n.reconcile(b)
	assert.Equal(t, []string{"unload base"}, n.calls())
}

func TestAnnounce(t *testing.T) {
	n := newNode(t)
	w := want{name: "a", image: n.image("1", ours("1"), nil), module: "base"}
	n.reconcile(w)
	n.start(func(c *agent.Config) { c.Announce = true })
	n.reconcile(w)
	n.reconcile(w)
	require.Len(t, n.reports, 2)
	assert.Equal(t, n.reports[0], n.reports[1])
}

func TestSecretsAndFacts(t *testing.T) {
	n := newNode(t)
	var asked []string
	facts := 0
	n.start(func(c *agent.Config) {
		c.Secrets = func(_ context.Context, namespace string, names []string) []images.PullSecret {
			asked = append(asked, namespace+"/"+strings.Join(names, ","))
			return []images.PullSecret{{Name: "pull secret default/one", Err: errors.New("not found")}}
		}
		c.Facts = func() spec.Facts {
			facts++
			return spec.Facts{SecureBoot: "yes", Lockdown: "integrity", SignatureEnforced: "no"}
		}
	})
	with := order(1, "r", want{name: "a", image: n.push("1", ours("1"), nil), module: "base", pull: images.PullIfNotPresent})
	with.Modules[0].PullSecrets = []string{"one", "two"}
	s := n.reconcileNode(with)
	require.True(t, s.OK(), "one that is missing does not stop what needs none")
	assert.Equal(t, []string{"default/one,two"}, asked)
	assert.Equal(t, spec.Facts{SecureBoot: "yes", Lockdown: "integrity", SignatureEnforced: "no"}, s.Facts)
	n.reconcileNode(with)
	assert.Equal(t, 1, facts)

	missing := order(2, "r", want{name: "a", image: n.registry.Host + "/modules:none", module: "base"})
	missing.Modules[0].PullSecrets = []string{"one"}
	assert.Contains(t, one(t, n.reconcileNode(missing)).Message, "pull secret default/one: not found")
	asked = nil
	missing.Modules[0].PullSecrets = []string{"two"}
	n.reconcileNode(missing)
	assert.Equal(t, []string{"default/two"}, asked, "what failed is tried at once with another secret")
}
