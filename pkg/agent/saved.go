// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/kmm-node/kmmd/pkg/devices"
)

// saved are configurations of an owner's interfaces that have not been given
// back yet, first saved first: a change that was interrupted, or in which an
// interface did not come back, leaves one, and the next change saves what is
// there by then.
type saved []*devices.Network

// and adds one. The first stays, whatever comes after it: it is of before all
// changes. Others go when their interfaces are all in the new one.
func (s saved) and(n *devices.Network) saved {
	var out saved
	for i, old := range s {
		if i == 0 || !old.Within(n) {
			out = append(out, old)
		}
	}
	return append(out, n)
}

// MarshalJSON writes a single one as it is, so that an earlier kmmd can read it.
func (s saved) MarshalJSON() ([]byte, error) {
	if len(s) == 1 {
		return json.Marshal(s[0])
	}
	return json.Marshal([]*devices.Network(s))
}

// UnmarshalJSON reads a single one, too.
func (s *saved) UnmarshalJSON(data []byte) error {
	list := []*devices.Network{nil}
	var to any = &list[0]
	if bytes.HasPrefix(data, []byte("[")) {
		to = &list
	}
	if err := json.Unmarshal(data, to); err != nil {
		return err
	}
	*s = slices.DeleteFunc(list, func(n *devices.Network) bool { return n == nil })
	return nil
}
