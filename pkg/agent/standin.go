// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/plan"
)

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

// loadFor loads what modprobe would load for aliases, with the node's own settings, if that is one of the names asked for. It
// reports whether one of these runs now.
func (a *Agent) loadFor(ctx context.Context, owner string, index *kmod.Index, aliases, asked []string) (loaded bool) {
	config, err := kmod.ReadConfig(a.host.Root(), a.cfg.Kernel.Cmdline())
	if err != nil {
		a.cfg.Log.Error("the node's own drivers can not stand in", "module", owner, "err", err)
		return false
	}
	for _, alias := range aliases {
		lines, err := index.ShowDepends(config, alias)
		if err != nil || !slices.ContainsFunc(lines, func(l kmod.Line) bool { return l.Action == "insmod" && slices.Contains(asked, l.Module) }) {
			continue // the node does not want it
		}
		for _, l := range lines {
			if done, err := a.loadOwn(ctx, l); err != nil {
				a.cfg.Log.Error("the node's own driver does not stand in", "module", owner, "device", alias, "err", err)
			} else if done {
				a.cfg.Log.Info("the node's own driver stands in", "module", owner, "device", alias, "name", l.Module)
				loaded = loaded || slices.Contains(asked, l.Module)
			}
		}
	}
	return loaded
}

// loadOwn loads one of the node's own modules, and reports whether it did.
func (a *Agent) loadOwn(ctx context.Context, l kmod.Line) (done bool, err error) {
	if _, _, err := a.cfg.Kernel.Running(l.Module); err == nil || l.Action != "insmod" {
		return false, nil
	}
	if nameSet(a.cfg.NeverLoad)[l.Module] || slices.Contains(a.ledger.held(), l.Module) {
		return false, nil
	}
	path, ok := a.host.Find(l.Module)
	if !ok {
		return false, fmt.Errorf("load %s: %w", l.Target, kmod.ErrNotFound)
	}
	info, err := kmod.ReadInfo(path)
	if err != nil {
		return false, err
	}
	file := plan.File{Name: info.Name, Path: path, BuildID: info.BuildID, FromHost: true, Parameters: l.Parameters()}
	return true, a.load(ctx, file, false)
}
