// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
)

// Attributes of include/uapi/linux/if_link.h.
const (
	vlanFlags = 2 // IFLA_VLAN_FLAGS

	vxlanLink       = 3
	vxlanTTLInherit = 28

	macvlanAddressMode  = 3
	macvlanAddressData  = 5
	macvlanAddressCount = 6
	macvlanQueueUsed    = 8
	macvlanAddressSet   = 3 // MACVLAN_MACADDR_SET
)

// settable are the flags of an interface somebody can set.
const settable = syscall.IFF_NOARP | syscall.IFF_PROMISC | syscall.IFF_ALLMULTI | syscall.IFF_MULTICAST

// link makes one link what it was. The order matters: most drivers change MAC address and name of an interface that is
// down only, bonding takes one that is down only, and IPv6 makes its addresses when it comes up.
func (r *restorer) link(saved savedLink) error {
	index, ok := r.index[saved.Index]
	if !ok {
		if saved.hardware() {
			return nil // still to come
		}
		var err error
		if index, err = r.create(saved); err != nil || index == 0 {
			return err
		}
		r.index[saved.Index] = index
	}
	now, err := linkByIndex(index)
	if err != nil {
		return fmt.Errorf("give back %s: %w", saved.Name, err)
	}
	r.attributes(saved, now)
	// What fails is reported when it is tried again at the end.
	_ = r.writeSysctls(now.Name, saved.Sysctls)
	r.master(saved, now)
	mask, flags := uint32(settable), saved.Flags&settable
	if saved.up() {
		mask, flags = mask|syscall.IFF_UP, flags|syscall.IFF_UP
	}
	if now, err = linkByIndex(index); err != nil {
		return fmt.Errorf("give back %s: %w", saved.Name, err)
	}
	if now.Flags&mask != flags {
		if err := setFlags(index, mask, flags); err != nil {
			return fmt.Errorf("give back flags %#x of %s: %w", flags, saved.Name, err)
		}
	}
	return nil
}

// attributes gives back what differs, each by itself, so that one the new driver can not take costs no other.
func (r *restorer) attributes(saved savedLink, now linkState) {
	set := func(differs bool, what string, attr attribute) {
		if !differs {
			return
		}
		if err := whileDown(now.Index, attr); err != nil {
			r.failed("give back %s of %s: %w", what, saved.Name, err)
		}
	}
	// A bond gives its ports their MAC address.
	if mac, err := net.ParseMAC(saved.MAC); err == nil && saved.MasterKind != "bond" {
		set(saved.MAC != now.MAC, "MAC address "+saved.MAC, attribute{syscall.IFLA_ADDRESS, mac})
	}
	set(saved.MTU != now.MTU, fmt.Sprintf("MTU %d", saved.MTU), attribute{syscall.IFLA_MTU, number(saved.MTU)})
	set(saved.TxQueue != now.TxQueue, fmt.Sprintf("queue length %d", saved.TxQueue),
		attribute{syscall.IFLA_TXQLEN, number(saved.TxQueue)})
	set(saved.Group != now.Group, fmt.Sprintf("group %d", saved.Group), attribute{iflaGroup, number(saved.Group)})
	set(saved.Alias != now.Alias, "alias "+saved.Alias, attribute{syscall.IFLA_IFALIAS, []byte(saved.Alias)})
	for _, name := range saved.AltNames {
		if slices.Contains(now.AltNames, name) {
			continue
		}
		m := linkMessage(now.Index, attribute{iflaPropList | nested, encodeAttrs([]attribute{{iflaAltName, text(name)}})})
		// When another one has it (a name of the new driver's udev rule), that is an error as well.
		if err := send(rtmNewLinkProp, syscall.NLM_F_CREATE|syscall.NLM_F_EXCL|syscall.NLM_F_APPEND, m); err != nil {
			r.failed("give back name %s of %s: %w", name, saved.Name, err)
		}
	}
}

// create makes a link without a device again; index 0 when what it is stacked on is not there.
func (r *restorer) create(saved savedLink) (int, error) {
	if !slices.Contains(makeable, saved.Kind) {
		return 0, fmt.Errorf("give back %s: a link of kind %q can not be made again", saved.Name, saved.Kind)
	}
	info := []attribute{{nl.IFLA_INFO_KIND, text(saved.Kind)}}
	attrs := []attribute{{syscall.IFLA_IFNAME, text(saved.Name)}}
	lower := 0
	if saved.Lower != 0 {
		if lower = r.index[saved.Lower]; lower == 0 {
			return 0, nil
		}
		attrs = append(attrs, attribute{syscall.IFLA_LINK, number(lower)})
	}
	data, err := infoData(saved, lower)
	if err != nil {
		return 0, fmt.Errorf("give back %s: %w", saved.Name, err)
	}
	if len(data) > 0 {
		info = append(info, attribute{nl.IFLA_INFO_DATA | nested, data})
	}
	attrs = append(attrs, attribute{syscall.IFLA_LINKINFO | nested, encodeAttrs(info)})
	if err := send(syscall.RTM_NEWLINK, syscall.NLM_F_CREATE|syscall.NLM_F_EXCL, linkMessage(0, attrs...)); err != nil {
		return 0, fmt.Errorf("make %s (%s) again: %w", saved.Name, saved.Kind, err)
	}
	links, err := readLinks()
	if err != nil {
		return 0, err
	}
	for _, l := range links {
		if l.Name == saved.Name {
			return l.Index, nil
		}
	}
	return 0, fmt.Errorf("make %s (%s) again: it went at once", saved.Name, saved.Kind)
}

// infoData returns the settings of a link as its driver takes them, which is nearly as it tells them.
func infoData(saved savedLink, lower int) ([]byte, error) {
	attrs, err := decodeAttrs(saved.Data)
	if err != nil {
		return nil, err
	}
	m := message{attrs: attrs}
	switch saved.Kind {
	case "vlan":
		// struct ifla_vlan_flags: told with all bits in the mask, taken with known ones only (net/8021q/vlan_dev.c,
		// vlan_dev_change_flags). Bit 0 is the one that is set by itself.
		if flags := m.find(vlanFlags); len(flags) >= 8 {
			native.PutUint32(flags[4:], u32(flags)|1)
		}
	case "vxlan":
		if lower != 0 {
			m.set(vxlanLink, number(lower))
		}
		// Told as a byte, taken as a flag (drivers/net/vxlan/vxlan_core.c, vxlan_policy).
		if inherit := m.find(vxlanTTLInherit); inherit != nil {
			m.drop(vxlanTTLInherit)
			if len(inherit) == 0 || inherit[0] != 0 {
				m.set(vxlanTTLInherit, nil)
			}
		}
	case "macvlan", "macvtap":
		// Both are told and refused (drivers/net/macvlan.c, macvlan_validate and macvlan_policy).
		m.drop(macvlanAddressCount, macvlanQueueUsed)
		if m.find(macvlanAddressData) != nil {
			m.set(macvlanAddressMode, number(macvlanAddressSet))
		}
	}
	return encodeAttrs(m.attrs), nil
}

func linkByIndex(index int) (linkState, error) {
	links, err := readLinks()
	if err != nil {
		return linkState{}, err
	}
	for _, l := range links {
		if l.Index == index {
			return l, nil
		}
	}
	return linkState{}, syscall.ENODEV
}

func setLink(index int, attrs ...attribute) error {
	return send(syscall.RTM_SETLINK, 0, linkMessage(index, attrs...))
}

// whileDown sets what an interface may take only while it is down; it is brought up again later, with its other flags.
func whileDown(index int, attrs ...attribute) error {
	err := setLink(index, attrs...)
	if !errors.Is(err, syscall.EBUSY) {
		return err
	}
	if err := setFlags(index, syscall.IFF_UP, 0); err != nil {
		return err
	}
	return setLink(index, attrs...)
}

func setFlags(index int, mask, flags uint32) error {
	m := linkMessage(index)
	native.PutUint32(m.head[8:], flags)
	native.PutUint32(m.head[12:], mask)
	return send(syscall.RTM_NEWLINK, 0, m)
}
