// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Make orders the steps from facts to wants: first what has to leave, then one
// transaction per want, by owner, but for those whose modules others count on.
// A want that is met gives a transaction without steps. Wants that exclude each
// other are blocked, all of them.
//
// Each transaction is planned as if it were the only one: whoever has done one
// that had steps makes a new plan before the next.
func Make(wants []Want, f Facts) Plan {
	wants, gaveWay := giveWay(inOrder(wants), &f)
	p := Plan{Transactions: []Transaction{}}
	if !f.KeepAll {
		for _, owner := range Unnamed(f) {
			p.Transactions = append(p.Transactions, leave(owner, wants, f))
		}
	}
	conflicts := conflicts(wants, gaveWay)
	for i := range wants {
		w := &wants[i]
		t := Transaction{Owner: w.Owner, Blocked: conflicts[w.Owner]}
		if len(t.Blocked) == 0 {
			b := builder{w: w, f: &f, gaveWay: gaveWay[w.Owner], unload: map[string]bool{}}
			t.Steps, t.Blocked = b.build()
			t.Unloads = slices.Sorted(maps.Keys(b.unload))
		}
		if len(t.Blocked) > 0 {
			t.Steps = nil
		}
		p.Transactions = append(p.Transactions, t)
	}
	return p
}

// builder makes the transaction of one want.
type builder struct {
	w       *Want
	f       *Facts
	gaveWay map[string]bool // softdeps that are not wanted because of another want
	unload  map[string]bool // modules that must leave, for whatever reason
	inTree  map[string]bool // those of them that are in-tree modules to be replaced
	why     map[string]string
	forget  []Step
	blocks  []Block
}

func (b *builder) block(r spec.Reason, format string, args ...any) {
	b.blocks = append(b.blocks, Block{string(r), fmt.Sprintf(format, args...)})
}

func (b *builder) build() ([]Step, []Block) {
	b.why, b.inTree = map[string]string{}, map[string]bool{}
	b.checkBuiltin()
	b.checkNeverLoad()
	b.findInTree()
	mere := b.findDropped()
	b.findChanged()
	b.dropMere(mere)
	order := b.unloadOrder()
	b.checkUnload(order)
	before, after := b.checkUse(order)
	if err := b.f.FirmwareConflict[b.w.Owner]; err != nil {
		b.block(spec.ReasonFirmwareConflict, "%v", err)
	}
	if len(b.blocks) > 0 {
		return nil, b.blocks
	}
	var steps []Step
	if held, known := b.f.Held[b.w.Owner]; !slices.Equal(held, b.w.Remove) || known && len(held) == 0 {
		steps = append(steps, Hold{b.w.Owner, b.w.Remove})
	}
	steps = append(steps, b.firmware()...)
	steps = append(steps, before...)
	for _, name := range order {
		_, ours := b.f.entry(name)
		undo := b.undo(name)
		if e := b.f.Ours[name]; len(e.Owners) == 0 && undo != nil {
			ours = false // what comes back is the node's own
		}
		steps = append(steps, Unload{Name: name, Why: b.why[name], Undo: undo, Ours: ours})
	}
	for i := range b.w.Files {
		file := b.w.Files[i]
		if _, runs := b.f.Loaded[file.Name]; !runs || b.unload[file.Name] {
			steps = append(steps, Load{b.w.Owner, file})
		} else if s := b.adopt(file); s != nil {
			steps = append(steps, s)
		}
	}
	steps = append(steps, after...)
	steps = append(steps, b.forget...)
	return append(steps, b.dropFirmware()...), nil
}

// checkBuiltin: delete_module(2) can not remove what is part of the kernel
// image, and a module of a built-in's name is refused, or worse, loaded beside
// it (kernel/module/main.c, mod_sysfs_init).
func (b *builder) checkBuiltin() {
	for _, file := range b.w.Files {
		if b.f.Builtin[file.Name] && !file.FromHost {
			b.block(spec.ReasonBuiltin, "%s is built into this kernel: a module of that name can not replace it", file.Name)
		}
	}
	for _, name := range b.w.Remove {
		if b.f.Builtin[name] {
			b.block(spec.ReasonBuiltin, "%s is built into this kernel (modules.builtin): it can not be removed; take it off inTreeModulesToRemove for this kernel, or boot a kernel that has it as a module", name)
		}
	}
}

// checkNeverLoad refuses what the node's own policy keeps out of the kernel,
// also when it runs by now: it is not kmmd that had it loaded.
func (b *builder) checkNeverLoad() {
	for _, file := range b.w.Files {
		if b.f.NeverLoad[file.Name] {
			b.block(spec.ReasonPolicy, "%s", NeverLoad(file.Name))
		}
	}
}

// NeverLoad is what to say of a module that the node's policy keeps out.
func NeverLoad(name string) string {
	return fmt.Sprintf("policy never_load: %s is not to be loaded on this node", name)
}

// neverRemove is what to say of a module that the node's policy keeps.
func neverRemove(name string) string {
	return fmt.Sprintf("policy never_remove: %s is not to be removed on this node", name)
}

// findInTree marks the in-tree modules that are there and have to go.
func (b *builder) findInTree() {
	for _, name := range b.w.Remove {
		l, runs := b.f.Loaded[name]
		if !runs || b.f.Builtin[name] {
			continue
		}
		file := b.w.file(name)
		if file != nil && sameBuild(file, l, b.f.Ours) {
			continue
		}
		e, ours := b.f.entry(name)
		others := ours && !e.only(b.w.Owner)
		if own := b.f.InTree[name]; (b.gaveWay[name] || others && file != nil && file.Optional) && (own == nil || !sameBuild(own, l, nil)) {
			continue // no in-tree module, but another one's, which is as good as the softdep
		}
		if others {
			b.block(spec.ReasonConflict, "%s is to be removed as an in-tree module, but it was loaded for %s", name, strings.Join(e.Owners, ", "))
			continue
		}
		b.mark(name, "in-tree module to be replaced")
		b.inTree[name] = true
		b.probeAgain(name)
	}
}

// probeAgain marks what runs of the image beside an in-tree module of another
// name that goes, so that it is loaded anew: the kernel offers the devices of a
// driver that goes to no driver that is there (drivers/base/bus.c,
// bus_remove_driver), only one that is registered later finds them. Which of
// the files drives them is not known, so it is all, but for those that another
// Module has too. When the in-tree module was only loaded by hand once more and
// is known to have no device, nothing is to be found; with Unbind an interrupted
// change may have taken them.
func (b *builder) probeAgain(inTree string) {
	u, looked := b.f.Uses[inTree]
	if b.w.file(inTree) != nil || looked && len(u.Bound) == 0 && !b.w.Unbind {
		return
	}
	for i := range b.w.Files {
		file := &b.w.Files[i]
		l, runs := b.f.Loaded[file.Name]
		e, ours := b.f.entry(file.Name)
		others := ours && !e.only(b.w.Owner)
		if runs && !others && !file.FromHost && !file.Optional && sameBuild(file, l, b.f.Ours) {
			b.mark(file.Name, "it has to find the devices of "+inTree)
		}
	}
}

// findDropped marks what was loaded for this owner and is not asked for any
// more, but for the mere dependencies among it.
func (b *builder) findDropped() (mere []string) {
	for _, name := range slices.Sorted(maps.Keys(b.f.Ours)) {
		e := b.f.Ours[name]
		if b.w.file(name) != nil || !slices.Contains(e.Owners, b.w.Owner) {
			continue
		}
		_, ours := b.f.entry(name)
		_, runs := b.f.Loaded[name]
		switch {
		case !runs || !ours || len(e.Owners) > 1 || b.gaveWay[name]:
			b.forget = append(b.forget, Forget{Owner: b.w.Owner, Name: name})
		case e.File.Mere():
			mere = append(mere, name)
		default:
			b.mark(name, "no longer asked for")
		}
	}
	return mere
}

// dropMere marks the dependencies among what is not asked for any more, unless
// something else uses them by now, or they never go.
func (b *builder) dropMere(mere []string) {
	for again := true; again; {
		again = false
		for _, name := range mere {
			if !b.unload[name] && mayGo(b.f, name, b.unload, false) {
				b.mark(name, "no longer asked for")
				again = true
			}
		}
	}
}

// mayGo tells whether nothing keeps a mere dependency in the kernel once the
// modules in leaving are gone: it is never worth an interface or a disk, and no
// reason for the rest to stay. What hangs on it is known when the plan is made
// again. References that name nobody count, unless perhaps.
func mayGo(f *Facts, name string, leaving map[string]bool, perhaps bool) bool {
	l := f.Loaded[name]
	return !l.Permanent && !f.NeverRemove[name] && holds(l, leaving, perhaps) == "" &&
		f.UseUnknown[name] == nil && len(obstacles(f.Uses[name], false, false, true)) == 0
}

// mayFollow tells whether nothing is in the way of another build of a module,
// which takes its place at once.
func (b *builder) mayFollow(name string) bool {
	l := b.f.Loaded[name]
	return !l.Permanent && !b.f.NeverRemove[name] && holds(l, nil, false) == "" &&
		b.f.UseUnknown[name] == nil && len(obstacles(b.f.Uses[name], b.w.AllowNetwork, b.w.ResetSRIOV, false)) == 0
}

// findChanged marks what runs as another build or with other parameters.
func (b *builder) findChanged() {
	for i := range b.w.Files {
		file := &b.w.Files[i]
		l, runs := b.f.Loaded[file.Name]
		if !runs || b.unload[file.Name] {
			continue
		}
		e, ours := b.f.entry(file.Name)
		mine := ours && e.only(b.w.Owner)
		if l.State != "live" {
			b.block(spec.ReasonNeedsReboot, "%s is in the state %q: it is being loaded or removed, or it hangs inside the kernel; if this stays so, only a reboot helps", file.Name, l.State)
			continue
		}
		if !sameBuild(file, l, b.f.Ours) {
			switch {
			case file.FromHost || file.Optional && (!mine || !b.mayFollow(file.Name)):
				// Whatever build of a mere dependency runs, it is the node's own business; a softdep that was loaded for
				// nobody else follows its image, if nothing is in the way.
			case mine:
				b.mark(file.Name, "another build is asked for")
			case ours:
				b.block(spec.ReasonConflict, "another build of %s was loaded for %s", file.Name, strings.Join(e.Owners, ", "))
			default:
				b.block(spec.ReasonWrongBuild, "another build of %s runs (build-id %s, wanted %s of %s): name it in inTreeModulesToRemove to have it replaced", file.Name, short(l.BuildID), short(file.BuildID), base(file.Path))
			}
			continue
		}
		if diff := b.parameterDiff(file, l); diff != "" {
			switch {
			case !ours || mine:
				b.mark(file.Name, "parameters differ: "+diff)
			case !file.Optional:
				b.block(spec.ReasonConflict, "%s was loaded for %s with other parameters: %s", file.Name, strings.Join(e.Owners, ", "), diff)
			}
		}
	}
}

// parameterDiff compares by the ledger if it knows the module (a parameter
// written later in /sys is the administrator's business), else by what the
// kernel shows. Only a module that the document names has parameters.
func (b *builder) parameterDiff(file *File, l Loaded) string {
	if e, ok := b.f.entry(file.Name); ok {
		if slices.Equal(e.File.Parameters, file.Parameters) {
			return ""
		}
		return fmt.Sprintf("loaded with %q, wanted %q", strings.Join(e.File.Parameters, " "), strings.Join(file.Parameters, " "))
	}
	return Differing(file, l.Parameters)
}

// Differing compares a file's parameters with the ones the kernel shows and
// says which differ; "" when none is known to.
func Differing(file *File, shown map[string]string) string {
	for _, p := range file.Parameters {
		name, wanted, _ := strings.Cut(p, "=")
		name = strings.ReplaceAll(name, "-", "_")
		now, visible := shown[name]
		if !visible {
			continue
		}
		if same, known := kmod.SameParameter(file.Types[name], wanted, now); known && !same {
			return fmt.Sprintf("%s is %q, wanted %q", name, now, wanted)
		}
	}
	return ""
}

// sameBuild compares build-ids. A file without one is only known by the ledger.
func sameBuild(file *File, l Loaded, ours map[string]Entry) bool {
	if file.BuildID != "" || l.BuildID != "" {
		return file.BuildID == l.BuildID
	}
	return ours[file.Name].File.Path == file.Path
}

func (b *builder) adopt(file File) Step {
	e, ours := b.f.entry(file.Name)
	// Of several owners each has the same build in an image of its own, for one
	// it may be a softdep: any will do.
	same := e.File.Path == file.Path && e.File.Optional == file.Optional && e.File.Dependency == file.Dependency || len(e.Owners) > 1
	if ours && slices.Contains(e.Owners, b.w.Owner) && same && slices.Equal(e.File.Parameters, file.Parameters) {
		return nil
	}
	// A host module that was there before us is not ours to unload later.
	if !ours && file.FromHost {
		return nil
	}
	// A softdep takes what another Module has, but the ledger says how that was loaded.
	if ours && !slices.Equal(e.File.Parameters, file.Parameters) {
		return nil
	}
	if !sameBuild(&file, b.f.Loaded[file.Name], b.f.Ours) {
		return nil
	}
	return Adopt{b.w.Owner, file}
}

func (b *builder) mark(name, why string) {
	if !b.unload[name] {
		b.unload[name], b.why[name] = true, why
	}
}

func (b *builder) undo(name string) *File {
	e, ours := b.f.entry(name)
	if ours && len(e.Owners) > 0 {
		file := e.File
		return &file
	}
	back := b.wayBack(name)
	if back == nil {
		return nil // of a build that has outlived its Module; its image may be gone
	}
	file := *back
	file.Parameters, file.Unseen = currentParameters(file.Types, b.f.Loaded[name].Parameters)
	return &file
}

// wayBack is the file that a module which is not ours comes back from: the
// node's own, or the wanted one when it is what runs; nil when there is none.
func (b *builder) wayBack(name string) *File {
	if file := b.f.InTree[name]; file != nil {
		return file
	}
	if file := b.w.file(name); file != nil && sameBuild(file, b.f.Loaded[name], nil) {
		return file
	}
	return nil
}

func (b *builder) firmware() []Step {
	if b.w.FirmwareDir == "" {
		return nil
	}
	var steps []Step
	if !b.f.FirmwareCurrent[b.w.Owner] {
		steps = append(steps, InstallFirmware{b.w.Owner, b.w.FirmwareDir, b.f.FirmwareDirs[b.w.Owner]})
	}
	if b.f.FirmwarePath != b.f.FirmwareTarget {
		steps = append(steps, SetFirmwarePath{b.f.FirmwareTarget})
	}
	return steps
}

// dropFirmware removes, at the end, firmware that the owner asks for no more.
func (b *builder) dropFirmware() []Step {
	if b.w.FirmwareDir != "" {
		return nil
	}
	return removeFirmware(b.w.Owner, b.f)
}

// removeFirmware ends with what makes the owner an owner: a plan made after an
// interruption finds all that is left to do.
func removeFirmware(owner string, f *Facts) []Step {
	if !slices.Contains(f.FirmwareOwners, owner) {
		return nil
	}
	var steps []Step
	last := !slices.ContainsFunc(f.FirmwareOwners, func(o string) bool { return o != owner })
	if last && f.FirmwarePath == f.FirmwareTarget && f.FirmwareBefore != f.FirmwareTarget {
		steps = append(steps, SetFirmwarePath{f.FirmwareBefore})
	}
	return append(steps, RemoveFirmware{owner})
}
