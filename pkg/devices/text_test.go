// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"encoding/json"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink/nl"
)

func TestUseString(t *testing.T) {
	tests := []struct {
		name string
		use  Use
		want string
	}{
		{"unused", Use{Module: "dummy"}, "dummy: refcnt 0; nothing uses it"},
		{"unseen", Use{Module: "dummy", Refs: 2}, "dummy: refcnt 2; somebody who can not be seen uses it"},
		{"going", Use{Module: "dummy", Refs: -1}, "dummy: refcnt -1; nothing uses it"},
		{"held", Use{Module: "base", Refs: 2, Holders: []string{"top", "mid"}}, "base: refcnt 2; held by top, mid"},
		{"all of it", Use{
			Module: "kmm_base", Refs: 3, Holders: []string{"kmm_top"},
			Bound:      []Device{{Bus: "pci", Address: addr, Driver: "kmm"}, {Bus: "virtio", Address: "virtio0", Driver: "kmm"}},
			Interfaces: []Interface{{Name: "eth0", Up: true}}, NetworkRoot: "/ is on the network (disk sda)",
			Blocks:   []Block{{Name: "vda", Mounts: []string{"/"}}},
			Files:    []OpenFile{{Path: "/dev/kmm_base", PID: 812, Command: "tail"}},
			Assigned: []OpenFile{{Path: "/dev/vfio/12", PID: 813, Command: "qemu"}},
		}, "kmm_base: refcnt 3; held by kmm_top; drives pci device 0000:00:02.0 (kmm); drives virtio device virtio0 (kmm); " +
			"interface eth0 (up); / is on the network (disk sda); disk vda mounted on /; /dev/kmm_base open in process 812 (tail); a virtual function by /dev/vfio/12 open in process 813 (qemu)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, tt.use.String()) })
	}
}

func TestPartString(t *testing.T) {
	tests := []struct {
		part interface{ String() string }
		want string
	}{
		{Device{Bus: "virtio", Address: "virtio0", Driver: "virtio_net"}, "drives virtio device virtio0 (virtio_net)"},
		{Device{Bus: "pci", Address: addr, Driver: "ice", VFs: 8}, "drives pci device 0000:00:02.0 (ice) with 8 virtual functions"},
		{Device{Bus: "pci", Address: addr, Driver: "ice", Elsewhere: true},
			"drives pci device 0000:00:02.0 (ice) whose interface is in another network namespace"},
		{Device{Bus: "pci", Address: addr, Driver: "ice", VFs: 2, Elsewhere: true},
			"drives pci device 0000:00:02.0 (ice) with 2 virtual functions whose interface is in another network namespace"},

		{Interface{Name: "dummy0"}, "interface dummy0 (down)"},
		{Interface{Name: "eth0", Up: true, Routes: 1}, "interface eth0 (up, 1 route)"},
		{Interface{Name: "eth0", Kind: "vlan", Bus: "pci", Address: addr, MAC: "52:54:00:12:34:56", Up: true,
			Addresses: []string{"10.0.2.15/24", "fec0::1/64"}, Routes: 3, Default: true, Master: "br0",
			Stacked: []string{"eth0.5", "mv0"}},
			"interface eth0 (52:54:00:12:34:56, up, 10.0.2.15/24, fec0::1/64, 3 routes, default route, port of br0, carries eth0.5, mv0)"},

		{Block{Name: "vda"}, "disk vda"},
		{Block{Name: "vda", Mounts: []string{"/", "/var"}}, "disk vda mounted on /, /var"},
		{Block{Name: "vda", Swap: true}, "disk vda used for swap"},
		{Block{Name: "vda", Mounts: []string{"/"}, Swap: true, Holders: []string{"dm-0", "md0"}},
			"disk vda mounted on /, used for swap, under dm-0, md0"},

		{OpenFile{Path: "/dev/kmm_base", PID: 812, Command: "tail"}, "/dev/kmm_base open in process 812 (tail)"},
		{OpenFile{Path: "/dev/kmm_base", PID: 812, Command: "tail", Pod: uid},
			"/dev/kmm_base open in process 812 (tail) of pod " + uid},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) { assert.Equal(t, tt.want, tt.part.String()) })
	}
}

// saveEth0 saves the network of a machine that is files and messages only.
func saveEth0(t *testing.T, state *netState) *Network {
	t.Helper()
	h := tree(t, network(), files{"sys/bus/pci/": "", "proc/sys/net/ipv4/conf/eth0/forwarding": "1\n",
		"proc/sys/net/ipv6/conf/eth0.5/accept_ra": "0\n"})
	h.net = func() (*netState, error) { return state, nil }
	n, err := h.SaveNetwork(of(t, h, "e1000e").Interfaces)
	require.NoError(t, err)
	return n
}

func TestNetworkJSON(t *testing.T) {
	state := twoLinks()
	state.vlans = map[int32][]*nl.BridgeVlanInfo{2: {{Flags: 6, Vid: 1}, {Vid: 5}}}
	state.links[1].AltNames = []string{"enp0s2"}
	state.links[1].SlaveKind, state.links[1].SlaveData = "bridge", []byte{5, 0, 2, 0, 9, 0, 0, 0}
	saved := saveEth0(t, state)
	saved.Saved = time.Date(2025, 1, 2, 3, 4, 5, 678, time.UTC)
	saved.Lost = []string{"the XDP program on eth0"}

	b, err := json.Marshal(saved)
	require.NoError(t, err)
	var got Network
	require.NoError(t, json.Unmarshal(b, &got))
	assert.Equal(t, *saved, got)
}

func TestSaveNetwork(t *testing.T) {
	state := twoLinks()
	state.links[1].xdp = true
	state.links = append(state.links, linkState{Index: 5, Name: "sec0", Kind: "macsec", Lower: 2})
	n := saveEth0(t, state)
	assert.WithinDuration(t, time.Now(), n.Saved, time.Minute)

	require.Len(t, n.Links, 2)
	eth0, vlan := n.Links[0], n.Links[1]
	assert.Equal(t, "eth0", eth0.Name)
	assert.True(t, eth0.hardware())
	assert.Equal(t, identity{Bus: "pci", Address: addr}, eth0.identity)
	assert.Equal(t, []string{"br0", "bridge", "52:54:00:12:34:57"}, []string{eth0.MasterName, eth0.MasterKind, eth0.MasterMAC})
	assert.Equal(t, map[string]string{"ipv4/conf/*/forwarding": "1"}, eth0.Sysctls)
	assert.Equal(t, "eth0.5", vlan.Name)
	assert.False(t, vlan.hardware())
	assert.Equal(t, 2, vlan.Lower)
	assert.Equal(t, map[string]string{"ipv6/conf/*/accept_ra": "0"}, vlan.Sysctls)

	assert.Equal(t, []string{"address 10.0.2.15/24 dev eth0", "address 169.254.0.1/16 dev eth0"}, texts(n.Addresses))
	assert.Equal(t, []string{"route 10.0.2.0/24 dev eth0 table 254", "route 10.5.0.0/24 dev eth0.5 table 100",
		"route 10.0.2.15/32 dev eth0 table 255"}, texts(n.Routes))
	assert.Equal(t, []string{"the XDP program on eth0", "sec0 (macsec) on eth0"}, n.Lost)
}

func texts(items []item) []string {
	var list []string
	for _, i := range items {
		list = append(list, i.Text)
	}
	return list
}

// What the kernel makes of an address by itself is not saved.
func TestSaveNetworkKernelRoutes(t *testing.T) {
	state := twoLinks()
	for _, r := range state.routes {
		r.head[5] = syscall.RTPROT_KERNEL
	}
	assert.Empty(t, saveEth0(t, state).Routes)
}

func TestSaveNetworkErrors(t *testing.T) {
	h := tree(t)
	_, err := h.SaveNetwork([]Interface{{Name: "eth0"}})
	require.EqualError(t, err, "save network: interface eth0 went")

	broken := errors.New("no netlink")
	h.net = func() (*netState, error) { return nil, broken }
	_, err = h.SaveNetwork(nil)
	require.ErrorIs(t, err, broken)
}
