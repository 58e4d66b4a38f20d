// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/plan"
)

// noteAhead notes the first step and, when that is a load, the loads that follow it;
// it returns how many.
func (a *Agent) noteAhead(owner string, steps []plan.Step) (n int) {
	for n == 0 || n < len(steps) && isLoad(steps[n-1]) && isLoad(steps[n]) {
		a.note(owner, steps[n])
		n++
	}
	return n
}

// note writes into the ledger what a step is about to do, and into the journal
// how to take it back.
func (a *Agent) note(owner string, s plan.Step) {
	var u undo
	switch s := s.(type) {
	case plan.Hold:
		names := append([]string{}, a.ledger.Holds[owner]...)
		u.Hold = &names
	case plan.Unload:
		if a.comesBack(owner, s.Name) || a.goesAgain(owner, s.Undo) {
			return // an interrupted transaction has noted what ran before it, or has brought this one itself
		}
		u.Load, u.Ours = s.Undo, s.Undo != nil && s.Ours
	case plan.Load:
		a.ledger.add(owner, s.File)
		u.Unload = &s.File
	case plan.InstallFirmware:
		u.Firmware = &s.Previous
		// A path that is right already was set by somebody else, and stays.
		if path, err := a.cfg.Kernel.FirmwarePath(); err == nil && a.ledger.FirmwarePathBefore == nil && path == a.cfg.FirmwareDir {
			a.ledger.FirmwarePathBefore = &path
		}
	case plan.SetFirmwarePath:
		before, err := a.cfg.Kernel.FirmwarePath()
		if err != nil {
			return
		}
		if a.ledger.FirmwarePathBefore == nil && s.Path == a.cfg.FirmwareDir {
			a.ledger.FirmwarePathBefore = &before
		}
		u.FirmwarePath = &before
	case plan.SaveNetwork:
		if before := a.noted(owner, func(u undo) bool { return u.Network }); before != nil {
			others := slices.DeleteFunc(slices.Clone(s.Interfaces), func(i devices.Interface) bool { return slices.ContainsFunc(before.Interfaces, i.Same) })
			before.Interfaces = append(before.Interfaces, others...)
			return // it is undone after all that an interrupted transaction has done, which brings their driver back
		}
		u.Network, u.Interfaces = true, s.Interfaces
	case plan.Unbind:
		u.Bind = s.Devices
	case plan.ResetSRIOV:
		if a.noted(owner, func(u undo) bool { return u.SRIOV != nil && u.SRIOV.Address == s.Device.Address }) != nil {
			return // likewise
		}
		u.SRIOV = &s.Device
	}
	if t := a.resolved[owner]; !u.empty() && t != nil {
		a.ledger.Journal[owner] = append(a.ledger.Journal[owner], u)
	}
}

// noted is the first step back that an interrupted transaction has noted already, nil when there is none.
func (a *Agent) noted(owner string, is func(u undo) bool) *undo {
	journal := a.ledger.Journal[owner]
	if i := slices.IndexFunc(journal, is); i >= 0 {
		return &journal[i]
	}
	return nil
}

// comesBack reports whether a rollback loads a module of this name again.
func (a *Agent) comesBack(owner, name string) bool {
	return a.noted(owner, func(u undo) bool { return u.Load != nil && u.Load.Name == name }) != nil
}

// goesAgain reports whether a rollback unloads this very build: it was not there before the transaction.
func (a *Agent) goesAgain(owner string, file *plan.File) bool {
	return file != nil && a.noted(owner, func(u undo) bool {
		return u.Unload != nil && u.Unload.Name == file.Name && u.Unload.BuildID == file.BuildID
	}) != nil
}

// finish writes into the ledger what a step has done.
func (a *Agent) finish(s plan.Step) {
	switch s := s.(type) {
	case plan.Unload:
		delete(a.ledger.Modules, s.Name)
	case plan.InstallFirmware:
		a.ledger.Firmware[s.Owner] = s.Dir
	case plan.RemoveFirmware:
		delete(a.ledger.Firmware, s.Owner)
	case plan.SetFirmwarePath:
		if s.Path != a.cfg.FirmwareDir {
			a.ledger.FirmwarePathBefore = nil
		}
	case plan.RestoreNetwork:
		delete(a.ledger.Networks, s.Owner)
	}
}
