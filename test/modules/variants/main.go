// SPDX-License-Identifier: Apache-2.0

// Command variants makes broken copies of the test module dummy.ko, each wrong in exactly one way that the kernel
// (or kmmd before it) has to notice: DIR/dummy.ko becomes DIR/variants/<name>/dummy.ko.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// variants lists what is made; a new file gets its own build-id, so that none can pass for the good build.
var variants = map[string]func(*module) error{
	// Loads: with modversions the kernel skips the release and compares the rest. kmmd must refuse it.
	"other-release": func(m *module) error { return m.vermagic("6.1.0-0-other ", "") },
	// ENOEXEC "version magic … should be …": built for a kernel without SMP.
	"wrong-vermagic": func(m *module) error { return m.vermagic("", " SMP") },
	// EINVAL "disagrees about version of symbol register_netdevice…": built against another configuration.
	"wrong-crc": func(m *module) error { return m.crc("register_netdev") },
	// ENOEXEC "disagrees about version of symbol module_layout".
	"wrong-layout": func(m *module) error { return m.crc("module_layout") },
	// ENOEXEC "Invalid architecture in ELF header".
	"wrong-machine": func(m *module) error { return m.machine(183) }, // EM_AARCH64
	// ENOEXEC: the second half is missing, as after an interrupted copy.
	"truncated": func(m *module) error { m.raw = m.raw[:len(m.raw)/2]; return nil },
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: variants DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "variants:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	good, err := os.ReadFile(filepath.Join(dir, "dummy.ko"))
	if err != nil {
		return err
	}
	for name, change := range variants {
		m, err := parse(good)
		if err != nil {
			return err
		}
		if err := m.newBuildID(name); err != nil {
			return fmt.Errorf("make %s: %w", name, err)
		}
		if err := change(m); err != nil {
			return fmt.Errorf("make %s: %w", name, err)
		}
		out := filepath.Join(dir, "variants", name, "dummy.ko")
		if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(out, m.raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}
