// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"fmt"
	"maps"
	"strings"

	"github.com/kmm-node/kmmd/pkg/kernel"
)

// firstSymbols reads what the kernel exports. Where that is known to be, what modules export is left to Prepare, or to
// follow when somebody needs it before.
func (c *Collector) firstSymbols(loaded []kernel.Module) error {
	if tables, ok := c.tables.load(); ok {
		if symbols, err := c.host.SymbolsAt(tables); err == nil {
			c.symbols = symbols
			return nil
		}
	}
	if err := c.readSymbols(loaded); err != nil {
		return err
	}
	if c.symbols.Unread == nil {
		c.notSaved = c.tables.save(c.symbols.Tables)
	}
	return nil
}

// readSymbols reads the symbols of the kernel and of its modules anew. Which builds
// run is asked before: one that comes in between then counts as new the next time.
func (c *Collector) readSymbols(loaded []kernel.Module) error {
	running := c.byName(loaded)
	symbols, err := c.host.Symbols()
	if err != nil {
		return fmt.Errorf("collect facts for preflight: %w", err)
	}
	c.symbols, c.running = symbols, running
	return nil
}

// byName has the build-id of modules that are out of tree, of which there are few:
// they are what is replaced. The notes of all modules would be some hundred files.
func (c *Collector) byName(loaded []kernel.Module) map[string]kernel.Module {
	out := make(map[string]kernel.Module, len(loaded))
	for _, m := range loaded {
		if strings.Contains(m.Taint, "O") { // TAINT_OOT_MODULE (kernel/panic.c, taint_flags)
			m.BuildID = c.host.BuildID(m.Name)
		}
		out[m.Name] = m
	}
	return out
}

// follow brings what running modules export up to date. What has come since out of
// a file that was seen needs no look at all of the kernel's symbols, which there
// are some 200,000 of.
func (c *Collector) follow(loaded []kernel.Module) error {
	now := c.byName(loaded)
	var come []kernel.Module
	gone := make(map[string]bool)
	for name, m := range c.running {
		if !sameModule(m, now[name]) {
			gone[name] = true
		}
	}
	for name, m := range now {
		if old, ok := c.running[name]; !ok || !sameModule(m, old) {
			come = append(come, m)
		}
	}
	for _, m := range come {
		if file := c.seen(m.Name); file == nil {
			return c.readSymbols(loaded)
		}
	}
	if len(gone) > 0 {
		maps.DeleteFunc(c.symbols.Modules, func(_, owner string) bool { return gone[owner] })
	}
	for _, m := range come {
		for _, e := range c.seen(m.Name).Symbols.Exports {
			c.symbols.Modules[e.Name] = m.Name
		}
	}
	c.running = now
	return nil
}

// sameModule tells whether it is still the one that was loaded then. A new build often
// lies where the old one was, and is as large in pages: only its build-id differs. One
// in the tree is told by its place: where addresses are hidden it has to be believed.
func sameModule(a, b kernel.Module) bool {
	return a.Name == b.Name && a.Address == b.Address && a.Size == b.Size && a.BuildID == b.BuildID
}
