// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Which device numbers belong to a module? The kernel knows (cdev.owner, gendisk.fops.owner) but does not tell. Known:
//
//   - a device below a bound device is the module's;
//   - modules.devname of the running kernel says which in-tree module has which fixed number;
//   - a miscellaneous device (major 10) is taken for the module's when it bears its name: /sys/class/misc/kmm_base;
//   - a whole major number is taken for the module's when it is registered under its name in /proc/devices.
//
// Not known: devices of a module without a bound device that gave them another name and whose file is in no
// modules.devname. Of such a module only Refs tells that it is in use.

// registeredAs has the modules that register a major number under another name than their own.
var registeredAs = map[string]string{
	"nvidia-frontend": "nvidia",
	"nvidia-caps":     "nvidia",
	"nvidiactl":       "nvidia",
	"ppp":             "ppp_generic",
	"sg":              "sg",
	"st":              "st",
	"nullb":           "null_blk",
	"device-mapper":   "dm_mod",
	"md":              "md_mod",
	"mdp":             "md_mod",
	"ramdisk":         "brd",
	"zd":              "zfs",
	"virtblk":         "virtio_blk",
	"sr":              "sr_mod",
	"sd":              "sd_mod",
}

// numbers is a set of device numbers: single ones, and all of a major.
type numbers struct {
	one   map[devt]bool
	major map[uint32]bool
}

func (n numbers) has(d devt) bool {
	return n.one[d] || n.major[d.major]
}

// wanted collects the numbers of a module's character devices and of its disks.
func (h *Host) wanted(module string, char []devt, disks []disk) (character, block numbers) {
	character = numbers{one: map[devt]bool{}, major: h.majors("Character", module)}
	delete(character.major, 10) // all the miscellaneous ones
	for _, c := range slices.Concat(char, h.misc(module), h.devname(module)) {
		character.one[c] = true
	}
	block = numbers{one: map[devt]bool{}}
	for _, d := range disks {
		for number := range d.numbers {
			block.one[number] = true
		}
	}
	return character, block
}

// vfio collects the numbers of the files by which a process can have one of the devices to itself: that of its IOMMU group,
// /dev/vfio/12 (drivers/vfio/group.c, vfio_create_group; noiommu-12 without an IOMMU), and that of its own,
// /dev/vfio/devices/vfio0 (drivers/vfio/device_cdev.c, Linux 6.6).
func (h *Host) vfio(devices []boundDevice) numbers {
	set := numbers{one: map[devt]bool{}}
	for _, d := range devices {
		group := target(filepath.Join(d.path, "iommu_group"))
		dirs := []string{h.path("sys/class/vfio", group), h.path("sys/class/vfio", "noiommu-"+group)}
		for _, name := range names(filepath.Join(d.path, "vfio-dev")) {
			dirs = append(dirs, filepath.Join(d.path, "vfio-dev", name))
		}
		for _, dir := range dirs {
			for _, number := range numberOf(dir) {
				set.one[number] = true
			}
		}
	}
	return set
}

// misc finds the miscellaneous devices that bear the module's name.
func (h *Host) misc(module string) []devt {
	var list []devt
	for _, name := range names(h.path("sys/class/misc")) {
		if canonical(name) == module {
			list = append(list, numberOf(h.path("sys/class/misc", name))...)
		}
	}
	return list
}

// devname reads depmod's list: "tun net/tun c10:200".
func (h *Host) devname(module string) []devt {
	var list []devt
	release := h.line("proc/sys/kernel/osrelease")
	if release == "" || strings.Contains(release, "/") {
		return nil
	}
	for line := range strings.Lines(h.line("lib/modules", release, "modules.devname")) {
		f := strings.Fields(line)
		if len(f) != 3 || canonical(f[0]) != module {
			continue
		}
		number, char := strings.CutPrefix(f[2], "c")
		if d, ok := parseDevt(number); ok && char {
			list = append(list, d)
		}
	}
	return list
}

// majors reads the numbers registered under the module's name in one half of /proc/devices:
//
//	Character devices:
//	 10 misc
//
//	Block devices:
//	  7 loop
func (h *Host) majors(half, module string) map[uint32]bool {
	set := map[uint32]bool{}
	in := false
	for line := range strings.Lines(h.line("proc/devices")) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		if f[1] == "devices:" {
			in = f[0] == half
			continue
		}
		major, err := strconv.ParseUint(f[0], 10, 32)
		if in && err == nil && (canonical(f[1]) == module || registeredAs[f[1]] == module) {
			set[uint32(major)] = true
		}
	}
	return set
}

var isPID = regexp.MustCompile(`^[1-9][0-9]*$`)

// processes lists /proc, by number.
func (h *Host) processes() []int {
	var list []int
	for _, name := range names(h.path("proc")) {
		if pid, err := strconv.Atoi(name); err == nil && isPID.MatchString(name) {
			list = append(list, pid)
		}
	}
	slices.Sort(list)
	return list
}

// openFiles looks through the open files of all processes. Only what was opened below some directory "dev" is looked
// at more closely: a stat of any file could hang on a dead network file system.
func (h *Host) openFiles(character, block numbers) []OpenFile {
	if len(character.one)+len(character.major)+len(block.one) == 0 {
		return nil
	}
	set := map[OpenFile]bool{}
	for _, pid := range h.processes() {
		dir := h.path("proc", strconv.Itoa(pid))
		for _, fd := range names(filepath.Join(dir, "fd")) {
			file := filepath.Join(dir, "fd", fd)
			path, err := os.Readlink(file)
			if err != nil || !strings.Contains(path, "/dev/") || !isDevice(file, character, block) {
				continue
			}
			o := OpenFile{Path: path, PID: pid, Command: h.line("proc", strconv.Itoa(pid), "comm")}
			o.Pod = podOf(h.line("proc", strconv.Itoa(pid), "cgroup"))
			set[o] = true
		}
	}
	var list []OpenFile
	for o := range set {
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b OpenFile) int {
		return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.Path, b.Path))
	})
	return list
}

// isDevice says whether a file is a device with one of the numbers.
func isDevice(file string, character, block numbers) bool {
	info, err := os.Stat(file)
	if err != nil || info.Mode()&os.ModeDevice == 0 {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	if info.Mode()&os.ModeCharDevice != 0 {
		return character.has(devtOf(uint64(st.Rdev)))
	}
	return block.has(devtOf(uint64(st.Rdev)))
}

// podPath finds the directory of a pod in the path of a control group. kubelet names it podUID, with the systemd driver
// kubepods-burstable-podUID.slice where '-' in the UID is '_'; a static pod's UID is a hash without any
// (pkg/kubelet/cm/pod_container_manager_linux.go, cgroup_manager_linux.go in Kubernetes).
var podPath = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`pod([0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12})(?:\.slice)?(?:[/:]|$)`)
})

// podOf returns the UID of the pod a process belongs to from its /proc/PID/cgroup, "" when it is in none. Lines of
// version 1 and 2:
//
//	4:memory:/kubepods/burstable/pod2ca9d7f6-…/0ab1…
//	0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2ca9d7f6_….slice/cri-containerd-0ab1….scope
func podOf(cgroup string) string {
	for line := range strings.Lines(cgroup) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || !strings.Contains(f[2], "kubepods") {
			continue
		}
		if m := podPath().FindStringSubmatch(f[2]); m != nil {
			return strings.ReplaceAll(m[1], "_", "-")
		}
	}
	return ""
}
