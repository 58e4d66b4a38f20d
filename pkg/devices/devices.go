// SPDX-License-Identifier: Apache-2.0

// Package devices knows what hangs on a kernel module: the modules that hold it, the devices bound to its drivers,
// network interfaces with their addresses and routes, block devices with their mounts, device files somebody has open.
// It saves the configuration of network interfaces and gives it back after their driver was exchanged, and it unbinds
// PCI devices and sets their number of virtual functions. It decides nothing, loads nothing and never logs.
//
// Files are read below the root given to Open, so tests can bring their own /sys and /proc. The network is always that
// of the network namespace this process runs in: for a node that must be the namespace of the node, or modules with
// interfaces are left alone (ErrOtherNetwork).
package devices

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// ErrNotLoaded is returned for a module that has no directory in /sys/module.
var ErrNotLoaded = errors.New("module is not loaded")

// Host is the machine this process runs on, seen through the files below one root. It keeps no state and may be used
// by several goroutines.
type Host struct {
	root   string
	needed []string
	net    func() (*netState, error) // tests bring their own
}

// Open returns the machine below root ("" is "/"). The directories are what an exchange of drivers needs besides the machine's own
// and its modules, as the machine has them or below root. Nothing is read and nothing stays open.
func Open(root string, needed ...string) *Host {
	if root == "" {
		root = "/"
	}
	h := &Host{root: root, net: readNetState}
	for _, dir := range needed {
		if rel, ok := strings.CutPrefix(dir, root+"/"); ok {
			dir = "/" + rel
		}
		h.needed = append(h.needed, dir)
	}
	return h
}

// moduleName is what a module can be called; the kernel has '_' where file names may have '-'.
var moduleName = regexp.MustCompile(`^[A-Za-z0-9_]+$`)

func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// path returns a file below the root.
func (h *Host) path(elem ...string) string {
	return filepath.Join(append([]string{h.root}, elem...)...)
}

// line reads a small file and drops the newline at its end; "" when it can not be read.
func (h *Host) line(elem ...string) string {
	b, err := os.ReadFile(h.path(elem...))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}

// names lists a directory, sorted; nothing when it is not there.
func names(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	list := make([]string, len(entries))
	for i, e := range entries {
		list[i] = e.Name()
	}
	return list
}

// target is the last element of where a symbolic link points, "" when there is none.
func target(link string) string {
	t, err := os.Readlink(link)
	if err != nil {
		return ""
	}
	return filepath.Base(t)
}

// real follows all symbolic links, "" when something is missing.
func real(path string) string {
	p, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	return p
}

// below says whether path is dir or lies in it.
func below(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// devt is the number of a device.
type devt struct{ major, minor uint32 }

// parseDevt reads "253:1".
func parseDevt(s string) (devt, bool) {
	var d devt
	_, err := fmt.Sscanf(s, "%d:%d", &d.major, &d.minor)
	return d, err == nil
}

// devtOf splits what stat(2) returns (include/linux/kdev_t.h, new_encode_dev and glibc's gnu_dev_major).
func devtOf(rdev uint64) devt {
	return devt{
		major: uint32(rdev>>8&0xfff | rdev>>32&^0xfff),
		minor: uint32(rdev&0xff | rdev>>12&^0xff),
	}
}
