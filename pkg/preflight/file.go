// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"errors"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// file judges what the kernel looks at before the symbols: machine, black list,
// version magic (elf_validity_check, blacklisted, check_modinfo).
func (c *checker) file(m *Module) {
	info := m.File.Info
	if c.kernel.Arch != "" && info.Arch != c.kernel.Arch {
		c.add(Error, spec.ReasonWrongKernel, "built for %s, this machine is %s", info.Arch, c.kernel.Arch)
	}
	if slices.Contains(c.kernel.Security.Blacklist, info.Name) {
		c.add(Error, spec.ReasonBlacklisted, "module_blacklist= of the kernel command line names it: no module of that name is loaded until the next boot")
	}
	c.vermagic(m)
}

// vermagic compares it, or says what it means that it is not compared.
func (c *checker) vermagic(m *Module) {
	have, want := m.File.Info.Vermagic, c.kernel.Vermagic
	switch {
	case have == "" || m.IgnoreVermagic:
		c.forced("has no version magic", m.IgnoreVermagic)
		return
	case want == "":
		c.add(Unknown, spec.ReasonWrongKernel, "the running kernel's version magic is not known; the file has %q", have)
		return
	}
	if !SameMagic(m, want) {
		c.add(Error, spec.ReasonWrongKernel, "version magic %q should be %q", have, want)
	}
}

// SameMagic reports whether a kernel with that version magic takes the file's as it is, so that it need not be told to
// ignore it. Without CRCs, or where they are ignored, the whole must be the same, with them all but the release
// (kernel/module/main.c, check_modinfo; version.c, same_magic).
func SameMagic(m *Module, magic string) bool {
	file := m.File.Info.Vermagic
	if m.File.Symbols.Basic && !m.IgnoreModversions && slices.Contains(strings.Fields(magic), "modversions") {
		file, magic = tail(file), tail(magic)
	}
	return file == magic
}

func tail(magic string) string {
	_, rest, _ := strings.Cut(magic, " ")
	return rest
}

// forced judges what makes the kernel taint itself or refuse (try_to_force_load).
func (c *checker) forced(what string, asked bool) {
	switch c.kernel.ForceLoad {
	case kernel.No:
		c.add(Error, spec.ReasonWrongKernel, "it %s, and this kernel can not load modules by force", said(what, asked))
	case kernel.Yes:
		if !asked {
			c.add(Warning, spec.ReasonWrongKernel, "it %s: the kernel is tainted by loading it by force", what)
		}
	default:
		c.add(Unknown, spec.ReasonWrongKernel, "it %s, and whether this kernel loads modules by force is not known (CONFIG_MODULE_FORCE_LOAD)", said(what, asked))
	}
}

func said(what string, asked bool) string {
	if asked {
		return "is to be loaded by force"
	}
	return what
}

// rest judges what the kernel looks at last, or not at all.
func (c *checker) rest(m *Module) {
	for _, err := range unjoin(m.File.Info.CheckParameters(m.Parameters)) {
		c.add(Error, spec.ReasonInvalidParameter, "%v", err)
	}
	if _, err := kmod.JoinParameters(m.Parameters); err != nil {
		c.add(Error, spec.ReasonInvalidParameter, "%v", err)
	}
	for _, name := range m.MissingFirmware {
		c.add(Warning, spec.ReasonFirmwareMissing, "may ask for the firmware %s, which neither the image nor the host has", name)
	}
}

// unjoin takes errors.Join apart.
func unjoin(err error) []error {
	if err == nil {
		return nil
	}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return joined.Unwrap()
	}
	return []error{err}
}
