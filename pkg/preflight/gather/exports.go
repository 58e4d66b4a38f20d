// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/preflight"
)

// exports fills in what is known of every symbol that the modules import, and of
// those they export, which nobody else may.
func (r *request) exports() error {
	own := r.ownSymbols()
	needed := r.needed(own)
	if slices.ContainsFunc(needed, r.notOfKernel) {
		if err := r.follow(r.loaded); err != nil {
			return err
		}
	}
	var vague []string
	for _, name := range needed {
		if e, ok := r.symbols.Kernel[name]; ok {
			r.out.Exports[name] = kernelExport(e, r.symbols)
			if !e.Read {
				vague = append(vague, name)
			}
			continue
		}
		if owner, ok := r.symbols.Modules[name]; ok {
			if r.stays(owner) {
				r.out.Exports[name] = r.moduleExport(name, owner)
			}
			continue
		}
		if r.symbols.Kernel == nil && !own[name] {
			vague = append(vague, name)
		}
	}
	if r.tree != nil {
		r.out.Loadable = r.tree.loadable(slices.DeleteFunc(needed, func(s string) bool { return own[s] }), r.out.Exports)
		if len(vague) > 0 {
			r.fromFiles(vague)
		}
	}
	return nil
}

// ownSymbols are those the modules export themselves.
func (r *request) ownSymbols() map[string]bool {
	own := make(map[string]bool)
	for _, m := range r.modules {
		for _, e := range m.File.Symbols.Exports {
			own[e.Name] = true
		}
	}
	return own
}

// needed lists the symbols that something has to be known of, each once.
func (r *request) needed(own map[string]bool) []string {
	list := []string{"module_layout"}
	seen := make(map[string]bool)
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			list = append(list, name)
		}
	}
	for _, m := range r.modules {
		if m.Loaded {
			continue
		}
		for _, i := range m.File.Symbols.Imports {
			add(i.Name)
		}
	}
	for name := range own {
		add(name)
	}
	return list
}

func (r *request) notOfKernel(name string) bool {
	_, ok := r.symbols.Kernel[name]
	return !ok
}

// replaced tells whether a file takes the place of a running module, or is it.
func (r *request) replaced(module string) bool {
	return slices.ContainsFunc(r.modules, func(m preflight.Module) bool { return m.File.Info.Name == module })
}

// stays tells whether a running module will be there, and is not one of those to be loaded.
func (r *request) stays(module string) bool {
	return !slices.Contains(r.leaving, module) && !r.replaced(module)
}

// runs tells whether a module of that name runs and stays.
func (r *request) runs(module string) bool {
	return r.stays(module) && slices.ContainsFunc(r.loaded, func(m kernel.Module) bool { return m.Name == module })
}

// unlisted tells of a running module that what it exports stands in no file of the kernel's build.
func (r *request) unlisted(m kernel.Module) bool {
	return strings.Contains(m.Taint, "O") && r.stays(m.Name)
}

func kernelExport(e kernel.Export, s *kernel.Symbols) preflight.Export {
	x := preflight.Export{Namespace: e.Namespace, NamespaceKnown: e.Read, CRC: e.CRC, Sure: e.Read}
	if e.GPLKnown {
		x.GPL = answer(e.GPL)
	}
	if e.Read {
		x.Versioned = answer(s.Modversions)
	}
	return x
}

func answer(yes bool) kernel.State {
	if yes {
		return kernel.Yes
	}
	return kernel.No
}

// moduleExport takes what is known of a running module's symbol from its file.
func (r *request) moduleExport(name, owner string) preflight.Export {
	x := preflight.Export{Owner: owner}
	if i := slices.IndexFunc(r.loaded, func(m kernel.Module) bool { return m.Name == owner }); i >= 0 {
		x.OwnerProprietary = strings.Contains(r.loaded[i].Taint, "P")
	}
	f := r.fileOf(owner)
	if f == nil {
		return x
	}
	if i := slices.IndexFunc(f.Symbols.Exports, func(e kmod.Export) bool { return e.Name == name }); i >= 0 {
		e := f.Symbols.Exports[i]
		x.GPL, x.Namespace, x.NamespaceKnown = answer(e.GPL), e.Namespace, true
		x.Versioned, x.CRC, x.Sure = answer(e.Versioned), e.CRC, true
	}
	return x
}

// fromFiles fills in what the kernel itself did not tell: from the Module.symvers of
// its build, else, CRCs only, from what in-tree modules were built against. A kernel that
// does not list its own symbols (CONFIG_KALLSYMS_ALL) does not list those of its modules.
func (r *request) fromFiles(vague []string) {
	symvers, sure := r.tree.symbolVersions(r.host.Release())
	var missing []string
	for _, name := range vague {
		x, exported := r.out.Exports[name]
		v, ok := symvers[name]
		if ok && r.runs(v.Module) {
			r.out.Exports[name] = r.moduleExport(name, v.Module)
			continue
		}
		if !ok || v.Module != "" {
			missing = append(missing, name)
			continue
		}
		if !exported || x.GPL == kernel.Unknown {
			x.GPL = answer(v.GPL)
		}
		x.Namespace, x.NamespaceKnown = v.Namespace, true
		x.Versioned, x.CRC, x.Sure = answer(v.Versioned), v.CRC, sure
		r.out.Exports[name] = x
	}
	if symvers != nil {
		r.out.Complete = r.out.Complete || sure && !slices.ContainsFunc(r.loaded, r.unlisted)
		return
	}
	for name, crc := range r.tree.crcs.Find(missing, r.likely(), maxHarvest) {
		x := r.out.Exports[name]
		if owner := r.tree.owner(name); owner != "" {
			continue // a module's, which does not run
		}
		x.Versioned, x.CRC, x.Sure = kernel.Yes, crc, r.tree.sure
		r.out.Exports[name] = x
	}
}

// maxHarvest bounds how many files are read for one request beyond the likely
// ones: the largest take 20 ms each where they are packed with xz.
const maxHarvest = 40

// likely names the in-tree modules that most likely import the same symbols: those
// of the same name, those that leave, those that run.
func (r *request) likely() []string {
	var list []string
	for _, m := range r.modules {
		list = append(list, m.File.Info.Name)
	}
	list = append(list, r.leaving...)
	for _, m := range r.loaded {
		list = append(list, m.Name)
	}
	return list
}
