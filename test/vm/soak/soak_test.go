// SPDX-License-Identifier: Apache-2.0

// Package soak changes a node at random, for as many steps as it is told, with
// the kmmd binary on a real kernel in a VM of the lab. After each step the
// kernel and the files of the host are compared with a model of what is wanted;
// nothing of kmmd takes part in that but what it says of itself, which is
// compared too.
//
// KMMD_SOAK_SEED and KMMD_SOAK_STEPS say which run; the same seed gives the same
// steps, however many of them are made.
package soak

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	modules  = "/kmmd-test/modules"
	binary   = "/usr/bin/kmmd"
	patience = 5 * time.Minute // nothing takes so long, but on a machine that others use too

	// How long to wait between two looks; longer and longer.
	firstWait, lastWait = 10 * time.Millisecond, 200 * time.Millisecond

	// Steps that end kmmd are made in every other thousand only: what grows shows
	// in a process that lives on.
	period = 1000

	told = 15 // how many steps before one that fails are told
)

// soak is one run.
type soak struct {
	*testing.T
	rng     *rand.Rand
	host    *host
	world   *world
	daemon  *daemon
	store   *library
	figures figures
	calm    bool // kmmd is not ended now
	history []string
	counts  map[string]int
}

func TestSoak(t *testing.T) {
	if os.Getenv("KMMD_VM") == "" {
		t.Skip("not in a VM of the lab, run it by -exec test/vm/exec")
	}
	seed, steps := setting(t, "KMMD_SOAK_SEED", 1), setting(t, "KMMD_SOAK_STEPS", 60)
	t.Logf("seed %d, %d steps", seed, steps)
	s := newSoak(t, uint64(seed))
	t.Cleanup(func() {
		if t.Failed() {
			s.tell(seed)
		}
	})
	began := time.Now()
	for i := range steps {
		s.calm = i/period%2 == 1
		s.step(i)
		if (i+1)%100 == 0 {
			t.Logf("%d steps after %s: %s", i+1, time.Since(began).Round(time.Second), s.figures.last())
		}
	}
	t.Logf("%d steps in %s: %v", steps, time.Since(began).Round(time.Second), s.counts)
	s.daemon.stop()
	s.host.quiet(s)
	s.figures.judge(t)
}

func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, name)
	return n
}

func newSoak(t *testing.T, seed uint64) *soak {
	s := &soak{T: t, rng: rand.New(rand.NewPCG(seed, 0)), counts: map[string]int{}}
	s.host = openHost(s)
	s.world = newWorld()
	s.store = newLibrary(s.host.release)
	s.daemon = newDaemon(s)
	s.daemon.start()
	return s
}

// step makes one change and looks whether all is as it should be then.
func (s *soak) step(i int) {
	s.Helper()
	began := time.Now()
	what := ""
	for what == "" {
		k := s.choose()
		if what = k.do(s); what != "" {
			s.counts[k.name]++
			what = k.name + ": " + what
		}
	}
	s.history = append(s.history, fmt.Sprintf("%5d %s", i+1, what))
	s.settle()
	if len(s.world.firmware()) == 0 {
		s.world.pathBefore, s.world.pathForgotten = s.host.firmwarePath(s), false
	}
	s.host.quiet(s)
	s.figures.add(s.sample())
	if testing.Verbose() {
		s.Logf("%s (%s)", s.history[i], time.Since(began).Round(time.Millisecond))
	}
}

// choose draws a kind of step, by weight.
func (s *soak) choose() kind {
	all := kinds()
	if s.calm {
		all = all[:0:0]
		for _, k := range kinds() {
			if !k.ends {
				all = append(all, k)
			}
		}
	}
	sum := 0
	for _, k := range all {
		sum += k.weight
	}
	n := s.rng.IntN(sum)
	for _, k := range all {
		if n -= k.weight; n < 0 {
			return k
		}
	}
	panic("unreachable")
}

// settle waits until the node is what the model says, and requires that it still
// is after kmmd has looked at everything twice more, and that nothing is left of
// what was done on the way.
func (s *soak) settle() {
	s.Helper()
	s.converge()
	s.looks(2)
	require.Empty(s, s.differences(), "after another look")
	var left []string
	if !s.poll(func() bool { left = s.leftovers(); return len(left) == 0 }) {
		require.Fail(s, "something is left that was begun and not ended", strings.Join(left, "\n"))
	}
}

// converge waits until nothing differs.
func (s *soak) converge() {
	s.Helper()
	var last []string
	if !s.poll(func() bool { last = s.differences(); return len(last) == 0 }) {
		require.Fail(s, "the node does not become what is wanted", strings.Join(last, "\n"))
	}
}

// looks has kmmd look at the node n times: for each there is an event of a module
// that is part of the kernel.
func (s *soak) looks(n int) {
	s.Helper()
	for range n {
		before := s.daemon.reconciles()
		s.host.event(s)
		require.True(s, s.poll(func() bool { return s.daemon.reconciles() > before }), "kmmd looks at the node after an event")
	}
}

// poll asks until the answer is yes, or patience is at an end.
func (s *soak) poll(ok func() bool) bool {
	wait, end := firstWait, time.After(patience)
	for !ok() {
		select {
		case <-time.After(wait):
			wait = min(wait*3/2, lastWait)
		case <-end:
			return ok()
		}
	}
	return true
}

// tell says how it came to this, and how to have it again.
func (s *soak) tell(seed int) {
	s.Logf("again: make soak SEED=%d STEPS=%d KERNEL=%s", seed, len(s.history), os.Getenv("KMMD_VM_KERNEL"))
	s.Logf("steps:\n%s", strings.Join(s.history[max(0, len(s.history)-told):], "\n"))
	s.Logf("documents:\n%s", s.world)
	s.Logf("status: %+v", s.daemon.status())
	s.Logf("kmmd:\n%s", s.daemon.logTail())
}
