// SPDX-License-Identifier: Apache-2.0

package soak

// kind is one kind of step.
type kind struct {
	name   string
	weight int
	ends   bool               // it ends kmmd
	do     func(*soak) string // makes the step and says what it was; "" when there is nothing to make it with
}

func kinds() []kind {
	return []kind{
		{"add", 14, false, (*soak).add},
		{"change", 20, false, (*soak).change},
		{"take away", 10, false, (*soak).takeAway},
		{"several", 8, false, (*soak).several},
		{"again", 2, false, (*soak).again},
		{"moved tag", 4, false, (*soak).movedTag},
		{"broken document", 3, false, (*soak).breakDocument},
		{"mended document", 6, false, (*soak).mendDocument},
		{"clutter", 2, false, (*soak).clutter},
		{"rival", 2, false, (*soak).rival},

		{"rmmod", 8, false, (*soak).rmmodWanted},
		{"modprobe", 6, false, (*soak).modprobe},
		{"rmmod in-tree", 4, false, (*soak).rmmodForeign},
		{"modprobe -i", 3, false, (*soak).insist},
		{"other build", 3, false, (*soak).usurp},
		{"in use", 2, false, (*soak).busy},
		{"firmware file", 3, false, (*soak).loseFirmware},
		{"firmware path", 2, false, (*soak).otherFirmwarePath},
		{"hold", 2, false, (*soak).loseHold},
		{"kernel log", 4, false, (*soak).noise},
		{"events", 3, false, (*soak).storm},
		{"no registry", 1, false, (*soak).noRegistry},

		{"paused", 4, false, (*soak).paused},
		{"kill", 4, true, (*soak).killed},
		{"restart", 2, true, (*soak).restarted},
		{"kill amid", 6, true, (*soak).killedAmid},
		{"down", 4, true, (*soak).down},
		{"ledger lost", 2, true, (*soak).ledgerLost},
		{"store lost", 1, true, (*soak).storeLost},
	}
}

// pick draws one; "" of none.
func (s *soak) pick(from []string) string {
	if len(from) == 0 {
		return ""
	}
	return from[s.rng.IntN(len(from))]
}

// chance says yes in so many of a hundred cases.
func (s *soak) chance(percent int) bool { return s.rng.IntN(100) < percent }
