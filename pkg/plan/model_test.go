// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/plan"
)

// model is a node that obeys steps as the kernel and the ledger do. Module
// names are "m0" to "m5"; each may use those of lower numbers. "s0" and "s1" are
// for softdeps too.
type model struct {
	t     *testing.T
	facts plan.Facts
	wants []plan.Want
	uses  map[string][]string // by module name
	story string              // told when something is wrong
}

// steps does every transaction of a plan once, with a new plan after each, and
// reports whether there was anything to do.
func (m *model) steps() (did bool) {
	done := map[string]bool{}
	for {
		p := plan.Make(m.wants, m.facts)
		next := slices.IndexFunc(p.Transactions, func(t plan.Transaction) bool { return !done[t.Owner] && len(t.Blocked) == 0 })
		if next < 0 {
			return did
		}
		t := p.Transactions[next]
		done[t.Owner] = true
		for _, s := range t.Steps {
			did = true
			m.do(s)
		}
	}
}

func (m *model) do(s plan.Step) {
	switch s := s.(type) {
	case plan.Hold:
		delete(m.facts.Held, s.Owner)
		if len(s.Names) > 0 {
			m.facts.Held[s.Owner] = s.Names
		}
	case plan.Unload:
		m.unload(s)
	case plan.Load:
		m.load(s.File)
		m.own(s.Owner, s.File)
	case plan.InstallFirmware:
		m.facts.FirmwareCurrent[s.Owner] = true
		m.facts.FirmwareDirs[s.Owner] = s.Dir
		if !slices.Contains(m.facts.FirmwareOwners, s.Owner) {
			m.facts.FirmwareOwners = append(m.facts.FirmwareOwners, s.Owner)
		}
	case plan.RemoveFirmware:
		delete(m.facts.FirmwareCurrent, s.Owner)
		m.facts.FirmwareOwners = slices.DeleteFunc(slices.Clone(m.facts.FirmwareOwners), func(o string) bool { return o == s.Owner })
	case plan.SetFirmwarePath:
		m.facts.FirmwarePath = s.Path
	case plan.Adopt:
		require.Equal(m.t, s.File.BuildID, m.facts.Loaded[s.File.Name].BuildID, "%s: what is adopted runs; %s", s, m.story)
		m.own(s.Owner, s.File)
	case plan.Forget:
		m.disown(s.Owner, s.Name, s.Ours)
	default:
		require.Fail(m.t, "a new kind of step", "%T", s)
	}
}

func (m *model) unload(s plan.Unload) {
	l, runs := m.facts.Loaded[s.Name]
	if !runs {
		return // two Modules remove the same one
	}
	require.Zero(m.t, l.Refs, "%s: the kernel would say that it is in use by %v; %s", s, l.UsedBy, m.story)
	require.Equal(m.t, "live", l.State, "%s; %s", s, m.story)
	require.False(m.t, l.Permanent, "%s; %s", s, m.story)
	delete(m.facts.Loaded, s.Name)
	delete(m.facts.Ours, s.Name)
	for _, used := range m.uses[s.Name] {
		u := m.facts.Loaded[used]
		u.UsedBy = slices.DeleteFunc(slices.Clone(u.UsedBy), func(n string) bool { return n == s.Name })
		u.Refs--
		m.facts.Loaded[used] = u
	}
}

func (m *model) load(f plan.File) {
	if l, runs := m.facts.Loaded[f.Name]; runs {
		require.True(m.t, l.BuildID == f.BuildID || f.FromHost, "%s: another build runs, %s; %s", f.Path, l.BuildID, m.story)
		return
	}
	for _, used := range m.uses[f.Name] {
		u, runs := m.facts.Loaded[used]
		require.True(m.t, runs, "load %s: %s is missing; %s", f.Name, used, m.story)
		u.UsedBy = append(slices.Clone(u.UsedBy), f.Name)
		u.Refs++
		m.facts.Loaded[used] = u
	}
	m.facts.Loaded[f.Name] = plan.Loaded{Name: f.Name, State: "live", BuildID: f.BuildID, Parameters: shown(f.Parameters)}
}

func (m *model) own(owner string, f plan.File) {
	e := m.facts.Ours[f.Name]
	if e.File.BuildID != f.BuildID {
		e.Owners = nil
	}
	owners := slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(e.Owners), owner))))
	m.facts.Ours[f.Name] = plan.Entry{Owners: owners, File: f}
}

func (m *model) disown(owner, name string, ours bool) {
	e, ok := m.facts.Ours[name]
	if !ok {
		return
	}
	e.Owners = slices.DeleteFunc(slices.Clone(e.Owners), func(o string) bool { return o == owner })
	m.facts.Ours[name] = e
	if len(e.Owners) == 0 && !ours {
		delete(m.facts.Ours, name)
	}
}

// pick is n different values out of all.
func pick[T any](r *rand.Rand, all []T, n int) []T {
	var out []T
	for _, i := range r.Perm(len(all))[:n] {
		out = append(out, all[i])
	}
	return out
}

// newModel makes up a node, its history and what is asked of it.
func newModel(t *testing.T, r *rand.Rand) *model {
	m := &model{t: t, uses: map[string][]string{}}
	var names []string
	for i := range 6 {
		name := fmt.Sprintf("m%d", i)
		m.uses[name] = pick(r, names, r.IntN(min(len(names), 2)+1))
		names = append(names, name)
	}
	names = append(names, "s0", "s1")
	owners := []string{"a/a", "b/b", "c/c"}
	m.facts = plan.Facts{
		Loaded: map[string]plan.Loaded{}, Ours: map[string]plan.Entry{}, Held: map[string][]string{},
		Builtin: map[string]bool{}, InTree: map[string]*plan.File{}, Wanted: map[string]bool{},
		FirmwareCurrent: map[string]bool{}, FirmwareDirs: map[string]string{}, FirmwareTarget: firmwares, FirmwareBefore: "/opt/fw",
		FirmwarePath: pick(r, []string{"", "/opt/fw", firmwares}, 1)[0], KeepAll: r.IntN(8) == 0,
		FirmwareOwners: pick(r, owners, r.IntN(3)),
	}
	for _, name := range pick(r, names, r.IntN(4)) {
		for _, n := range m.closure(name) {
			if _, runs := m.facts.Loaded[n]; !runs {
				m.past(r, n, owners)
			}
		}
	}
	for _, owner := range pick(r, owners, r.IntN(4)) {
		m.wants = append(m.wants, m.want(r, owner, names))
		m.facts.Wanted[owner] = true
	}
	for _, name := range names {
		if r.IntN(8) > 0 {
			m.facts.InTree[name] = new(inTree(name))
		}
		if l, runs := m.facts.Loaded[name]; runs {
			m.facts.Loaded[name] = m.oddity(r, l)
		}
	}
	return m
}

// oddity now and then makes a module one that can not be unloaded.
func (m *model) oddity(r *rand.Rand, l plan.Loaded) plan.Loaded {
	switch r.IntN(16) {
	case 0:
		return held(l, 1)
	case 1:
		return permanent(l)
	case 2:
		return inState(l, "coming")
	}
	return l
}

// closure is a module behind all it uses.
func (m *model) closure(name string) []string {
	var out []string
	for _, used := range m.uses[name] {
		for _, n := range m.closure(used) {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return append(out, name)
}

func someFile(r *rand.Rand, name string) plan.File {
	switch f := image(name); r.IntN(4) {
	case 0:
		return inTree(name)
	case 1:
		return newer(f)
	default:
		return f
	}
}

// past loads a module and writes some history of it into the ledger.
func (m *model) past(r *rand.Rand, name string, owners []string) {
	f := someFile(r, name)
	m.load(f)
	if r.IntN(4) == 0 {
		f = someFile(r, name) // the ledger may tell of another build
	}
	for _, owner := range pick(r, owners, r.IntN(3)) {
		f.Optional = strings.HasPrefix(name, "s") && r.IntN(2) == 0
		f.Dependency = r.IntN(2) == 0
		m.own(owner, f)
	}
}

func (m *model) want(r *rand.Rand, owner string, names []string) plan.Want {
	order := m.closure(pick(r, names, 1)[0])
	w := plan.Want{Owner: owner}
	for _, name := range []string{"s0", "s1"} {
		if !slices.Contains(order, name) && r.IntN(3) == 0 {
			w.Files = append(w.Files, soft(someFile(r, name)))
		}
	}
	for i, name := range order {
		f := someFile(r, name)
		f.Dependency = i < len(order)-1
		if i == len(order)-1 {
			f = image(name, pick(r, []string{"level=1", "level=2"}, r.IntN(2))...)
		}
		w.Files = append(w.Files, f)
	}
	w.Remove = slices.Sorted(slices.Values(pick(r, names, r.IntN(3))))
	if r.IntN(2) == 0 {
		w.FirmwareDir = "/images/" + owner + "/fw"
	}
	return w
}

// maxRounds is how often the agent looks again.
const maxRounds = 4

// TestPlanIsReached plays thousands of nodes: the kernel never refuses a step
// that is not blocked, and after a few rounds nothing is left to do.
func TestPlanIsReached(t *testing.T) {
	for seed := range uint64(20000) {
		m := newModel(t, rand.New(rand.NewPCG(seed, 0)))
		before := render(plan.Make(m.wants, m.facts))
		require.Equal(t, before, render(plan.Make(m.wants, m.facts)), "seed %d: the same input gives the same plan", seed)
		m.story = fmt.Sprintf("seed %d: %v\n%s", seed, m.uses, before)
		rounds := 0
		for m.steps() {
			if rounds++; rounds > maxRounds {
				require.Fail(t, "the plan is never reached", "%s\nnow\n%s", m.story, render(plan.Make(m.wants, m.facts)))
			}
		}
		m.checkEnd()
	}
}

// checkEnd looks at what a plan must leave behind when nothing was blocked.
func (m *model) checkEnd() {
	m.t.Helper()
	p := plan.Make(m.wants, m.facts)
	blocked := map[string]bool{}
	for _, t := range p.Transactions {
		blocked[t.Owner] = len(t.Blocked) > 0
	}
	for _, w := range m.wants {
		if blocked[w.Owner] {
			continue
		}
		for _, f := range w.Files {
			l := m.facts.Loaded[f.Name]
			assert.True(m.t, f.Optional || l.BuildID == f.BuildID || f.FromHost && l.Name != "", "%s does not run for %s; %s", f.Path, w.Owner, m.story)
		}
	}
	if slices.Contains(slices.Collect(maps.Values(blocked)), true) || m.facts.KeepAll {
		return
	}
	for name, e := range m.facts.Ours {
		for _, owner := range e.Owners {
			assert.True(m.t, m.facts.Wanted[owner], "the ledger has %s for %s, which is gone; %s", name, owner, m.story)
		}
	}
	for _, owner := range m.facts.FirmwareOwners {
		assert.True(m.t, m.facts.Wanted[owner], "firmware of %s is left; %s", owner, m.story)
	}
	if len(m.facts.FirmwareOwners) == 0 && strings.Contains(m.story, "remove the firmware") {
		assert.NotEqual(m.t, firmwares, m.facts.FirmwarePath, "firmware_class.path is left; %s", m.story)
	}
	require.False(m.t, m.t.Failed())
}
