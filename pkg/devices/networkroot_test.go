// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestNetworkRoot: what the node can not do without may be behind the very interface.
func TestNetworkRoot(t *testing.T) {
	const (
		sda   = "sys/devices/platform/host3/session1/target3:0:0/3:0:0:0/block/sda"
		nvme  = "sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1"
		local = "22 1 8:16 / / rw - ext4 /dev/sdb rw\n"
	)
	disk := func(name, dir, number string) files {
		return files{dir + "/dev": number + "\n", "sys/class/block/" + name: "-> " + dir, "sys/dev/block/" + number: "-> " + dir}
	}
	disks := []files{
		disk("sda", sda, "8:0"), disk("sda1", sda+"/sda1", "8:1"), {sda + "/sda1/partition": "1\n"},
		disk("sdb", "sys/devices/pci0000:00/0000:00:04.0/host0/target0:0:0/0:0:0:0/block/sdb", "8:16"),
		disk("dm-0", virtual+"dm-0", "252:0"), {virtual + "dm-0/slaves/sda1": "-> " + sda + "/sda1"},
		disk("dm-1", virtual+"dm-1", "252:1"), {virtual + "dm-1/slaves/dm-0": "-> " + virtual + "dm-0"},
		disk("dm-2", virtual+"dm-2", "252:2"), {virtual + "dm-2/slaves/sdb": "", virtual + "dm-2/slaves/dm-2": ""},
		disk("nbd0", virtual+"nbd0", "43:0"), disk("rbd1", virtual+"rbd1", "251:16"),
		disk("nvme0n1", nvme, "259:0"),
		disk("loop0", virtual+"loop0", "7:0"), {virtual + "loop0/loop/backing_file": "/srv/root.img\n"},
		{
			"sys/module/dummy/refcnt": "0\n", "sys/module/vxlan/refcnt": "0\n",
			"sys/devices/virtual/nvme-fabrics/ctl/nvme0/transport":  "tcp\n",
			"sys/class/nvme/nvme0":                                  "-> sys/devices/virtual/nvme-fabrics/ctl/nvme0",
			"sys/class/nvme-subsystem/nvme-subsys0":                 "-> sys/devices/virtual/nvme-subsystem/nvme-subsys0",
			"sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0": "-> sys/devices/virtual/nvme-fabrics/ctl/nvme0",
			"sys/fs/btrfs/2ca9/devices/sdb":                         "", "sys/fs/btrfs/2ca9/devices/nbd0": "",
		},
	}
	const nfs, srv = " rw - nfs4 10.0.0.1:/srv/n\\0401 rw,vers=4.2\n", "23 22 0:50 / /srv rw - nfs 10.0.0.1:/srv rw\n"
	for _, tt := range []struct{ name, mounts, want string }{
		{"nothing is known", "", ""},
		{"a disk", local, ""},
		{"a disk, and others on the network", local + srv, ""},
		{"NFS", "22 1 0:40 / /" + nfs, "/ is on the network (nfs4 10.0.0.1:/srv/n 1)"},
		{"NFS that another mount hides", "22 1 0:40 / /" + nfs + local, ""},
		{"the modules", local + "23 22 0:40 / /usr" + nfs, "/usr is on the network (nfs4 10.0.0.1:/srv/n 1)"},
		{"the images", local + "23 22 0:40 / /var/lib/kmmd" + nfs, "/var/lib/kmmd is on the network (nfs4 10.0.0.1:/srv/n 1)"},
		{"beside the images", local + "23 22 0:40 / /var/lib/kmmd/x" + nfs + "24 22 0:40 / /var/lib/kmm" + nfs, ""},
		{"firmware", local + "23 22 0:40 / /var/lib/firmware" + nfs, "/var/lib/firmware is on the network (nfs4 10.0.0.1:/srv/n 1)"},
		{"files of the virtual machine's host", "22 1 0:40 / / rw - 9p root rw,trans=virtio\n", ""},
		{"iSCSI", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "/ is on the network (disk sda)"},
		{"LVM on multipath on iSCSI", "22 1 252:1 / / rw - xfs /dev/mapper/vg-root rw\n", "/ is on the network (disk sda)"},
		{"LVM on a disk", "22 1 252:2 / / rw - xfs /dev/mapper/vg-root rw\n", ""},
		{"NVMe over TCP", "22 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n", "/ is on the network (disk nvme0n1)"},
		{"a network block device", "22 1 43:0 / / rw - ext4 /dev/nbd0 rw\n", "/ is on the network (disk nbd0)"},
		{"Ceph's", "22 1 251:16 / / rw - ext4 /dev/rbd1 rw\n", "/ is on the network (disk rbd1)"},
		{"btrfs, one of its disks", "22 1 0:44 / / rw - btrfs /dev/sdb rw\n", "/ is on the network (disk nbd0)"},
		{"btrfs on a disk", "22 1 0:44 / / rw - btrfs /dev/dm-2 rw\n", ""},
		{"an image on NFS", srv + "22 1 7:0 / / rw - squashfs /dev/loop0 ro\n", "/ is on the network (nfs 10.0.0.1:/srv)"},
		{"an overlay of NFS", srv + "22 1 0:45 / / rw - overlay o rw,lowerdir=/run:/srv/a\\054b,upperdir=/tmp/u,workdir=/tmp/w\n",
			"/ is on the network (nfs 10.0.0.1:/srv)"},
		{"an overlay of NFS, as later kernels say", srv + "22 1 0:45 / / rw - overlay o rw,lowerdir+=/run,lowerdir+=/srv\n",
			"/ is on the network (nfs 10.0.0.1:/srv)"},
		{"an overlay of itself", srv + "22 1 0:45 / / rw - overlay o rw,lowerdir=/run,workdir=/srv,upperdir=/tmp/u\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := tree(t, append(disks, files{"proc/1/mountinfo": tt.mounts})...)
			h.needed = Open(h.root, "/var/lib/kmmd", h.root+"/var/lib/firmware").needed
			h.net = func() (*netState, error) {
				return &netState{links: []linkState{{Index: 2, Name: "dummy0", Kind: "dummy", Flags: syscall.IFF_UP}}}, nil
			}
			assert.Equal(t, tt.want, of(t, h, "dummy").NetworkRoot)
			assert.Empty(t, of(t, h, "vxlan").NetworkRoot, "it has no interface")
		})
	}
}

func TestOpenNeeded(t *testing.T) {
	assert.Equal(t, "/a /host/a /hostile", strings.Join(Open("", "/a", "/host/a", "/hostile").needed, " "))
	assert.Equal(t, "/a /a /hostile", strings.Join(Open("/host", "/a", "/host/a", "/hostile").needed, " "))
}
