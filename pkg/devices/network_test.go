// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"encoding/json"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

func savedTexts(items []item) []string {
	var list []string
	for _, i := range items {
		list = append(list, i.Text)
	}
	return list
}

func ruleOf(attrs ...attribute) *message {
	m := &message{kind: rtmNewRule, head: header(rtmNewRule, syscall.AF_INET), attrs: attrs}
	m.head[4] = 100
	for i, a := range attrs {
		if a.number <= 2 {
			m.head[a.number] = 24
		}
		attrs[i].data = append([]byte(nil), a.data...)
	}
	return m
}

func TestSaveNetworkOfNode(t *testing.T) {
	h := nodeTree(t, "proc/sys/net/ipv4/conf/eth0/rp_filter = 2", "proc/sys/net/ipv6/conf/eth0.7/accept_ra = 1",
		"proc/sys/net/ipv4/neigh/eth0/retrans_time = 1", "proc/sys/net/ipv4/neigh/eth0/retrans_time_ms = 1000")
	state := nodeNetwork()
	source := routeOf(syscall.RT_TABLE_MAIN, 16, syscall.RTPROT_STATIC, 6)
	source.set(syscall.RTA_PREFSRC, []byte{10, 0, 2, 15})
	redirect := routeOf(syscall.RT_TABLE_MAIN, 16, syscall.RTPROT_REDIRECT, 2)
	cloned := routeOf(syscall.RT_TABLE_MAIN, 16, syscall.RTPROT_STATIC, 2)
	native.PutUint32(cloned.head[8:], 0x200)
	state.routes = append(state.routes, source, redirect, cloned)
	state.rules = []*message{
		ruleOf(attribute{2, []byte{10, 0, 2, 0}}),    // from our network
		ruleOf(attribute{1, []byte{10, 9, 9, 0}}),    // to another, but our table
		ruleOf(attribute{3, []byte("eth0.7\x00")}),   // iif
		ruleOf(attribute{15, number(254)}),           // main, of nobody
		ruleOf(attribute{15, number(7000)}),          // not our table
		ruleOf(attribute{17, []byte("eth\x00ther")}), // oif of another
	}
	state.rules[5].head[4] = 8
	h.net = func() (*netState, error) { return state, nil }
	n, err := h.SaveNetwork([]Interface{{Name: "eth0"}})
	require.NoError(t, err)

	require.Len(t, n.Links, 3)
	eth0 := n.Links[0]
	assert.Equal(t, identity{Bus: "pci", Address: "0000:00:02.0"}, eth0.identity)
	assert.Equal(t, "br0", eth0.MasterName)
	assert.Equal(t, "bridge", eth0.MasterKind)
	assert.Equal(t, map[string]string{"ipv4/conf/*/rp_filter": "2", "ipv4/neigh/*/retrans_time_ms": "1000"}, eth0.Sysctls)
	assert.Equal(t, []string{"eth0", "eth0.7", "q"}, []string{n.Links[0].Name, n.Links[1].Name, n.Links[2].Name})
	assert.Equal(t, []string{"address 10.0.2.15/24 dev eth0"}, savedTexts(n.Addresses), "the kernel makes the link-local one")
	assert.Equal(t, []string{"route 10.100.0.0/16 dev eth0.7 table 100", "route 10.254.0.0/16 dev ens1 table 254"}, savedTexts(n.Routes))
	assert.Equal(t, []string{
		"rule 0: from 10.0.2.0/24 to default table 100", "rule 0: from default to 10.9.9.0/24 table 100",
		"rule 0: from default to default iif eth0.7 table 100",
	}, savedTexts(n.Rules))
	assert.Equal(t, []string{"sec (macsec) on eth0"}, n.Lost)

	b, err := json.Marshal(n)
	require.NoError(t, err)
	var again Network
	require.NoError(t, json.Unmarshal(b, &again))
	b2, err := json.Marshal(&again)
	require.NoError(t, err)
	assert.JSONEq(t, string(b), string(b2))
	assert.Equal(t, eth0, again.Links[0])

	_, err = h.SaveNetwork([]Interface{{Name: "gone"}})
	assert.ErrorContains(t, err, "interface gone went")
}

func TestLostOfVirtual(t *testing.T) {
	h := nodeTree(t)
	n, err := h.SaveNetwork([]Interface{{Name: "br0"}})
	require.NoError(t, err)
	assert.Equal(t, []string{"br0 (bridge) can not be made again"}, n.Lost)
}

func TestKeepAddress(t *testing.T) {
	l := linkState{MAC: "52:54:00:12:34:56"}
	eui := []byte{0xfe, 0x80, 8: 0x50, 0x54, 0, 0xff, 0xfe, 0x12, 0x34, 0x56}
	other := []byte{0xfe, 0x80, 15: 1}
	flags := func(m *message, flags int) *message { m.set(ifaFlags, number(flags)); return m }
	proto := func(m *message, proto byte) *message { m.set(ifaProto, []byte{proto}); return m }
	for _, c := range []struct {
		name string
		a    *message
		mode string
		want bool
	}{
		{"IPv4", addressOf(2, []byte{169, 254, 0, 1}, 16, syscall.RT_SCOPE_LINK), "0", true},
		{"global", addressOf(2, []byte{0x20, 1, 15: 1}, 64, 0), "0", true},
		{"temporary", flags(addressOf(2, []byte{0x20, 1, 15: 1}, 64, 0), 1), "0", false},
		{"from the MAC address", addressOf(2, eui, 64, syscall.RT_SCOPE_LINK), "0", false},
		{"from the MAC address, but not made by the kernel", addressOf(2, eui, 64, syscall.RT_SCOPE_LINK), "1", true},
		{"own link-local", addressOf(2, other, 64, syscall.RT_SCOPE_LINK), "0", true},
		{"stable privacy", flags(addressOf(2, other, 64, syscall.RT_SCOPE_LINK), 0x800), "2", false},
		{"said to be the kernel's", proto(addressOf(2, other, 64, syscall.RT_SCOPE_LINK), 2), "0", false},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, keepAddress(c.a, &l, c.mode)) })
	}
}

func TestKeepNeighbor(t *testing.T) {
	l := linkState{MAC: "52:54:00:12:34:56"}
	own, _ := net.ParseMAC(l.MAC)
	entry := func(family byte, state uint16, flags byte, mac []byte) *message {
		m := &message{kind: syscall.RTM_NEWNEIGH, head: header(syscall.RTM_NEWNEIGH, family)}
		native.PutUint16(m.head[8:], state)
		m.head[10] = flags
		m.set(ndaLLAddr, mac)
		return m
	}
	mac := []byte{2, 0, 0, 0, 0, 1}
	for _, c := range []struct {
		name string
		m    *message
		want bool
	}{
		{"permanent", entry(syscall.AF_INET, netlink.NUD_PERMANENT, 0, mac), true},
		{"learned", entry(syscall.AF_INET, netlink.NUD_REACHABLE, 0, mac), false},
		{"proxy", entry(syscall.AF_INET6, 0, netlink.NTF_PROXY, nil), true},
		{"of a routing daemon", entry(syscall.AF_INET, netlink.NUD_PERMANENT, netlink.NTF_EXT_LEARNED, mac), false},
		{"bridge, static", entry(syscall.AF_BRIDGE, netlink.NUD_NOARP, 0, mac), true},
		{"bridge, learned", entry(syscall.AF_BRIDGE, netlink.NUD_REACHABLE, 0, mac), false},
		{"bridge, own", entry(syscall.AF_BRIDGE, netlink.NUD_PERMANENT, 0, own), false},
		{"multicast", entry(syscall.AF_BRIDGE, netlink.NUD_PERMANENT, netlink.NTF_SELF, []byte{0x33, 0x33, 0, 0, 0, 1}), false},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, keepNeighbor(c.m, &l)) })
	}
}

func TestKeepRoute(t *testing.T) {
	ours := map[int]bool{2: true}
	gateway := routeOf(254, 16, syscall.RTPROT_KERNEL, 2)
	gateway.set(syscall.RTA_GATEWAY, []byte{10, 0, 2, 2})
	assert.False(t, keepRoute(routeOf(254, 24, syscall.RTPROT_KERNEL, 2), nil))
	assert.True(t, keepRoute(gateway, nil), "the kernel makes none with a gateway")
	assert.False(t, keepRoute(routeOf(254, 0, 9, 2), ours), "the kernel makes it again")
	assert.True(t, keepRoute(routeOf(254, 0, 9, 3), ours), "a network manager's")
}

func TestOwnRA(t *testing.T) {
	for values, want := range map[[2]string]bool{
		{"0", "0"}: false, {"1", "0"}: true, {"1", "1"}: false, {"2", "1"}: true, {"", ""}: false,
	} {
		l := savedLink{linkState: linkState{Index: 2}, Sysctls: map[string]string{
			"ipv6/conf/*/accept_ra": values[0], "ipv6/conf/*/forwarding": values[1],
		}}
		assert.Equal(t, want, ownRA([]savedLink{l})[2], values)
	}
}

func TestWriteSysctls(t *testing.T) {
	h := nodeTree(t, "proc/sys/net/ipv4/conf/eth0.7/rp_filter = 0", "proc/sys/net/ipv4/conf/eth0.7/tag = 5")
	err := h.writeSysctls("eth0.7", map[string]string{
		"ipv4/conf/*/rp_filter": "2", "ipv4/conf/*/tag": "5", "ipv6/conf/*/mtu": "1280",
		"ipv4/conf/*/../x": "1", "core/*/x": "1", "ipv4/conf/*/missing": "1",
	})
	assert.Equal(t, "2", h.line("proc/sys/net/ipv4/conf/eth0.7/rp_filter"))
	assert.ErrorContains(t, err, "set ipv4/conf/*/../x of eth0.7: no setting of an interface")
	assert.ErrorContains(t, err, "set core/*/x of eth0.7: no setting of an interface")
	assert.ErrorContains(t, err, "set net/ipv4/conf/missing of eth0.7 to 1")
	assert.NotContains(t, err.Error(), "mtu")
}
