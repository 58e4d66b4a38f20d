// SPDX-License-Identifier: Apache-2.0

// Package preflight says, before anything is removed, what the kernel will say
// to module files: it follows what kernel/module/main.c does with a file up to
// its init function. It is pure: no kernel, no file, no clock; what is known of
// both sides is given to it, see pkg/preflight/gather.
package preflight

import (
	"fmt"
	"slices"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/sign"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Level says how sure a finding is.
type Level string

// The levels.
const (
	Error   Level = "error"   // the kernel refuses the module, for certain
	Unknown Level = "unknown" // it may refuse it: what decides can not be known
	Warning Level = "warning" // it will take it with a caveat, or refuse it by a policy that may change
)

// Finding is one problem of one module.
type Finding struct {
	Level  Level       `json:"level"`
	Module string      `json:"module"`
	Reason spec.Reason `json:"reason"`
	Text   string      `json:"text"`
}

// String is the finding as one line.
func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: %s (%s)", f.Level, f.Module, f.Text, f.Reason)
}

// Blocks reports whether any finding forbids to begin.
func Blocks(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Level == Error })
}

// Module is one module file that is to be loaded, and how.
type Module struct {
	File              *kmod.File
	Parameters        []string
	IgnoreVermagic    bool // the kernel is told to, which is not what a document allows: see SameMagic
	IgnoreModversions bool
	MissingFirmware   []string // names in .modinfo that are nowhere to be found
	// Loaded says that this very build runs and stays: nothing is judged, but
	// others may use what it exports.
	Loaded bool
}

// Export is what is known of a symbol that the kernel or a running module exports.
type Export struct {
	Owner            string // the module; "" for the kernel itself
	OwnerProprietary bool
	GPL              kernel.State // for GPL modules only
	Namespace        string
	NamespaceKnown   bool
	Versioned        kernel.State // it has a CRC; No is right with any
	CRC              uint32       // if Versioned is Yes
	// Sure says that this is what runs; else it was taken from files which seem
	// to be of the running kernel.
	Sure bool
}

// Kernel is what is known of the running kernel.
type Kernel struct {
	Release  string // as of uname -r
	Version  string // of /proc/version
	Arch     string // as runtime.GOARCH
	Vermagic string // "" is unknown
	// Modversions says whether it compares CRCs.
	Modversions kernel.State
	// Exports has what the kernel and those running modules export that stay; it
	// need not have more than the modules ask for.
	Exports map[string]Export
	// Complete says that a symbol that is not in Exports is exported by nobody.
	Complete bool
	// Loadable has modules of the host that do not run, by a symbol they export.
	Loadable map[string]string
	// ForceLoad and MissingNamespaces are CONFIG_MODULE_FORCE_LOAD and
	// CONFIG_MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS.
	ForceLoad, MissingNamespaces kernel.State
	Security                     kernel.Security
	// Trusted are signatures of modules that it has taken without a taint.
	Trusted []sign.Signature
	// Algorithms tells which of sign.AlgorithmNames it has, or can load.
	Algorithms map[string]kernel.State
}

// Check judges all modules, which are in load order: what one exports, those
// behind it may use. It returns all that is wrong and all that can not be known;
// nothing means that the kernel will take them and run their init functions.
func Check(modules []Module, k *Kernel) []Finding {
	c := checker{kernel: k, provided: make(map[string]Export)}
	if k.Security.ModulesDisabled == kernel.Yes && slices.ContainsFunc(modules, func(m Module) bool { return !m.Loaded }) {
		c.module = modules[len(modules)-1].File.Info.Name
		c.add(Error, spec.ReasonLoadFailed, "kernel.modules_disabled is set: until the next boot no module can be loaded or unloaded")
	}
	for i := range modules {
		m := &modules[i]
		c.module = m.File.Info.Name
		proprietary := !kmod.GPLCompatible(m.File.Info.License)
		if !m.Loaded {
			c.file(m)
			c.duplicates(m)
			proprietary = c.symbols(m)
			c.signature(m)
			c.rest(m)
		}
		c.provide(m, proprietary)
	}
	return c.findings
}

// checker judges one module after the other.
type checker struct {
	kernel   *Kernel
	provided map[string]Export // by the modules so far
	module   string
	findings []Finding
}

func (c *checker) add(level Level, reason spec.Reason, format string, args ...any) {
	c.findings = append(c.findings, Finding{Level: level, Module: c.module, Reason: reason, Text: fmt.Sprintf(format, args...)})
}

// export finds a symbol as find_symbol of kernel/module/main.c does: in the
// kernel, in its modules.
func (c *checker) export(name string) (Export, bool) {
	e, ok := c.kernel.Exports[name]
	if ok && e.Owner == "" {
		return e, true
	}
	if p, ok := c.provided[name]; ok {
		return p, true
	}
	return e, ok
}

// provide adds what a module exports for those behind it.
func (c *checker) provide(m *Module, proprietary bool) {
	for _, e := range m.File.Symbols.Exports {
		p := Export{
			Owner: m.File.Info.Name, OwnerProprietary: proprietary, GPL: state(e.GPL), Namespace: e.Namespace,
			NamespaceKnown: true, Versioned: state(e.Versioned), CRC: e.CRC, Sure: true,
		}
		if _, ok := c.provided[e.Name]; !ok {
			c.provided[e.Name] = p
		}
	}
}

func state(yes bool) kernel.State {
	if yes {
		return kernel.Yes
	}
	return kernel.No
}
