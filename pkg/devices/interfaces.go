// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"net"
	"path/filepath"
	"strconv"
	"syscall"
)

// kindModule has the modules that implement links of a kind under another name (MODULE_ALIAS_RTNL_LINK).
var kindModule = map[string]string{
	"bond": "bonding", "vlan": "8021q", "batadv": "batman_adv", "xfrm": "xfrm_interface", "ovpn-dco": "ovpn_dco_v2",
	"gre": "ip_gre", "gretap": "ip_gre", "erspan": "ip_gre", "ip6gre": "ip6_gre", "ip6gretap": "ip6_gre",
	"ip6erspan": "ip6_gre", "vti": "ip_vti", "vti6": "ip6_vti", "ip6tnl": "ip6_tunnel", "ipvtap": "ipvtap",
	"ipoib": "ib_ipoib", "can": "can_dev", "wwan": "wwan",
}

// identity says which interface it is without its name and index.
type identity struct {
	Bus, Address string
	// Port tells several interfaces of one device apart.
	Port string `json:",omitempty"`
}

// identify climbs from an interface to the device that carries it. Numbers of virtio devices are given anew when
// virtio_pci is loaded again, the address of the PCI device stays.
func (h *Host) identify(name string) (id identity, path string) {
	path = real(h.path("sys/class/net", name, "device"))
	dir := path
	for dir != "" && target(filepath.Join(dir, "subsystem")) == "virtio" {
		dir = filepath.Dir(dir)
	}
	if dir == "" {
		return identity{}, path
	}
	id = identity{Bus: target(filepath.Join(dir, "subsystem")), Address: filepath.Base(dir)}
	if port, err := strconv.Atoi(h.line("sys/class/net", name, "dev_port")); err == nil && port != 0 {
		id.Port = strconv.Itoa(port)
	}
	// Representors of SR-IOV functions share all but this; most drivers answer EOPNOTSUPP.
	if port := h.line("sys/class/net", name, "phys_port_name"); port != "" {
		id.Port += "/" + port
	}
	return id, path
}

// Same reports whether o is an interface of the same device; without one, of the same name.
func (i Interface) Same(o Interface) bool {
	if i.Bus == "" || o.Bus == "" {
		return i.Name == o.Name
	}
	return i.Bus == o.Bus && i.Address == o.Address
}

// interfaces finds those that go with the module.
func (h *Host) interfaces(module string, bound []boundDevice) ([]Interface, error) {
	if !h.inNodeNetwork() {
		return nil, h.unseen(module, bound)
	}
	state, err := h.net()
	if err != nil {
		return nil, err
	}
	var list []Interface
	for _, l := range state.links {
		id, path := h.identify(l.Name)
		implements := l.Kind != "" && (canonical(l.Kind) == module || kindModule[l.Kind] == module)
		if !on(path, bound) && !implements {
			continue
		}
		i := Interface{Name: l.Name, Kind: l.Kind, Bus: id.Bus, Address: id.Address, MAC: l.MAC, Up: l.up()}
		i.Unmakeable = id.Bus == "" && !l.canBeMade()
		if m := state.link(l.Master); m != nil && l.Master != 0 {
			i.Master = m.Name
		}
		set := map[int]bool{l.Index: true}
		for _, s := range state.stacked(l.Index) {
			i.Stacked = append(i.Stacked, s.Name)
			set[s.Index] = true
		}
		for _, a := range state.addresses {
			if int(u32(a.head[4:])) == l.Index && a.head[3] != syscall.RT_SCOPE_LINK {
				i.Addresses = append(i.Addresses, prefix(a))
			}
		}
		i.Routes, i.Default = state.routesOver(set, l.Master)
		list = append(list, i)
	}
	return list, nil
}

// routesOver counts the routes over some links and says whether a default route leads over them or over the master.
func (s *netState) routesOver(set map[int]bool, master int) (count int, byDefault bool) {
	over := func(m *message, want func(int) bool) bool {
		found := false
		m.eachIndex(func(p []byte) { found = found || want(int(u32(p))) })
		return found
	}
	isSet := func(i int) bool { return set[i] }
	isMaster := func(i int) bool { return i == master && master != 0 }
	for _, r := range s.routes {
		if table(r) == syscall.RT_TABLE_LOCAL {
			continue
		}
		isDefault := r.head[1] == 0 && r.head[7] == syscall.RTN_UNICAST
		if over(r, isSet) {
			count++
			byDefault = byDefault || isDefault
		}
		byDefault = byDefault || isDefault && over(r, isMaster)
	}
	return count, byDefault
}

// table returns a route's or rule's table: the attribute, for the byte in the header is too small for most.
func table(m *message) uint32 {
	if t := m.u32(syscall.RTA_TABLE); t != 0 {
		return t
	}
	return uint32(m.head[4])
}

// local returns the address itself; with a peer IFA_ADDRESS is the peer's.
func local(a *message) net.IP {
	if ip := a.find(syscall.IFA_LOCAL); ip != nil {
		return ip
	}
	return a.find(syscall.IFA_ADDRESS)
}

// prefix returns an address as "10.0.2.15/24".
func prefix(a *message) string {
	return local(a).String() + "/" + strconv.Itoa(int(a.head[1]))
}
