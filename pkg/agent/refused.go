// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// refuse tells of orders that are not obeyed, each once.
func (a *Agent) refuse(desired *spec.Node) {
	refused := map[string]string{}
	for i := range desired.Refused {
		r := &desired.Refused[i]
		refused[r.Key()] = r.Message
		if a.refused[r.Key()] != r.Message {
			a.cfg.Log.Error("order is not obeyed; what runs for it stays", "module", r.Key(), "reason", string(r.Reason), "err", r.Message)
		}
	}
	a.refused = refused
}

// forget drops what is known of owners that nobody wants any more. That the
// kernel has refused a file is remembered while its owner may come back as it was.
func (a *Agent) forget(desired *spec.Node, wanted map[string]bool) {
	mayReturn := func(owner string) bool {
		_, refused := a.refused[owner]
		return refused || !desired.Complete()
	}
	for key := range a.resolved {
		if wanted[key] {
			continue
		}
		delete(a.resolved, key)
		delete(a.met, key)
		if f := a.failures[key]; f != nil && (!mayReturn(key) || !f.retryAt.IsZero()) {
			delete(a.failures, key)
		}
	}
	for owner := range a.ledger.Settled {
		if !wanted[owner] && !mayReturn(owner) {
			delete(a.ledger.Settled, owner) // written with what leaves
		}
	}
	for owner := range a.ledger.Failures {
		if !wanted[owner] && !mayReturn(owner) {
			delete(a.ledger.Failures, owner)
			a.save()
		}
	}
}

func refusedStatus(r *spec.Refused, f plan.Facts) spec.ModuleStatus {
	return spec.ModuleStatus{
		Namespace: r.Namespace, Name: r.Name, Revision: r.Revision, State: spec.StateFailed,
		Reason: r.Reason, Message: r.Message, Kernel: ours(r.Key(), f),
	}
}
