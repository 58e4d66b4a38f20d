// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"slices"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/plan"
)

// foresee writes down what goes with new drivers that are to be unloaded, before they are: their devices, which a kmmd that starts
// after a kill offers to others, and what interfaces and cards have by now that had been given back all before.
func (a *Agent) foresee(owner string) {
	if a.cfg.Devices == nil || a.hanging(owner) != nil {
		return
	}
	noted := false
	var now, before []devices.Interface
	journal := a.ledger.Journal[owner]
	for i, u := range journal {
		before = append(before, u.Interfaces...)
		if u.Unload == nil || u.Unload.FromHost || !a.runs(*u.Unload) {
			continue
		}
		use, err := a.cfg.Devices.Of(u.Unload.Name)
		if err != nil && !errors.Is(err, devices.ErrNotLoaded) {
			a.cfg.Log.Warn("its devices are not known", "name", u.Unload.Name, "err", err)
		}
		journal[i].Freed, noted = use.Bound, noted || len(use.Bound) > 0
		now = append(now, use.Interfaces...)
		a.recount(owner, use.Bound)
	}
	now = slices.DeleteFunc(now, func(i devices.Interface) bool { return !slices.ContainsFunc(before, i.Same) })
	if len(a.ledger.Networks[owner]) == 0 && slices.ContainsFunc(now, plan.Carries) {
		err := a.saveNetwork(plan.SaveNetwork{Owner: owner, Interfaces: now})
		if err == nil {
			return // with all of the ledger
		}
		a.cfg.Log.Error("the network configuration may be lost", "module", owner, "err", err)
	}
	if noted {
		a.save()
	}
}

// recount notes how many virtual functions devices have that have been given theirs back: somebody has made others since, and uses them.
// None may be all that the new driver can have.
func (a *Agent) recount(owner string, devs []devices.Device) {
	same := func(d devices.Device) func(devices.Device) bool {
		return func(o devices.Device) bool { return o.Address == d.Address }
	}
	for i, u := range a.ledger.Journal[owner] {
		if u.SRIOV == nil || slices.ContainsFunc(a.ledger.SRIOV[owner], same(*u.SRIOV)) {
			continue
		}
		if at := slices.IndexFunc(devs, same(*u.SRIOV)); at >= 0 && devs[at].VFs > 0 {
			d := *u.SRIOV
			d.VFs = devs[at].VFs
			a.ledger.Journal[owner][i].SRIOV = &d
		}
	}
}

// offer has the kernel look for a driver for devices whose new one has gone. An
// old one that is loaded after that takes them by itself; one of another name may
// have come back long before, when the new one could not be unloaded yet.
func (a *Agent) offer(ctx context.Context, owner string, freed []devices.Device) {
	if len(freed) == 0 {
		return
	}
	if err := a.cfg.Devices.Probe(freed, a.write(ctx, a.cfg.LoadTimeout)); err != nil {
		a.cfg.Log.Error("devices may be without a driver", "module", owner, "err", err)
	}
}
