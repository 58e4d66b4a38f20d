// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// unloadOrder widens the set of modules to unload by those of the same owner
// that hold them, or that the document has loaded after them (they are loaded
// again afterwards), and orders it: users before what they use.
func (b *builder) unloadOrder() []string {
	for again := true; again; {
		again = false
		for _, name := range slices.Sorted(maps.Keys(b.unload)) {
			for _, user := range b.f.Loaded[name].UsedBy {
				again = b.follows(user, "it uses "+name) || again
			}
			for _, above := range b.w.above(name) {
				if b.f.Loaded[above].Permanent || b.f.NeverRemove[above] {
					continue // better beside the new one than no new one
				}
				again = b.follows(above, "it is loaded after "+name) || again
			}
		}
	}
	return usersFirst(b.unload, b.f.Loaded, b.inTree)
}

// follows marks a module of this owner's that has to be loaded anew, and tells
// whether it was not marked before.
func (b *builder) follows(name, why string) bool {
	e, ours := b.f.entry(name)
	_, runs := b.f.Loaded[name]
	if !runs || !ours || !e.only(b.w.Owner) || b.unload[name] || b.w.file(name) == nil {
		return false
	}
	b.mark(name, why)
	return true
}

// usersFirst orders modules so that each stands before what it uses, and what
// was loaded later before what was there by then: modulesLoadingOrder is for modules
// that do not show what they want of each other. Those of last stand behind the
// others: as long as an in-tree module runs, a plan that is made after an
// interruption knows what has to be loaded in its place.
func usersFirst(set map[string]bool, loaded map[string]Loaded, last map[string]bool) []string {
	var order []string
	sorted := func(names iter.Seq[string]) []string {
		return slices.SortedFunc(names, func(a, b string) int {
			if last[a] != last[b] {
				return map[bool]int{true: 1, false: -1}[last[a]]
			}
			return cmp.Or(cmp.Compare(loaded[a].Place, loaded[b].Place), strings.Compare(a, b))
		})
	}
	done := map[string]bool{}
	var visit func(string)
	visit = func(name string) {
		if done[name] || !set[name] {
			return
		}
		done[name] = true
		for _, user := range sorted(slices.Values(loaded[name].UsedBy)) {
			visit(user)
		}
		order = append(order, name)
	}
	for _, name := range sorted(maps.Keys(set)) {
		visit(name)
	}
	return order
}

// checkUnload refuses before anything is touched what the kernel would refuse
// halfway, and what could not be undone.
func (b *builder) checkUnload(order []string) {
	for _, name := range order {
		l := b.f.Loaded[name]
		if l.State != "live" {
			b.block(spec.ReasonNeedsReboot, "%s is in the state %q and can not be unloaded; if this stays so, only a reboot helps", name, l.State)
			continue
		}
		if b.f.NeverRemove[name] {
			b.block(spec.ReasonPolicy, "%s", neverRemove(name))
			continue
		}
		if l.Permanent {
			b.block(spec.ReasonInUse, "%s can not be unloaded: it is permanent (it has no exit function)", name)
			continue
		}
		if why := holds(l, b.unload, b.mayHold(name)); why != "" {
			b.block(spec.ReasonInUse, "%s is in use: %s%s", name, why, whoHolds(b.f.Uses[name]))
		}
		e, ours := b.f.entry(name)
		if ours && len(e.Owners) == 0 && b.wayBack(name) == nil && drives(b.f.Uses[name]) {
			b.block(spec.ReasonNoWayBack, "%s has outlived the Module it was loaded for, and drives devices: if the new module fails, %s could not be loaded again; "+
				"unload it by hand", name, name)
		}
		if !ours && b.wayBack(name) == nil {
			b.block(spec.ReasonNoWayBack, "%s runs, but its file is not in the node's /lib/modules: if the new module fails, %s could not be loaded again", name, name)
		}
	}
}

// mayHold tells whether a module that goes before this one may hold it by a
// reference that names nobody: it was loaded later, and the document names both.
// Whoever names modules that use no symbol of each other knows of something else
// between them.
func (b *builder) mayHold(name string) bool {
	named := func(name string) bool { return slices.Contains(b.w.Order, name) || slices.Contains(b.w.Remove, name) }
	return named(name) && laterGoes(b.f, name, func(other string) bool { return b.unload[other] && named(other) })
}

// laterGoes tells whether a module that goes was loaded after this one, of which
// no open file is known: then only the kernel knows, when that one has gone,
// whether this one can go, too.
func laterGoes(f *Facts, name string, goes func(other string) bool) bool {
	if len(f.Uses[name].Files) > 0 {
		return false
	}
	for other, l := range f.Loaded {
		if goes(other) && l.Place < f.Loaded[name].Place {
			return true
		}
	}
	return false
}

// drives tells whether something would be missed if the module did not come back.
func drives(u devices.Use) bool { return len(u.Bound)+len(u.Interfaces)+len(u.Blocks) > 0 }

// holds says what keeps a module in the kernel once the modules in leaving are
// gone; "" when nothing does. Each module that imports its symbols holds one
// reference (kernel/module/main.c, ref_module); the rest of the count are open
// files, mounts, sockets and the like, or modules that have taken one without a
// symbol (try_module_get), or by name (symbol_get): perhaps says that such a one is
// in leaving, so that the rest of the count says nothing.
func holds(l Loaded, leaving map[string]bool, perhaps bool) string {
	var holders []string
	for _, user := range l.UsedBy {
		if !leaving[user] {
			holders = append(holders, user)
		}
	}
	var why []string
	if len(holders) > 0 {
		why = append(why, "used by the modules "+strings.Join(holders, ", "))
	}
	if others := l.Refs - len(l.UsedBy); others > 0 && !perhaps {
		why = append(why, fmt.Sprintf("%d references are held by open files, mounts, sockets or interfaces", others))
	}
	return strings.Join(why, "; ")
}

// whoHolds names the open files behind a reference count.
func whoHolds(u devices.Use) string {
	text := ""
	for _, file := range u.Files {
		text += "; " + file.String()
	}
	return text
}

// Unnamed are the owners that the ledger or the firmware directory knows and no
// document names any more. They leave, unless Facts.KeepAll.
func Unnamed(f Facts) []string {
	set := map[string]bool{}
	for _, e := range f.Ours {
		for _, owner := range e.Owners {
			set[owner] = !f.Wanted[owner]
		}
	}
	for _, owner := range f.FirmwareOwners {
		set[owner] = !f.Wanted[owner]
	}
	for owner := range f.Held {
		set[owner] = !f.Wanted[owner]
	}
	maps.DeleteFunc(set, func(_ string, gone bool) bool { return !gone })
	return slices.Sorted(maps.Keys(set))
}

// leave unloads what was loaded for an owner whose document is gone, then its
// firmware. Modules that another Module wants as they are stay; dependencies
// that something uses stay.
func leave(owner string, wants []Want, f Facts) Transaction {
	t := Transaction{Owner: owner, Leaving: true}
	set := map[string]bool{}
	var forget []Step
	for _, name := range slices.Sorted(maps.Keys(f.Ours)) {
		e := f.Ours[name]
		if !slices.Contains(e.Owners, owner) {
			continue
		}
		l, runs := f.Loaded[name]
		_, still := f.entry(name)
		if !runs || !still || len(e.Owners) > 1 || keptBy(name, l, wants, f) {
			forget = append(forget, Forget{Owner: owner, Name: name})
			continue
		}
		set[name] = true
	}
	forget = append(forget, spare(owner, set, f)...)
	for _, name := range usersFirst(set, f.Loaded, nil) {
		l := f.Loaded[name]
		why := holds(l, set, laterGoes(&f, name, func(other string) bool { return set[other] }))
		// The node's policy knows no permission for virtual functions.
		inUse := obstacles(f.Uses[name], f.AllowNetwork, false, true)
		switch {
		case f.NeverRemove[name]:
			t.Blocked = append(t.Blocked, Block{string(spec.ReasonPolicy), neverRemove(name)})
		case l.State != "live":
			t.Blocked = append(t.Blocked, Block{string(spec.ReasonNeedsReboot), fmt.Sprintf("%s is in the state %q", name, l.State)})
		case why != "":
			t.Blocked = append(t.Blocked, Block{string(spec.ReasonInUse), fmt.Sprintf("%s can not be unloaded: %s%s", name, why, whoHolds(f.Uses[name]))})
		case f.UseUnknown[name] != nil:
			t.Blocked = append(t.Blocked, Block{string(spec.ReasonInternal), fmt.Sprintf("what hangs on %s can not be told: %v", name, f.UseUnknown[name])})
		case len(inUse) > 0:
			t.Blocked = append(t.Blocked, Block{string(spec.ReasonInUse), fmt.Sprintf("%s can not be unloaded: %s", name, strings.Join(inUse, "; "))})
		case l.Permanent:
			t.Blocked = append(t.Blocked, Block{string(spec.ReasonInUse), name + " can not be unloaded: it is permanent (it has no exit function)"})
		}
		t.Steps = append(t.Steps, Unload{Name: name, Why: "its Module is gone", Ours: true})
		t.Unloads = append(t.Unloads, name)
	}
	t.Steps = append(t.Steps, forget...)
	t.Steps = append(t.Steps, removeFirmware(owner, &f)...)
	if _, known := f.Held[owner]; known {
		t.Steps = append(t.Steps, Hold{Owner: owner})
	}
	return t
}

// spare takes out of set the mere dependencies that something outside the
// set uses, an interface or a disk among it, that are permanent, or that the
// node's policy keeps, and what these use in turn: they stay and are forgotten.
func spare(owner string, set map[string]bool, f Facts) []Step {
	var forget []Step
	for again := true; again; {
		again = false
		for _, name := range slices.Sorted(maps.Keys(set)) {
			file := f.Ours[name].File
			perhaps := !file.FromHost && laterGoes(&f, name, func(other string) bool { return set[other] })
			if file.Mere() && !mayGo(&f, name, set, perhaps) {
				delete(set, name)
				forget = append(forget, Forget{owner, name, !file.FromHost})
				again = true
			}
		}
	}
	return forget
}

// keptBy reports whether some want asks for exactly what runs under this name.
func keptBy(name string, l Loaded, wants []Want, f Facts) bool {
	for i := range wants {
		if file := wants[i].file(name); file != nil && sameBuild(file, l, f.Ours) && slices.Equal(file.Parameters, f.Ours[name].File.Parameters) {
			return true
		}
	}
	return false
}
