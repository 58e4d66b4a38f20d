// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// errWrongBuild says that another build of a module runs than was loaded, and
// that nobody allowed to remove it.
var errWrongBuild = errors.New("another build runs")

// apply does one transaction after the other, each once, and reports whether
// anything was changed. After one that had steps it plans again: what it did,
// or failed to do, may be what the next one counts on. A failure stays with its
// Module; the error is about looking at the node.
func (a *Agent) apply(ctx context.Context, desired *spec.Node) (changed bool, err error) {
	seen, begun := map[string]bool{}, map[string]bool{}
	v, err := a.plan(desired)
	if a.drift == nil && err == nil {
		a.drift = a.drifted(v.plan)
	}
	for i := 0; err == nil && i < len(v.plan.Transactions); i++ {
		t := v.plan.Transactions[i]
		if ctx.Err() != nil {
			return changed, nil
		}
		if seen[t.Owner] {
			continue
		}
		seen[t.Owner] = true
		pending := len(a.ledger.Journal[t.Owner]) > 0
		if t.Leaving && pending {
			continue // never finished: it is taken back below, and leaves in the next round
		}
		if a.skip(t) {
			continue
		}
		if !begun[t.Owner] && a.functionsGone(t) {
			a.takeBack(ctx, t.Owner)
			changed, begun[t.Owner], seen[t.Owner] = true, true, false
			v, err = a.plan(desired)
			i = -1
			continue
		}
		begun[t.Owner] = true
		if len(t.Steps) == 0 {
			if err := a.bindAgain(ctx, t.Owner); err != nil {
				a.failures[t.Owner] = fail(err)
				continue
			}
			a.succeed(t.Owner, pending)
			continue
		}
		changed = true
		// A transaction that has begun is finished or rolled back, also when
		// kmmd is told to stop.
		a.transact(context.WithoutCancel(ctx), t)
		a.seen = nil
		v, err = a.plan(desired)
		i = -1
	}
	if err != nil {
		return changed, err
	}
	return a.rollBackRest(ctx, begun) || changed, nil
}

// rollBackRest takes back what was interrupted and is not gone on with.
func (a *Agent) rollBackRest(ctx context.Context, begun map[string]bool) (changed bool) {
	clear(a.undoing.why)
	a.standInLate(ctx)
	for owner := range a.ledger.Journal {
		if begun[owner] {
			continue
		}
		if err := a.hanging(owner); err != nil {
			a.undoing.why[owner] = err
		} else if a.takeBack(ctx, owner) {
			changed = true
		}
	}
	return changed
}

// takeBack undoes what an interrupted change of an owner has done, and reports whether nothing of it is left.
func (a *Agent) takeBack(ctx context.Context, owner string) bool {
	a.cfg.Log.Warn("rolling back an interrupted change", "module", owner)
	a.seen = nil
	err := a.rollBack(context.WithoutCancel(ctx), owner)
	if err != nil {
		a.cfg.Log.Error("roll back", "module", owner, "err", err)
		a.undoing.why[owner] = err
		return false
	}
	a.nothingLeft(owner)
	return true
}

// nothingLeft: the rollback of an earlier failure has come to its end after all.
func (a *Agent) nothingLeft(owner string) {
	if f := a.failures[owner]; f != nil && f.left != "" {
		f.left, f.rolledBack = "", true
	}
	if r := a.ledger.Failures[owner]; r.Left != "" {
		r.Left, r.RolledBack = "", true
		a.ledger.Failures[owner] = r
		a.save()
	}
}

// bindAgain gives the devices that an interrupted change has taken from a driver back to it, when that is the one that is wanted
// after all. Devices that another has by now stay with that. The error is of a driver that does not come back.
func (a *Agent) bindAgain(ctx context.Context, owner string) error {
	for _, u := range a.ledger.Journal[owner] {
		if len(u.Bind) == 0 {
			continue
		}
		if err := a.undo(context.WithoutCancel(ctx), owner, u); errors.Is(err, kernel.ErrTimeout) {
			return err
		} else if err != nil {
			a.cfg.Log.Info("not bound again", "module", owner, "err", err)
		}
	}
	return nil
}

// functionsGone says whether a change that was interrupted has removed virtual functions, and this one would begin with the
// configuration of what is left, without their interfaces.
func (a *Agent) functionsGone(t plan.Transaction) bool {
	return slices.ContainsFunc(a.ledger.Journal[t.Owner], func(u undo) bool { return u.SRIOV != nil }) &&
		slices.ContainsFunc(t.Steps, func(s plan.Step) bool { _, saves := s.(plan.SaveNetwork); return saves })
}

// skip says whether a transaction must not be tried now: it is blocked, or it
// has failed with the same input.
func (a *Agent) skip(t plan.Transaction) bool {
	before := a.failures[t.Owner]
	if err := a.hanging(t.Owner); err != nil {
		if before == nil {
			a.failures[t.Owner] = fail(err)
		}
		return true
	}
	r, refused := a.refusal(t.Owner)
	if len(t.Blocked) > 0 {
		f := blocked(t.Blocked)
		if refused {
			f.message += "; before that: " + r.Message // what stands in may be what is in the way
		}
		if before != nil && before.reason == spec.ReasonNeedsReboot && f.reason == before.reason {
			return true // the first message has the kernel's words
		}
		f.follow(before)
		if before == nil || before.message != f.message {
			a.cfg.Metrics.refused(f.reason)
			a.cfg.Log.Error("module is blocked", "module", t.Owner, "reason", string(f.reason), "err", f.message)
		}
		a.failures[t.Owner] = f
		return true
	}
	if t.Leaving && before != nil && before.tried && !before.due() {
		return true
	}
	if len(t.Steps) == 0 {
		return false
	}
	if refused {
		a.failures[t.Owner] = r.failure() // whatever was in the way since: the kernel would say the same again
		return true
	}
	if before == nil || before.input == "" {
		return false
	}
	return before.input == a.input(t.Owner) && !before.due()
}

// refusal is what the kernel has said of what an owner wants, if it has refused just that.
func (a *Agent) refusal(owner string) (r refusal, refused bool) {
	r, refused = a.ledger.Failures[owner]
	return r, refused && r.Input != "" && r.Input == a.input(owner)
}

// blocked joins the reasons of a plan; the first one names the remedy.
func blocked(blocks []plan.Block) *failure {
	f := &failure{reason: spec.Reason(blocks[0].Reason)}
	for i, b := range blocks {
		if i > 0 {
			f.message += "; "
		}
		f.message += b.Message
	}
	switch f.reason {
	case spec.ReasonInUse, spec.ReasonNeedsReboot, spec.ReasonFirmwareConflict, spec.ReasonInternal:
		f.wait = firstRetry
		f.retryAt = time.Now().Add(f.wait)
	}
	return f
}

// input identifies what a transaction tries to reach.
func (a *Agent) input(owner string) string {
	r := a.resolved[owner]
	if r == nil || r.want == nil {
		return ""
	}
	w := *r.want // a softdep that fails is taken out of it
	w.Files = slices.DeleteFunc(slices.Clone(w.Files), func(f plan.File) bool { return f.Optional })
	for i := range w.Files {
		w.Files[i].Dependency = false // it has no say in what the kernel is asked
	}
	w.Order = nil // as Files are
	return hashOf(w)
}

// hashOf stands for a value as JSON has it; "" when it has none.
func hashOf(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// succeed forgets an owner's failure; pending says that its journal has to be
// closed too.
func (a *Agent) succeed(owner string, pending bool) {
	_, refused := a.ledger.Failures[owner]
	_, late := a.ledger.StandIn[owner]
	delete(a.failures, owner)
	if a.settle(owner) || pending || refused || late {
		delete(a.ledger.StandIn, owner)
		delete(a.ledger.Journal, owner)
		delete(a.ledger.Failures, owner)
		a.save()
	}
}

// recall takes over what the kernel refused before this process started.
func (a *Agent) recall() {
	for owner, r := range a.ledger.Failures {
		a.failures[owner] = r.failure()
	}
}

func (r refusal) failure() *failure {
	return &failure{reason: r.Reason, message: r.Message, left: r.Left, rolledBack: r.RolledBack, input: r.Input}
}

func (a *Agent) save() {
	if err := a.ledger.save(); err != nil {
		a.cfg.Log.Error("ledger", "err", err)
	}
}

// transact does one Module's steps. Before each step it is noted how to undo
// it; when one fails, all that was noted is undone, last first. Loads that follow
// one another are noted together: to undo one that was not done is to do nothing.
func (a *Agent) transact(ctx context.Context, t plan.Transaction) {
	if f := a.failures[t.Owner]; f != nil && f.tried {
		a.cfg.Metrics.retried(f.reason)
	}
	if err := a.checkHost(t); err != nil {
		a.failed(ctx, t, err)
		return
	}
	noted := 0
	for i, s := range t.Steps {
		if i == noted {
			noted += a.noteAhead(t.Owner, t.Steps[i:])
			if err := a.ledger.save(); err != nil {
				// Nothing may be changed that can not be remembered.
				a.failed(ctx, t, err)
				return
			}
		}
		a.loadAhead(ctx, t.Owner, t.Steps[i:noted])
		start := time.Now().Add(-a.tookAhead(s))
		err := a.do(ctx, s)
		a.cfg.Metrics.step(s, time.Since(start), err)
		if load, ok := s.(plan.Load); ok && load.File.Optional && err != nil {
			a.cfg.Log.Warn("softdep not loaded", "module", t.Owner, "err", err)
			a.ledger.forget(t.Owner, load.File.Name, false)
			a.resolved[t.Owner].dropOptional(load.File, err)
			err = nil
		}
		if err != nil {
			a.failed(ctx, t, err)
			return
		}
		a.finish(s)
		if plan.Changes(s) {
			a.cfg.Log.Info("done", "module", t.Owner, "step", s.String(), "took", time.Since(start).Round(time.Millisecond).String())
		}
		a.afterStep()
	}
	a.succeed(t.Owner, true)
	if a.drift[t.Owner] {
		a.cfg.Metrics.healed()
	}
}

// failed rolls a transaction back and remembers why it failed.
func (a *Agent) failed(ctx context.Context, t plan.Transaction, err error) {
	f := fail(err)
	f.input, f.tried = a.input(t.Owner), true
	if r := a.resolved[t.Owner]; r != nil && (errors.Is(err, images.ErrDigest) || errors.Is(err, errHostChanged)) {
		r.damaged = true // the store is asked again: it mends what it has; and so is the node's own tree
	}
	// No other document will ever ask for what leaves, and whoever has loaded another build may take it away.
	if t.Leaving || errors.Is(err, errWrongBuild) || errors.Is(err, errHostChanged) {
		f.later()
	}
	if errors.Is(err, kernel.ErrInUse) && a.tookAway(t.Owner) > 1 {
		f.seldom()
	}
	f.follow(a.failures[t.Owner])
	if f.reason == spec.ReasonSignature {
		f.message += a.signed(t.Owner, err)
	}
	a.cfg.Log.Error("module failed", "module", t.Owner, "reason", string(f.reason), "err", err)
	undone := len(a.ledger.Journal[t.Owner]) > 0
	a.loaded = nil
	a.failures[t.Owner] = f
	if rerr := a.rollBack(ctx, t.Owner); rerr != nil {
		f.left = "; roll back: " + rerr.Error()
		a.cfg.Log.Error("roll back", "module", t.Owner, "err", rerr)
	} else if undone {
		f.rolledBack = true
		f.message += a.runsAgain(t)
	}
	if f.retryAt.IsZero() && f.input != "" {
		if !a.runsOfImage(t.Owner) {
			delete(a.ledger.Settled, t.Owner) // another image under its tag is welcome
		}
		a.ledger.Failures[t.Owner] = refusal{f.input, f.reason, f.message, f.left, f.rolledBack}
		a.save()
	}
}

// tookAway is how many modules an owner's transaction has unloaded that come back, with the one it was about to unload.
func (a *Agent) tookAway(owner string) (n int) {
	for _, u := range a.ledger.Journal[owner] {
		if u.Load != nil {
			n++
		}
	}
	return n
}

// runsAgain tells which modules a rollback has brought back, and which it has brought in (standIn).
func (a *Agent) runsAgain(t plan.Transaction) string {
	text := ""
	before := map[string]bool{}
	for _, s := range t.Steps {
		u, ok := s.(plan.Unload)
		if !ok || u.Undo == nil {
			continue
		}
		before[u.Name] = true
		if _, err := a.cfg.Kernel.Module(u.Name); err == nil {
			text += fmt.Sprintf("; rolled back: %s runs again from %s", u.Name, u.Undo.Path)
			if len(u.Undo.Unseen) > 0 {
				text += fmt.Sprintf(" (the kernel does not show its parameters %s, or would not take back what it shows: they have their defaults)", strings.Join(u.Undo.Unseen, ", "))
			}
		}
	}
	for _, name := range a.replaces(t.Owner) {
		if own := a.resolved[t.Owner].inTree[name]; own != nil && !before[name] && a.runs(*own) {
			text += fmt.Sprintf("; %s runs instead, from %s", name, own.Path)
		}
	}
	return text
}

func (a *Agent) afterStep() {
	if a.cfg.AfterStep != nil {
		a.cfg.AfterStep()
	}
}

// do makes one step.
func (a *Agent) do(ctx context.Context, s plan.Step) error {
	switch s := s.(type) {
	case plan.Hold:
		return a.hold(s.Owner, s.Names)
	case plan.Unload:
		return a.unload(ctx, s.Name)
	case plan.Load:
		return a.load(ctx, s.File, a.replaceable(s.Owner, s.File.Name))
	case plan.InstallFirmware:
		_, err := a.cfg.Firmware.Install(s.Owner, s.Dir)
		return err
	case plan.RemoveFirmware:
		return a.cfg.Firmware.Remove(s.Owner)
	case plan.SetFirmwarePath:
		return a.cfg.Kernel.SetFirmwarePath(s.Path)
	case plan.Adopt:
		a.ledger.add(s.Owner, s.File)
		return nil
	case plan.Forget:
		a.ledger.forget(s.Owner, s.Name, s.Ours)
		return nil
	}
	return a.doAround(ctx, s)
}

// doAround makes one of the steps around a driver in use.
func (a *Agent) doAround(ctx context.Context, s plan.Step) error {
	switch s := s.(type) {
	case plan.SaveNetwork:
		return a.saveNetwork(s)
	case plan.RestoreNetwork:
		return a.restoreNetwork(ctx, s.Owner, a.networkTimeout())
	case plan.Unbind:
		return a.cfg.Devices.Unbind(s.Devices, a.write(ctx, a.cfg.UnloadTimeout))
	case plan.ResetSRIOV:
		return a.resetSRIOV(ctx, s)
	case plan.RestoreSRIOV:
		return a.restoreSRIOV(ctx, s.Owner, s.Device)
	}
	return fmt.Errorf("step %T: not known", s)
}

// hold has the owner hold these modules off, or none. When that fails the ledger says what it said, so that it is tried again.
func (a *Agent) hold(owner string, names []string) error {
	before := maps.Clone(a.ledger.Holds)
	if len(names) == 0 {
		delete(a.ledger.Holds, owner)
	} else {
		a.ledger.Holds[owner] = names
	}
	err := a.cfg.Kernel.HoldAutoload(a.ledger.held())
	if err != nil {
		a.ledger.Holds = before
	}
	return err
}

func (a *Agent) unload(ctx context.Context, name string) error {
	err := a.cfg.Kernel.Unload(ctx, name, a.cfg.UnloadTimeout)
	if errors.Is(err, kernel.ErrNotLoaded) {
		return nil // somebody was faster
	}
	return err
}
