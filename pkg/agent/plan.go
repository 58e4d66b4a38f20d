// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Plan resolves and observes, and returns what Reconcile would do now,
// together with what can not be done for lack of an image, a mapping or a
// valid document. It changes nothing but the image store.
func (a *Agent) Plan(ctx context.Context) (plan.Plan, map[string]plan.Block, error) {
	desired := a.snapshot()
	if desired == nil {
		return plan.Plan{}, nil, errNoDesire
	}
	a.resolveAll(ctx, desired)
	p, err := a.plan(desired)
	unresolved := map[string]plan.Block{}
	for owner, r := range a.resolved {
		if r.fail != nil {
			unresolved[owner] = plan.Block{Reason: string(r.fail.reason), Message: r.fail.message}
		}
	}
	for i := range desired.Refused {
		r := &desired.Refused[i]
		if _, obeyed := a.resolved[r.Key()]; !obeyed {
			unresolved[r.Key()] = plan.Block{Reason: string(r.Reason), Message: r.Message}
		}
	}
	return p, unresolved, err
}

func (a *Agent) plan(desired *spec.Node) (plan.Plan, error) {
	f, err := a.observe(desired)
	if err != nil {
		return plan.Plan{}, err
	}
	return a.planFrom(f), nil
}

// planFrom makes the plan, and makes it again with what hangs on the modules
// that have to go, if any: at rest nobody has to look.
func (a *Agent) planFrom(f plan.Facts) plan.Plan {
	wants := a.wants()
	p := plan.Make(wants, f)
	if names := p.Unloads(); len(names) > 0 {
		a.lookCloser(&f, names)
		p = plan.Make(wants, f)
	}
	a.check(&p, f)
	return p
}

// wants are the Modules that could be resolved.
func (a *Agent) wants() []plan.Want {
	var wants []plan.Want
	for _, r := range a.resolved {
		if r.want != nil {
			wants = append(wants, *r.want)
		}
	}
	return wants
}
