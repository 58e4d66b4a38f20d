// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/test/faults/points"
)

// TestFiveAtOnce: one does it, the others refuse, or find it done.
func TestFiveAtOnce(t *testing.T) {
	defer counts.Case(t, "two kmmd")()
	s := changes[1]
	s.begin(t)
	var cmds []*exec.Cmd
	for range 5 {
		cmd, out := command()
		logFailed(t, out)
		require.NoError(t, cmd.Start())
		cmds = append(cmds, cmd)
	}
	well := 0
	for _, cmd := range cmds {
		if exitCode(t, cmd.Wait()) == 0 {
			well++
		}
	}
	assert.GreaterOrEqual(t, well, 1)
	s.requireEnd(t)
}

// TestPullsBeside has images pulled by others while a swap pulls.
func TestPullsBeside(t *testing.T) {
	if !full {
		t.Skip("in the full campaign")
	}
	defer counts.Case(t, "two kmmd")()
	s := swapBeside()
	s.begin(t)
	var cmds []*exec.Cmd
	for range 3 {
		cmd := exec.Command(binary, "image", "pull")
		require.NoError(t, cmd.Start())
		cmds = append(cmds, cmd)
	}
	require.Equal(t, 0, once(t))
	for _, cmd := range cmds {
		require.NoError(t, cmd.Wait())
	}
	s.requireEnd(t)
}

// TestOnceBesideDaemon: it refuses, and changes nothing.
func TestOnceBesideDaemon(t *testing.T) {
	if !full {
		t.Skip("in the full campaign")
	}
	defer counts.Case(t, "two kmmd")()
	s := changes[1]
	d := loadedDaemon(t, s)
	require.Equal(t, 1, once(t))
	s.requireEnd(t)
	d.stop()
	s.requireComplete(t)
}

// TestTakeOver has a second one wait while the first hangs at each call about a
// module of a swap, and kills the first.
func TestTakeOver(t *testing.T) {
	s := changes[1]
	s.each(t, moduleCall, nil, func(t *testing.T, at place) {
		defer counts.Case(t, "two kmmd")()
		s.begin(t)
		met := make(chan struct{})
		first := exec.Command(binary, "run")
		r, err := points.Start(first, func(p points.Point) points.Verdict {
			if at.here(p) {
				_ = first.Process.Signal(unix.SIGSTOP)
				close(met)
			}
			return points.Go
		})
		require.NoError(t, err)
		t.Cleanup(func() { _ = first.Process.Kill() })
		wait(t, met)
		second := start(t, "--wait")
		s.requireBetween(t)
		points.Kill(first, points.Point{})
		require.Equal(t, -1, exitCode(t, r.Wait()))
		second.untilIs(s.to.state(t))
		second.untilReports("Loaded ")
		second.stop()
		s.requireEnd(t)
	})
}
