// SPDX-License-Identifier: Apache-2.0

//go:build moredevices

// What needs a second network interface and a device with virtual functions: a
// VM of its own, see the target vm of the Makefile.

package devices

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/devices"
)

// Virtual functions are made, counted and removed.
func TestVirtualFunctions(t *testing.T) {
	files, err := filepath.Glob("/sys/bus/pci/devices/*/sriov_totalvfs")
	require.NoError(t, err)
	require.NotEmpty(t, files, "the VM has a device with virtual functions")
	h, write := devices.Open(""), patiently(t)
	d := devices.Device{Bus: "pci", Address: filepath.Base(filepath.Dir(files[0]))}
	require.NoError(t, h.SetSRIOV(d, 1, write))
	require.NoError(t, h.SetSRIOV(d, 2, write), "from another number")
	require.NoError(t, h.SetSRIOV(d, 2, write), "again")
	assert.ErrorIs(t, h.SetSRIOV(d, 3, write), devices.ErrNoSRIOV)
	found := false
	for _, b := range use(t, "nvme").Bound {
		found = found || b.Address == d.Address && b.VFs == 2
	}
	assert.True(t, found)

	before, err := h.ResetSRIOV(d, write)
	require.NoError(t, err)
	assert.Equal(t, 2, before)
	before, err = h.ResetSRIOV(d, write)
	require.NoError(t, err)
	assert.Equal(t, 0, before)
	require.NoError(t, h.SetSRIOV(d, 0, write))

	// Without its driver nobody makes any.
	d.Driver = "nvme"
	require.NoError(t, h.Unbind([]devices.Device{d}, write))
	assert.ErrorIs(t, h.SetSRIOV(d, 2, write), devices.ErrNoSRIOV)
	require.NoError(t, h.Bind([]devices.Device{d}, write))
	require.NoError(t, h.SetSRIOV(d, 2, write))
	_, err = h.ResetSRIOV(d, write)
	require.NoError(t, err)
}

// The disk of a device that may have several controllers: the kernel has it below the subsystem of these.
func TestDiskOfSubsystem(t *testing.T) {
	disk := func() devices.Block {
		blocks := use(t, "nvme").Blocks
		require.Len(t, blocks, 1)
		return blocks[0]
	}
	path, err := filepath.EvalSymlinks("/sys/block/nvme0n1")
	require.NoError(t, err)
	require.Contains(t, path, "/nvme-subsystem/")
	assert.Equal(t, devices.Block{Name: "nvme0n1"}, disk())
	sh(t, "mke2fs -F /dev/nvme0n1; mount -t ext4 /dev/nvme0n1 /mnt")
	assert.Equal(t, devices.Block{Name: "nvme0n1", Mounts: []string{"/mnt"}}, disk())
	sh(t, "umount /mnt")
}

// Two that come back with each other's names, or with names that have moved on by one.
func TestNamesExchanged(t *testing.T) {
	sh(t, base+some)
	require.FileExists(t, "/sys/class/net/eth1/ifindex")
	sh(t, `
		ip link set eth1 up; ip addr add 203.0.113.5/24 dev eth1; settled eth1
		ip route add 10.20.0.0/16 nexthop via 192.0.2.1 nexthop via 203.0.113.1`)
	before := network(t)
	n := saved(t, "virtio_net")
	exchange(t, "virtio_net")
	sh(t, "ip link set eth0 name x; ip link set eth1 name eth0; ip link set x name eth1; ip link set eth0 up")
	assert.NoError(t, restore(t, n, patience))
	assertSame(t, before)

	// One has the other's name, and that has a third.
	exchange(t, "virtio_net")
	sh(t, "ip link set eth0 name x; ip link set eth1 name eth0; ip link set eth0 up")
	assert.NoError(t, restore(t, n, patience))
	assertSame(t, before)

	// One of them does not come back: the other has its own all the same, but for what they share.
	exchange(t, "virtio_net")
	second := []devices.Device{{Bus: "pci", Address: n.Links[len(n.Links)-1].Address, Driver: "virtio-pci"}}
	require.NoError(t, devices.Open("").Unbind(second, patiently(t)))
	err := restore(t, n, time.Second)
	assert.ErrorIs(t, err, devices.ErrMissing)
	assert.Contains(t, sh(t, "ip addr show dev eth0"), "192.0.2.6/24")
	assert.Contains(t, sh(t, "ip addr show dev eth0.100"), "198.51.100.5/24")
	require.NoError(t, devices.Open("").Bind(second, patiently(t)))
	assert.NoError(t, restore(t, n, patience))
	assertSame(t, before)
}
