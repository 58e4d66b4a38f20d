// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// overNetwork are the types of file systems that are on another machine. 9p and virtiofs are not: they are how a virtual
// machine has files of its host.
var overNetwork = map[string]bool{
	"nfs": true, "nfs4": true, "cifs": true, "smb3": true, "ceph": true, "afs": true, "lustre": true, "beegfs": true, "gpfs": true,
	"orangefs": true, "fuse.glusterfs": true, "fuse.ceph": true, "fuse.ceph-fuse": true, "fuse.sshfs": true, "fuse.cvmfs2": true,
}

// remoteName are the disks that drivers/block/nbd.c, rbd.c and aoe have on other machines, by their names.
var remoteName = regexp.MustCompile(`^(nbd|rbd|etherd!)`)

// iSCSI is what the path of its disks has, platform/host3/session1/target3:0:0 (drivers/scsi/scsi_transport_iscsi.c), also
// where an adapter does it by itself.
var iSCSI = regexp.MustCompile(`/session[0-9]+/`)

// ground finds out where the files of the node are.
type ground struct {
	*Host
	mounts []mount         // of process 1
	seen   map[string]bool // mount points and disks
}

// networkRoot says which directory that the node, or an exchange of drivers, can not do without is on the network: "/ is on the
// network (nfs4 10.0.0.1:/srv/node)", "" if none is.
func (h *Host) networkRoot() string {
	g := ground{Host: h, mounts: parseMounts(h.line("proc/1/mountinfo")), seen: map[string]bool{}}
	for _, dir := range append([]string{"/", "/lib/modules", "/usr/lib/modules"}, h.needed...) {
		m := g.mountOf(dir)
		if what := g.remote(m); what != "" {
			return fmt.Sprintf("%s is on the network (%s)", m.point, what)
		}
	}
	return ""
}

// mountOf returns the mount that has a file: the last one of those at the longest path.
func (g *ground) mountOf(path string) mount {
	var found mount
	for _, m := range g.mounts {
		if (m.point == "/" || below(path, m.point)) && len(m.point) >= len(found.point) {
			found = m
		}
	}
	return found
}

// remote names what of a mount is on the network, "" when nothing is.
func (g *ground) remote(m mount) string {
	if m.point == "" || g.seen[m.point] {
		return ""
	}
	g.seen[m.point] = true
	if overNetwork[m.kind] {
		return m.kind + " " + m.source
	}
	for _, dir := range m.layers() {
		if what := g.remote(g.mountOf(dir)); what != "" {
			return what
		}
	}
	list := []string{target(g.path("sys/dev/block", fmt.Sprintf("%d:%d", m.number.major, m.number.minor)))}
	if m.kind == "btrfs" { // which has a number of its own
		list = []string{g.diskName(m.source)}
		for _, members := range g.btrfs() {
			if slices.Contains(members, list[0]) {
				list = members
			}
		}
	}
	return g.remoteDisk(list...)
}

// remoteDisk names the first of some disks that is on the network, or has something on one that is. A name may be "".
func (g *ground) remoteDisk(list ...string) string {
	for _, name := range list {
		dir := real(g.path("sys/class/block", name))
		if g.line("sys/class/block", name, "partition") != "" {
			dir = filepath.Dir(dir)
			name = filepath.Base(dir)
		}
		if name == "" || dir == "" || g.seen["disk "+name] {
			continue
		}
		g.seen["disk "+name] = true
		fabrics := slices.Concat(g.nvme("nvme_tcp", nil), g.nvme("nvme_rdma", nil))
		if remoteName.MatchString(name) || iSCSI.MatchString(dir) || on(dir, fabrics) {
			return "disk " + name
		}
		if what := g.remoteDisk(names(filepath.Join(dir, "slaves"))...); what != "" {
			return what
		}
		if file := g.line("sys/class/block", name, "loop/backing_file"); file != "" {
			if what := g.remote(g.mountOf(file)); what != "" {
				return what
			}
		}
	}
	return ""
}

// layers are the directories an overlay is made of: "rw,lowerdir=/a:/b,upperdir=/c,workdir=/d", with later kernels also
// "lowerdir+=/a,lowerdir+=/b" (fs/overlayfs/params.c, ovl_show_options). They are as whoever mounted it saw them: those of an
// initramfs may not be found.
func (m mount) layers() []string {
	if m.kind != "overlay" {
		return nil
	}
	var list []string
	for option := range strings.SplitSeq(m.options, ",") {
		switch name, dirs, _ := strings.Cut(option, "="); name {
		case "lowerdir", "lowerdir+", "upperdir":
			for dir := range strings.SplitSeq(dirs, ":") {
				list = append(list, unescape(dir))
			}
		}
	}
	return list
}
