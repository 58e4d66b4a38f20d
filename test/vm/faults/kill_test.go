// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/test/faults/points"
)

// TestKill kills kmmd at each point, looks, starts it again, and wants the change
// made.
func TestKill(t *testing.T) {
	short := map[string][]int{"swap": {22, 50}, "upgrade": {40}}
	for _, s := range changes {
		t.Run(s.name, func(t *testing.T) {
			s.each(t, every, short[s.name], func(t *testing.T, at place) {
				defer counts.Case(t, "kill -9, "+s.name)()
				s.begin(t)
				if s.killAt(t, at, false) {
					s.requireBetween(t)
					s.requireComplete(t)
				}
			})
		})
	}
}

// requireComplete starts kmmd, and requires that it ends as if nothing had been.
func (s *scenario) requireComplete(t *testing.T) {
	t.Helper()
	require.Equal(t, s.code(), once(t))
	s.requireEnd(t)
}

// TestKillBoth kills kmmd together with its child, before the child has made its
// system call.
func TestKillBoth(t *testing.T) {
	for _, s := range changes {
		t.Run(s.name, func(t *testing.T) {
			s.each(t, moduleCall, nil, func(t *testing.T, at place) {
				defer counts.Case(t, "kill -9 of kmmd and child, "+s.name)()
				s.begin(t)
				s.killAt(t, at, true)
				s.requireBetween(t)
				s.requireComplete(t)
			})
		})
	}
}

// TestKillNoWay kills kmmd at each call about a module, and takes away what the
// change needs: registry and store. The next start has to give the node back what
// it had, and once there is a registry, what it is to have.
func TestKillNoWay(t *testing.T) {
	short := map[string][]int{"swap": {2}}
	for _, s := range changes {
		if s.fromImage != nil || s.fails {
			continue // what ran before has gone with the store
		}
		t.Run(s.name, func(t *testing.T) {
			s.each(t, moduleCall, short[s.name], func(t *testing.T, at place) {
				defer counts.Case(t, "kill -9, then neither registry nor store, "+s.name)()
				s.begin(t)
				s.killAt(t, at, false)
				require.NoError(t, os.RemoveAll(stateDir+"/images"))
				registry.Down()
				t.Cleanup(func() { well(t) })
				code := once(t)
				require.NoError(t, registry.Up())
				require.Equal(t, 1, code)
				s.requireSide(t)
				s.requireComplete(t)
			})
		})
	}
}

// TestStop stops kmmd at each point at which something becomes visible. While it
// is stopped another one must not meddle; when it goes on, it has to finish.
func TestStop(t *testing.T) {
	short := map[string][]int{"upgrade": {12}}
	for _, s := range changes {
		t.Run(s.name, func(t *testing.T) {
			s.each(t, naming, short[s.name], func(t *testing.T, at place) {
				defer counts.Case(t, "SIGSTOP and SIGCONT, "+s.name)()
				s.begin(t)
				s.stop(t, at)
				s.requireEnd(t)
			})
		})
	}
}

func (s *scenario) stop(t *testing.T, at place) {
	t.Helper()
	cmd, out := command()
	logFailed(t, out)
	stopped := make(chan bool, 1)
	r, err := points.Start(cmd, func(p points.Point) points.Verdict {
		if at.here(p) {
			_ = cmd.Process.Signal(unix.SIGSTOP)
			stopped <- true
		}
		return points.Go
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	ended := make(chan error, 1)
	go func() { ended <- r.Wait() }()
	select {
	case err := <-ended: // it had fewer points than the run that was listed
		require.Equal(t, s.code(), exitCode(t, err))
		return
	case <-stopped:
	}
	requireStopped(t, cmd.Process.Pid)
	s.requireBetween(t)
	require.Equal(t, 1, once(t), "another one refuses")
	s.requireBetween(t)
	require.NoError(t, cmd.Process.Signal(unix.SIGCONT))
	require.Equal(t, s.code(), exitCode(t, <-ended))
}

// TestStopKill kills a kmmd that has been stopped, at each call about a module.
func TestStopKill(t *testing.T) {
	for _, s := range changes {
		t.Run(s.name, func(t *testing.T) {
			s.each(t, moduleCall, nil, func(t *testing.T, at place) {
				defer counts.Case(t, "SIGSTOP and SIGKILL, "+s.name)()
				s.begin(t)
				require.Equal(t, -1, watched(t, func(cmd *exec.Cmd, p points.Point) points.Verdict {
					if !at.here(p) {
						return points.Go
					}
					_ = cmd.Process.Signal(unix.SIGSTOP)
					return points.Kill(cmd, p)
				}))
				s.requireBetween(t)
				s.requireComplete(t)
			})
		})
	}
}
