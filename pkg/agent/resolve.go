// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/firmware"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// resolution is one Module turned into files, or the reason why not. It is
// kept until the document changes or, for a failure, until the next try.
type resolution struct {
	module   spec.Module
	document string // its hash
	choice   *spec.Choice
	tree     *images.Tree
	want     *plan.Want
	inTree   map[string]*plan.File // the host's own file for each name in want.Remove
	builtin  map[string]bool
	firmware []firmware.File
	parsed   map[string]*kmod.File // by path
	warnings []string
	fail     *failure   // while pending: of the last try
	pending  bool       // the image is being got
	host     *kmod.Tree // the node's own modules as they were then
	damaged  bool       // a file of it is not what, or where, it was: in the store, or of the node's own
}

// resolveAll brings a.resolved up to date with the desired Modules.
func (a *Agent) resolveAll(ctx context.Context, desired *spec.Node) {
	wanted := map[string]bool{}
	var opened bool
	grace, cancel := context.WithTimeout(ctx, pullGrace)
	defer cancel()
	for i := range desired.Modules {
		m := &desired.Modules[i]
		if m.Spec.ModuleLoader == nil {
			continue // nothing for a node
		}
		key := m.Key()
		wanted[key] = true
		old := a.resolved[key]
		if old != nil && old.answers(m) && !a.toResolve(old) {
			old.module = *m
			continue
		}
		if !opened {
			a.openHost()
			opened = true
		}
		if old != nil && old.fail != nil && old.answers(m) && !old.pending {
			a.cfg.Metrics.retried(old.fail.reason)
		}
		r := a.resolve(ctx, *m, grace.Done())
		if r.pending && old != nil && old.answers(m) {
			r.fail = old.fail
		} else if r.fail != nil && old != nil {
			r.fail.follow(old.fail)
		}
		if !r.pending && r.fail != nil && r.fail.reason != spec.ReasonImageNotMade && (old == nil || old.fail == nil || old.fail.message != r.fail.message) {
			a.cfg.Metrics.refused(r.fail.reason)
			a.cfg.Log.Error("module can not be resolved", "module", key, "reason", string(r.fail.reason), "err", r.fail.message)
		}
		a.resolved[key] = r
	}
	a.refuse(desired)
	a.forget(desired, wanted)
	a.forgetPulls(wanted)
}

// answers says whether the resolution is that of m too: what they differ in has
// no say in files, or only in how an image is got that is there.
func (r *resolution) answers(m *spec.Module) bool {
	a, b := r.module, *m
	a.Revision, b.Revision = "", ""
	if r.fail == nil {
		a.PullSecrets, b.PullSecrets = nil, nil
	}
	return reflect.DeepEqual(a, b)
}

// openHost reads the node's own modules, and again when a package has added some
// since. Without any, only what an image brings can be loaded.
func (a *Agent) openHost() {
	a.looked = true
	if a.host != nil && a.host.Current() {
		return
	}
	dir := filepath.Join(a.cfg.ModulesDir, a.cfg.Kernel.Release())
	host, err := kmod.OpenHostTree(dir)
	if err != nil {
		a.cfg.Log.Warn("the node's own modules can not be read: no dependency, and no way back, comes from there", "dir", dir, "err", err)
		return
	}
	a.host = host
	if a.magic == "" {
		a.magic = a.kernelMagic()
	}
}

// resolve: the mapping that wins, the image, the files, and every check that
// needs no look at the kernel's state. It waits for the image until grace.
func (a *Agent) resolve(ctx context.Context, m spec.Module, grace <-chan struct{}) *resolution {
	r := &resolution{module: m, document: documentHash(&m), builtin: map[string]bool{}, inTree: map[string]*plan.File{}, parsed: map[string]*kmod.File{}}
	r.warnings = slices.Clone(m.Warnings)
	if a.ledger.Settled[m.Key()].Document != r.document {
		delete(a.ledger.Settled, m.Key()) // also when it comes again
	}
	release := spec.Release(a.cfg.Kernel.Release())
	choice, err := m.For(release)
	if err != nil {
		r.fail = fail(err)
		return r
	}
	r.choice = choice
	r.warnings = append(r.warnings, choice.Warnings...)
	got := a.image(ctx, &m, choice, grace)
	if got == nil {
		r.pending = true
		return r
	}
	r.host = got.host
	if r.tree, err = got.tree, got.err; err != nil {
		r.fail = fail(err)
		return r
	}
	a.pinSoon(m.Key(), r.tree.Digest)
	if r.tree.Stale {
		r.warnings = append(r.warnings, fmt.Sprintf("the registry of %s could not be asked: the image in the store is used", choice.Image))
	}
	want := &plan.Want{
		Owner: m.Key(), Remove: choice.RemoveInTree, FirmwareDir: r.tree.FirmwareDir,
		AllowNetwork: a.cfg.AllowNetwork || slices.Contains(choice.AllowInUse, spec.UseNetwork),
		Unbind:       slices.Contains(choice.BeforeUnload, spec.ActionUnbind),
		ResetSRIOV:   slices.Contains(choice.BeforeUnload, spec.ActionSRIOVReset),
	}
	if err := a.files(r, want, got.from); err != nil {
		r.fail = fail(err)
		r.fail.message += a.alsoWrong(r, want)
		return r
	}
	if want.FirmwareDir != "" {
		if r.firmware, err = firmware.List(want.FirmwareDir); err != nil {
			r.fail = fail(err)
			return r
		}
	}
	a.inTree(r, want)
	r.want = want
	return r
}

// dropOptional takes a file that only a softdep asked for, and that can not be
// loaded, out of what is wanted.
func (r *resolution) dropOptional(file plan.File, err error) {
	r.want.Files = slices.DeleteFunc(slices.Clone(r.want.Files), func(f plan.File) bool { return f.Name == file.Name })
	r.warnings = append(r.warnings, fmt.Sprintf("softdep not loaded: %v", err))
}

// files lists what is to be loaded and checks each against the running kernel.
// All that is wrong is in the error.
func (a *Agent) files(r *resolution, want *plan.Want, from *sources) error {
	var errs []error
	for _, name := range r.choice.Order {
		items, err := from.order(name)
		if err != nil {
			if errors.Is(err, kmod.ErrBuiltin) {
				r.builtin[name] = true
			}
			errs = append(errs, fmt.Errorf("image %s: %w", r.choice.Image, err))
			continue
		}
		for _, item := range items {
			named := isNamed(item.Info, name)
			if named && len(r.choice.Order) > 1 {
				want.Order = append(want.Order, item.Info.Name)
			}
			if i := slices.IndexFunc(want.Files, func(f plan.File) bool { return f.Name == item.Info.Name }); i >= 0 {
				// What one before it has brought may be what the document names.
				want.Files[i].Optional = want.Files[i].Optional && item.Soft
				want.Files[i].Dependency = want.Files[i].Dependency && !named
				continue
			}
			if item.File != nil {
				r.parsed[item.Info.Path] = item.File
			}
			file, err := a.file(r, item)
			file.Dependency = !named && !item.Soft
			switch {
			case err != nil && item.Soft:
				r.warnings = append(r.warnings, fmt.Sprintf("softdep left out: %v", err))
			case item.Soft && nameSet(a.cfg.NeverLoad)[file.Name]:
				r.warnings = append(r.warnings, "softdep left out: "+plan.NeverLoad(file.Name))
			default:
				errs = append(errs, err)
				want.Files = append(want.Files, file)
			}
		}
	}
	return errors.Join(errs...)
}

func (a *Agent) file(r *resolution, item kmod.Item) (plan.File, error) {
	info := item.Info
	f := plan.File{
		Name: info.Name, Path: info.Path, BuildID: info.BuildID,
		FromHost: item.Tree > 0, Optional: item.Soft, Types: parameterTypes(info),
	}
	if a.host != nil && a.host.Builtin(info.Name) {
		r.builtin[info.Name] = true
	}
	if !f.FromHost {
		f.IgnoreModversions = r.choice.Flags.IgnoreModversions
		f.IgnoreVermagic = r.choice.Flags.IgnoreVermagic && !a.sameMagic(item.File, f.IgnoreModversions)
		if err := a.checkVermagic(r, info); err != nil {
			return f, err
		}
		r.warnings = append(r.warnings, a.missingFirmware(r, info)...)
		r.warnings = append(r.warnings, a.unusedOptions(r, info)...)
	}
	if !isTarget(r.choice, info) {
		return f, nil
	}
	f.Parameters = r.choice.Parameters
	return f, checkParameters(r.choice, info)
}

// errWrongKernel says that a file was not built for the kernel that runs.
var errWrongKernel = errors.New("built for another kernel")

// checkRelease compares architecture and release. With modversions the kernel
// itself ignores the release (kernel/module/version.c, same_magic), so a file for
// another kernel would load without a word.
func checkRelease(choice *spec.Choice, info *kmod.Info, release string) error {
	if info.Arch != runtime.GOARCH {
		return fmt.Errorf("check %s of %s: %w: it is for %s, this node is %s", filepath.Base(info.Path), choice.Image, errWrongKernel, info.Arch, runtime.GOARCH)
	}
	if got := info.Release(); got != release && !choice.Flags.IgnoreVermagic {
		return fmt.Errorf("check %s of %s: %w: its vermagic says %q, the kernel is %q; build it for this kernel, or have modprobe.args.load say --force-vermagic",
			filepath.Base(info.Path), choice.Image, errWrongKernel, got, release)
	}
	return nil
}

// checkVermagic is checkRelease for the running kernel, and compares build
// options too.
func (a *Agent) checkVermagic(r *resolution, info *kmod.Info) error {
	running := a.cfg.Kernel.Release()
	if err := checkRelease(r.choice, info, running); err != nil || r.choice.Flags.IgnoreVermagic {
		return err
	}
	if a.magic != "" && magicTail(info.Vermagic) != magicTail(a.magic) {
		return fmt.Errorf("check %s of %s: %w: version magic %q should be %q",
			filepath.Base(info.Path), r.choice.Image, errWrongKernel, info.Vermagic, a.magic)
	}
	return nil
}

// sameMagic reports whether the kernel is known to take a file's version magic as it is. To have it ignored taints the
// kernel, voids the signature, and is refused by kernels without CONFIG_MODULE_FORCE_LOAD (kernel/module/main.c,
// try_to_force_load; signing.c, module_sig_check): RHEL's and Ubuntu's.
func (a *Agent) sameMagic(file *kmod.File, ignoreModversions bool) bool {
	return a.magic != "" && file != nil && preflight.SameMagic(&preflight.Module{File: file, IgnoreModversions: ignoreModversions}, a.magic)
}

func magicTail(vermagic string) string {
	_, tail, _ := strings.Cut(strings.TrimSpace(vermagic), " ")
	return tail
}

// kernelMagic is the kernel's version magic, as the in-tree file of some running module has it; "" when no such file is
// found.
func (a *Agent) kernelMagic() string {
	if a.host == nil {
		return ""
	}
	mods, err := a.cfg.Kernel.Modules()
	if err != nil {
		return ""
	}
	for _, m := range mods {
		path, ok := a.host.Find(m.Name)
		if !ok {
			continue
		}
		info, err := kmod.ReadInfo(path)
		if err == nil && info.InTree && info.Release() == a.cfg.Kernel.Release() {
			return info.Vermagic
		}
	}
	return ""
}

// missingFirmware warns of names in .modinfo that neither the image nor the
// host has. Only a warning: a driver lists all it might ever ask for.
func (a *Agent) missingFirmware(r *resolution, info *kmod.Info) []string {
	if len(info.Firmware) == 0 {
		return nil
	}
	var out []string
	host, release := filepath.Join(filepath.Dir(a.cfg.ModulesDir), "firmware"), a.cfg.Kernel.Release()
	dirs := []string{r.tree.FirmwareDir, a.cfg.FirmwareDir} // then those of the kernel itself (firmware_loader/main.c: fw_path)
	for _, dir := range []string{"updates/" + release, "updates", release, ""} {
		dirs = append(dirs, filepath.Join(host, dir))
	}
	for _, name := range info.Firmware {
		found := strings.ContainsAny(name, "*?[") // a pattern, which is nothing that could be missing
		for _, dir := range dirs {
			for _, suffix := range []string{"", ".xz", ".zst"} {
				if dir == "" {
					continue
				}
				if _, err := os.Stat(filepath.Join(dir, name+suffix)); err == nil {
					found = true
				}
			}
		}
		if !found {
			out = append(out, fmt.Sprintf("%s may ask for the firmware %s, which neither the image nor the host has", info.Name, name))
		}
	}
	return out
}

// inTree finds the node's own file of each module to be removed: the way back.
func (a *Agent) inTree(r *resolution, want *plan.Want) {
	for _, name := range want.Remove {
		if a.host == nil {
			continue
		}
		path, ok := a.host.Find(name)
		if !ok {
			r.builtin[name] = a.host.Builtin(name)
			if !r.builtin[name] {
				r.warnings = append(r.warnings, fmt.Sprintf("inTreeModulesToRemove: this kernel has no module %s", name))
			}
			continue
		}
		info, err := kmod.ReadInfo(path)
		if err != nil {
			r.warnings = append(r.warnings, err.Error())
			continue
		}
		r.inTree[name] = &plan.File{Name: info.Name, Path: path, BuildID: info.BuildID, FromHost: true, Types: parameterTypes(info)}
	}
}

func parameterTypes(info *kmod.Info) map[string]string {
	types := map[string]string{}
	for _, p := range info.Params {
		types[p.Name] = p.Type
	}
	return types
}
