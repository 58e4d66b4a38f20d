// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
)

// Use is what hangs on a module. What can not be seen is said at the fields; Refs counts it all the same, so a module
// with more Refs than can be explained is in use by somebody unseen, and one with none may still drive the node's only
// network interface: a bound device holds no reference.
type Use struct {
	Module string
	// Refs is the kernel's count of users, -1 while the module goes. 0 for what is built in.
	Refs int
	// Holders are the modules that use symbols of this one, and theirs, each before all it holds: in the order in
	// which they could be unloaded.
	Holders []string
	// Bound are the devices whose driver is one of this module's.
	Bound []Device
	// Interfaces are the network interfaces below a bound device or one of its virtual functions, and those without a
	// device whose kind the module implements. Interfaces in other network namespaces are not seen; a bound device says
	// when it has one there.
	Interfaces []Interface
	// NetworkRoot says, of a module that has interfaces, which directory the node can not do without is on the network, and on
	// what: "/ is on the network (nfs4 10.0.0.1:/srv/node)". Whether it is reached by these interfaces is not known.
	NetworkRoot string `json:",omitempty"`
	// Blocks are the disks below a bound device or one of its virtual functions, those of the module's NVMe controllers,
	// and those without a device whose major number is registered under the module's name.
	Blocks []Block
	// Files are open device files: of devices below a bound device, and those without one that bear the module's name
	// (see files.go for how that is known and when not). Mapped memory of a file that was closed is not seen, nor are
	// processes outside our PID namespace.
	Files []OpenFile
	// Assigned are open files by which processes, virtual machines for instance, have virtual functions of a bound device.
	// The kernel waits for them when the functions are to go.
	Assigned []OpenFile `json:",omitempty"`
}

// Device is a device bound to a driver of the module.
type Device struct {
	Bus     string // "pci", "virtio", "usb", …
	Address string // "0000:00:02.0"
	Driver  string
	// Elsewhere is true when the device, or a virtual function of it, has a network interface that is in another network
	// namespace.
	Elsewhere bool `json:",omitempty"`
	// VFs is the number of SR-IOV virtual functions it has now; they go with the driver.
	VFs int `json:",omitempty"`
}

// Interface is a network interface that goes when the module goes.
type Interface struct {
	Name string
	Kind string `json:",omitempty"` // of the kernel's rtnl_link_ops: "bridge", "vlan", …; "" for most hardware
	// Bus and Address are where the interface's device is: the same before and after an exchange of drivers, when name
	// and index may differ. For virtio that is the device which carries it (pci 0000:00:02.0). "" without a device.
	Bus, Address string `json:",omitempty"`
	MAC          string `json:",omitempty"`
	Up           bool
	Addresses    []string `json:",omitempty"` // "10.0.2.15/24", link-local ones left out
	Routes       int      // over it and what is stacked on it; the kernel's own for addresses included, the table "local" not
	Default      bool     // a default route leads over it, over what is stacked on it, or over its master
	Master       string   `json:",omitempty"` // the bridge, bond, … it is a port of
	Stacked      []string `json:",omitempty"` // VLANs, macvlans, … that go with it
	// Unmakeable is true for one without a device of a kind that RestoreNetwork can not make: a bond, a bridge, WireGuard.
	Unmakeable bool `json:",omitempty"`
}

// Block is a disk that goes when the module goes.
type Block struct {
	Name string
	// Mounts are mount points of the disk, its partitions and what is stacked on them. Those seen in the mount
	// namespace of process 1; only what is not mounted there is looked for in the namespaces of other processes.
	Mounts []string `json:",omitempty"`
	Swap   bool
	// Holders are the disks stacked on it: dm, md, loop. Not known: members of a ZFS pool.
	Holders []string `json:",omitempty"`
}

// OpenFile is a device file somebody has open.
type OpenFile struct {
	Path    string
	PID     int
	Command string
	Pod     string `json:",omitempty"` // UID of the Kubernetes pod the process runs in
}

// Of reads what hangs on a module. It returns ErrNotLoaded when the kernel has no such module; for one that is built in
// it tells what there is. Privilege: CAP_NET_ADMIN is not needed; without CAP_SYS_PTRACE open files of other users stay
// unseen, and without the node's PID namespace those of other containers.
func (h *Host) Of(module string) (Use, error) {
	u := Use{Module: canonical(module)}
	if !moduleName.MatchString(u.Module) {
		return u, fmt.Errorf("look up module %q: not a module name", module)
	}
	if _, err := os.Stat(h.path("sys/module", u.Module)); errors.Is(err, os.ErrNotExist) {
		return u, fmt.Errorf("look up module %s: %w", u.Module, ErrNotLoaded)
	} else if err != nil {
		return u, fmt.Errorf("look up module %s: %w", u.Module, err)
	}
	// Built-in modules have no refcnt; nor has one that went this moment.
	u.Refs, _ = strconv.Atoi(h.line("sys/module", u.Module, "refcnt"))
	u.Holders = h.holders(u.Module)

	bound := h.bound(u.Module)
	going := slices.Clone(bound) // and their virtual functions
	var tree subtree
	for _, d := range bound {
		t := scan(d.path)
		d.Elsewhere = t.elsewhere
		for _, f := range functions(d) {
			going = append(going, f)
			d.Elsewhere = d.Elsewhere || scan(f.path).elsewhere
		}
		tree.char = append(tree.char, t.char...)
		u.Bound = append(u.Bound, d.Device)
	}
	var err error
	if u.Interfaces, err = h.interfaces(u.Module, going); err != nil {
		return u, fmt.Errorf("look up interfaces of %s: %w", u.Module, err)
	}
	if len(u.Interfaces) > 0 {
		u.NetworkRoot = h.networkRoot()
	}
	disks := h.disks(u.Module, going)
	u.Blocks = h.blocks(disks)
	u.Files = h.openFiles(h.wanted(u.Module, tree.char, disks))
	u.Assigned = h.openFiles(h.vfio(going[len(bound):]), numbers{})
	return u, nil
}

// holders returns all that would have to go before the module (kernel/module/main.c, add_usage_links).
func (h *Host) holders(module string) []string {
	var list []string
	seen := map[string]bool{module: true}
	var visit func(string)
	visit = func(m string) {
		for _, holder := range names(h.path("sys/module", m, "holders")) {
			if !seen[holder] {
				seen[holder] = true
				visit(holder)
				list = append(list, holder)
			}
		}
	}
	visit(module)
	return list
}
