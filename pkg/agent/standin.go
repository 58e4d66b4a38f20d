// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/plan"
)

// standInLate is standIn for those that were rolled back while their image was still being got, once it is known that the change
// does not go on. When it does, what stands in would be in its way.
func (a *Agent) standInLate(ctx context.Context) {
	for owner, names := range a.ledger.StandIn {
		if r := a.resolved[owner]; r != nil && r.fail == nil && a.failures[owner] == nil {
			continue
		}
		if err := a.standIn(context.WithoutCancel(ctx), owner, names); err != nil {
			a.cfg.Log.Error("the node's own drivers can not stand in yet", "module", owner, "err", err)
			continue
		}
		delete(a.ledger.StandIn, owner)
		a.save()
	}
}

// standIn has the node's own drivers take the place of one that has failed and is not tried again: as long as they were held off,
// what asked for them came to nothing, and is not asked again. udev loads a driver when a device is added, and loads none when a
// driver goes. names are the in-tree modules in question. Those that run are left alone, as are those that no device waits for:
// they are held off no longer, unless what runs of the image has their part. The error says that they still are.
func (a *Agent) standIn(ctx context.Context, owner string, names []string) error {
	if f := a.failures[owner]; a.cfg.Devices == nil || f != nil && f.tried && !f.retryAt.IsZero() {
		return nil
	}
	a.openHost()
	if len(a.idle(names)) == 0 {
		return nil
	}
	index, err := kmod.OpenIndex(a.host.Dir())
	if err != nil {
		a.cfg.Log.Error("the node's own drivers can not stand in", "module", owner, "err", err)
		return nil
	}
	// One driver's devices may have others below them, on a bus of its own (include/linux/auxiliary_bus.h).
	for again := true; again; {
		idle := a.idle(names)
		aliases, asked := a.awaited(index, idle)
		if err := a.lift(owner, idle, asked); err != nil {
			return err
		}
		again = a.loadFor(ctx, owner, index, aliases, asked)
	}
	return nil
}

// idle are those of the names that the node has a module for and does not run.
func (a *Agent) idle(names []string) []string {
	var idle []string
	for _, name := range names {
		_, _, err := a.cfg.Kernel.Running(name)
		if !errors.Is(err, kernel.ErrNotLoaded) || a.host == nil || slices.Contains(idle, name) {
			continue
		}
		if _, ok := a.host.Find(name); ok {
			idle = append(idle, name)
		}
	}
	return idle
}

// awaited are the aliases of devices without a driver that lead to one of the names, and these names.
func (a *Agent) awaited(index *kmod.Index, idle []string) (aliases, asked []string) {
	for _, alias := range a.cfg.Devices.Driverless() {
		lines, err := index.ShowDepends(nil, alias)
		if err != nil {
			continue // no module is known for that device
		}
		for _, l := range lines {
			if slices.Contains(idle, l.Module) {
				aliases, asked = append(aliases, alias), append(asked, l.Module)
			}
		}
	}
	return slices.Compact(aliases), asked
}

// lift has an owner hold off no longer what a device waits for, nor, when none of its own modules runs, anything else that is idle.
func (a *Agent) lift(owner string, idle, asked []string) error {
	if !a.runsOfImage(owner) {
		asked = idle
	}
	held := a.ledger.Holds[owner]
	left := slices.DeleteFunc(slices.Clone(held), func(name string) bool { return slices.Contains(asked, name) })
	if len(left) == len(held) {
		return nil
	}
	a.cfg.Log.Info("no longer held off: what was to be in their place is not", "module", owner, "names", asked)
	return a.hold(owner, left)
}

// runsOfImage reports whether something runs that was loaded for an owner, but for in-tree dependencies.
func (a *Agent) runsOfImage(owner string) bool {
	for _, e := range a.ledger.Modules {
		if slices.Contains(e.Owners, owner) && !e.File.FromHost && a.runs(e.File) {
			return true
		}
	}
	return false
}

// loadFor loads those of the names asked for that modprobe would load for an alias, with what they need and the node's own
// settings, unless that is in the way of what a Module is to have. It reports whether one of them runs now.
func (a *Agent) loadFor(ctx context.Context, owner string, index *kmod.Index, aliases, asked []string) (loaded bool) {
	config, err := kmod.ReadConfig(a.host.Root(), a.cfg.Kernel.Cmdline())
	if err != nil {
		a.cfg.Log.Error("the node's own drivers can not stand in", "module", owner, "err", err)
		return false
	}
	wanted := a.wantedNames(owner)
	for _, alias := range aliases {
		lines, err := index.ShowDepends(config, alias)
		if err != nil {
			continue // the node does not want it
		}
		for _, l := range lines {
			if l.Action != "insmod" || !slices.Contains(asked, l.Module) {
				continue // another driver with that alias was not held off
			}
			switch done, err := a.loadChain(ctx, index, config, l.Module, wanted); {
			case err != nil:
				a.cfg.Log.Error("the node's own driver does not stand in", "module", owner, "device", alias, "name", l.Module, "err", err)
			case done:
				a.cfg.Log.Info("the node's own driver stands in", "module", owner, "device", alias, "name", l.Module)
				loaded = true
			}
		}
	}
	return loaded
}

// wantedNames are the modules of which a stand-in could be in the way: what other Modules have removed or bring, and what the
// owner's own image brings and its document does not have removed.
func (a *Agent) wantedNames(owner string) map[string]bool {
	names := nameSet(a.cfg.NeverLoad)
	for key, r := range a.resolved {
		if r.want == nil {
			if r.choice != nil && key != owner {
				maps.Copy(names, nameSet(slices.Concat(r.choice.RemoveInTree, r.choice.Order)))
			}
			continue
		}
		for i := range r.want.Files {
			if f := &r.want.Files[i]; !f.FromHost && !f.Optional && (key != owner || !slices.Contains(r.want.Remove, f.Name)) {
				names[f.Name] = true
			}
		}
		if key != owner {
			maps.Copy(names, nameSet(r.want.Remove))
		}
	}
	for _, name := range a.ledger.held() {
		names[name] = true
	}
	return names
}

// loadChain loads one of the node's own modules behind all it needs, and reports whether it did. None of these may be one of those
// that are wanted otherwise. What it has a softdep on may be missing.
func (a *Agent) loadChain(ctx context.Context, index *kmod.Index, config *kmod.Config, name string, wanted map[string]bool) (done bool, err error) {
	lines, err := index.ShowDepends(config, name)
	if err != nil {
		return false, err
	}
	lines = slices.DeleteFunc(lines, func(l kmod.Line) bool {
		_, _, err := a.cfg.Kernel.Running(l.Module)
		return err == nil || l.Action == "builtin"
	})
	order, err := kmod.LoadOrder(name, a.host)
	if err != nil {
		return false, err
	}
	needed := func(l kmod.Line) bool {
		return slices.ContainsFunc(order, func(i kmod.Item) bool { return i.Info.Name == l.Module && !i.Soft })
	}
	inTheWay := func(l kmod.Line) error {
		switch {
		case wanted[l.Module]:
			return fmt.Errorf("load %s: %s is wanted otherwise, or not at all", name, l.Module)
		case l.Action != "insmod":
			return fmt.Errorf("load %s: the node's modprobe.d has another way to load %s", name, l.Module)
		}
		return nil
	}
	for _, l := range lines {
		if err := inTheWay(l); err != nil && needed(l) {
			return false, err
		}
	}
	for _, l := range lines {
		err := inTheWay(l)
		if err == nil {
			err = a.loadOwn(ctx, l)
		}
		if err != nil && needed(l) {
			return false, err
		}
		if err != nil {
			a.cfg.Log.Warn("softdep not loaded", "name", l.Module, "err", err)
		}
		done = done || err == nil && l.Module == name
	}
	return done, nil
}

// loadOwn loads one of the node's own modules.
func (a *Agent) loadOwn(ctx context.Context, l kmod.Line) error {
	path, ok := a.host.Find(l.Module)
	if !ok {
		return fmt.Errorf("load %s: %w", l.Target, kmod.ErrNotFound)
	}
	info, err := kmod.ReadInfo(path)
	if err != nil {
		return err
	}
	file := plan.File{Name: info.Name, Path: path, BuildID: info.BuildID, FromHost: true, Parameters: l.Parameters()}
	return a.load(ctx, file, false)
}
