// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"net"
	"slices"
	"syscall"
)

// savedHops returns the next hop objects over the links, then the groups that have one of them as a member
// (net/ipv4/nexthop.c: an object goes with its link, a group with its last member).
func savedHops(list []*message, set map[int]bool) []*message {
	var single, groups []*message
	ids := map[uint32]bool{}
	for _, m := range list {
		if m.on(set) {
			ids[m.u32(nhaID)] = true
			single = append(single, m)
		}
	}
	for _, m := range list {
		// struct nexthop_grp {u32 id; u8 weight, …} of 8 bytes
		for member := range slices.Chunk(m.find(nhaGroup), 8) {
			if ids[u32(member)] {
				groups = append(groups, m)
				break
			}
		}
	}
	return append(single, groups...)
}

// goes says whether a route goes with the links: it leads over one (a route with several next hops goes as a whole when
// one goes: net/ipv4/fib_semantics.c, fib_sync_down_dev), or its source is one of their addresses (fib_sync_down_addr).
func (n *Network) goes(m *message, set map[int]bool, ips map[string]bool) bool {
	if m.on(set) || ips[string(m.find(syscall.RTA_PREFSRC))] && m.find(syscall.RTA_PREFSRC) != nil {
		return true
	}
	id := m.u32(rtaNextHop)
	return id != 0 && slices.ContainsFunc(n.NextHops, func(i item) bool {
		hop, err := decode(rtmNewNextHop, i.Message)
		return err == nil && hop.u32(nhaID) == id
	})
}

// keepRoute says whether a route is to be given back: not what the kernel makes itself for an address, nor from a
// redirect, nor from a router advertisement on a link where it listens to them.
func keepRoute(m *message, ownRA map[int]bool) bool {
	const cloned = 0x200 // RTM_F_CLONED
	const ra = 9         // RTPROT_RA
	switch {
	case u32(m.head[8:])&cloned != 0:
		return false
	case m.head[5] == syscall.RTPROT_REDIRECT:
		return false
	case m.head[5] == syscall.RTPROT_KERNEL:
		return m.find(syscall.RTA_GATEWAY) != nil
	case m.head[5] == ra:
		return !m.on(ownRA)
	}
	return true
}

// keepRule says whether a policy rule has to do with the links: it names one, one of their addresses, or a table they
// have routes in. The kernel keeps rules when a link goes, network managers do not.
func (n *Network) keepRule(m *message, ips map[string]bool, tables map[uint32]bool) bool {
	const dst, src, iif, oif = 1, 2, 3, 17 // FRA_…
	for _, l := range n.Links {
		for _, attr := range []uint16{iif, oif} {
			if str(m.find(attr)) == l.Name {
				return true
			}
		}
	}
	for attr, length := range map[uint16]byte{dst: m.head[1], src: m.head[2]} {
		if ip := m.find(attr); ip != nil && length > 0 {
			network := net.IPNet{IP: ip, Mask: net.CIDRMask(int(length), 8*len(ip))}
			for own := range ips {
				if len(own) == len(ip) && network.Contains(net.IP(own)) {
					return true
				}
			}
		}
	}
	t := table(m)
	return tables[t] && t != syscall.RT_TABLE_MAIN && t != syscall.RT_TABLE_DEFAULT && t != syscall.RT_TABLE_LOCAL
}
