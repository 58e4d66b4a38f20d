// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/test/vm/guest"
)

// some is a configuration for the tests of what goes wrong on the way.
const some = `
	ip addr add 192.0.2.5/24 dev eth0
	ip addr add 192.0.2.6/24 dev eth0
	ip route add 10.9.0.0/16 via 192.0.2.1 table 100
	ip rule add from 192.0.2.5 lookup 100 priority 1000
	ip link add link eth0 name eth0.100 type vlan id 100
	ip link set eth0.100 up
	ip addr add 198.51.100.5/24 dev eth0.100
	settled eth0.100`

// The new driver's interface may have got another name, and somebody may have brought it up already.
func TestAnotherName(t *testing.T) {
	guest.OneKernel(t)
	sh(t, base+some)
	before := network(t)
	n := saved(t, "virtio_net")
	exchange(t, "virtio_net")
	sh(t, "ip link set eth0 name lan7; ip link set lan7 up; ip addr add 10.0.2.15/24 dev lan7")
	assert.NoError(t, restore(t, n, patience))
	assertSame(t, before)
	assert.NoError(t, restore(t, n, patience))
	assertSame(t, before)
}

// A process that was killed in the middle left half of it.
func TestHalfGivenBack(t *testing.T) {
	guest.OneKernel(t)
	sh(t, base+some)
	before := network(t)
	n := saved(t, "virtio_net")
	exchange(t, "virtio_net")
	half := *n
	half.Links, half.Addresses = n.Links[:1], n.Addresses[:1]
	assert.Error(t, restore(t, &half, patience), "what is on the VLAN is no good without it")
	assert.NoError(t, restore(t, n, patience))
	assertSame(t, before)
}

// A device that does not come back is reported when the time is over. What came with it is not reported one by one.
func TestDeviceDoesNotComeBack(t *testing.T) {
	guest.OneKernel(t)
	sh(t, base+some)
	before := network(t)
	n := saved(t, "virtio_net")
	sh(t, "rmmod virtio_net")
	start := time.Now()
	err := restore(t, n, 500*time.Millisecond)
	assert.Less(t, time.Since(start), patience)
	require.ErrorIs(t, err, devices.ErrMissing)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "wait for eth0 (pci 0000:00:02.0)")
	assert.NotContains(t, err.Error(), "give back")

	// It comes while it is waited for.
	done := make(chan error)
	go func() { done <- restore(t, n, patience) }()
	sh(t, "modprobe virtio_net")
	assert.NoError(t, <-done)
	assertSame(t, before)
}

// What can not be given back costs nothing else.
func TestOneFails(t *testing.T) {
	guest.OneKernel(t)
	sh(t, base+some)
	sh(t, "ip link add br0 type bridge; ip link set eth0.100 master br0")
	n := saved(t, "virtio_net")
	exchange(t, "virtio_net")
	sh(t, "ip link del br0; ip link add eth0.100 type dummy")
	err := restore(t, n, patience)
	assert.ErrorContains(t, err, "make eth0.100 (vlan) again: file exists")
	assert.Contains(t, sh(t, "ip addr show dev eth0"), "192.0.2.6/24")
	assert.Contains(t, sh(t, "ip route show table 100"), "10.9.0.0/16 via 192.0.2.1 dev eth0")
}

// The number of a virtio device changes when the PCI device that carries it gets its driver anew: it is found all the
// same.
func TestUnbindAndBind(t *testing.T) {
	h, write := devices.Open(""), patiently(t)
	sh(t, base+some)
	before := network(t)
	n := saved(t, "virtio_net")
	nic := []devices.Device{{Bus: "pci", Address: "0000:00:02.0", Driver: "virtio-pci"}}
	require.NoError(t, h.Unbind(nic, write))
	require.NoError(t, h.Unbind(nic, write), "again")
	assert.NoDirExists(t, "/sys/class/net/eth0")
	require.NoError(t, h.Bind(nic, write))
	require.NoError(t, h.Bind(nic, write), "again")
	assert.NoError(t, restore(t, n, patience))
	assertSame(t, before)

	nic[0].Driver = "another"
	assert.ErrorContains(t, h.Unbind(nic, write), "its driver is virtio-pci")
	assert.ErrorContains(t, h.Bind(nic, write), "its driver is virtio-pci")
}

// Entries of the forwarding tables: of a VXLAN as flannel has it, and of a bridge.
func TestForwardingDatabase(t *testing.T) {
	sh(t, base+`
		ip link add flannel.1 type vxlan id 1 dev eth0 local 10.0.2.15 dstport 8472 nolearning
		ip link set flannel.1 up
		ip link add br0 type bridge vlan_filtering 1 vlan_default_pvid 5
		ip link add link eth0 name eth0.200 type vlan id 200
		ip link set eth0.200 master br0 up
		ip link set br0 up
		for link in flannel.1 eth0.200 br0; do settled $link; done`)
	entry := func(link, mac string, flags int, state int, to string) {
		l, err := netlink.LinkByName(link)
		require.NoError(t, err)
		hw, err := net.ParseMAC(mac)
		require.NoError(t, err)
		require.NoError(t, netlink.NeighAppend(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, HardwareAddr: hw, Flags: flags, State: state, IP: net.ParseIP(to),
		}))
	}
	entry("flannel.1", "00:00:00:00:00:00", netlink.NTF_SELF, netlink.NUD_PERMANENT, "10.0.2.7")
	entry("flannel.1", "00:00:00:00:00:00", netlink.NTF_SELF, netlink.NUD_PERMANENT, "10.0.2.8")
	entry("flannel.1", "02:00:00:00:01:00", netlink.NTF_SELF, netlink.NUD_PERMANENT, "10.0.2.7")
	l, err := netlink.LinkByName("eth0.200")
	require.NoError(t, err)
	require.NoError(t, netlink.BridgeVlanAdd(l, 42, false, false, false, true))
	require.NoError(t, netlink.BridgeVlanAdd(l, 7, true, true, false, true))
	require.NoError(t, netlink.BridgeVlanDel(l, 5, false, false, false, true))
	entry("eth0.200", "02:00:00:00:02:00", netlink.NTF_MASTER, netlink.NUD_NOARP, "")

	before := network(t)
	n := saved(t, "virtio_net")
	exchange(t, "virtio_net")
	assert.NoError(t, restore(t, n, patience))
	assertSame(t, before)
	assert.NoError(t, restore(t, n, patience))
	assertSame(t, before)
}

// What will be lost is said before.
func TestLost(t *testing.T) {
	sh(t, base)
	link, err := netlink.LinkByName("eth0")
	require.NoError(t, err)
	require.NoError(t, netlink.QdiscReplace(&netlink.GenericQdisc{QdiscType: "pfifo", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT,
	}}))
	assert.Equal(t, []string{"traffic control (tc) on eth0"}, saved(t, "virtio_net").Lost)
	sh(t, base)
}
