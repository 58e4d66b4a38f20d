// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/test/faults/points"
)

// patience is how long a test waits for what must come, and only if it fails to.
const patience = 3 * time.Minute

const tick = 20 * time.Millisecond

// kind is a set of points.
type kind func(points.Point) bool

func every(points.Point) bool        { return true }
func moduleCall(p points.Point) bool { return p.Module() }

// naming are points at which something becomes visible at once.
func naming(p points.Point) bool {
	return p.Module() || p.Call == "renameat" || p.Call == "linkat" || p.Path == pathFile
}

// below are points that change files of a directory.
func below(dirs ...string) kind {
	return func(p points.Point) bool {
		return slices.ContainsFunc(dirs, func(d string) bool {
			return strings.HasPrefix(p.Path+"/", d+"/") || strings.HasPrefix(p.To+"/", d+"/")
		}) && !p.Module()
	}
}

// place finds one point of a run: the one of a kind that comes as number nth.
type place struct {
	of  kind
	nth int
}

// here says whether it is this one; each point of a run has to be asked about, in
// order.
func (l *place) here(p points.Point) bool {
	if l.of(p) {
		l.nth--
	}
	return l.nth == 0 && l.of(p)
}

// each plays a scenario once for each of its points of a kind; with a stride, for
// all calls about modules, and of the others for one of so many. The short form
// plays those of the numbers in short, none without.
func (s *scenario) each(t *testing.T, of kind, short []int, play func(t *testing.T, at place)) {
	t.Helper()
	if !full {
		for _, nth := range short {
			t.Run(fmt.Sprint(nth), func(t *testing.T) { play(t, place{of, nth}) })
		}
		return
	}
	if s.points == nil {
		s.points = s.list(t)
	}
	nth := 0
	for _, p := range s.points {
		if !of(p) {
			continue
		}
		nth++
		if !p.Module() && nth%stride != 0 {
			continue
		}
		t.Run(fmt.Sprintf("%d %s", nth, p.Call), func(t *testing.T) {
			t.Log(p)
			play(t, place{of, nth})
		})
	}
}

// list plays a scenario undisturbed and gives its points.
func (s *scenario) list(t *testing.T) (list []points.Point) {
	t.Helper()
	s.begin(t)
	require.Equal(t, s.code(), watched(t, func(_ *exec.Cmd, p points.Point) points.Verdict {
		list = append(list, p)
		return points.Go
	}))
	s.requireEnd(t)
	return list
}

// TestPoints lists the points of each change.
func TestPoints(t *testing.T) {
	if !full {
		t.Skip("a list for people")
	}
	for _, s := range changes {
		t.Run(s.name, func(t *testing.T) {
			s.points = s.list(t)
			for _, p := range s.points {
				t.Log(p)
			}
		})
	}
}

// requireStopped waits until no thread of a process runs.
func requireStopped(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, path := range stats {
			stat, err := os.ReadFile(path)
			_, rest, _ := strings.Cut(string(stat), ") ")
			if err == nil && !strings.HasPrefix(rest, "T") {
				return false
			}
		}
		return len(stats) > 0
	}, patience, tick, "it stops")
}

// killAt runs kmmd and kills it at a point; child says that the process that makes
// the system call is killed with it. It reports false when there is no such point.
func (s *scenario) killAt(t *testing.T, at place, child bool) bool {
	t.Helper()
	code := watched(t, func(cmd *exec.Cmd, p points.Point) points.Verdict {
		if !at.here(p) {
			return points.Go
		}
		if child && p.Process() != cmd.Process.Pid {
			_ = unix.Kill(p.Process(), unix.SIGKILL)
			points.Kill(cmd, p)
			return points.Never
		}
		return points.Kill(cmd, p)
	})
	if code != -1 { // this run had fewer points than the one that was listed
		require.Equal(t, s.code(), code)
		s.requireEnd(t)
	}
	return code == -1
}
