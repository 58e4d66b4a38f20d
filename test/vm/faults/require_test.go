// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/faults/state"
)

// code is the exit code of a kmmd that has come to the end of the change.
func (s *scenario) code() int {
	if s.fails {
		return 1
	}
	return 0
}

// requireEnd requires that the node is as it has to be in the end.
func (s *scenario) requireEnd(t *testing.T) {
	t.Helper()
	require.NoError(t, look(t).Is(s.to.state(t)))
	require.NoError(t, dirs.Settled(bootID(t), s.to.ours(t)))
}

// requireSide requires that the node is as it was or as it has to be. A Module that
// leaves is not brought back for what could not be taken away by then.
func (s *scenario) requireSide(t *testing.T) {
	t.Helper()
	if s.toImage == nil {
		s.requireBetween(t)
		return
	}
	_, err := look(t).OneOf(state.Named{Name: "before", State: s.from.state(t)}, state.Named{Name: "wanted", State: s.to.state(t)})
	require.NoError(t, err)
}

// requireSideOfKernel is requireSide while a disk can not be written: firmware may
// be on the way, each file whole; all else is not.
func (s *scenario) requireSideOfKernel(t *testing.T) {
	t.Helper()
	s.requireBetween(t)
	if s.toImage == nil {
		return
	}
	have, from, to := look(t), s.from.state(t), s.to.state(t)
	for _, side := range []*state.State{&have, &from, &to} {
		side.Firmware = nil
	}
	_, err := have.OneOf(state.Named{Name: "before", State: from}, state.Named{Name: "wanted", State: to})
	require.NoError(t, err)
}

// requireBetween requires that nothing is torn, at whatever moment of the change.
func (s *scenario) requireBetween(t *testing.T) {
	t.Helper()
	to := s.to
	if s.fails { // the way leads there and back
		to = side{ourRuns, newFirmware, both}
	}
	require.NoError(t, look(t).Between(s.from.state(t), to.state(t), staging))
}
