// SPDX-License-Identifier: Apache-2.0

// Package kmod reads kernel module files and the directories they lie in:
// .modinfo, build-id, compression, modules.dep and its relatives, modprobe.d.
// It works out which files to load in which order, as modprobe(8) of kmod 30
// would, and what their parameters look like to the kernel.
//
// It reads plain files and nothing else: no system calls for modules, no look at
// what the running kernel has loaded, no writing.
package kmod

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// Conditions a caller may branch on; test with errors.Is.
var (
	// ErrFormat: the file is not a kernel module (an ELF relocatable), or a
	// damaged one.
	ErrFormat = errors.New("not a kernel module")
	// ErrTooLarge: a file or one of its parts is beyond the limits of this package.
	ErrTooLarge = errors.New("too large")
	// ErrNotFound: there is no such directory or module.
	ErrNotFound = errors.New("module not found")
	// ErrCycle: modules depend on each other in a circle.
	ErrCycle = errors.New("dependency cycle")
	// ErrBuiltin: the module is part of the kernel image and is in no tree as a file.
	ErrBuiltin = errors.New("module is built into the kernel")
)

// MissingError says which module file was not found, who wanted it and where was
// looked. It matches ErrNotFound.
type MissingError struct {
	Module   string
	NeededBy string   // empty when Module itself was asked for
	Dirs     []string // the directories searched
}

// Error tells module, wanting module and directories.
func (e *MissingError) Error() string {
	s := "find module " + e.Module
	if e.NeededBy != "" {
		s += " needed by " + e.NeededBy
	}
	return fmt.Sprintf("%s in %s: %v", s, strings.Join(e.Dirs, ", "), ErrNotFound)
}

// Is reports whether target is ErrNotFound.
func (e *MissingError) Is(target error) bool { return target == ErrNotFound }

// suffixes are the file name endings of a module, longest first.
var suffixes = [...]string{".ko.zst", ".ko.gz", ".ko.xz", ".ko"}

// Name gives the canonical name of a module: without directory, without ".ko"
// and the suffix of a compression, and with '_' for each '-'. The kernel knows no
// '-' in module names (scripts/Makefile.lib: name-fix), modprobe takes both.
func Name(s string) string {
	s = filepath.Base(s)
	if s == "." || s == "/" {
		return ""
	}
	for _, suffix := range suffixes {
		if base, ok := strings.CutSuffix(s, suffix); ok {
			s = base
			break
		}
	}
	return strings.ReplaceAll(s, "-", "_")
}

// isModuleFile tells whether a file name is that of a module.
func isModuleFile(name string) bool {
	for _, suffix := range suffixes {
		if len(name) > len(suffix) && strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}
