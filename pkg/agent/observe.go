// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// observe reads the kernel, the firmware directory and the ledger.
func (a *Agent) observe(desired *spec.Node) (plan.Facts, error) {
	f := plan.Facts{
		Builtin: map[string]bool{}, InTree: map[string]*plan.File{}, Ours: a.ledger.Modules,
		Held: map[string][]string{}, FirmwareDirs: a.ledger.Firmware, FirmwareCurrent: map[string]bool{},
		FirmwareConflict: map[string]error{}, FirmwareTarget: a.cfg.FirmwareDir,
		FirmwareBefore: pathAtBoot(a.cfg.Kernel.Cmdline()), // as far as a kmmd without its ledger can know
		Wanted:         map[string]bool{}, KeepAll: !desired.Complete(),
	}
	f.AllowNetwork = a.cfg.AllowNetwork
	f.NeverLoad, f.NeverRemove = nameSet(a.cfg.NeverLoad), nameSet(a.cfg.NeverRemove)
	f.PendingSRIOV, f.PendingNetwork = a.ledger.SRIOV, map[string]bool{}
	for owner := range a.ledger.Networks {
		f.PendingNetwork[owner] = true
	}
	if a.ledger.FirmwarePathBefore != nil {
		f.FirmwareBefore = *a.ledger.FirmwarePathBefore
	}
	for i := range desired.Modules {
		f.Wanted[desired.Modules[i].Key()] = desired.Modules[i].Spec.ModuleLoader != nil
	}
	for i := range desired.Refused {
		f.Wanted[desired.Refused[i].Key()] = true
	}
	if err := a.observeModules(&f); err != nil {
		return f, err
	}
	var err error
	if f.FirmwarePath, err = a.cfg.Kernel.FirmwarePath(); err != nil {
		return f, err
	}
	if f.FirmwareOwners, err = a.cfg.Firmware.Owners(); err != nil {
		return f, err
	}
	held, err := a.cfg.Kernel.Held()
	if err != nil {
		return f, err
	}
	for owner, names := range a.ledger.Holds {
		f.Held[owner] = nil // lost
		if !slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(held, n) }) {
			f.Held[owner] = names
		}
	}
	return f, a.observeFirmware(&f)
}

// nameSet is a set of modules by the kernel's spelling.
func nameSet(names []string) map[string]bool {
	set := map[string]bool{}
	for _, name := range names {
		set[kmod.Name(name)] = true
	}
	return set
}

// pathAtBoot is what firmware_class.path was when the kernel came up: a word of
// its command line, or empty (drivers/base/firmware_loader/main.c).
func pathAtBoot(cmdline string) string {
	path := ""
	for _, word := range strings.Fields(cmdline) {
		if value, ok := strings.CutPrefix(strings.Trim(word, `"`), "firmware_class.path="); ok {
			path = strings.Trim(value, `"`)
		}
	}
	return path
}

// observeModules lists what runs, and looks closer at the modules that matter.
func (a *Agent) observeModules(f *plan.Facts) error {
	closer := slices.Collect(maps.Keys(a.ledger.Modules))
	for _, r := range a.resolved {
		for name := range r.builtin {
			f.Builtin[name] = r.builtin[name]
		}
		if r.want == nil {
			continue
		}
		for i := range r.want.Files {
			closer = append(closer, r.want.Files[i].Name)
		}
		for _, name := range r.want.Remove {
			closer = append(closer, name)
			f.InTree[name] = r.inTree[name]
		}
	}
	mods, err := a.cfg.Kernel.Modules(closer...)
	if err != nil {
		return fmt.Errorf("observe: %w", err)
	}
	f.Loaded = make(map[string]plan.Loaded, len(mods))
	for i, m := range mods { // the newest is first
		f.Loaded[m.Name] = plan.Loaded{
			Name: m.Name, State: m.State, Refs: m.Refs, UsedBy: m.UsedBy, Permanent: m.Permanent, Place: i,
			BuildID: m.BuildID, Parameters: m.Parameters,
		}
	}
	return nil
}

func (a *Agent) observeFirmware(f *plan.Facts) error {
	for owner, r := range a.resolved {
		if r.want == nil || r.want.FirmwareDir == "" {
			continue
		}
		current, err := a.cfg.Firmware.Current(owner, r.firmware)
		if err != nil {
			return err
		}
		f.FirmwareCurrent[owner] = current
		if _, known := a.ledger.Firmware[owner]; current && !known {
			a.ledger.Firmware[owner] = r.want.FirmwareDir // of an earlier boot
		}
		if err := a.cfg.Firmware.Check(owner, r.firmware); err != nil {
			f.FirmwareConflict[owner] = err
		}
	}
	return nil
}
