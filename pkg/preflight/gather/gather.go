// SPDX-License-Identifier: Apache-2.0

// Package gather collects what pkg/preflight has to know of the running kernel,
// from the kernel itself and, for what that does not tell, from the host's module
// files and headers. It judges nothing and changes nothing.
package gather

import (
	"fmt"
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
	host *kernel.Host
	arch string

	symbols *kernel.Symbols
	running string // the modules that ran when symbols was read
	options map[string]kernel.State
	files   map[string]*kmod.File // seen so far, by build-id: of running modules, or to be loaded
	tree    *treeFacts
}

// New returns a Collector for the kernel; arch is the machine, as runtime.GOARCH.
func New(host *kernel.Host, arch string) *Collector {
	return &Collector{host: host, arch: arch, options: make(map[string]kernel.State), files: make(map[string]*kmod.File)}
}

// request is one call of Kernel.
type request struct {
	*Collector
	modules []preflight.Module
	leaving []string
	loaded  []kernel.Module
	out     *preflight.Kernel
}

// Kernel collects what there is to know for loading these modules, in their
// order, after the modules named in leaving were removed. The tree is the host's
// own module directory, nil when there is none. What can not be known is no
// error but unknown in the result. The first call takes some ten milliseconds,
// further ones less.
func (c *Collector) Kernel(tree *kmod.Tree, modules []preflight.Module, leaving []string) (*preflight.Kernel, error) {
	loaded, err := c.host.Modules()
	if err != nil {
		return nil, fmt.Errorf("collect facts for preflight: %w", err)
	}
	if c.symbols == nil {
		if err := c.readSymbols(loaded); err != nil {
			return nil, err
		}
	}
	c.setTree(tree)
	for _, m := range modules {
		c.files[m.File.Info.BuildID] = m.File
	}
	r := &request{Collector: c, modules: modules, leaving: leaving, loaded: loaded}
	r.out = &preflight.Kernel{
		Release: c.host.Release(), Version: c.host.Version(), Arch: c.arch, Exports: make(map[string]preflight.Export), Complete: c.symbols.Kernel != nil,
		ForceLoad: c.option("MODULE_FORCE_LOAD"), MissingNamespaces: c.option("MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS"),
		Security: c.host.Security(),
	}
	if c.tree != nil {
		c.tree.identify(c.host, loaded)
		r.out.Trusted = c.tree.trusted
		if c.tree.sure {
			r.out.Vermagic = c.tree.vermagic
		}
	}
	r.out.Modversions = c.modversions()
	r.out.Algorithms = c.algorithms()
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

// readSymbols reads the kernel's symbols anew.
func (c *Collector) readSymbols(loaded []kernel.Module) error {
	symbols, err := c.host.Symbols()
	if err != nil {
		return fmt.Errorf("collect facts for preflight: %w", err)
	}
	c.symbols, c.running = symbols, names(loaded)
	return nil
}

func names(loaded []kernel.Module) string {
	list := make([]string, len(loaded))
	for i, m := range loaded {
		list[i] = m.Name
	}
	return strings.Join(list, " ")
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
	m, err := c.host.Module(name)
	if err != nil || m.BuildID == "" {
		return nil
	}
	if f, ok := c.files[m.BuildID]; ok {
		return f
	}
	if c.tree == nil {
		return nil
	}
	path, ok := c.tree.Find(name)
	if !ok {
		return nil
	}
	f, err := kmod.ReadFile(path)
	if err != nil || f.Info.BuildID != m.BuildID {
		return nil
	}
	c.files[m.BuildID] = f
	return f
}
