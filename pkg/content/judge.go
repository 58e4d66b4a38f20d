// SPDX-License-Identifier: Apache-2.0

package content

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// judge looks at the files one by one, and at what they are to each other.
func (c *check) judge() {
	for _, l := range c.loads {
		if l.inImage {
			c.release(l)
			c.firmware(l)
		}
	}
	target := c.facts()
	modules := make([]preflight.Module, 0, len(c.loads))
	for _, l := range c.loads {
		l.module.IgnoreVermagic = l.inImage && c.want.IgnoreVermagic && !preflight.SameMagic(&l.module, target.Vermagic)
		modules = append(modules, l.module)
	}
	for _, f := range preflight.Check(modules, target) {
		i := slices.IndexFunc(c.loads, func(l load) bool { return l.module.File.Info.Name == f.Module })
		switch {
		case f.Reason == spec.ReasonWrongKernel && c.said(f.Module, f.Reason):
		case f.Level == preflight.Error && i >= 0 && c.loads[i].soft:
			c.blame(c.loads[i], f.Module, f.Reason, "%s", f.Text)
		case f.Level == preflight.Error, target.Complete:
			c.report.Findings = append(c.report.Findings, f)
		}
	}
	c.signatures()
}

// said tells that a module has a finding of that kind, with more of an explanation.
func (c *check) said(module string, reason spec.Reason) bool {
	return slices.ContainsFunc(c.report.Findings, func(f preflight.Finding) bool { return f.Module == module && f.Reason == reason })
}

// release compares the release a file was built for. With modversions the kernel
// would not (kernel/module/version.c, same_magic); kmmd does, on the node too.
func (c *check) release(l load) {
	info := l.module.File.Info
	if c.kernel.Modules != nil && c.kernel.Modules.Builtin(info.Name) {
		c.blame(l, info.Name, spec.ReasonBuiltin, "it is part of the kernel image of %s, and can not be replaced", c.kernel.Release)
	}
	got, want := info.Release(), c.kernel.Release
	if c.want.IgnoreVermagic || c.isRelease(got) {
		return
	}
	if got == "" {
		c.blame(l, info.Name, spec.ReasonWrongKernel, "%s has no vermagic, so that nothing says that it is for kernel %s", l.path, want)
		return
	}
	c.blame(l, info.Name, spec.ReasonWrongKernel, "the vermagic of %s says %q, the kernel is %q: build it for this kernel", l.path, got, want)
}

// isRelease tells whether a file's release is that of the kernel, which may be given
// without its "+": labels of nodes are.
func (c *check) isRelease(got string) bool {
	return got == string(c.kernel.Release) || spec.Release(got).Trimmed() == string(c.kernel.Release)
}

// firmware warns of names that the image does not have: a driver lists all that
// it might ever ask for, and the host may have them.
func (c *check) firmware(l load) {
	if c.files.FirmwareDir == "" {
		return
	}
	var missing []string
	for _, name := range l.module.File.Info.Firmware {
		has := func(suffix string) bool {
			st, err := os.Stat(filepath.Join(c.files.FirmwareDir, filepath.Clean("/"+name)+suffix))
			return err == nil && st.Mode().IsRegular()
		}
		if !strings.ContainsAny(name, "*?[") && !slices.ContainsFunc([]string{"", ".xz", ".zst"}, has) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		c.add(preflight.Warning, l.module.File.Info.Name, spec.ReasonFirmwareMissing,
			"may ask for firmware that the image does not have: %s", strings.Join(missing, ", "))
	}
}

// facts are what is known of the kernel. Without its own modules that is little,
// and what pkg/preflight says is only whether the image's modules fit each other:
// version magic, exports, CRCs.
func (c *check) facts() *preflight.Kernel {
	k := &preflight.Kernel{Arch: c.kernel.Arch, Exports: map[string]preflight.Export{}}
	if c.kernel.Modules != nil {
		k.Vermagic = c.hostVermagic()
		c.symbolVersions(k)
	}
	if k.Vermagic == "" {
		k.Vermagic = c.commonVermagic()
	}
	k.Modversions = kernel.No
	if slices.Contains(strings.Fields(k.Vermagic), "modversions") {
		k.Modversions = kernel.Yes
	}
	return k
}

// commonVermagic is what the last of the wanted modules says: the others have to
// be built with the same options.
func (c *check) commonVermagic() string {
	for _, l := range slices.Backward(c.loads) {
		if l.inImage && !l.soft {
			magic := l.module.File.Info.Vermagic
			release, options, _ := strings.Cut(magic, " ")
			switch {
			case c.isRelease(release):
				return magic
			case release != "":
				return string(c.kernel.Release) + " " + options
			}
		}
	}
	return ""
}

// hostVermagic is what the kernel's own modules say.
func (c *check) hostVermagic() string {
	files, _, err := kmod.Closure(c.kernel.Modules.Dir(), nil)
	if err != nil {
		return ""
	}
	for _, f := range files {
		info, err := kmod.ReadInfo(filepath.Join(c.kernel.Modules.Dir(), f))
		if err == nil && info.InTree && c.isRelease(info.Release()) {
			return info.Vermagic
		}
	}
	return ""
}

// symbolVersions adds what the kernel exports, if the list of its build is there.
// What its modules export counts only once they are in the load order.
func (c *check) symbolVersions(k *preflight.Kernel) {
	dir := c.kernel.Modules.Dir()
	root, release := filepath.Join(dir, "../../.."), string(c.kernel.Release)
	for _, file := range []string{
		filepath.Join(dir, "build/Module.symvers"),
		filepath.Join(dir, "symvers.xz"), // Fedora
		filepath.Join(dir, "symvers.gz"), // RHEL
		filepath.Join(root, "usr/src/linux-headers-"+release, "Module.symvers"),
		filepath.Join(root, "boot/symvers-"+release+".gz"),
	} {
		symvers, err := kmod.ReadSymvers(file)
		if err != nil {
			continue
		}
		k.Complete, k.Loadable = true, map[string]string{}
		for symbol, v := range symvers {
			if v.Module != "" {
				k.Loadable[symbol] = v.Module
				continue
			}
			k.Exports[symbol] = preflight.Export{
				GPL: state(v.GPL), Namespace: v.Namespace, NamespaceKnown: true, Versioned: state(v.Versioned), CRC: v.CRC, Sure: true,
			}
		}
		return
	}
}

func state(yes bool) kernel.State {
	if yes {
		return kernel.Yes
	}
	return kernel.No
}

// reasonOf names the remedy that an error of pkg/kmod calls for.
func reasonOf(err error) spec.Reason {
	switch {
	case errors.Is(err, kmod.ErrBuiltin):
		return spec.ReasonBuiltin
	case errors.Is(err, kmod.ErrNotFound):
		return spec.ReasonModuleNotFound
	}
	return spec.ReasonImageInvalid
}
