// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// layout is the symbol whose CRC stands for struct module (check_modstruct_version).
const layout = "module_layout"

// comparesCRCs says whether the kernel will look at the CRCs of the file.
func (c *checker) comparesCRCs(m *Module) bool {
	return c.kernel.Modversions != kernel.No && m.File.Symbols.Versions != nil && !m.IgnoreModversions
}

// duplicates judges exports that are there already (verify_exported_symbols). A
// running module of the same name does not count: it leaves first.
func (c *checker) duplicates(m *Module) {
	var list []string
	for _, e := range m.File.Symbols.Exports {
		if old, ok := c.export(e.Name); ok && old.Owner != m.File.Info.Name {
			list = append(list, fmt.Sprintf("%s (of %s)", e.Name, ownerName(old.Owner)))
		}
	}
	c.addList(Error, spec.ReasonLoadFailed, "exports what is there already: %s", list)
}

// symbolLists are the names of symbols by what is wrong with them.
type symbolLists struct {
	missing, unsure, gplOnly, gplUnknown, proprietaryOwner, crc, crcUnsure, crcUnknown, namespace, namespaceUnknown []string
}

// symbols goes through the imports as simplify_symbols and resolve_symbol do, and
// tells whether the module counts as proprietary in the end: one that uses a
// proprietary module's symbols becomes proprietary itself (inherit_taint).
func (c *checker) symbols(m *Module) (proprietary bool) {
	var l symbolLists
	proprietary = !kmod.GPLCompatible(m.File.Info.License)
	usesGPL := false
	if c.kernel.Modversions == kernel.Yes && !c.comparesCRCs(m) {
		c.forced("has no CRCs of symbols", m.IgnoreModversions)
	}
	if crc, ok := m.File.Symbols.Versions[layout]; ok && c.comparesCRCs(m) {
		c.version(kmod.Import{Name: layout, CRC: crc, Versioned: true}, c.kernel.Exports[layout], &l)
	}
	for _, i := range m.File.Symbols.Imports {
		e, ok := c.export(i.Name)
		switch {
		case !ok:
			c.missing(i, &l)
			continue
		case e.GPL == kernel.Yes && proprietary:
			if !i.Weak {
				l.gplOnly = append(l.gplOnly, i.Name)
			}
			continue
		case e.GPL == kernel.Unknown && proprietary:
			l.gplUnknown = append(l.gplUnknown, i.Name)
		}
		usesGPL = usesGPL || e.GPL == kernel.Yes
		if e.OwnerProprietary {
			if usesGPL {
				l.proprietaryOwner = append(l.proprietaryOwner, fmt.Sprintf("%s of %s", i.Name, e.Owner))
				continue
			}
			proprietary = true
		}
		if i.Name != layout && c.comparesCRCs(m) {
			c.version(i, e, &l)
		}
		c.namespace(m, i, e, &l)
	}
	c.report(m, &l)
	return proprietary
}

func (c *checker) missing(i kmod.Import, l *symbolLists) {
	switch {
	case i.Weak:
	case !c.kernel.Complete:
		l.unsure = append(l.unsure, i.Name)
	case c.kernel.Loadable[i.Name] != "":
		l.missing = append(l.missing, fmt.Sprintf("%s (of %s, which does not run and is not named as a dependency)", i.Name, c.kernel.Loadable[i.Name]))
	default:
		l.missing = append(l.missing, i.Name)
	}
}

// version compares CRCs as check_version does: one the file does not have, or
// the exporter does not, is right with any.
func (c *checker) version(i kmod.Import, e Export, l *symbolLists) {
	switch {
	case !i.Versioned || e.Versioned == kernel.No:
	case e.Versioned == kernel.Unknown:
		l.crcUnknown = append(l.crcUnknown, i.Name)
	case i.CRC != e.CRC:
		text := fmt.Sprintf("%s (0x%08x, %s has 0x%08x)", i.Name, i.CRC, ownerName(e.Owner), e.CRC)
		if e.Sure && c.kernel.Modversions == kernel.Yes {
			l.crc = append(l.crc, text)
		} else {
			l.crcUnsure = append(l.crcUnsure, text)
		}
	}
}

// namespace judges an import as verify_namespace_is_imported does.
func (c *checker) namespace(m *Module, i kmod.Import, e Export, l *symbolLists) {
	switch {
	case !e.NamespaceKnown:
		l.namespaceUnknown = append(l.namespaceUnknown, i.Name)
	case e.Namespace == "" || slices.Contains(m.File.Info.ImportNS, e.Namespace):
	case forModule(e.Namespace, m.File.Info.Name):
	default:
		l.namespace = append(l.namespace, fmt.Sprintf("%s (of %s)", i.Name, e.Namespace))
	}
}

// forModule tells whether a namespace is a list of modules with this one in it
// (verify_module_namespace, Linux 6.16; Debian's 6.12 has one, "module:kvm").
func forModule(namespace, module string) bool {
	list, ok := strings.CutPrefix(namespace, "module:")
	if !ok {
		return false
	}
	for pattern := range strings.SplitSeq(list, ",") {
		pattern = strings.ReplaceAll(pattern, "-", "_")
		if prefix, glob := strings.CutSuffix(pattern, "*"); pattern == module || glob && strings.HasPrefix(module, prefix) {
			return true
		}
	}
	return false
}

// report makes findings of the lists, the certain ones first.
func (c *checker) report(m *Module, l *symbolLists) {
	license := m.File.Info.License
	if license == "" {
		license = "unspecified"
	}
	c.addList(Error, spec.ReasonUnknownSymbol, "nobody exports: %s", l.missing)
	c.addList(Error, spec.ReasonUnknownSymbol, "for GPL modules only, and its license is "+license+": %s", l.gplOnly)
	c.addList(Error, spec.ReasonUnknownSymbol, "uses symbols for GPL modules only, and also those of a proprietary module: %s", l.proprietaryOwner)
	c.addList(Error, spec.ReasonSymbolVersion, "built against another kernel, CRCs differ: %s", l.crc)
	switch c.kernel.MissingNamespaces {
	case kernel.No:
		c.addList(Error, spec.ReasonUnknownSymbol, "in a namespace that it does not import: %s", l.namespace)
	case kernel.Yes:
		c.addList(Warning, spec.ReasonUnknownSymbol, "in a namespace that it does not import, which this kernel allows: %s", l.namespace)
	default:
		c.addList(Unknown, spec.ReasonUnknownSymbol, "in a namespace that it does not import, and whether this kernel allows that is not known (CONFIG_MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS): %s", l.namespace)
	}
	c.addList(Unknown, spec.ReasonSymbolVersion, "CRCs differ from those the host's files have, which may be of another kernel than the one that runs: %s", l.crcUnsure)
	c.addList(Unknown, spec.ReasonUnknownSymbol, "may not be exported, the kernel does not tell: %s", l.unsure)
	c.addList(Unknown, spec.ReasonSymbolVersion, "the kernel's CRC is not known of: %s", l.crcUnknown)
	c.addList(Unknown, spec.ReasonUnknownSymbol, "may be for GPL modules only, and its license is "+license+": %s", l.gplUnknown)
	c.addList(Unknown, spec.ReasonUnknownSymbol, "may be in a namespace that it does not import: %s", l.namespaceUnknown)
}

// maxListed bounds how many symbols one finding names: of a file for another
// kernel every symbol can be wrong.
const maxListed = 12

func (c *checker) addList(level Level, reason spec.Reason, format string, list []string) {
	if len(list) == 0 {
		return
	}
	text := strings.Join(list[:min(len(list), maxListed)], ", ")
	if len(list) > maxListed {
		text += fmt.Sprintf(" and %d more", len(list)-maxListed)
	}
	c.add(level, reason, format, text)
}

func ownerName(module string) string {
	if module == "" {
		return "the kernel"
	}
	return module
}
