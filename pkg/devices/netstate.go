// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
)

// netState is all of a network namespace that matters here.
type netState struct {
	links     []linkState
	addresses []*message
	nextHops  []*message
	neighbors []*message // bridge and proxy entries too
	routes    []*message
	rules     []*message
	qdiscs    []*message
	vlans     map[int32][]*nl.BridgeVlanInfo // of bridge ports
}

// linkState is a network interface as the kernel tells it.
type linkState struct {
	Index        int
	Name         string
	Alias        string   `json:",omitempty"`
	AltNames     []string `json:",omitempty"`
	MAC          string   `json:",omitempty"`
	PermanentMAC string   `json:",omitempty"`
	MTU          int
	TxQueue      int
	Group        int `json:",omitempty"`
	Flags        uint32
	Kind         string `json:",omitempty"`
	Data         []byte `json:",omitempty"` // IFLA_INFO_DATA
	Lower        int    `json:",omitempty"` // index of what it is stacked on, in this namespace
	Master       int    `json:",omitempty"`
	SlaveKind    string `json:",omitempty"`
	SlaveData    []byte `json:",omitempty"` // IFLA_INFO_SLAVE_DATA

	xdp bool
}

func (l linkState) up() bool { return l.Flags&syscall.IFF_UP != 0 }

// running says whether packets get through as far as the driver knows (netdevice(7), IFF_RUNNING).
func (l linkState) running() bool { return l.Flags&syscall.IFF_RUNNING != 0 }

func readLinks() ([]linkState, error) {
	m := linkMessage(0, attribute{iflaMask, number(skipStats)})
	list, err := dump(syscall.RTM_NEWLINK, m.encode())
	links := make([]linkState, len(list))
	for i, m := range list {
		links[i] = parseLink(m)
	}
	return links, err
}

func parseLink(m *message) linkState {
	l := linkState{Index: int(u32(m.head[4:])), Flags: u32(m.head[8:])}
	elsewhere := false
	for _, a := range m.attrs {
		switch a.number & 0x3fff {
		case syscall.IFLA_IFNAME:
			l.Name = str(a.data)
		case syscall.IFLA_IFALIAS:
			l.Alias = str(a.data)
		case syscall.IFLA_ADDRESS:
			l.MAC = net.HardwareAddr(a.data).String()
		case iflaPermAddress:
			l.PermanentMAC = net.HardwareAddr(a.data).String()
		case syscall.IFLA_MTU:
			l.MTU = int(u32(a.data))
		case syscall.IFLA_TXQLEN:
			l.TxQueue = int(u32(a.data))
		case iflaGroup:
			l.Group = int(u32(a.data))
		case syscall.IFLA_LINK:
			l.Lower = int(u32(a.data))
		case iflaNetnsID:
			elsewhere = true
		case syscall.IFLA_MASTER:
			l.Master = int(u32(a.data))
		case syscall.IFLA_LINKINFO:
			l.parseInfo(a.data)
		case iflaPropList:
			l.AltNames = parseNames(a.data)
		case iflaXDP:
			l.xdp = parseXDP(a.data)
		}
	}
	if l.Kind == "vxlan" && l.Lower == 0 {
		l.Lower = int(u32(find(l.data(), vxlanLink))) // told there only
	}
	if elsewhere || l.Lower == l.Index {
		l.Lower = 0
	}
	return l
}

// data returns the attributes of its kind.
func (l linkState) data() []attribute {
	attrs, err := decodeAttrs(l.Data)
	if err != nil {
		return nil
	}
	return attrs
}

func (l *linkState) parseInfo(b []byte) {
	attrs, err := decodeAttrs(b)
	if err != nil {
		return
	}
	for _, a := range attrs {
		switch a.number & 0x3fff {
		case nl.IFLA_INFO_KIND:
			l.Kind = str(a.data)
		case nl.IFLA_INFO_DATA:
			l.Data = a.data
		case nl.IFLA_INFO_SLAVE_KIND:
			l.SlaveKind = str(a.data)
		case nl.IFLA_INFO_SLAVE_DATA:
			l.SlaveData = a.data
		}
	}
}

func parseNames(b []byte) []string {
	var list []string
	attrs, err := decodeAttrs(b)
	if err != nil {
		return nil
	}
	for _, a := range attrs {
		list = append(list, str(a.data))
	}
	return list
}

// parseXDP says whether a program is attached (IFLA_XDP_ATTACHED, not XDP_ATTACHED_NONE).
func parseXDP(b []byte) bool {
	attrs, err := decodeAttrs(b)
	attached := find(attrs, 2)
	return err == nil && len(attached) > 0 && attached[0] != 0
}

// readNetState reads everything. No privilege is needed.
func readNetState() (*netState, error) {
	s := &netState{}
	var errs []error
	get := func(list *[]*message, kind uint16, request []byte) {
		got, err := dump(kind, request)
		errs = append(errs, err)
		*list = append(*list, got...)
	}
	links, err := readLinks()
	s.links, errs = links, append(errs, err)
	for _, family := range []byte{syscall.AF_INET, syscall.AF_INET6} {
		get(&s.addresses, syscall.RTM_NEWADDR, header(syscall.RTM_NEWADDR, family))
		get(&s.routes, syscall.RTM_NEWROUTE, header(syscall.RTM_NEWROUTE, family))
		get(&s.rules, rtmNewRule, header(rtmNewRule, family))
		get(&s.neighbors, syscall.RTM_NEWNEIGH, header(syscall.RTM_NEWNEIGH, family))
		proxy := header(syscall.RTM_NEWNEIGH, family)
		proxy[10] = netlink.NTF_PROXY
		get(&s.neighbors, syscall.RTM_NEWNEIGH, proxy)
	}
	// Entries of bridges are asked for with the header of a link (net/core/rtnetlink.c, valid_fdb_dump_legacy).
	get(&s.neighbors, syscall.RTM_NEWNEIGH, header(syscall.RTM_NEWLINK, syscall.AF_BRIDGE))
	get(&s.nextHops, rtmNewNextHop, header(rtmNewNextHop, syscall.AF_UNSPEC))
	get(&s.qdiscs, rtmNewQdisc, header(rtmNewQdisc, syscall.AF_UNSPEC))
	vlans, err := netlink.BridgeVlanList()
	if err != nil && !errors.Is(err, syscall.EOPNOTSUPP) {
		errs = append(errs, fmt.Errorf("ask kernel for bridge VLANs: %w", err))
	}
	s.vlans = vlans
	return s, errors.Join(errs...)
}

// link finds a link by its index, nil when there is none.
func (s *netState) link(index int) *linkState {
	i := slices.IndexFunc(s.links, func(l linkState) bool { return l.Index == index })
	if i < 0 {
		return nil
	}
	return &s.links[i]
}

// named finds a link by its name.
func (s *netState) named(name string) *linkState {
	i := slices.IndexFunc(s.links, func(l linkState) bool { return l.Name == name })
	if i < 0 {
		return nil
	}
	return &s.links[i]
}

// stackable are the kinds of links that go with the one below, and that can be made again from what the kernel tells
// about them (each driver's notifier: net/8021q/vlan.c, drivers/net/macvlan.c, drivers/net/ipvlan/, drivers/net/vxlan/).
var stackable = []string{"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "vxlan"}

// makeable are the kinds without a device that can be made again.
var makeable = append([]string{"dummy", "ifb"}, stackable...)

// canBeMade says whether a link without a device can be made again from what the kernel tells about it.
func (l linkState) canBeMade() bool { return slices.Contains(makeable, l.Kind) }

// stacked returns the links that go with one, each after what it is stacked on.
func (s *netState) stacked(index int) []linkState {
	var list []linkState
	seen := map[int]bool{index: true}
	for queue := []int{index}; len(queue) > 0; queue = queue[1:] {
		for _, l := range s.links {
			if l.Lower == queue[0] && !seen[l.Index] && slices.Contains(stackable, l.Kind) {
				seen[l.Index] = true
				list = append(list, l)
				queue = append(queue, l.Index)
			}
		}
	}
	return list
}
