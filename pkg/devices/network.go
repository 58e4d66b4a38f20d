// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
)

// Network is the saved configuration of some interfaces and of all that goes with them: what is stacked on them,
// addresses, routes of all tables, next hop objects, policy rules, permanent neighbours and bridge entries, settings of
// /proc/sys/net. It is made by SaveNetwork and given back by RestoreNetwork, if need be by another process in between
// which it was a JSON file; it is good for the boot in which it was saved.
//
// Not in it, and lost with the driver: ethtool settings (rings, channels, offloads, coalescing), settings of virtual
// functions, traffic control, XDP programs, RPS and XPS masks, multicast memberships of sockets, MACsec and other
// stacked links that can not be made again, IPv6 tokens, temporary IPv6 addresses, and links in other network
// namespaces that are stacked on the interfaces. What of that can be seen is named in Lost.
type Network struct {
	Saved     time.Time
	Links     []savedLink // each after what it is stacked on
	Addresses []item      `json:",omitempty"`
	NextHops  []item      `json:",omitempty"`
	Neighbors []item      `json:",omitempty"`
	Routes    []item      `json:",omitempty"`
	Rules     []item      `json:",omitempty"`
	// Lost says what is there now and can not be given back, one sentence each.
	Lost []string `json:",omitempty"`
}

// Within reports whether all interfaces of n are in o, too.
func (n *Network) Within(o *Network) bool {
	return !slices.ContainsFunc(n.Links, func(l savedLink) bool {
		return !slices.ContainsFunc(o.Links, func(other savedLink) bool { return other.Name == l.Name && other.identity == l.identity })
	})
}

// item is a message of the kernel, and for people what it says.
type item struct {
	Text    string
	Message []byte
}

// savedLink is a link and its settings outside the link itself.
type savedLink struct {
	linkState
	identity
	MasterName string               `json:",omitempty"`
	MasterKind string               `json:",omitempty"`
	MasterMAC  string               `json:",omitempty"`
	VLANs      []*nl.BridgeVlanInfo `json:",omitempty"`
	Sysctls    map[string]string    `json:",omitempty"` // below /proc/sys/net, "*" for the name
}

// hardware says whether the link comes back with its driver, and is not to be made.
func (l savedLink) hardware() bool { return l.Bus != "" }

// SaveNetwork reads the configuration of the interfaces a Use has. Privilege: root may read a few more settings of
// /proc/sys; nothing else is needed.
func (h *Host) SaveNetwork(interfaces []Interface) (*Network, error) {
	state, err := h.net()
	if err != nil {
		return nil, fmt.Errorf("save network: %w", err)
	}
	n := &Network{Saved: time.Now()}
	set := map[int]bool{}
	for _, i := range interfaces {
		l := state.named(i.Name)
		if l == nil {
			return nil, fmt.Errorf("save network: interface %s went", i.Name)
		}
		for _, l := range append([]linkState{*l}, state.stacked(l.Index)...) {
			if !set[l.Index] {
				set[l.Index] = true
				n.Links = append(n.Links, h.saveLink(state, l))
			}
		}
	}
	s := &saver{Network: n, state: state, set: set, ips: map[string]bool{}}
	s.addresses()
	s.others(ownRA(n.Links))
	n.Lost = state.lost(n.Links, set)
	return n, nil
}

func (h *Host) saveLink(state *netState, l linkState) savedLink {
	s := savedLink{linkState: l, Sysctls: h.readSysctls(l.Name), VLANs: state.vlans[int32(l.Index)]}
	s.identity, _ = h.identify(l.Name)
	if m := state.link(l.Master); m != nil && l.Master != 0 {
		s.MasterName, s.MasterKind, s.MasterMAC = m.Name, m.Kind, m.MAC
	}
	return s
}

// ownRA returns the links on which the kernel itself listens to router advertisements: it makes their routes again, and
// stumbles over one that is there but not its own (net/ipv6/ndisc.c, ndisc_router_discovery).
func ownRA(links []savedLink) map[int]bool {
	set := map[int]bool{}
	for _, l := range links {
		accept, forwarding := l.Sysctls["ipv6/conf/*/accept_ra"], l.Sysctls["ipv6/conf/*/forwarding"]
		set[l.Index] = accept == "2" || accept == "1" && forwarding == "0"
	}
	return set
}

// saver collects what is on a set of links.
type saver struct {
	*Network
	state *netState
	set   map[int]bool
	ips   map[string]bool // their own addresses
}

// save adds a message as it is to be given back.
func (s *saver) save(to *[]item, m *message) {
	c, err := decode(m.kind, m.encode()) // a copy
	if err != nil {
		return // can not be: it was just decoded
	}
	c.clean()
	*to = append(*to, item{Text: c.describe(s.name), Message: c.encode()})
}

func (s *saver) name(index int) string {
	if l := s.state.link(index); l != nil {
		return l.Name
	}
	return fmt.Sprintf("#%d", index)
}

func (s *saver) addresses() {
	var newest []item
	for _, a := range s.state.addresses {
		l := s.state.link(int(u32(a.head[4:])))
		if l == nil || !s.set[l.Index] {
			continue
		}
		s.ips[string(local(a))] = true
		switch {
		case !keepAddress(a, l, s.sysctl(l.Index, "ipv6/conf/*/addr_gen_mode")):
		case a.family() == syscall.AF_INET6:
			s.save(&newest, a)
		default:
			s.save(&s.Addresses, a)
		}
	}
	// IPv6 tells the newest first (net/ipv6/addrconf.c, ipv6_link_dev_addr), IPv4 the oldest, which is the primary one.
	slices.Reverse(newest)
	s.Addresses = append(s.Addresses, newest...)
}

// others collects what is not an address, after the addresses.
func (s *saver) others(ownRA map[int]bool) {
	for _, m := range savedHops(s.state.nextHops, s.set) {
		s.save(&s.NextHops, m)
	}
	for _, m := range s.state.neighbors {
		if l := s.state.link(int(u32(m.head[4:]))); l != nil && s.set[l.Index] && keepNeighbor(m, l) {
			s.save(&s.Neighbors, m)
		}
	}
	tables := map[uint32]bool{}
	for _, m := range s.state.routes {
		if s.goes(m, s.set, s.ips) && keepRoute(m, ownRA) {
			tables[table(m)] = true
			s.save(&s.Routes, m)
		}
	}
	for _, m := range s.state.rules {
		if s.keepRule(m, s.ips, tables) {
			s.save(&s.Rules, m)
		}
	}
}

func (n *Network) sysctl(index int, key string) string {
	for _, l := range n.Links {
		if l.Index == index {
			return l.Sysctls[key]
		}
	}
	return ""
}

// lost says what can not be given back.
func (s *netState) lost(links []savedLink, set map[int]bool) []string {
	var list []string
	for _, l := range links {
		if !l.hardware() && !l.canBeMade() {
			list = append(list, fmt.Sprintf("%s (%s) can not be made again", l.Name, l.Kind))
		}
		if l.xdp {
			list = append(list, "the XDP program on "+l.Name)
		}
		for _, q := range s.qdiscs {
			// What the kernel put there by itself has no handle.
			if int(u32(q.head[4:])) == l.Index && u32(q.head[8:]) != 0 {
				list = append(list, "traffic control (tc) on "+l.Name)
				break
			}
		}
	}
	for _, l := range s.links {
		if set[l.Lower] && !set[l.Index] && l.Kind != "veth" {
			list = append(list, fmt.Sprintf("%s (%s) on %s", l.Name, l.Kind, s.link(l.Lower).Name))
		}
	}
	return list
}

// keepAddress says whether an address is to be given back: not what the kernel makes itself once the link is up.
func keepAddress(a *message, l *linkState, genMode string) bool {
	const temporary, stablePrivacy, kernelLL = 0x01, 0x800, 2 // IFA_F_…, IFAPROT_KERNEL_LL
	if a.family() != syscall.AF_INET6 {
		return true
	}
	flags := a.u32(ifaFlags)
	if flags&temporary != 0 {
		return false
	}
	if a.head[3] != syscall.RT_SCOPE_LINK {
		return true
	}
	if proto := a.find(ifaProto); len(proto) > 0 && proto[0] == kernelLL {
		return false
	}
	mac, err := net.ParseMAC(l.MAC)
	if err != nil || genMode == "1" || len(mac) != 6 { // IN6_ADDR_GEN_MODE_NONE
		return true
	}
	eui := net.IP{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}
	return flags&stablePrivacy == 0 && !eui.Equal(net.IP(a.find(syscall.IFA_ADDRESS)))
}

// keepNeighbor says whether an entry is one that somebody set.
func keepNeighbor(m *message, l *linkState) bool {
	const permanent, noarp = 0x80, 0x40
	state, flags := native.Uint16(m.head[8:]), m.head[10]
	if flags&netlink.NTF_EXT_LEARNED != 0 {
		return false // its daemon learns it again
	}
	if m.family() != syscall.AF_BRIDGE {
		return flags&netlink.NTF_PROXY != 0 || state&permanent != 0
	}
	mac := net.HardwareAddr(m.find(ndaLLAddr))
	// Multicast and the port's own the kernel adds by itself.
	return state&(permanent|noarp) != 0 && len(mac) > 0 && mac[0]&1 == 0 && mac.String() != l.MAC
}
