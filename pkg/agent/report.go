// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// report says how the node compares with what it is asked for.
func (a *Agent) report(ctx context.Context, desired *spec.Node) (spec.Status, error) {
	v, err := a.plan(desired)
	if err != nil {
		return a.status, err
	}
	f, p := v.facts, v.plan
	now := time.Now().UTC().Truncate(time.Second)
	s := spec.Status{
		Version: a.cfg.Version, KernelRelease: a.cfg.Kernel.Release(), BootID: a.cfg.Kernel.BootID(),
		Time: now, Modules: []spec.ModuleStatus{}, Facts: a.nodeFacts(),
		ObservedGeneration: desired.Generation, Partial: desired.Partial,
	}
	for _, key := range slices.Sorted(maps.Keys(a.resolved)) {
		s.Modules = append(s.Modules, a.moduleStatus(a.resolved[key], p, f))
	}
	for i := range desired.Refused {
		s.Refused = append(s.Refused, refusedStatus(&desired.Refused[i], f))
	}
	for _, t := range p.Transactions {
		if t.Leaving {
			s.Leaving = append(s.Leaving, a.leavingStatus(t, f))
		}
	}
	s.Leaving = append(s.Leaving, kept(desired, f)...)
	s.Staged = a.stagedStatus()
	for _, e := range desired.Invalid {
		s.Invalid = append(s.Invalid, e.Error())
	}
	a.since(&s, now)
	a.cfg.Metrics.set(s)
	if same(s, a.status) {
		if !a.unreported {
			return a.status, nil
		}
		s = a.status // with its time
	}
	a.status = s
	if a.cfg.Report != nil {
		err = a.cfg.Report(ctx, s)
	}
	a.unreported = err != nil // the next look tries again
	return s, err
}

func (a *Agent) moduleStatus(r *resolution, p plan.Plan, f plan.Facts) spec.ModuleStatus {
	m := &r.module
	s := spec.ModuleStatus{
		Namespace: m.Metadata.Namespace, Name: m.Metadata.Name, Revision: m.Revision, State: spec.StatePending, Warnings: r.warnings,
	}
	if r.choice != nil {
		s.Image, s.Version = r.choice.Image, r.choice.Version
	}
	if r.tree != nil {
		s.Digest = r.tree.Digest
	}
	s.Kernel = ours(m.Key(), f)
	failed := r.fail
	if failed == nil {
		failed = a.failures[m.Key()]
	}
	switch {
	case failed != nil && failed.reason == spec.ReasonImageNotMade:
		s.State, s.Message = spec.StateBuilding, failed.message
	case failed != nil:
		s.State, s.Reason, s.Message, s.RolledBack = spec.StateFailed, failed.reason, failed.message+failed.left, failed.rolledBack
		if !failed.retryAt.IsZero() && !r.pending {
			at := failed.retryAt.UTC().Truncate(time.Second)
			s.RetryAt = &at
		}
	case r.pending:
		s.Message = "the image is being got"
	case met(m.Key(), p):
		s.State = spec.StateLoaded
		a.met[m.Key()] = r.want
		for i := range r.want.Files {
			if d := plan.Differing(&r.want.Files[i], f.Loaded[r.want.Files[i].Name].Parameters); d != "" {
				s.Warnings = append(slices.Clone(s.Warnings), fmt.Sprintf("%s: parameter %s: written after the load, or changed by the driver", r.want.Files[i].Name, d))
			}
		}
	}
	return s
}

// met reports whether the plan has nothing to change for the owner.
func met(owner string, p plan.Plan) bool {
	for _, t := range p.Transactions {
		if t.Owner != owner || t.Leaving {
			continue
		}
		return len(t.Blocked) == 0 && !slices.ContainsFunc(t.Steps, changesMore)
	}
	return false
}

// changesMore leaves out softdeps, whose failure is no failure.
func changesMore(s plan.Step) bool {
	if l, ok := s.(plan.Load); ok && l.File.Optional {
		return false
	}
	return plan.Changes(s)
}

// ours lists the modules that run for an owner.
func ours(owner string, f plan.Facts) []spec.LoadedModule {
	var out []spec.LoadedModule
	for _, name := range slices.Sorted(maps.Keys(f.Ours)) {
		e := f.Ours[name]
		l, runs := f.Loaded[name]
		if !runs || !slices.Contains(e.Owners, owner) || l.BuildID != e.File.BuildID {
			continue
		}
		out = append(out, spec.LoadedModule{Name: name, BuildID: l.BuildID, Parameters: e.File.Parameters, Refs: l.Refs})
	}
	return out
}

func (a *Agent) leavingStatus(t plan.Transaction, f plan.Facts) spec.ModuleStatus {
	s := spec.ModuleStatus{State: spec.StatePending, Kernel: ours(t.Owner, f)}
	s.Namespace, s.Name = split(t.Owner)
	if failed := a.failures[t.Owner]; failed != nil {
		s.State, s.Reason, s.Message = spec.StateFailed, failed.reason, failed.message
	} else if err := a.undoing.why[t.Owner]; err != nil {
		s.State, s.Reason, s.Message = spec.StateFailed, ReasonOf(err), fmt.Sprintf("its last change can not be rolled back: %v", err)
	}
	return s
}

// kept are Modules that no document names, whose modules stay since one can not be
// read and may be theirs. Whoever has asked for them to go must not take them for
// gone.
func kept(desired *spec.Node, f plan.Facts) []spec.ModuleStatus {
	if len(desired.Invalid) == 0 || desired.Partial {
		return nil
	}
	message := fmt.Sprintf("stays until all documents on the node can be read: %v", desired.Invalid[0])
	if more := len(desired.Invalid) - 1; more > 0 {
		message += fmt.Sprintf("; and %d more", more)
	}
	var out []spec.ModuleStatus
	for _, owner := range plan.Unnamed(f) {
		s := spec.ModuleStatus{State: spec.StateFailed, Reason: spec.ReasonInvalid, Message: message, Kernel: ours(owner, f)}
		s.Namespace, s.Name = split(owner)
		out = append(out, s)
	}
	return out
}

// factsAge is how old the node's facts may be. They hardly ever change before
// the next boot, and to read them takes some forty files.
const factsAge = time.Minute

func (a *Agent) nodeFacts() spec.Facts {
	if a.cfg.Facts != nil && (a.asked.IsZero() || time.Since(a.asked) > factsAge) {
		a.facts, a.asked = a.cfg.Facts(), time.Now()
	}
	return a.facts
}

func split(owner string) (namespace, name string) {
	for i := range owner {
		if owner[i] == '/' {
			return owner[:i], owner[i+1:]
		}
	}
	return "", owner
}

// since keeps the time of a state that has not changed.
func (a *Agent) since(s *spec.Status, now time.Time) {
	keep(now, slices.Concat(a.status.Modules, a.status.Leaving), s.Modules, s.Leaving)
	keep(now, a.status.Refused, s.Refused)
}

func keep(now time.Time, old []spec.ModuleStatus, lists ...[]spec.ModuleStatus) {
	before := map[string]spec.ModuleStatus{}
	for _, m := range old {
		before[m.Key()] = m
	}
	for _, list := range lists {
		for i := range list {
			old, ok := before[list[i].Key()]
			list[i].Since = now
			if ok && old.State == list[i].State && old.Reason == list[i].Reason {
				list[i].Since = old.Since
			}
		}
	}
}

// same compares two statuses apart from their time.
func same(a, b spec.Status) bool {
	a.Time = b.Time
	return reflect.DeepEqual(a, b)
}
