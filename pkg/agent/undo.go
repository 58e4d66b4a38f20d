// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/plan"
)

// rollBack undoes what the journal has for an owner. Every undo looks first
// whether there is anything to do, so one that was interrupted can be done again.
// What could not be undone stays in the journal and is tried again by the next
// reconcile, soon (nextLook); with a new build that can not be unloaded, so does the old one that
// is to be in its place.
func (a *Agent) rollBack(ctx context.Context, owner string) error {
	var errs []error
	var left []int
	a.foresee(owner)
	held := a.ledger.Holds[owner]
	journal := a.ledger.Journal[owner]
	defer a.setAside(journal)()
	stays := map[string]bool{} // new builds that could not be unloaded
	var freed []devices.Device
	for _, i := range undoOrder(journal) {
		u := journal[i]
		if u.Load != nil && stays[u.Load.Name] {
			left = append(left, i) // what is there is not what is to come back
			continue
		}
		freed = append(freed, u.Freed...)
		if u.Network || u.SRIOV != nil {
			a.offer(ctx, owner, freed) // their driver is waited for
			freed = nil
		}
		err := a.undo(ctx, owner, u)
		switch {
		case u.Network:
			a.undoing.missing[owner] = err != nil
		case err == nil && (u.Load != nil || u.Unload != nil):
			delete(a.undoing.missing, owner)
		}
		if err != nil {
			errs = append(errs, err)
			left = append(left, i)
			if u.Unload != nil {
				stays[u.Unload.Name] = true
			}
		} else if len(stays) > 0 && (u.Network || u.SRIOV != nil) {
			left = append(left, i) // it goes once more, with that build
		}
		a.afterStep()
	}
	a.offer(ctx, owner, freed)
	if len(left) == 0 && len(journal) > 0 {
		names := slices.Concat(held, a.replaces(owner))
		if r := a.resolved[owner]; r != nil && r.pending && a.failures[owner] == nil {
			a.ledger.StandIn[owner] = names
		} else if err := a.standIn(ctx, owner, names); err != nil {
			errs = append(errs, err)
			left = append(left, 0) // any: it all is done already
		}
	}
	if len(left) < len(journal) {
		a.undoing.wait = 0
	}
	if len(left) > 0 {
		slices.Sort(left)
		var rest []undo
		for _, i := range left {
			rest = append(rest, journal[i])
		}
		a.ledger.Journal[owner] = rest
		a.cfg.Metrics.notRolledBack()
	} else {
		if len(journal) > 0 {
			a.cfg.Metrics.rolledBack()
		}
		delete(a.ledger.Journal, owner)
		delete(a.undoing.missing, owner)
	}
	a.save()
	return errors.Join(errs...)
}

// undoOrder is last first, but for firmware: it has to be what it was when the module that asks for it is loaded again.
func undoOrder(journal []undo) []int {
	var unloads, firmware, rest []int
	for i, u := range slices.Backward(journal) {
		switch {
		case u.Unload != nil:
			unloads = append(unloads, i)
		case u.Firmware != nil || u.FirmwarePath != nil:
			firmware = append(firmware, i)
		default:
			rest = append(rest, i)
		}
	}
	return slices.Concat(unloads, firmware, rest)
}

func (a *Agent) undo(ctx context.Context, owner string, u undo) error {
	if err := a.hanging(owner); err != nil && (u.Unload != nil || u.Load != nil) {
		return err
	}
	switch {
	case u.Unload != nil:
		if err := a.undoLoad(ctx, owner, *u.Unload); err != nil {
			return err
		}
		a.ledger.forget(owner, u.Unload.Name, false)
		return nil
	case u.Load != nil:
		return a.undoUnload(ctx, owner, u)
	case u.Firmware != nil:
		return a.undoFirmware(owner, *u.Firmware)
	case u.FirmwarePath != nil:
		return a.cfg.Kernel.SetFirmwarePath(*u.FirmwarePath)
	case u.Hold != nil:
		return a.hold(owner, *u.Hold)
	case u.Network:
		timeout := a.networkTimeout()
		if a.undoing.missing[owner] {
			timeout = min(timeout, lookAgain)
		}
		if err := a.restoreNetwork(ctx, owner, timeout); err != nil {
			return err
		}
		delete(a.ledger.Networks, owner)
	case u.SRIOV != nil:
		return a.restoreSRIOV(ctx, owner, *u.SRIOV)
	case len(u.Bind) > 0:
		return a.cfg.Devices.Bind(u.Bind, a.write(ctx, a.cfg.LoadTimeout))
	}
	return nil
}

// undoLoad unloads a file if its build runs, and nobody else needs it by now: it stays for another Module that has adopted it, and an
// in-tree dependency stays as it does when its Module leaves (plan, spare).
func (a *Agent) undoLoad(ctx context.Context, owner string, file plan.File) error {
	m, err := a.cfg.Kernel.Module(file.Name)
	switch {
	case errors.Is(err, kernel.ErrNotLoaded):
		return nil
	case err != nil:
		return err
	case m.BuildID != file.BuildID || a.anothers(owner, m):
		return nil
	case file.FromHost && (m.Permanent || nameSet(a.cfg.NeverRemove)[kmod.Name(file.Name)]):
		return nil
	}
	err = a.unload(ctx, file.Name)
	if file.FromHost && errors.Is(err, kernel.ErrInUse) && !a.usedByOwn(owner, m) {
		a.cfg.Log.Info("stays: it is in use by now", "module", owner, "name", file.Name)
		return nil
	}
	return err
}

// undoUnload loads again what ran, unless something of that name is there.
func (a *Agent) undoUnload(ctx context.Context, owner string, u undo) error {
	m, lookErr := a.cfg.Kernel.Module(u.Load.Name)
	if lookErr == nil && a.anothers(owner, m) {
		return nil // that Module wants it as it is
	}
	file := a.asItIs(*u.Load)
	if u.Ours {
		a.ledger.add(owner, file)
		// So that a kmmd which starts after a crash knows it. When that fails the
		// node gets its driver back all the same: the ledger that is on the disk
		// has this journal, and another roll back finds nothing to do.
		a.save()
	}
	if lookErr == nil {
		if m.State != kernel.StateLive {
			// Another load would only wait behind it.
			return fmt.Errorf("load %s again: a module of that name hangs in the state %q: %w", u.Load.Name, m.State, kernel.ErrTimeout)
		}
		return nil // it is there
	}
	err := a.load(ctx, file, false)
	if err == nil || len(file.Parameters) == 0 || !parametersMayBeWhy(file, err) {
		return err
	}
	// Better without its old parameters than not at all.
	plain := file
	plain.Parameters = nil
	if a.load(ctx, plain, false) != nil {
		return err
	}
	a.cfg.Log.Warn("came back with default parameters", "name", u.Load.Name, "err", err)
	if u.Ours {
		a.ledger.add(owner, plain)
	}
	return nil
}

// parametersMayBeWhy reports whether a load may succeed without the parameters: they can not be passed on, or the kernel or the init
// function refuses, which need not say what. Somebody else who is in the way, a kernel that does not answer, and a file that can not be
// read have nothing to do with them.
func parametersMayBeWhy(file plan.File, err error) bool {
	if _, err := kmod.JoinParameters(file.Parameters); err != nil {
		return true
	}
	for _, other := range []error{kernel.ErrTimeout, kernel.ErrInUse, kernel.ErrBusy, kernel.ErrLoaded, errWrongBuild} {
		if errors.Is(err, other) {
			return false
		}
	}
	var refused *kernel.Error
	var errno syscall.Errno
	return errors.As(err, &refused) && errors.As(refused.Err, &errno) && kernel.CauseOf(err) != kernel.Busy
}

// anothers reports whether what runs is in the ledger for another Module, too.
func (a *Agent) anothers(owner string, m kernel.Module) bool {
	e := a.ledger.Modules[m.Name]
	return e.File.BuildID == m.BuildID && slices.ContainsFunc(e.Owners, func(o string) bool { return o != owner })
}

// usedByOwn reports whether a module of the same change, which is to be unloaded first, still uses this one.
func (a *Agent) usedByOwn(owner string, m kernel.Module) bool {
	return slices.ContainsFunc(a.ledger.Journal[owner], func(u undo) bool { return u.Unload != nil && slices.Contains(m.UsedBy, u.Unload.Name) })
}

func (a *Agent) undoFirmware(owner, dir string) error {
	if dir == "" {
		delete(a.ledger.Firmware, owner)
		return a.cfg.Firmware.Remove(owner)
	}
	if _, err := a.cfg.Firmware.Install(owner, dir); err != nil {
		return fmt.Errorf("put back firmware: %w", err)
	}
	a.ledger.Firmware[owner] = dir
	return nil
}
