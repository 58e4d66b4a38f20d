// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// disk is a disk with all that is stacked on it.
type disk struct {
	Block
	numbers map[devt]string // its own, of its partitions and of its holders
}

func (d *disk) has(name string) bool {
	for _, n := range d.numbers {
		if n == name {
			return true
		}
	}
	return false
}

// disks finds a module's disks: those below a bound device or one of its NVMe controllers, and those of a major number
// registered under its name.
func (h *Host) disks(module string, bound []boundDevice) []disk {
	var list []disk
	bound = slices.Concat(bound, h.nvme(module, bound))
	majors := h.majors("Block", module)
	for _, name := range names(h.path("sys/block")) {
		number, ok := parseDevt(h.line("sys/block", name, "dev"))
		if !ok || !on(real(h.path("sys/block", name)), bound) && !majors[number.major] {
			continue
		}
		d := disk{Block: Block{Name: name}, numbers: map[devt]string{}}
		h.stack(&d, name)
		slices.Sort(d.Holders)
		list = append(list, d)
	}
	return list
}

// stack adds a disk, its partitions and what holds them (dm and md: block/holder.c, bd_link_disk_holder).
func (h *Host) stack(d *disk, name string) {
	dir := h.path("sys/class/block", name)
	number, ok := parseDevt(h.line("sys/class/block", name, "dev"))
	if _, known := d.numbers[number]; !ok || known {
		return
	}
	d.numbers[number] = name
	for _, part := range names(dir) {
		if h.line("sys/class/block", name, part, "partition") != "" {
			h.stack(d, part)
		}
	}
	for _, holder := range slices.Concat(names(filepath.Join(dir, "holders")), h.loops(name)) {
		if !slices.Contains(d.Holders, holder) {
			d.Holders = append(d.Holders, holder)
		}
		h.stack(d, holder)
	}
}

// loops finds the loop devices directly on a disk or partition; one on a file has a mount as its witness.
func (h *Host) loops(name string) []string {
	var list []string
	for _, loop := range names(h.path("sys/block")) {
		if file := h.line("sys/block", loop, "loop/backing_file"); file != "" && h.diskName(file) == name {
			list = append(list, loop)
		}
	}
	return list
}

// diskName returns the kernel's name for a path like /dev/vda1 or /dev/mapper/root.
func (h *Host) diskName(path string) string {
	if !strings.Contains(path, "/dev/") {
		return ""
	}
	if p := real(h.path(path)); p != "" {
		path = p
	}
	return filepath.Base(path)
}

// blocks fills in who uses the disks.
func (h *Host) blocks(disks []disk) []Block {
	if len(disks) == 0 {
		return nil
	}
	var list []Block
	swaps := h.swaps()
	mounts := h.mounts()
	btrfs := h.btrfs()
	for _, d := range disks {
		for _, s := range swaps {
			d.Swap = d.Swap || d.has(s)
		}
		// Process 1 first; other mount namespaces see the disk also under names of their own.
		for _, namespace := range mounts {
			if len(d.Mounts) > 0 {
				break
			}
			for _, m := range namespace {
				if d.carries(m, h.diskName(m.source), btrfs) && !slices.Contains(d.Mounts, m.point) {
					d.Mounts = append(d.Mounts, m.point)
				}
			}
		}
		list = append(list, d.Block)
	}
	return list
}

// carries says whether a mounted file system lies on the disk.
func (d *disk) carries(m mount, source string, btrfs [][]string) bool {
	if _, ok := d.numbers[m.number]; ok {
		return true
	}
	// btrfs has a device number of its own, and several disks of which only one is named.
	if m.kind != "btrfs" {
		return false
	}
	if d.has(source) {
		return true
	}
	for _, members := range btrfs {
		if slices.Contains(members, source) && slices.ContainsFunc(members, d.has) {
			return true
		}
	}
	return false
}

// btrfs returns the disks of each btrfs the kernel knows (fs/btrfs/sysfs.c).
func (h *Host) btrfs() [][]string {
	var list [][]string
	for _, id := range names(h.path("sys/fs/btrfs")) {
		list = append(list, names(h.path("sys/fs/btrfs", id, "devices")))
	}
	return list
}

// swaps reads the names of disks in use for swap: "/dev/vda2  partition  1048572  0  -2".
func (h *Host) swaps() []string {
	var list []string
	for line := range strings.Lines(h.line("proc/swaps")) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == "partition" {
			list = append(list, h.diskName(unescape(f[0])))
		}
	}
	return list
}

// mount is a line of mountinfo.
type mount struct {
	number              devt
	point, kind, source string
	options             string // of the file system, as they are written there
}

// mounts reads the mounts of every mount namespace, that of process 1 first.
func (h *Host) mounts() [][]mount {
	var list [][]mount
	seen := map[string]bool{}
	for _, pid := range h.processes() {
		dir := h.path("proc", strconv.Itoa(pid))
		if namespace := target(filepath.Join(dir, "ns/mnt")); namespace != "" {
			if seen[namespace] {
				continue
			}
			seen[namespace] = true
		}
		if m := parseMounts(h.line("proc", strconv.Itoa(pid), "mountinfo")); len(m) > 0 {
			list = append(list, m)
		}
	}
	return list
}

// parseMounts reads the lines of /proc/PID/mountinfo, see proc_pid_mountinfo(5):
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
func parseMounts(s string) []mount {
	var list []mount
	for line := range strings.Lines(s) {
		left, right, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 6 || len(g) < 2 {
			continue
		}
		if number, ok := parseDevt(f[2]); ok {
			m := mount{number: number, point: unescape(f[4]), kind: g[0], source: unescape(g[1])}
			if len(g) > 2 {
				m.options = g[2]
			}
			list = append(list, m)
		}
	}
	return list
}

// unescape undoes the kernel's \040 for a space (fs/seq_file.c, mangle_path).
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
