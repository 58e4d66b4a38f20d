// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
)

// master puts a link back into its bridge, bond or VRF, with its settings as a port.
func (r *restorer) master(saved savedLink, now linkState) {
	if saved.MasterName == "" {
		return
	}
	links, err := readLinks()
	i := slices.IndexFunc(links, func(l linkState) bool { return l.Name == saved.MasterName })
	if err != nil || i < 0 {
		r.failed("put %s back into %s: %w", saved.Name, saved.MasterName, errors.Join(err, syscall.ENODEV))
		return
	}
	if now.Master != links[i].Index {
		if saved.MasterKind == "bond" && now.up() {
			if err := setFlags(now.Index, syscall.IFF_UP, 0); err != nil {
				r.failed("put %s back into %s: set it down: %w", saved.Name, saved.MasterName, err)
			}
		}
		if err := whileDown(now.Index, attribute{syscall.IFLA_MASTER, number(links[i].Index)}); err != nil {
			r.failed("put %s back into %s: %w", saved.Name, saved.MasterName, err)
			return
		}
	}
	r.port(saved, now.Index)
	r.vlans(saved, now.Index)
}

// port gives back the settings of a port that differ (net/bridge/br_netlink.c, br_setport; drivers/net/bonding/
// bond_netlink.c, bond_slave_changelink).
func (r *restorer) port(saved savedLink, index int) {
	now, err := linkByIndex(index)
	if err != nil {
		r.failed("give back %s: %w", saved.Name, err)
		return
	}
	want, err := decodeAttrs(saved.SlaveData)
	have, err2 := decodeAttrs(now.SlaveData)
	if err := errors.Join(err, err2); err != nil {
		r.failed("give back %s: %w", saved.Name, err)
		return
	}
	for _, a := range want {
		if !portSetting(saved.SlaveKind, a.number&0x3fff) || bytes.Equal(find(have, a.number&0x3fff), a.data) {
			continue
		}
		info := []attribute{
			{nl.IFLA_INFO_SLAVE_KIND, text(saved.SlaveKind)},
			{nl.IFLA_INFO_SLAVE_DATA | nested, encodeAttrs([]attribute{a})},
		}
		m := linkMessage(index, attribute{syscall.IFLA_LINKINFO | nested, encodeAttrs(info)})
		if err := send(syscall.RTM_NEWLINK, 0, m); err != nil {
			r.failed("give back setting %d of %s as a port of %s: %w", a.number&0x3fff, saved.Name, saved.MasterName, err)
		}
	}
}

// portSetting says whether an attribute of a port is a setting and not its state (IFLA_BRPORT_…, IFLA_BOND_SLAVE_…).
// The backup port of a bridge port is left out, it is an index.
func portSetting(kind string, number uint16) bool {
	switch kind {
	case "bridge":
		return number >= 2 && number <= 12 || number >= 25 && number <= 33 && number != 26 || number == 37 ||
			number == 39 || number == 40 || number == 42 || number == 43
	case "bond":
		return number == 5 || number == 9
	}
	return false
}

// vlans gives a bridge port its VLANs back and takes away the default one it got if it had not.
func (r *restorer) vlans(saved savedLink, index int) {
	all, err := netlink.BridgeVlanList()
	if err != nil && len(saved.VLANs) > 0 {
		r.failed("give back VLANs of %s: %w", saved.Name, err)
		return
	}
	now := all[int32(index)]
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	// The flags of a range's ends (2, 3 … 0x18) do not occur: ranges are told only when asked for.
	for _, v := range now {
		if len(saved.VLANs) > 0 && !slices.ContainsFunc(saved.VLANs, func(s *nl.BridgeVlanInfo) bool { return s.Vid == v.Vid }) {
			if err := netlink.BridgeVlanDel(link, v.Vid, false, false, false, true); err != nil {
				r.failed("take VLAN %d from %s: %w", v.Vid, saved.Name, err)
			}
		}
	}
	for _, v := range saved.VLANs {
		if slices.ContainsFunc(now, func(n *nl.BridgeVlanInfo) bool { return *n == *v }) {
			continue
		}
		if err := netlink.BridgeVlanAdd(link, v.Vid, v.PortVID(), v.EngressUntag(), false, true); err != nil {
			r.failed("give back VLAN %d of %s: %w", v.Vid, saved.Name, err)
		}
	}
}

// masters gives bonds their MAC addresses back: one that loses its last port takes a random one, and then that of the
// first port it gets (drivers/net/bonding/bond_main.c, __bond_release_one, bond_enslave).
func (r *restorer) masters() {
	links, err := readLinks()
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	for _, saved := range r.Links {
		if saved.MasterKind != "bond" || r.index[saved.Index] == 0 {
			continue
		}
		i := slices.IndexFunc(links, func(l linkState) bool { return l.Name == saved.MasterName })
		mac, err := net.ParseMAC(saved.MasterMAC)
		if i < 0 || err != nil || links[i].MAC == saved.MasterMAC {
			continue
		}
		if err := setLink(links[i].Index, attribute{syscall.IFLA_ADDRESS, mac}); err != nil {
			r.failed("give back MAC address %s of %s: %w", mac, saved.MasterName, err)
		}
		links[i].MAC = saved.MasterMAC
	}
}
