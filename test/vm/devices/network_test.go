// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"cmp"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/devices"
)

const (
	tick     = 50 * time.Millisecond
	patience = time.Minute
)

// configurations are networks on eth0, each made, saved, lost, given back and taken down again.
var configurations = []struct{ name, module, up string }{
	{
		name: "plain",
		up: `
			echo 1 >/proc/sys/net/ipv6/conf/eth0/dad_transmits
			ip link set eth0 mtu 1400 txqueuelen 777 alias uplink group 5
			ip link property add dev eth0 altname the-uplink
			ip addr add 192.0.2.5/24 brd 192.0.2.255 dev eth0 label eth0:1
			ip addr add 192.0.2.6/24 dev eth0
			ip addr add 198.51.100.1 peer 198.51.100.2/32 dev eth0
			ip addr add 203.0.113.9/24 dev eth0 valid_lft 5000 preferred_lft 4000 noprefixroute
			ip addr add 2001:db8::5/64 dev eth0
			ip addr add 2001:db8::6/64 dev eth0
			ip addr add fe80::99/64 dev eth0
			ip route add 10.9.0.0/16 via 10.0.2.2 src 192.0.2.5 metric 50 mtu 1300 proto static
			ip route append 10.9.0.0/16 via 10.0.2.3 metric 50
			ip route add 10.10.0.0/16 via 172.31.0.1 dev eth0 onlink advmss 1000
			ip route add 10.11.0.0/16 nexthop via 10.0.2.3 weight 2 nexthop via 10.0.2.4
			ip route add default via 192.0.2.1 dev eth0 table 100
			ip route add 192.0.2.0/24 dev eth0 scope link table 100
			ip route add 10.12.0.0/16 via 192.0.2.1 table 70000
			# A tentative address is no source.
			while ip -6 addr show tentative | grep -q .; do sleep 0.1; done
			ip route add 2001:db8:1::/48 via 2001:db8::1 src 2001:db8::6 metric 77
			ip route add 2001:db8:2::/48 nexthop via 2001:db8::1 nexthop via 2001:db8::2 weight 3
			ip route add 2001:db8:3::/48 via 2001:db8::1 expires 5000
			ip -6 route add default via 2001:db8::1 table 100
			ip rule add from 192.0.2.5 lookup 100 priority 1000
			ip rule add iif eth0 fwmark 7 lookup 100 priority 1001
			ip -6 rule add from 2001:db8::/64 lookup 100 priority 1002
			ip neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent
			ip neigh add 2001:db8::77 lladdr 02:00:00:00:00:78 dev eth0 nud permanent
			ip neigh add proxy 192.0.2.88 dev eth0
			ip link set eth0 promisc on
			echo 1 >/proc/sys/net/ipv4/conf/eth0/proxy_arp
			echo 2 >/proc/sys/net/ipv4/conf/eth0/rp_filter
			echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_redirects
			echo 1280 >/proc/sys/net/ipv6/conf/eth0/mtu
			echo 33 >/proc/sys/net/ipv4/neigh/eth0/gc_stale_time
			# A route over another interface goes with its source address.
			ip link add other type dummy && ip link set other up
			ip addr add 2001:db8:99::1/64 dev other nodad
			settled other
			ip route add 10.13.0.0/16 dev other src 192.0.2.5
			ip -6 route add 2001:db8:4::/48 nexthop via 2001:db8::1 nexthop via 2001:db8:99::2`,
	},
	{
		name: "next hop objects",
		up: `
			ip nexthop add id 7 via 10.0.2.2 dev eth0
			ip nexthop add id 8 via 10.0.2.3 dev eth0
			ip nexthop add id 9 group 7,3/8
			ip route add 10.9.0.0/16 nhid 7
			ip route add 10.10.0.0/16 nhid 9
			ip nexthop add id 10 group 7/8 type resilient buckets 8 idle_timer 60 unbalanced_timer 300
			ip route add 10.11.0.0/16 nhid 10`,
	},
	{
		name: "stacked",
		up: `
			ip link add link eth0 name eth0.100 type vlan id 100 egress-qos-map 1:2
			ip link set eth0.100 mtu 1450 up
			ip addr add 192.0.2.5/24 dev eth0.100
			ip addr add 2001:db8::5/64 dev eth0.100
			ip route add 10.9.0.0/16 via 192.0.2.1 table 100
			ip rule add oif eth0.100 lookup 100 priority 1000
			ip neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0.100 nud permanent
			ip link add link eth0.100 name qinq type vlan id 7 protocol 802.1ad
			ip link set qinq up
			ip link add link eth0 name mac0 type macvlan mode bridge
			ip link set mac0 up
			ip addr add 198.51.100.5/24 dev mac0
			ip link add link eth0 name macs type macvlan mode source
			ip link set macs type macvlan macaddr add 02:00:00:00:00:05
			ip link add flannel.1 type vxlan id 1 dev eth0 local 10.0.2.15 dstport 8472 nolearning
			ip link set flannel.1 address 02:00:00:00:00:01 up
			ip addr add 10.244.0.0/32 dev flannel.1
			ip neigh add 10.244.1.0 lladdr 02:00:00:00:01:00 dev flannel.1 nud permanent
			ip route add 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink
			ip link add br0 type bridge vlan_filtering 0
			ip link add link eth0 name eth0.200 type vlan id 200
			ip link set eth0.200 master br0 up
			ip link set eth0.200 type bridge_slave hairpin on cost 55
			ip link set br0 up
			echo 0 >/proc/sys/net/ipv4/conf/eth0.100/send_redirects
			for link in eth0.100 qinq mac0 flannel.1 eth0.200 br0; do settled $link; done`,
	},
	{
		name: "bond in a bridge",
		up: `
			ip -4 addr flush dev eth0
			ip link set eth0 down
			ip link add bond0 type bond mode active-backup miimon 100 primary eth0
			ip link set eth0 master bond0
			ip link set eth0 type bond_slave queue_id 3
			ip link add br0 type bridge
			ip link set bond0 master br0
			ip link set bond0 address 02:00:00:00:00:bb
			ip link set bond0 up; ip link set br0 up
			ip addr add 10.0.2.15/24 dev br0
			ip route add default via 10.0.2.2
			settled br0; settled bond0`,
	},
	{
		name: "bridge port",
		up: `
			ip -4 addr flush dev eth0
			ip link set eth0 down
			ip link add br0 type bridge vlan_filtering 1 vlan_default_pvid 5
			ip link set eth0 master br0
			ip link set eth0 type bridge_slave learning off isolated on priority 7
			ip link set eth0 up
			ip link set br0 up
			ip addr add 10.0.2.15/24 dev br0
			ip route add default via 10.0.2.2
			settled br0; settled eth0`,
	},
	{
		name: "router advertisements",
		up: `
			ip link set eth0 down
			echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_ra
			ip link set eth0 up
			until ip -6 addr show dev eth0 -tentative | grep -q fec0:; do sleep 0.1; done`,
	},
	{
		name:   "links without a device",
		module: "dummy",
		up: `
			modprobe dummy numdummies=0
			ip link add dummy7 type dummy
			ip link set dummy7 address 02:00:00:00:00:07 mtu 9000 up
			ip link add link dummy7 name dummy7.5 type vlan id 5
			ip link set dummy7.5 up
			ip addr add 192.0.2.5/24 dev dummy7.5
			ip route add 10.9.0.0/16 via 192.0.2.1
			settled dummy7; settled dummy7.5`,
	},
	{
		name: "own MAC address, down",
		up: `
			ip link set eth0 down
			ip link set eth0 address 02:00:00:00:00:aa
			ip link set eth0 arp off`,
	},
}

// base is what every configuration starts with, and what the tests end with: only lo and eth0, as the VM came up.
const base = `
	for rule in $(ip rule | sed -n 's/^\(100[0-9]\):.*/\1/p'); do ip rule del priority $rule; done
	for rule in $(ip -6 rule | sed -n 's/^\(100[0-9]\):.*/\1/p'); do ip -6 rule del priority $rule; done
	rmmod virtio_net
	modprobe bonding max_bonds=0
	for link in /sys/class/net/*; do
		link=${link##*/}
		[ $link = lo ] || [ $link = bonding_masters ] || ip link del $link || [ ! -e /sys/class/net/$link ]
	done
	# QEMU answers router solicitations.
	echo 0 >/proc/sys/net/ipv6/conf/default/accept_ra
	echo 0 >/proc/sys/net/ipv6/conf/default/dad_transmits
	modprobe virtio_net
	ip link set eth0 up
	ip addr add 10.0.2.15/24 dev eth0
	ip route add default via 10.0.2.2
	settled eth0
`

func TestNetworkComesBack(t *testing.T) {
	for _, c := range configurations {
		t.Run(c.name, func(t *testing.T) {
			module := cmp.Or(c.module, "virtio_net")
			sh(t, base)
			sh(t, c.up)
			settle(t)
			before := network(t)
			n := saved(t, module)
			assert.Empty(t, n.Lost)

			exchange(t, module)
			require.NotEmpty(t, difference(before, network(t)), "it was lost")
			start := time.Now()
			assert.NoError(t, restore(t, n, patience))
			t.Log("given back in", time.Since(start))
			assertSame(t, before)

			assert.NoError(t, restore(t, n, patience), "again")
			assertSame(t, before)
		})
	}
	sh(t, base)
}

// restore gives back within some time.
func restore(t *testing.T, n *devices.Network, within time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return devices.Open("").RestoreNetwork(ctx, n)
}
