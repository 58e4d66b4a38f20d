// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"slices"
	"syscall"
)

// Attributes of include/uapi/linux/{rtnetlink,if_addr,neighbour,nexthop,fib_rules}.h that package syscall has not.
const (
	ifaFlags = 8
	ifaProto = 11

	rtaVia       = 18
	rtaEncapType = 21
	rtaEncap     = 22
	rtaExpires   = 23
	rtaNextHop   = 30 // RTA_NH_ID

	ndaLLAddr    = 2
	ndaCacheInfo = 3
	ndaProbes    = 4
	ndaIfindex   = 8
	ndaMaster    = 9

	nhaID    = 1
	nhaGroup = 2
	nhaOIF   = 5

	nhaResilient      = 12 // NHA_RES_GROUP
	nhaUnbalancedTime = 4  // in it
	nhaBucket         = 13
	nhaOpFlags        = 14
	nhaGroupStats     = 15
	nhaStatsUsed      = 17

	onlink = 4 // RTNH_F_ONLINK: the only flag of a next hop that is a setting, the others are its state
)

// eachIndex calls f with every place in the message that holds the index of a link.
func (m *message) eachIndex(f func(p []byte)) {
	var numbers []uint16
	switch m.kind {
	case syscall.RTM_NEWADDR:
		f(m.head[4:8])
	case syscall.RTM_NEWNEIGH:
		f(m.head[4:8])
		numbers = []uint16{ndaIfindex, ndaMaster}
	case syscall.RTM_NEWROUTE:
		numbers = []uint16{syscall.RTA_OIF, syscall.RTA_IIF}
		for _, hop := range hops(m.find(syscall.RTA_MULTIPATH)) {
			f(hop[4:8])
		}
	case rtmNewNextHop:
		numbers = []uint16{nhaOIF}
	}
	for _, a := range m.attrs {
		for _, n := range numbers {
			if a.is(n) && len(a.data) >= 4 {
				f(a.data[:4])
			}
		}
	}
}

// on says whether the message is about one of the links.
func (m *message) on(set map[int]bool) bool {
	found := false
	m.eachIndex(func(p []byte) { found = found || set[int(u32(p))] })
	return found
}

// hops splits RTA_MULTIPATH: struct rtnexthop {u16 len; u8 flags, hops; int ifindex} and attributes, each.
func hops(b []byte) [][]byte {
	var list [][]byte
	for len(b) >= 8 {
		n := int(native.Uint16(b))
		if n < 8 || n > len(b) {
			break
		}
		list = append(list, b[:n:n])
		b = b[min((n+3)&^3, len(b)):]
	}
	return list
}

// clean removes what is the state of a thing and not a setting, and what the kernel dumps but does not take back.
func (m *message) clean() {
	switch m.kind {
	case syscall.RTM_NEWADDR:
		// Of the flags: temporary or secondary, optimistic, duplicate, deprecated, tentative, permanent, stable privacy.
		const state = 0x01 | 0x04 | 0x08 | 0x20 | 0x40 | 0x80 | 0x800
		m.set(ifaFlags, number(int(m.u32(ifaFlags)&^state)))
		m.head[2] = 0 // the lower bits once more
	case syscall.RTM_NEWROUTE:
		m.cleanRoute()
	case syscall.RTM_NEWNEIGH:
		m.drop(ndaCacheInfo, ndaProbes)
	case rtmNewRule:
		native.PutUint32(m.head[8:], u32(m.head[8:])&2) // FIB_RULE_INVERT; the others say "detached"
	case rtmNewNextHop:
		m.head[1] = 0 // its scope is computed (net/ipv4/nexthop.c, rtm_to_nh_config)
		// Told only: buckets, what the answer is about (6.9), counters (6.9), and for how long a group is unbalanced.
		m.drop(nhaBucket, nhaOpFlags, nhaGroupStats, nhaStatsUsed)
		if group, err := decodeAttrs(m.find(nhaResilient)); err == nil && len(group) > 0 {
			g := message{attrs: group}
			g.drop(nhaUnbalancedTime)
			m.set(nhaResilient, encodeAttrs(g.attrs))
		}
		native.PutUint32(m.head[4:], u32(m.head[4:])&onlink)
	}
}

func (m *message) cleanRoute() {
	native.PutUint32(m.head[8:], u32(m.head[8:])&onlink)
	for _, hop := range hops(m.find(syscall.RTA_MULTIPATH)) {
		hop[2] &= onlink
	}
	// struct rta_cacheinfo: at 8 the rest of the lifetime in 1/100 s (USER_HZ), 0 for ever.
	if info := m.find(syscall.RTA_CACHEINFO); len(info) >= 12 && m.family() == syscall.AF_INET6 {
		if left := int32(u32(info[8:])); left > 0 {
			m.set(rtaExpires, number(int(left+99)/100))
		}
	}
	m.drop(syscall.RTA_CACHEINFO)
	// A route over a next hop object is told with the object's content, but taken only without (net/ipv4/fib_semantics.c,
	// fib_create_info).
	if m.find(rtaNextHop) != nil {
		m.drop(syscall.RTA_OIF, syscall.RTA_GATEWAY, syscall.RTA_MULTIPATH, rtaVia, rtaEncap, rtaEncapType)
		native.PutUint32(m.head[8:], 0)
	}
}

// key is the same for two cleaned messages that set the same.
func (m *message) key() string {
	c := message{kind: m.kind, head: m.head, attrs: slices.Clone(m.attrs)}
	switch m.kind {
	case syscall.RTM_NEWADDR:
		// The same address with another lifetime or label is there all the same.
		return fmt.Sprintf("%d %d %s %x", m.kind, u32(m.head[4:]), prefix(m), m.find(syscall.IFA_ADDRESS))
	case syscall.RTM_NEWROUTE:
		c.drop(rtaExpires)
		if b := m.find(syscall.RTA_MULTIPATH); b != nil {
			list := hops(b)
			slices.SortFunc(list, bytes.Compare)
			c.set(syscall.RTA_MULTIPATH, bytes.Join(list, nil))
		}
	}
	slices.SortStableFunc(c.attrs, func(a, b attribute) int { return cmp.Compare(a.number&0x3fff, b.number&0x3fff) })
	return fmt.Sprintf("%d %x", c.kind, c.encode())
}

// describe says in ip's words what a message is about; name returns the name of a link.
func (m *message) describe(name func(int) string) string {
	switch m.kind {
	case syscall.RTM_NEWADDR:
		return fmt.Sprintf("address %s dev %s", prefix(m), name(int(u32(m.head[4:]))))
	case syscall.RTM_NEWNEIGH:
		if m.family() == syscall.AF_BRIDGE {
			return fmt.Sprintf("fdb %s dev %s", net.HardwareAddr(m.find(ndaLLAddr)), name(int(u32(m.head[4:]))))
		}
		return fmt.Sprintf("neighbour %s lladdr %s dev %s", net.IP(m.find(syscall.RTA_DST)),
			net.HardwareAddr(m.find(ndaLLAddr)), name(int(u32(m.head[4:]))))
	case rtmNewNextHop:
		return fmt.Sprintf("nexthop id %d", m.u32(nhaID))
	case rtmNewRule:
		return m.describeRule()
	}
	return m.describeRoute(name)
}

func (m *message) describeRoute(name func(int) string) string {
	s := "route " + m.network(syscall.RTA_DST, m.head[1])
	if gw := m.find(syscall.RTA_GATEWAY); gw != nil {
		s += " via " + net.IP(gw).String()
	}
	if oif := m.u32(syscall.RTA_OIF); oif != 0 {
		s += " dev " + name(int(oif))
	}
	for _, hop := range hops(m.find(syscall.RTA_MULTIPATH)) {
		s += " nexthop dev " + name(int(u32(hop[4:])))
	}
	if id := m.u32(rtaNextHop); id != 0 {
		s += fmt.Sprintf(" nhid %d", id)
	}
	return s + fmt.Sprintf(" table %d", table(m))
}

func (m *message) describeRule() string {
	const dst, src, iif, priority, oif = 1, 2, 3, 6, 17
	s := fmt.Sprintf("rule %d: from %s to %s", m.u32(priority), m.network(src, m.head[2]), m.network(dst, m.head[1]))
	for n, word := range map[uint16]string{iif: "iif", oif: "oif"} {
		if b := m.find(n); b != nil {
			s += " " + word + " " + str(b)
		}
	}
	return s + fmt.Sprintf(" table %d", table(m))
}

// network returns an address attribute and a length as "192.0.2.0/24".
func (m *message) network(attr uint16, length byte) string {
	b := m.find(attr)
	if b == nil || length == 0 {
		return "default"
	}
	return fmt.Sprintf("%s/%d", net.IP(b), length)
}
