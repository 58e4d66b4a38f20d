// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"

	"github.com/kmm-node/kmmd/pkg/plan"
)

// drifted are the owners that want what they had when they were as wanted last,
// and for which there is something to do: somebody else has changed the node. A
// plan that has changes of another kind too is no sign of that, since Modules may
// share modules.
func (a *Agent) drifted(p plan.Plan) map[string]bool {
	out := map[string]bool{}
	for i := range p.Transactions {
		t := &p.Transactions[i]
		if !slices.ContainsFunc(t.Steps, changesMore) {
			continue
		}
		r := a.resolved[t.Owner]
		if t.Leaving || r == nil || r.want == nil || a.met[t.Owner] != r.want {
			return map[string]bool{}
		}
		out[t.Owner] = true
	}
	return out
}
