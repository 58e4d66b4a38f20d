// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
			d := Device{Bus: bus, Address: address, Driver: driver, VFs: len(functionLinks(path))}
			list = append(list, boundDevice{Device: d, path: path})
		}
	}
	return list
}

// functions are the virtual functions of a device, its siblings, which go with its driver though another one may drive them.
func functions(d boundDevice) []boundDevice {
	var list []boundDevice
	for _, name := range functionLinks(d.path) {
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
	char      []devt // character devices
	elsewhere bool
}

// maxScan bounds the entries looked at below one device: a host adapter with a thousand disks has some hundred thousand.
const maxScan = 1 << 20

// scan looks at all that is below a device: character devices have a file "dev" with their number; interfaces are in a
// directory "net" (drivers/base/core.c, get_device_parent makes it when the first one is added).
func scan(dir string) subtree {
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
			t.elsewhere = t.elsewhere || e.IsDir() && path != dir && hides(path)
		case "dev":
			if !e.IsDir() && target(filepath.Join(filepath.Dir(path), "subsystem")) != "block" {
				t.char = append(t.char, numberOf(filepath.Dir(path))...)
			}
		}
		return nil
	})
	return t
}

// hides says whether the directory of a device's interfaces has one that is in another network namespace. Sysfs lists only
// those of the namespace in which it was mounted (fs/kernfs/dir.c, kernfs_dir_pos), but counts directories of all as its links
// (fs/kernfs/inode.c, kernfs_refresh_inode).
func hides(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return false // it went meanwhile
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && more(uint64(st.Nlink), len(names(dir)))
}

// more says whether a directory that is listed with some directories has more of them by the number of its links, two of which
// are its own. It is only there if it has any.
func more(links uint64, listed int) bool {
	return listed == 0 || links > uint64(listed)+2
}

// numberOf reads the number of the character device with that directory in sysfs. Not its file "uevent", which has its name
// in /dev: that waits for the device's lock in Linux 6.10 to 6.14 and their like (drivers/base/core.c, uevent_show), for ever
// when its driver hangs.
func numberOf(dir string) []devt {
	b, err := os.ReadFile(filepath.Join(dir, "dev"))
	if err != nil {
		return nil
	}
	if d, ok := parseDevt(string(b)); ok {
		return []devt{d}
	}
	return nil
}
