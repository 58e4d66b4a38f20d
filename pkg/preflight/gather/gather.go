// SPDX-License-Identifier: Apache-2.0

// Package gather collects what pkg/preflight has to know of the running kernel,
// from the kernel itself and, for what that does not tell, from the host's module
// files and headers. It judges nothing and changes nothing but a file of its own.
package gather

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// Collector remembers what does not change until the next boot. It is for one
// goroutine.
type Collector struct {
	host   *kernel.Host
	arch   string
	tables tablesFile

	notSaved error // why tables could not be, for Prepare to tell

	symbols *kernel.Symbols
	running map[string]kernel.Module // the modules whose symbols are in symbols
	options map[string]kernel.State
	files   map[string]*kmod.File // seen so far, by build-id: of running modules, or to be loaded
	tree    *treeFacts
}

// New returns a Collector for the kernel; arch is the machine, as runtime.GOARCH. In the file at path, of a directory
// for root only that is emptied by a boot, it remembers where the kernel has its tables of symbols, so that the
// next one need not look for them; "" is for none.
func New(host *kernel.Host, arch, path string) *Collector {
	return &Collector{
		host: host, arch: arch, tables: tablesFile{path, host.BootID()}, options: make(map[string]kernel.State), files: make(map[string]*kmod.File),
	}
}

// request is one call of Kernel.
type request struct {
	*Collector
	modules []preflight.Module
	leaving []string
	loaded  []kernel.Module
	out     *preflight.Kernel
}

// Prepare reads what does not change until the next boot, so that Kernel need not, and what modules export. It takes
// some hundred milliseconds, the second time none.
func (c *Collector) Prepare(tree *kmod.Tree) error {
	loaded, err := c.host.Modules()
	if err != nil {
		return fmt.Errorf("collect facts for preflight: %w", err)
	}
	err = c.prepare(tree, loaded)
	if err == nil && c.running == nil {
		err = c.readSymbols(loaded)
	}
	return errors.Join(err, c.notSaved)
}

func (c *Collector) prepare(tree *kmod.Tree, loaded []kernel.Module) error {
	if c.symbols == nil {
		if err := c.firstSymbols(loaded); err != nil {
			return err
		}
	}
	c.setTree(tree)
	if c.tree != nil {
		c.tree.identify(c.host, loaded)
	}
	c.option("MODULE_FORCE_LOAD")
	c.option("MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS")
	return nil
}

// Kernel collects what there is to know for loading these modules, in their
// order, after the modules named in leaving were removed. The tree is the host's
// own module directory, nil when there is none. What can not be known is no
// error but unknown in the result.
func (c *Collector) Kernel(tree *kmod.Tree, modules []preflight.Module, leaving []string) (*preflight.Kernel, error) {
	loaded, err := c.host.Modules()
	if err != nil {
		return nil, fmt.Errorf("collect facts for preflight: %w", err)
	}
	if err := c.prepare(tree, loaded); err != nil {
		return nil, err
	}
	c.remember(modules, loaded)
	r := &request{Collector: c, modules: modules, leaving: leaving, loaded: loaded}
	r.out = &preflight.Kernel{
		Release: c.host.Release(), Version: c.host.Version(), Arch: c.arch, Exports: make(map[string]preflight.Export), Complete: c.symbols.Kernel != nil,
		ForceLoad: c.option("MODULE_FORCE_LOAD"), MissingNamespaces: c.option("MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS"),
		Security: c.host.SecurityWithoutKeys(),
	}
	if c.tree != nil {
		r.out.Trusted = c.tree.trusted
		if c.tree.sure {
			r.out.Vermagic = c.tree.vermagic
		}
	}
	r.out.Modversions = c.modversions()
	if len(modules) == 0 || slices.ContainsFunc(modules, func(m preflight.Module) bool { return m.File.Signature != nil }) {
		r.out.Security, r.out.Algorithms = c.host.Security(), c.algorithms()
	}
	if err := r.exports(); err != nil {
		return nil, err
	}
	return r.out, nil
}

// algorithms tells what the kernel has at hand, and what it would find a module for when it asks (crypto/api.c:
// crypto_larval_lookup).
func (c *Collector) algorithms() map[string]kernel.State {
	have := c.host.Algorithms()
	if have == nil {
		return nil
	}
	out := make(map[string]kernel.State)
	for _, name := range sign.AlgorithmNames() {
		switch {
		case have[name] || c.tree != nil && c.tree.HasAlias("crypto-"+name):
			out[name] = kernel.Yes
		case c.tree != nil:
			out[name] = kernel.No
		}
	}
	return out
}

func (c *Collector) option(name string) kernel.State {
	s, ok := c.options[name]
	if !ok {
		switch value, known := c.host.Config(name); {
		case known && value == "y":
			s = kernel.Yes
		case known:
			s = kernel.No
		}
		c.options[name] = s
	}
	return s
}

// modversions asks the kernel, then the version magic of a module that it has
// taken, then its configuration.
func (c *Collector) modversions() kernel.State {
	switch {
	case c.symbols.Known && c.symbols.Modversions:
		return kernel.Yes
	case c.symbols.Known:
		return kernel.No
	case c.tree != nil && c.tree.sure && slices.Contains(strings.Fields(c.tree.vermagic), "modversions"):
		return kernel.Yes
	case c.tree != nil && c.tree.sure:
		return kernel.No
	}
	return c.option("MODVERSIONS")
}

// fileOf reads the file of a running module from the host's tree, nil when the
// file there is of another build.
func (c *Collector) fileOf(name string) *kmod.File {
	if f := c.seen(name); f != nil || c.tree == nil {
		return f
	}
	path, ok := c.tree.Find(name)
	if !ok {
		return nil
	}
	f, err := kmod.ReadFile(path)
	if err != nil || f.Info.BuildID == "" || f.Info.BuildID != c.host.BuildID(name) {
		return nil
	}
	c.files[f.Info.BuildID] = f
	return f
}

// seen is the file of a running module, if it was read before.
func (c *Collector) seen(name string) *kmod.File {
	id := c.host.BuildID(name)
	if id == "" {
		return nil
	}
	return c.files[id]
}

// remember keeps the files of these modules, and of what runs.
func (c *Collector) remember(modules []preflight.Module, loaded []kernel.Module) {
	keep := make(map[string]bool, len(loaded))
	for _, m := range loaded {
		keep[m.Name] = true
	}
	maps.DeleteFunc(c.files, func(_ string, f *kmod.File) bool { return !keep[f.Info.Name] })
	for _, m := range modules {
		name := m.File.Info.Name
		running := ""
		if keep[name] { // else there are no notes to be read
			running = c.host.BuildID(name)
		}
		maps.DeleteFunc(c.files, func(id string, f *kmod.File) bool { return f.Info.Name == name && id != running }) // earlier builds
		c.files[m.File.Info.BuildID] = m.File
	}
}
