// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"

	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Plan resolves and observes, and returns what Reconcile would do now,
// together with what can not be done for lack of an image, a mapping or a
// valid document. It waits for all images, and changes nothing but their store.
func (a *Agent) Plan(ctx context.Context) (plan.Plan, map[string]plan.Block, error) {
	desired := a.snapshot()
	if desired == nil {
		return plan.Plan{}, nil, errNoDesire
	}
	defer a.pulling.Wait()
	for {
		a.seen = nil
		a.resolveAll(ctx, desired)
		if err := ctx.Err(); err != nil {
			return plan.Plan{}, nil, fmt.Errorf("plan: %w", err) // a pull that was cut short is no finding
		}
		if !a.pullsOn() {
			break
		}
		a.awaitHint(ctx)
	}
	v, err := a.plan(desired)
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
	return v.plan, unresolved, err
}

// view is what the node is like, and what is to be done there.
type view struct {
	facts plan.Facts
	plan  plan.Plan
}

// plan observes and plans, unless nothing was changed in this look since it did so last.
func (a *Agent) plan(desired *spec.Node) (view, error) {
	if a.seen != nil {
		return *a.seen, nil
	}
	f, err := a.observe(desired)
	if err != nil {
		return view{}, err
	}
	a.seen = &view{f, a.planFrom(f)}
	return *a.seen, nil
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
