// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/devices"
)

func TestNotLoaded(t *testing.T) {
	_, err := devices.Open("").Of("no-such-module")
	assert.ErrorIs(t, err, devices.ErrNotLoaded)
}

func TestNetworkDriver(t *testing.T) {
	sh(t, base+some)
	u := use(t, "virtio-net")
	assert.Zero(t, u.Refs, "a bound device holds no reference: that is why one must look")
	assert.Equal(t, []devices.Device{{Bus: "virtio", Address: u.Bound[0].Address, Driver: "virtio_net"}}, u.Bound)
	require.Len(t, u.Interfaces, 1)
	eth0 := u.Interfaces[0]
	assert.Equal(t, devices.Interface{
		Name: "eth0", Bus: "pci", Address: "0000:00:02.0", MAC: "52:54:00:12:34:56", Up: true,
		Addresses: []string{"10.0.2.15/24", "192.0.2.5/24", "192.0.2.6/24"},
		Routes:    eth0.Routes, Default: true, Stacked: []string{"eth0.100"},
	}, eth0)
	assert.GreaterOrEqual(t, eth0.Routes, 5)
	assert.Contains(t, u.String(), "interface eth0 (52:54:00:12:34:56, up, 10.0.2.15/24, 192.0.2.5/24, 192.0.2.6/24, ")

	// What lies below a device of the bus driver goes with that as well: eth0 with virtio_pci. That one is built in on
	// some kernels, where it still tells its devices.
	bus, err := devices.Open("").Of("virtio_pci")
	require.NoError(t, err)
	require.NotEmpty(t, bus.Interfaces)
	assert.Equal(t, eth0, bus.Interfaces[0])

	assert.Equal(t, []string{"eth0.100"}, names(use(t, "8021q")), "links by their kind")
}

func names(u devices.Use) []string {
	var list []string
	for _, i := range u.Interfaces {
		list = append(list, i.Name)
	}
	return list
}

// The default route of a port's master is that of the port.
func TestPort(t *testing.T) {
	sh(t, base+`
		ip link add br0 type bridge
		ip link set eth0 master br0
		ip addr flush dev eth0
		ip link set br0 up
		ip addr add 10.0.2.15/24 dev br0
		ip route add default via 10.0.2.2`)
	u := use(t, "virtio_net")
	require.Len(t, u.Interfaces, 1)
	assert.Equal(t, "br0", u.Interfaces[0].Master)
	assert.True(t, u.Interfaces[0].Default)
	assert.Equal(t, []string{"br0"}, names(use(t, "bridge")))

	sh(t, "modprobe 8021q")
	assert.Equal(t, []string{"bridge", "8021q", "garp", "stp"}, use(t, "llc").Holders, "each before what it holds")
	sh(t, base)
}

func TestInterfaceInAnotherNamespace(t *testing.T) {
	sh(t, base+"mkdir -p /run/netns; ip netns add other; ip link set eth0 netns other")
	u := use(t, "virtio_net")
	assert.Empty(t, u.Interfaces)
	require.Len(t, u.Bound, 1)
	assert.True(t, u.Bound[0].Elsewhere)
	assert.Contains(t, u.String(), "whose interface is in another network namespace")
	sh(t, "ip netns exec other ip link set eth0 netns 1; ip netns del other")
	assert.False(t, use(t, "virtio_net").Bound[0].Elsewhere)
	sh(t, base)
}

// Of several interfaces of one device one is in another network namespace. The VM has no such card: the device is the
// directory of all virtual interfaces, in a tree of its own.
func TestOneOfSeveralInNamespace(t *testing.T) {
	root := t.TempDir()
	driver := filepath.Join(root, "sys/bus/platform/drivers/ports")
	require.NoError(t, os.MkdirAll(driver, 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "sys/module/ports/drivers"), 0o755))
	require.NoError(t, os.Symlink(driver, filepath.Join(root, "sys/module/ports/drivers/platform:ports")))
	require.NoError(t, os.Symlink("/sys/devices/virtual", filepath.Join(driver, "virtual")))
	elsewhere := func() bool {
		u, err := devices.Open(root).Of("ports")
		require.NoError(t, err)
		require.Len(t, u.Bound, 1)
		return u.Bound[0].Elsewhere
	}
	sh(t, base+"modprobe dummy numdummies=0; ip link add dummy1 type dummy")
	assert.False(t, elsewhere())
	const count = "stat -c %h /sys/devices/virtual/net"
	sh(t, "mkdir -p /run/netns; ip netns add other")
	before := sh(t, count)
	sh(t, "ip link set dummy1 netns other")
	assert.Equal(t, before, sh(t, count), "it is counted where it is not listed")
	assert.True(t, elsewhere())
	sh(t, "ip -n other link set dummy1 netns 1; ip netns del other")
	require.Eventually(t, func() bool { return !elsewhere() }, patience, tick, "a namespace goes when there is time")
	sh(t, base)
}

// disk returns what is known of one disk of null_blk.
func disk(t *testing.T, name string) devices.Block {
	t.Helper()
	for _, b := range use(t, "null_blk").Blocks {
		if b.Name == name {
			return b
		}
	}
	require.Fail(t, "no disk "+name)
	return devices.Block{}
}

func TestBlockDriver(t *testing.T) {
	sh(t, `
		modprobe loop
		modprobe null_blk nr_devices=2 memory_backed=1 gb=1
		mkdir -p "/mnt/a b"
		mke2fs -F /dev/nullb0`)
	t.Cleanup(func() { sh(t, "rmmod null_blk") })
	assert.Equal(t, devices.Block{Name: "nullb0"}, disk(t, "nullb0"))

	sh(t, `mkswap /dev/nullb1; swapon /dev/nullb1; mount -t ext4 /dev/nullb0 "/mnt/a b"`)
	assert.Equal(t, devices.Block{Name: "nullb0", Mounts: []string{"/mnt/a b"}}, disk(t, "nullb0"))
	assert.Equal(t, devices.Block{Name: "nullb1", Swap: true}, disk(t, "nullb1"))
	assert.Positive(t, use(t, "null_blk").Refs)

	// On what is stacked on it.
	sh(t, `umount "/mnt/a b"; swapoff /dev/nullb1; losetup /dev/loop1 /dev/nullb0; mount -t ext4 /dev/loop1 "/mnt/a b"`)
	assert.Equal(t, devices.Block{Name: "nullb0", Mounts: []string{"/mnt/a b"}, Holders: []string{"loop1"}}, disk(t, "nullb0"))
	sh(t, `umount "/mnt/a b"; losetup -d /dev/loop1`)
	assert.Equal(t, devices.Block{Name: "nullb0"}, disk(t, "nullb0"))

	// In the mount namespace of a container only.
	other := exec.Command("busybox", "unshare", "-m", "sh", "-c", "mount -t ext4 /dev/nullb0 /mnt && echo mounted && exec sleep 1000")
	out, err := other.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	line := make([]byte, len("mounted\n"))
	_, err = out.Read(line)
	require.NoError(t, err)
	assert.Equal(t, []string{"/mnt"}, disk(t, "nullb0").Mounts)
	require.NoError(t, other.Process.Kill())
	_ = other.Wait()

	// Open as it is.
	file, err := os.Open("/dev/nullb1")
	require.NoError(t, err)
	files := use(t, "null_blk").Files
	require.Len(t, files, 1)
	assert.Equal(t, "/dev/nullb1", files[0].Path)
	require.NoError(t, file.Close())
}

// A disk by NVMe over TCP, from this very machine: it is below no device that has a driver.
func TestDiskOverTCP(t *testing.T) {
	sh(t, `
		ip link set lo up
		modprobe null_blk nr_devices=1 memory_backed=1 gb=1
		modprobe nvme_tcp; modprobe nvmet_tcp
		mkdir -p /sys/kernel/config; [ -d /sys/kernel/config/nvmet ] || mount -t configfs none /sys/kernel/config
		cd /sys/kernel/config/nvmet; mkdir subsystems/lab subsystems/lab/namespaces/1 ports/1
		echo 1 >subsystems/lab/attr_allow_any_host
		echo -n /dev/nullb0 >subsystems/lab/namespaces/1/device_path; echo 1 >subsystems/lab/namespaces/1/enable
		echo tcp >ports/1/addr_trtype; echo ipv4 >ports/1/addr_adrfam; echo 127.0.0.1 >ports/1/addr_traddr; echo 4420 >ports/1/addr_trsvcid
		ln -s $PWD/subsystems/lab ports/1/subsystems/lab`)
	t.Cleanup(func() {
		sh(t, `
			for controller in /sys/class/nvme/*; do ! grep -q tcp $controller/transport || echo 1 >$controller/delete_controller; done
			cd /sys/kernel/config/nvmet; rm ports/1/subsystems/lab; rmdir ports/1 subsystems/lab/namespaces/1 subsystems/lab
			rmmod nvmet_tcp nvmet nvme_tcp null_blk`)
	})
	assert.Empty(t, use(t, "nvme_tcp").Blocks)
	require.NoError(t, os.WriteFile("/dev/nvme-fabrics", []byte("transport=tcp,traddr=127.0.0.1,trsvcid=4420,nqn=lab"), 0))
	var disk string
	require.Eventually(t, func() bool {
		blocks := use(t, "nvme_tcp").Blocks
		if len(blocks) == 1 {
			disk = blocks[0].Name
		}
		_, err := os.Stat("/dev/" + disk) // it is made last
		return disk != "" && err == nil
	}, patience, tick)
	sh(t, "mke2fs -F /dev/"+disk+"; mount -t ext4 /dev/"+disk+" /mnt")
	u := use(t, "nvme_tcp")
	assert.Equal(t, []devices.Block{{Name: disk, Mounts: []string{"/mnt"}}}, u.Blocks)
	assert.Zero(t, u.Refs, "it could be unloaded")
	card, err := devices.Open("", "/mnt/kmmd").Of("virtio_net")
	require.NoError(t, err)
	assert.Equal(t, "/mnt is on the network (disk "+disk+")", card.NetworkRoot)
	assert.Empty(t, use(t, "virtio_net").NetworkRoot)
	sh(t, "umount /mnt")
}

// An open device file, with the process and its pod.
func TestOpenFile(t *testing.T) {
	const pod = "2ca9d7f6-0a4e-4b05-a1c1-7d5b9e0f3c11"
	sh(t, "insmod /kmmd-test/modules/kmm_base.ko; mkdir -p /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup")
	t.Cleanup(func() { sh(t, "umount /sys/fs/cgroup; rmmod kmm_base") })
	group := "/sys/fs/cgroup/kubepods.slice/kubepods-pod2ca9d7f6_0a4e_4b05_a1c1_7d5b9e0f3c11.slice/cri-containerd-1.scope"
	require.NoError(t, os.MkdirAll(group, 0o755))
	t.Cleanup(func() {
		for dir := group; dir != "/sys/fs/cgroup"; dir = filepath.Dir(dir) {
			assert.NoError(t, os.Remove(dir))
		}
	})
	assert.Empty(t, use(t, "kmm_base").Files)

	reader := exec.Command("sleep", "1000")
	file, err := os.Open("/dev/kmm_base")
	require.NoError(t, err)
	reader.ExtraFiles = []*os.File{file}
	require.NoError(t, reader.Start())
	require.NoError(t, file.Close())
	pid := reader.Process.Pid
	require.NoError(t, os.WriteFile(group+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0o644))
	u := use(t, "kmm_base")
	assert.Equal(t, 1, u.Refs)
	assert.Equal(t, []devices.OpenFile{{Path: "/dev/kmm_base", PID: pid, Command: "sleep", Pod: pod}}, u.Files)
	require.NoError(t, reader.Process.Kill())
	_ = reader.Wait()
}

// A miscellaneous device is known by its name, and here by modules.devname as well.
func TestTun(t *testing.T) {
	sh(t, "modprobe tun; mkdir -p /dev/net; [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200")
	file, err := os.Open("/dev/net/tun")
	require.NoError(t, err)
	defer file.Close()
	files := use(t, "tun").Files
	require.Len(t, files, 1)
	assert.Equal(t, "/dev/net/tun", files[0].Path)
	assert.Equal(t, os.Getpid(), files[0].PID)
}
