// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/test/faults/points"
)

// step sets the clock on by d, and back when the test ends.
func step(t *testing.T, d time.Duration) {
	t.Helper()
	require.NoError(t, shift(d))
	t.Cleanup(func() { require.NoError(t, shift(-d)) })
}

func shift(d time.Duration) error {
	at := unix.NsecToTimespec(time.Now().Add(d).UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &at)
}

var steps = []time.Duration{time.Hour, -time.Hour}

// TestClock steps the clock under a daemon that has orders from a cluster: before
// an order, while a pull is tried again, and at a restart.
func TestClock(t *testing.T) {
	if !full {
		t.Skip("in the full campaign")
	}
	for _, by := range steps {
		t.Run(by.String()+", then an order", func(t *testing.T) {
			defer counts.Case(t, "clock")()
			s, c, d := ordered(t)
			step(t, by)
			c.order(s.toImage)
			c.untilOrdered(d, s)
			s.requireEnd(t)
		})
		t.Run(by.String()+" between two tries", func(t *testing.T) {
			defer counts.Case(t, "clock")()
			s := swapBeside()
			s.begin(t)
			s.ask(t, nil)
			d := startReady(t)
			t.Cleanup(func() { well(t) })
			registry.Down()
			s.ask(t, s.toImage)
			d.untilReports(unreachable)
			step(t, by)
			require.NoError(t, registry.Up())
			d.untilIs(s.to.state(t))
			d.stop()
			s.requireEnd(t)
		})
		t.Run(by.String()+", then a restart", func(t *testing.T) {
			defer counts.Case(t, "clock")()
			s, c, d := ordered(t)
			c.order(s.toImage)
			c.untilOrdered(d, s)
			before := line(t, ifindex)
			step(t, by)
			d = startReady(t)
			d.untilIs(s.to.state(t))
			d.stop()
			require.Equal(t, before, line(t, ifindex), "what runs was not loaded a second time")
			s.requireEnd(t)
		})
	}
	testClockInSwap(t)
}

// ifindex changes with each load of dummy.
const ifindex = "/sys/class/net/dummy0/ifindex"

// testClockInSwap steps the clock at each call about a module.
func testClockInSwap(t *testing.T) {
	s := changes[1]
	for _, by := range steps {
		t.Run(fmt.Sprint(by, " in a swap"), func(t *testing.T) {
			s.each(t, moduleCall, nil, func(t *testing.T, at place) {
				defer counts.Case(t, "clock")()
				s.begin(t)
				var err error
				code := watched(t, func(_ *exec.Cmd, p points.Point) points.Verdict {
					if at.here(p) {
						err = shift(by)
					}
					return points.Go
				})
				require.NoError(t, err)
				require.NoError(t, shift(-by))
				require.Equal(t, 0, code)
				s.requireEnd(t)
			})
		})
	}
}

// ordered is a node of a cluster that wants nothing of it, with a daemon.
func ordered(t *testing.T) (*scenario, *cluster, *daemon) {
	t.Helper()
	s := changes[1]
	s.begin(t)
	s.ask(t, nil)
	c := join(t)
	c.order(nil)
	return s, c, startReady(t)
}
