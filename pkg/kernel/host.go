// SPDX-License-Identifier: Apache-2.0

// Package kernel talks to the running Linux kernel: which release it is, which modules it has, loading and unloading
// them, its firmware search path, its words about a failure, and its module events. One exported method is one system
// call or a few files of /proc and /sys. The package decides nothing, keeps no state but a child that waits, files that must
// stay open, what the kernel has not answered, and what can not change while a module runs, and never logs.
//
// Paths are below the root given to Open, so tests can read a tree of copied files; the system calls always act on
// the kernel this process runs on.
package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Host is the kernel this process runs on, seen through the files below one root. It may be used by several
// goroutines; Load, Unload and Write are to be called by one at a time, or the kernel's log lines of two failures mix.
type Host struct {
	root    string
	release string
	bootID  string
	cmdline string
	exe     string // what Load and Unload re-execute; tests put a script here

	sysfs bool // /sys/module is the kernel's own, not copied files

	mu    sync.Mutex
	waits *waiting           // the child that the next call is given; guarded by mu
	kept  []*os.File         // see keepFile; guarded by mu
	seen  map[string]inSysfs // by module; guarded by mu
	hangs map[string]hang    // by device; guarded by mu
}

// Open reads the identity of the running kernel below root ("" is "/"): /proc/sys/kernel/osrelease and
// /proc/sys/kernel/random/boot_id must be there, /proc/cmdline may be missing. Nothing stays open; there is nothing to
// close. No privilege is needed.
func Open(root string) (*Host, error) {
	if root == "" {
		root = "/"
	}
	h := &Host{root: root, exe: "/proc/self/exe"}
	var err error
	if h.release, err = h.readLine("proc/sys/kernel/osrelease"); err != nil {
		return nil, fmt.Errorf("read kernel release: %w", err)
	}
	if h.bootID, err = h.readLine("proc/sys/kernel/random/boot_id"); err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	if h.cmdline, err = h.readLine("proc/cmdline"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read kernel command line: %w", err)
	}
	var st unix.Statfs_t
	h.sysfs = unix.Statfs(h.path("sys/module"), &st) == nil && st.Type == unix.SYSFS_MAGIC
	return h, nil
}

// Release returns the kernel release as `uname -r` prints it, a trailing "+" included.
func (h *Host) Release() string { return h.release }

// BootID returns the random id of this boot (random(4)): another one means that every module loaded before is gone.
func (h *Host) BootID() string { return h.bootID }

// Cmdline returns the kernel command line, "" when there is no /proc/cmdline.
func (h *Host) Cmdline() string { return h.cmdline }

// Version returns what /proc/version says: release, who built it with what, number and time of the build; "" when it can
// not be read.
//
//	Linux version 6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, ...) #1 SMP ...
func (h *Host) Version() string {
	s, err := h.readLine("proc/version")
	if err != nil {
		return ""
	}
	return s
}

// Compression returns the one compression the kernel can undo itself, "xz", "gzip" or "zstd", or "" when it can not
// (kernel/module/decompress.c, Linux 5.17: the file /sys/module/compression exists only with
// CONFIG_MODULE_DECOMPRESS). A LoadRequest may set Compressed only for this one, and of it the kernel does not know all that
// programs make: kmod.KernelUnpacks.
func (h *Host) Compression() string {
	s, err := h.readLine("sys/module/compression")
	if err != nil {
		return ""
	}
	return s
}

// path returns the file below the root.
func (h *Host) path(elem ...string) string {
	return filepath.Join(append([]string{h.root}, elem...)...)
}

// readLine reads a small file and drops the newline at its end.
func (h *Host) readLine(name string) (string, error) {
	b, err := readFile(h.path(name))
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}
