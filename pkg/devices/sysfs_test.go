// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// files are the files of a small machine by their path: a name with '/' at its end is a directory, "-> /sys/…" a link
// inside the tree, "=> …" one to just that.
type files map[string]string

// tree makes the files and returns the machine they are, without any network interface; in its network is also this process.
func tree(t *testing.T, parts ...files) *Host {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	h := Open(root)
	h.net = func() (*netState, error) { return &netState{}, nil }
	put(t, h, "proc/1/net/dev", "=> /proc/self/net/dev")
	for _, part := range parts {
		for name, content := range part {
			put(t, h, name, content)
		}
	}
	return h
}

func put(t *testing.T, h *Host, name, content string) {
	t.Helper()
	path := h.path(name)
	if strings.HasSuffix(name, "/") {
		require.NoError(t, os.MkdirAll(path, 0o755))
		return
	}
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	if inside, ok := strings.CutPrefix(content, "-> "); ok {
		require.NoError(t, os.Symlink(h.path(inside), path))
	} else if outside, ok := strings.CutPrefix(content, "=> "); ok {
		require.NoError(t, os.Symlink(outside, path))
	} else {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
}

func content(t *testing.T, h *Host, name string) string {
	t.Helper()
	b, err := os.ReadFile(h.path(name))
	require.NoError(t, err)
	return string(b)
}

// of is Of for a module that must be there.
func of(t *testing.T, h *Host, module string) Use {
	t.Helper()
	u, err := h.Of(module)
	require.NoError(t, err)
	return u
}

func TestOfNotLoaded(t *testing.T) {
	h := tree(t, files{"sys/module/dummy/refcnt": "0\n", "secret/refcnt": "7\n"})
	_, err := h.Of("nosuch")
	require.ErrorIs(t, err, ErrNotLoaded)
	assert.EqualError(t, err, "look up module nosuch: module is not loaded")

	for _, name := range []string{"", ".", "..", "../../secret", "dummy/../dummy", "dummy\n", "a b", "dummy\x00"} {
		t.Run("bad name "+name, func(t *testing.T) {
			u, err := h.Of(name)
			require.ErrorContains(t, err, "not a module name")
			require.NotErrorIs(t, err, ErrNotLoaded, "a wrong name says nothing about the kernel")
			assert.Zero(t, u.Refs)
		})
	}
}

func TestOfRefs(t *testing.T) {
	tests := []struct {
		name   string
		refcnt files
		want   int
	}{
		{"unused", files{"sys/module/kmm_base/refcnt": "0\n"}, 0},
		{"used", files{"sys/module/kmm_base/refcnt": "12\n"}, 12},
		{"going", files{"sys/module/kmm_base/refcnt": "-1\n"}, -1},
		{"built in", files{"sys/module/kmm_base/parameters/": ""}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := tree(t, tt.refcnt)
			assert.Equal(t, Use{Module: "kmm_base", Refs: tt.want}, of(t, h, "kmm_base"))
			assert.Equal(t, Use{Module: "kmm_base", Refs: tt.want}, of(t, h, "kmm-base"), "'-' is '_'")
		})
	}
}

func TestOfHolders(t *testing.T) {
	tests := []struct {
		name  string
		edges string // "module: holders", …
		want  []string
	}{
		{"none", "base:", nil},
		{"one", "base: top", []string{"top"}},
		{"chain, the last first", "base: mid; mid: top; top: end", []string{"end", "top", "mid"}},
		{"two", "base: a b", []string{"a", "b"}},
		{"a diamond, its top once", "base: left right; left: top; right: top", []string{"top", "left", "right"}},
		{"one holds also directly", "base: a z; z: a", []string{"a", "z"}},
		{"of another module", "other: x; base: y", []string{"y"}},
		{"a circle ends", "base: a; a: b; b: base a", []string{"b", "a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := tree(t)
			for edge := range strings.SplitSeq(tt.edges, ";") {
				module, holders, _ := strings.Cut(strings.TrimSpace(edge), ":")
				put(t, h, "sys/module/"+module+"/holders/", "")
				for _, holder := range strings.Fields(holders) {
					put(t, h, "sys/module/"+module+"/holders/"+holder, "-> /sys/module/"+holder)
				}
			}
			assert.Equal(t, tt.want, of(t, h, "base").Holders)
		})
	}
}

const (
	nic     = "sys/devices/pci0000:00/0000:00:02.0"
	hba     = "sys/devices/pci0000:00/0000:00:04.0"
	vda     = hba + "/virtio1/block/vda"
	virtual = "sys/devices/virtual/block/"
)

// network is an SR-IOV card with two ports.
func network() files {
	return files{
		"sys/module/e1000e/refcnt":                 "0\n",
		"sys/module/e1000e/drivers/pci:e1000e":     "-> /sys/bus/pci/drivers/e1000e",
		"sys/module/e1000e/drivers/junk":           "-> /sys/bus/pci/drivers/e1000e",
		"sys/bus/pci/drivers/e1000e/bind":          "",
		"sys/bus/pci/drivers/e1000e/unbind":        "",
		"sys/bus/pci/drivers/e1000e/module":        "-> /sys/module/e1000e",
		"sys/bus/pci/drivers/e1000e/0000:00:02.0":  "-> " + nic,
		"sys/bus/pci/drivers/e1000e/0000:00:03.0":  "-> sys/devices/pci0000:00/0000:00:03.0",
		"sys/bus/pci/drivers/e1000e/0000:00:09.0":  "-> sys/devices/pci0000:00/0000:00:09.0", // it goes this moment
		"sys/bus/pci/devices/0000:00:02.0":         "-> " + nic,
		"sys/bus/pci/devices/0000:00:03.0":         "-> sys/devices/pci0000:00/0000:00:03.0",
		nic + "/virtfn0":                           "-> sys/devices/pci0000:00/0000:00:02.1",
		nic + "/virtfn1":                           "-> sys/devices/pci0000:00/0000:00:02.2",
		nic + "/subsystem":                         "-> sys/bus/pci",
		nic + "/net/eth0/device":                   "-> " + nic,
		"sys/class/net/eth0":                       "-> " + nic + "/net/eth0",
		"sys/devices/pci0000:00/0000:00:03.0/net/": "",
	}
}

// storage is a virtio disk: a partition under LVM, one for swap, one under a loop device.
func storage() files {
	return files{
		"sys/module/virtio_blk/refcnt":                    "3\n",
		"sys/module/dm_mod/refcnt":                        "1\n",
		"sys/module/virtio_blk/drivers/virtio:virtio_blk": "-> /sys/bus/virtio/drivers/virtio_blk",
		"sys/bus/virtio/drivers/virtio_blk/virtio1":       "-> " + hba + "/virtio1",
		"sys/bus/virtio/":                                 "",

		vda + "/dev":                        "253:0\n",
		vda + "/subsystem":                  "-> sys/class/block",
		vda + "/vda1/dev":                   "253:1\n",
		vda + "/vda1/partition":             "1\n",
		vda + "/vda1/holders/dm-0":          "-> " + virtual + "dm-0",
		vda + "/vda2/dev":                   "253:2\n",
		vda + "/vda2/partition":             "2\n",
		vda + "/vda3/dev":                   "253:3\n",
		vda + "/vda3/partition":             "3\n",
		virtual + "dm-0/dev":                "252:0\n",
		virtual + "loop0/dev":               "7:0\n",
		virtual + "loop0/loop/backing_file": "/dev/vda3\n",
		virtual + "loop1/dev":               "7:1\n",
		virtual + "loop1/loop/backing_file": "/var/lib/image\n",

		"sys/block/vda":         "-> " + vda,
		"sys/block/dm-0":        "-> " + virtual + "dm-0",
		"sys/block/loop0":       "-> " + virtual + "loop0",
		"sys/block/loop1":       "-> " + virtual + "loop1",
		"sys/class/block/vda":   "-> " + vda,
		"sys/class/block/vda1":  "-> " + vda + "/vda1",
		"sys/class/block/vda2":  "-> " + vda + "/vda2",
		"sys/class/block/vda3":  "-> " + vda + "/vda3",
		"sys/class/block/dm-0":  "-> " + virtual + "dm-0",
		"sys/class/block/loop0": "-> " + virtual + "loop0",
		"sys/class/block/loop1": "-> " + virtual + "loop1",

		"proc/devices": "Character devices:\n  1 mem\n253 dm_mod\n\nBlock devices:\n  7 loop\n252 device-mapper\n253 virtblk\n",
	}
}

func TestOfBound(t *testing.T) {
	h := tree(t, network(), storage())
	assert.Equal(t, []Device{
		{Bus: "pci", Address: "0000:00:02.0", Driver: "e1000e", VFs: 2},
		{Bus: "pci", Address: "0000:00:03.0", Driver: "e1000e", Elsewhere: true},
	}, of(t, h, "e1000e").Bound)
	assert.Equal(t, []Device{{Bus: "virtio", Address: "virtio1", Driver: "virtio_blk"}}, of(t, h, "virtio_blk").Bound)
	assert.Empty(t, of(t, h, "dm_mod").Bound)
}

// TestMore: of the interfaces of one device some may be in another network namespace.
func TestMore(t *testing.T) {
	for _, tt := range []struct {
		name   string
		links  uint64
		listed int
		want   bool
	}{
		{"all are here", 4, 2, false},
		{"one of two", 4, 1, true},
		{"none of two", 4, 0, true},
		{"one came meanwhile", 3, 2, false},
		{"links that are not counted, one here", 1, 1, false},
		{"links that are not counted, none here", 1, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, more(tt.links, tt.listed)) })
	}
}

func TestOfBlocks(t *testing.T) {
	const (
		root     = "22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
		lvm      = "23 22 252:0 / /var rw shared:2 master:7 - xfs /dev/mapper/vg-var rw\n"
		again    = "24 22 252:0 /log /var rw - xfs /dev/mapper/vg-var rw\n"
		space    = `25 22 7:0 / /mnt/a\040b\134 ro - squashfs /dev/loop0 ro` + "\n"
		proc     = "26 22 0:21 / /proc rw - proc proc rw\n"
		other    = "27 22 8:1 / /srv rw - ext4 /dev/sda1 rw\n"
		broken   = "\n28 22 253:0 / /broken rw\n29 22 253 / /x rw - ext4 a b\n30 22 253:0 - ext4 a b\n"
		btrfs    = "31 22 0:44 / /data rw - btrfs /dev/sdb rw\n"
		ownBtrfs = "31 22 0:44 / /data rw - btrfs /dev/vda2 rw\n"
	)
	holders := []string{"dm-0", "loop0"}
	tests := []struct {
		name   string
		module string
		files  files
		want   []Block
	}{
		{"unused", "virtio_blk", nil, []Block{{Name: "vda", Holders: holders}}},
		{"mounted, and what is stacked on it", "virtio_blk", files{"proc/1/mountinfo": root + proc + lvm + again + other + broken},
			[]Block{{Name: "vda", Mounts: []string{"/", "/var"}, Holders: holders}}},
		{"a loop device, with a space in its mount point", "virtio_blk", files{"proc/1/mountinfo": space},
			[]Block{{Name: "vda", Mounts: []string{`/mnt/a b\`}, Holders: holders}}},
		{"by the name of a major number", "dm_mod", files{"proc/1/mountinfo": root + lvm},
			[]Block{{Name: "dm-0", Mounts: []string{"/var"}}}},
		{"only others are mounted", "virtio_blk", files{"proc/1/mountinfo": proc + other + btrfs},
			[]Block{{Name: "vda", Holders: holders}}},
		{"swap", "virtio_blk", files{"proc/swaps": swaps("/dev/vda2 partition")},
			[]Block{{Name: "vda", Swap: true, Holders: holders}}},
		{"swap on another disk", "virtio_blk", files{"proc/swaps": swaps("/dev/sda2 partition")},
			[]Block{{Name: "vda", Holders: holders}}},
		{"swap in a file is the mount's", "virtio_blk", files{"proc/swaps": swaps("/var/dev/vda2 file")},
			[]Block{{Name: "vda", Holders: holders}}},
		{"swap by a link", "virtio_blk", files{"proc/swaps": swaps("/dev/disk/by-label/s partition"),
			"dev/vda2": "", "dev/disk/by-label/s": "-> /dev/vda2"}, []Block{{Name: "vda", Swap: true, Holders: holders}}},
		{"btrfs", "virtio_blk", files{"proc/1/mountinfo": ownBtrfs},
			[]Block{{Name: "vda", Mounts: []string{"/data"}, Holders: holders}}},
		{"btrfs that is named by its other disk", "virtio_blk",
			files{"proc/1/mountinfo": btrfs, "sys/fs/btrfs/2ca9/devices/sdb": "", "sys/fs/btrfs/2ca9/devices/vda2": ""},
			[]Block{{Name: "vda", Mounts: []string{"/data"}, Holders: holders}}},
		{"another btrfs is on the disk", "virtio_blk", files{"proc/1/mountinfo": btrfs,
			"sys/fs/btrfs/2ca9/devices/sdb": "", "sys/fs/btrfs/d7f6/devices/vda2": ""}, []Block{{Name: "vda", Holders: holders}}},
		{"another mount namespace", "virtio_blk", files{
			"proc/1/mountinfo": proc, "proc/1/ns/mnt": "=> mnt:[1]",
			"proc/70/mountinfo": proc, "proc/70/ns/mnt": "=> mnt:[1]",
			"proc/800/mountinfo": strings.ReplaceAll(lvm, "/var ", "/in/pod "), "proc/800/ns/mnt": "=> mnt:[2]",
		}, []Block{{Name: "vda", Mounts: []string{"/in/pod"}, Holders: holders}}},
		{"process 1 knows better", "virtio_blk", files{
			"proc/1/mountinfo": root, "proc/1/ns/mnt": "=> mnt:[1]",
			"proc/800/mountinfo": lvm, "proc/800/ns/mnt": "=> mnt:[2]",
		}, []Block{{Name: "vda", Mounts: []string{"/"}, Holders: holders}}},
		{"not a disk's driver", "e1000e", files{"proc/1/mountinfo": root}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, of(t, tree(t, network(), storage(), tt.files), tt.module).Blocks)
		})
	}
}

func swaps(line string) string {
	return "Filename\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" + line + "\t1048572\t\t0\t\t-2\n"
}

// /dev/null, 1:3, is a device everywhere; these trees say whose it is.
func TestOfFiles(t *testing.T) {
	const module = "sys/module/kmm_base/refcnt"
	null := []OpenFile{{Path: "/dev/null", PID: 812, Command: "tail"}}
	misc := files{"sys/class/misc/kmm-base/dev": "1:3\n"}
	tail := files{"proc/812/comm": "tail\n", "proc/812/fd/3": "=> /dev/null"}
	tests := []struct {
		name  string
		files []files
		want  []OpenFile
	}{
		{"misc device of its name", []files{misc, tail}, null},
		{"twice in one process", []files{misc, tail, {"proc/812/fd/4": "=> /dev/null"}}, null},
		{"other files", []files{misc, {"proc/812/fd/0": "=> /dev/zero", "proc/812/fd/1": "=> socket:[123]",
			"proc/812/fd/2": "=> /dev/nosuch", "proc/812/fd/3": "=> /proc/self/status", "proc/812/fd/4": "=> /dev"}}, nil},
		{"another name", []files{{"sys/class/misc/kmm_base2/dev": "1:3\n"}, tail}, nil},
		{"another number", []files{{"sys/class/misc/kmm_base/dev": "1:4\n"}, tail}, nil},
		{"a whole major number", []files{{"proc/devices": "Character devices:\n  1 kmm-base\n\nBlock devices:\n"}, tail}, null},
		{"a major number of disks", []files{{"proc/devices": "Character devices:\n  2 x\n\nBlock devices:\n  1 kmm_base\n"}, tail}, nil},
		{"modules.devname", []files{tail, {"proc/sys/kernel/osrelease": "6.1.0\n",
			"lib/modules/6.1.0/modules.devname": "# Device nodes\nx y\nfuse fuse c10:229\nkmm-base null c1:3\n"}}, null},
		{"modules.devname says it is a disk", []files{tail, {"proc/sys/kernel/osrelease": "6.1.0\n",
			"lib/modules/6.1.0/modules.devname": "kmm_base null b1:3\n"}}, nil},
		{"modules.devname elsewhere", []files{tail, {"proc/sys/kernel/osrelease": "../x\n",
			"lib/x/modules.devname": "kmm_base null c1:3\n"}}, nil},
		{"below a bound device", []files{tail, {
			"sys/module/kmm_base/drivers/pci:kmm":         "-> /sys/bus/pci/drivers/kmm",
			"sys/bus/pci/drivers/kmm/0000:00:05.0":        "-> /sys/devices/pci0/0000:00:05.0",
			"sys/devices/pci0/0000:00:05.0/misc/acc0/dev": "1:3\n"}}, null},
		{"of another device", []files{tail, {
			"sys/module/kmm_base/drivers/pci:kmm":          "-> /sys/bus/pci/drivers/kmm",
			"sys/bus/pci/drivers/kmm/0000:00:05.0":         "-> /sys/devices/pci0/0000:00:05.0",
			"sys/devices/pci0/0000:00:05.0/":               "",
			"sys/devices/pci0/0000:00:05.01/misc/acc0/dev": "1:3\n"}}, nil},
		{"a disk has the number", []files{tail, {
			"proc/devices": "Block devices:\n  1 kmm_base\n", "sys/block/ram3/dev": "1:3\n", "sys/class/block/ram3/dev": "1:3\n"}}, nil},
		{"many processes", []files{misc, {"proc/30/fd/0": "=> /dev/null", "proc/4/fd/0": "=> /dev/null",
			"proc/100/fd/0": "=> /dev/null", "proc/2/fd/0": "=> /dev/null", "proc/1/fd/0": "=> /dev/null",
			"proc/21/fd/0": "=> /dev/null", "proc/3/fd/0": "=> /dev/null"}}, []OpenFile{
			{Path: "/dev/null", PID: 1}, {Path: "/dev/null", PID: 2}, {Path: "/dev/null", PID: 3}, {Path: "/dev/null", PID: 4},
			{Path: "/dev/null", PID: 21}, {Path: "/dev/null", PID: 30}, {Path: "/dev/null", PID: 100}}},
		{"processes by number, of pods too", []files{misc, tail, {
			"proc/99/fd/0": "=> /dev/null", "proc/99/comm": "a) b\n", "proc/99/cgroup": "0::" + v2 + "/cri-containerd-0ab1.scope\n",
			"proc/1000/fd/0": "=> /dev/null", "proc/1000/comm": "sshd\n", "proc/1000/cgroup": "0::/system.slice/ssh.service\n",
			"proc/self/fd/0": "=> /dev/null", "proc/0/fd/0": "=> /dev/null", "proc/007/fd/0": "=> /dev/null"}},
			[]OpenFile{{Path: "/dev/null", PID: 99, Command: "a) b", Pod: uid}, null[0],
				{Path: "/dev/null", PID: 1000, Command: "sshd"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := tree(t, append(tt.files, files{module: "1\n"})...)
			assert.Equal(t, tt.want, of(t, h, "kmm_base").Files)
		})
	}
}

func TestWantedMisc(t *testing.T) {
	h := tree(t, files{"proc/devices": "Character devices:\n 10 misc\n508 misc\n"})
	character, _ := h.wanted("misc", nil, nil)
	assert.False(t, character.has(devt{10, 200}), "the miscellaneous devices are of many modules")
	assert.True(t, character.has(devt{508, 0}))
}

func TestDevtOf(t *testing.T) {
	tests := []struct {
		name string
		rdev uint64
		want devt
	}{
		{"null", 0x103, devt{1, 3}},
		{"20 bits of minor", 0xfff001ff, devt{1, 0xfffff}},
		{"12 bits of major", 0x000fff00, devt{0xfff, 0}},
		{"more of major", 0x0000100000000000 | 0x100, devt{0x1001, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, devtOf(tt.rdev)) })
	}
}

// address makes what the kernel tells of an address.
func address(index int, scope byte, length byte, ip ...byte) *message {
	family := byte(syscall.AF_INET)
	if len(ip) == 16 {
		family = syscall.AF_INET6
	}
	m := &message{kind: syscall.RTM_NEWADDR, head: header(syscall.RTM_NEWADDR, family)}
	m.head[1], m.head[3] = length, scope
	native.PutUint32(m.head[4:], uint32(index))
	m.set(syscall.IFA_ADDRESS, ip)
	m.set(syscall.IFA_LOCAL, ip)
	return m
}

// route makes what the kernel tells of a route of a table.
func route(table byte, index int, length byte, dst ...byte) *message {
	m := &message{kind: syscall.RTM_NEWROUTE, head: header(syscall.RTM_NEWROUTE, syscall.AF_INET)}
	m.head[1], m.head[4], m.head[5], m.head[7] = length, table, syscall.RTPROT_STATIC, syscall.RTN_UNICAST
	if length > 0 {
		m.set(syscall.RTA_DST, dst)
	}
	m.set(syscall.RTA_OIF, number(index))
	return m
}

// twoLinks is eth0 with a VLAN, in a bridge, and a bridge of its own.
func twoLinks() *netState {
	return &netState{
		links: []linkState{
			{Index: 1, Name: "lo"},
			{Index: 2, Name: "eth0", MAC: "52:54:00:12:34:56", MTU: 1500, Flags: syscall.IFF_UP | syscall.IFF_MULTICAST, Master: 4},
			{Index: 3, Name: "eth0.5", Kind: "vlan", Lower: 2, MTU: 1500, Data: encodeAttrs([]attribute{{1, []byte{5, 0}}})},
			{Index: 4, Name: "br0", Kind: "bridge", MAC: "52:54:00:12:34:57"},
		},
		addresses: []*message{
			address(2, 0, 24, 10, 0, 2, 15), address(2, syscall.RT_SCOPE_LINK, 16, 169, 254, 0, 1), address(4, 0, 24, 10, 9, 9, 9),
		},
		routes: []*message{
			route(syscall.RT_TABLE_MAIN, 2, 24, 10, 0, 2, 0), route(100, 3, 24, 10, 5, 0, 0),
			route(syscall.RT_TABLE_LOCAL, 2, 32, 10, 0, 2, 15), route(syscall.RT_TABLE_MAIN, 4, 0),
		},
	}
}

func TestOfInterfaces(t *testing.T) {
	h := tree(t, network(), files{"sys/module/8021q/refcnt": "1\n", "sys/module/bridge/refcnt": "0\n", "sys/module/dummy/refcnt": "0\n"})
	h.net = func() (*netState, error) { return twoLinks(), nil }
	tests := []struct {
		module string
		want   []Interface
	}{
		{"e1000e", []Interface{{Name: "eth0", Bus: "pci", Address: "0000:00:02.0", MAC: "52:54:00:12:34:56", Up: true,
			Addresses: []string{"10.0.2.15/24"}, Routes: 2, Default: true, Master: "br0", Stacked: []string{"eth0.5"}}}},
		{"8021q", []Interface{{Name: "eth0.5", Kind: "vlan", Routes: 1}}},
		{"bridge", []Interface{{Name: "br0", Kind: "bridge", MAC: "52:54:00:12:34:57", Addresses: []string{"10.9.9.9/24"},
			Routes: 1, Default: true, Unmakeable: true}}},
		{"dummy", nil},
	}
	for _, tt := range tests {
		t.Run(tt.module, func(t *testing.T) { assert.Equal(t, tt.want, of(t, h, tt.module).Interfaces) })
	}

	broken := errors.New("no netlink")
	h.net = func() (*netState, error) { return nil, broken }
	_, err := h.Of("dummy")
	require.ErrorIs(t, err, broken)
	assert.EqualError(t, err, "look up interfaces of dummy: no netlink")
}

// TestOfVirtualFunctions: what is on a virtual function goes with its device, whatever drives it.
func TestOfVirtualFunctions(t *testing.T) {
	const pf, vf, other = "sys/devices/pci0000:00/0000:00:02.0", "sys/devices/pci0000:00/0000:00:02.1", "sys/devices/pci0000:00/0000:00:02.2"
	card := files{
		"sys/module/ice/refcnt": "0\n", "sys/module/ice/drivers/pci:ice": "-> /sys/bus/pci/drivers/ice",
		"sys/bus/pci/drivers/ice/0000:00:02.0": "-> " + pf, "sys/bus/pci/devices/0000:00:02.0": "-> " + pf,
		"sys/module/iavf/refcnt": "0\n", "sys/module/iavf/drivers/pci:iavf": "-> /sys/bus/pci/drivers/iavf",
		"sys/bus/pci/drivers/iavf/0000:00:02.1": "-> " + vf, "sys/bus/pci/drivers/iavf/0000:00:02.2": "-> " + other,
		pf + "/virtfn0": "-> " + vf, pf + "/virtfn1": "-> " + other,
		pf + "/virtfn2":       "-> sys/devices/pci0000:00/0000:00:02.3", // it goes this moment
		vf + "/subsystem":     "-> sys/bus/pci",
		vf + "/physfn":        "-> " + pf,
		vf + "/net/v0/device": "-> " + vf, "sys/class/net/v0": "-> " + vf + "/net/v0",
		vf + "/block/n0/dev": "259:0\n", "sys/block/n0": "-> " + vf + "/block/n0", "sys/class/block/n0": "-> " + vf + "/block/n0",
	}
	state := &netState{links: []linkState{{Index: 7, Name: "v0", Flags: syscall.IFF_UP}}, addresses: []*message{address(7, 0, 24, 10, 0, 2, 15)}}
	host := func(more files) *Host {
		h := tree(t, card, more)
		h.net = func() (*netState, error) { return state, nil }
		return h
	}

	h := host(nil)
	use := of(t, h, "ice")
	assert.Equal(t, []Device{{Bus: "pci", Address: "0000:00:02.0", Driver: "ice", VFs: 3}}, use.Bound, "they are not unbound")
	assert.Equal(t, []Interface{{Name: "v0", Bus: "pci", Address: "0000:00:02.1", Up: true, Addresses: []string{"10.0.2.15/24"}}}, use.Interfaces)
	assert.Equal(t, []Block{{Name: "n0"}}, use.Blocks)
	n, err := h.SaveNetwork(use.Interfaces)
	require.NoError(t, err)
	assert.Equal(t, identity{Bus: "pci", Address: "0000:00:02.1"}, n.Links[0].identity)
	assert.Equal(t, []string{"address 10.0.2.15/24 dev v0"}, savedTexts(n.Addresses))

	use = of(t, host(files{other + "/net/": ""}), "ice")
	assert.True(t, use.Bound[0].Elsewhere, "a pod has the interface of the other one")
}

// TestOfAssigned: vfio gives a virtual function to a process.
func TestOfAssigned(t *testing.T) {
	const pf, vf = "sys/devices/pci0000:00/0000:00:02.0", "sys/devices/pci0000:00/0000:00:02.1"
	card := files{
		"sys/module/ice/refcnt": "0\n", "sys/module/ice/drivers/pci:ice": "-> /sys/bus/pci/drivers/ice",
		"sys/bus/pci/drivers/ice/0000:00:02.0": "-> " + pf,
		pf + "/virtfn0":                        "-> " + vf,
		pf + "/iommu_group":                    "-> /sys/kernel/iommu_groups/11",
		vf + "/iommu_group":                    "-> /sys/kernel/iommu_groups/12",
		"sys/class/vfio/vfio/dev":              "1:5\n",
		"proc/812/comm":                        "qemu\n",
		"proc/812/fd/3":                        "=> /dev/null",
	}
	qemu := []OpenFile{{Path: "/dev/null", PID: 812, Command: "qemu"}}
	for _, tt := range []struct {
		name  string
		files files
		want  []OpenFile
	}{
		{"by its group", files{"sys/class/vfio/12/dev": "1:3\n"}, qemu},
		{"by its group, without an IOMMU", files{"sys/class/vfio/noiommu-12/dev": "1:3\n"}, qemu},
		{"by itself", files{vf + "/vfio-dev/vfio0/dev": "1:3\n"}, qemu},
		{"the device's group", files{"sys/class/vfio/11/dev": "1:3\n"}, nil},
		{"nobody has it", files{"sys/class/vfio/12/dev": "1:4\n"}, nil},
		{"vfio has none", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := of(t, tree(t, card, tt.files), "ice")
			assert.Equal(t, tt.want, u.Assigned)
			assert.Empty(t, u.Files)
		})
	}
}

// Numbers of virtio devices change, the place of the PCI device that carries them does not.
func TestIdentify(t *testing.T) {
	h := tree(t, files{
		"sys/bus/pci/": "", "sys/bus/virtio/": "",
		nic + "/subsystem":                       "-> /sys/bus/pci",
		nic + "/virtio7/subsystem":               "-> /sys/bus/virtio",
		nic + "/virtio7/net/eth0/device":         "-> " + nic + "/virtio7",
		nic + "/virtio7/net/eth1/device":         "-> " + nic + "/virtio7",
		nic + "/virtio7/net/eth1/dev_port":       "1\n",
		nic + "/virtio7/net/eth1/phys_port_name": "pf0vf3\n",
		"sys/class/net/eth0":                     "-> " + nic + "/virtio7/net/eth0",
		"sys/class/net/eth1":                     "-> " + nic + "/virtio7/net/eth1",
		"sys/class/net/br0/":                     "",
	})
	tests := []struct {
		name string
		want identity
	}{
		{"eth0", identity{Bus: "pci", Address: "0000:00:02.0"}},
		{"eth1", identity{Bus: "pci", Address: "0000:00:02.0", Port: "1/pf0vf3"}},
		{"br0", identity{}},
		{"nosuch", identity{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, _ := h.identify(tt.name)
			assert.Equal(t, tt.want, got)
		})
	}
}

// The network of the machine the test runs on, whatever it is, can be read by anybody.
func TestOfRealNetwork(t *testing.T) {
	h := Open(tree(t, files{"sys/module/kmm_base/refcnt": "1\n"}).root)
	assert.Equal(t, Use{Module: "kmm_base", Refs: 1}, of(t, h, "kmm_base"))
	assert.Equal(t, "/", Open("").root)
}

func TestSysctls(t *testing.T) {
	h := tree(t, files{
		"proc/sys/net/ipv4/conf/eth0.5/forwarding": "1\n", "proc/sys/net/ipv6/neigh/eth0.5/mcast_solicit": "3\n",
		"proc/sys/net/ipv4/conf/all/forwarding": "0\n", "secret": "0\n",
	})
	saved := h.readSysctls("eth0.5")
	assert.Equal(t, map[string]string{"ipv4/conf/*/forwarding": "1", "ipv6/neigh/*/mcast_solicit": "3"}, saved)

	saved["ipv4/conf/*/forwarding"] = "2"
	wrong := map[string]string{"ipv6/conf/*/gone": "1", "ipv4/conf/*/../../../../../../secret": "7", "../../../*/secret": "7",
		"ipv4/conf": "7"}
	maps.Copy(saved, wrong)
	err := h.writeSysctls("eth0.5", saved)
	require.Error(t, err)
	assert.Equal(t, `set ../../../*/secret of eth0.5: no setting of an interface
set ipv4/conf of eth0.5: no setting of an interface
set ipv4/conf/*/../../../../../../secret of eth0.5: no setting of an interface`, err.Error())
	assert.Equal(t, "2\n", content(t, h, "proc/sys/net/ipv4/conf/eth0.5/forwarding"))
	assert.Equal(t, "0\n", content(t, h, "proc/sys/net/ipv4/conf/all/forwarding"))
	assert.Equal(t, "0\n", content(t, h, "secret"))
	require.ErrorIs(t, h.writeSysctls("eth0.5", map[string]string{"ipv4/conf/*/gone": "1"}), os.ErrNotExist)
}
