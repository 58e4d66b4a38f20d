// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
)

// boundDevice is a device with its directory in sysfs, all links followed.
type boundDevice struct {
	Device
	path string
}

// bound lists the devices of all drivers of a module: /sys/module/M/drivers/BUS:DRIVER is a link to the driver, which
// has a link for each device bound to it (drivers/base/module.c, module_add_driver; drivers/base/dd.c,
// driver_sysfs_add).
func (h *Host) bound(module string) []boundDevice {
	var list []boundDevice
	dir := h.path("sys/module", module, "drivers")
	for _, name := range names(dir) {
		bus, driver, ok := strings.Cut(name, ":")
		if !ok {
			continue
		}
		for _, address := range names(filepath.Join(dir, name)) {
			link := filepath.Join(dir, name, address)
			if address == "module" || target(link) == "" {
				continue
			}
			path := real(link)
			if path == "" {
				continue // gone meanwhile
			}
			d := Device{Bus: bus, Address: address, Driver: driver}
			// Missing without SR-IOV.
			d.VFs, _ = strconv.Atoi(h.line("sys/bus", bus, "devices", address, "sriov_numvfs"))
			list = append(list, boundDevice{Device: d, path: path})
		}
	}
	return list
}

// functions are the virtual functions of a device, which go with its driver though another one may drive them: the links
// virtfn0, virtfn1, … in its directory lead to them, its siblings (drivers/pci/iov.c, pci_iov_sysfs_link).
func functions(d boundDevice) []boundDevice {
	if d.VFs == 0 {
		return nil
	}
	var list []boundDevice
	for _, name := range names(d.path) {
		if !strings.HasPrefix(name, "virtfn") {
			continue
		}
		if path := real(filepath.Join(d.path, name)); path != "" {
			list = append(list, boundDevice{Device: Device{Bus: d.Bus, Address: filepath.Base(path)}, path: path})
		}
	}
	return list
}

// on says whether a path in sysfs lies below one of the devices.
func on(path string, devices []boundDevice) bool {
	for _, d := range devices {
		if path != "" && below(path, d.path) {
			return true
		}
	}
	return false
}

// subtree is what a device has below it in sysfs.
type subtree struct {
	char      []charDevice
	elsewhere bool
}

// charDevice is a character device and its file in /dev.
type charDevice struct {
	devt
	path string
}

// maxScan bounds the entries looked at below one device: a host adapter with a thousand disks has some hundred thousand.
const maxScan = 1 << 20

// scan looks at all that is below a device: character devices have a file "dev" with their number; the directory of a
// network device's class is there but empty when its interface is in another network namespace, for sysfs shows only
// those of the namespace in which it was mounted (fs/kernfs/dir.c, kernfs_dir_fop_readdir; drivers/base/core.c,
// get_device_parent makes the directory when the first interface is added).
func (h *Host) scan(dir string) subtree {
	var t subtree
	left := maxScan
	// What can not be read went meanwhile.
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if left--; left < 0 {
			return fs.SkipAll
		}
		if err != nil {
			return nil
		}
		switch e.Name() {
		case "power", "msi_irqs", "statistics", "queues":
			if e.IsDir() {
				return fs.SkipDir
			}
		case "net":
			if e.IsDir() && path != dir && len(names(path)) == 0 {
				t.elsewhere = true
			}
		case "dev":
			if !e.IsDir() && target(filepath.Join(filepath.Dir(path), "subsystem")) != "block" {
				t.char = append(t.char, h.char(filepath.Dir(path))...)
			}
		}
		return nil
	})
	return t
}

// char reads the number of the character device with that directory in sysfs, and its file: "DEVNAME=net/tun" in
// uevent, a path in /dev.
func (h *Host) char(dir string) []charDevice {
	rel, err := filepath.Rel(h.root, dir)
	if err != nil {
		return nil
	}
	d, ok := parseDevt(h.line(rel, "dev"))
	if !ok {
		return nil
	}
	for line := range strings.Lines(h.line(rel, "uevent")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return []charDevice{{devt: d, path: "/dev/" + name}}
		}
	}
	return []charDevice{{devt: d, path: "/dev/" + filepath.Base(dir)}}
}
