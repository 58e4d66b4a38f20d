// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// nodeTree makes the files of testdata/node.txt: "path -> target" is a link, "path = content" a file, "path/" a directory;
// and of more lines like these.
func nodeTree(t *testing.T, more ...string) *Host {
	t.Helper()
	b, err := os.ReadFile("testdata/node.txt")
	require.NoError(t, err)
	root := t.TempDir()
	for _, line := range append(strings.Split(string(b), "\n"), more...) {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if dir, ok := strings.CutSuffix(line, "/"); ok {
			require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
			continue
		}
		name, to, link := strings.Cut(line, " -> ")
		if link {
			require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
			require.NoError(t, os.Symlink(to, filepath.Join(root, name)))
			continue
		}
		name, content, _ := strings.Cut(line, " =")
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		content = strings.ReplaceAll(strings.TrimPrefix(content, " "), `\n`, "\n")
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(content+"\n"), 0o644))
	}
	// The swaps and numbers of a node have several lines.
	write := func(name, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o644))
	}
	write("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/dm-0 partition 1048572 0 -2\n/swapfile file 1 0 -3\n")
	write("proc/devices", "Character devices:\n  1 nvidia-frontend\n 10 misc\n252 null_blk\n\nBlock devices:\n  8 sd\n252 nullb\n254 device-mapper\n")
	h := Open(root)
	h.net = func() (*netState, error) { return nodeNetwork(), nil }
	return h
}

// nodeNetwork is what the kernel would tell of the node's network.
func nodeNetwork() *netState {
	link := func(index int, name, kind string, master, lower int, flags uint32) linkState {
		return linkState{Index: index, Name: name, Kind: kind, Master: master, Lower: lower, Flags: flags, MAC: "52:54:00:12:34:56"}
	}
	return &netState{
		links: []linkState{
			link(1, "lo", "", 0, 0, syscall.IFF_UP),
			link(2, "eth0", "", 5, 0, syscall.IFF_UP),
			link(3, "eth0.7", "vlan", 0, 2, syscall.IFF_UP),
			link(4, "q", "vlan", 0, 3, 0),
			link(5, "br0", "bridge", 0, 0, syscall.IFF_UP),
			link(6, "ens1", "", 0, 0, syscall.IFF_UP),
			link(7, "ens1_0", "", 0, 0, 0),
			link(8, "sec", "macsec", 0, 2, 0),
		},
		addresses: []*message{
			addressOf(2, []byte{10, 0, 2, 15}, 24, syscall.RT_SCOPE_UNIVERSE),
			addressOf(2, []byte{0xfe, 0x80, 8: 0x50, 0x54, 0, 0xff, 0xfe, 0x12, 0x34, 0x56}, 64, syscall.RT_SCOPE_LINK),
			addressOf(6, []byte{192, 0, 2, 1}, 24, syscall.RT_SCOPE_UNIVERSE),
		},
		routes: []*message{
			routeOf(syscall.RT_TABLE_LOCAL, 32, syscall.RTPROT_KERNEL, 2),
			routeOf(syscall.RT_TABLE_MAIN, 24, syscall.RTPROT_KERNEL, 2),
			routeOf(syscall.RT_TABLE_MAIN, 0, syscall.RTPROT_STATIC, 5),
			routeOf(100, 16, syscall.RTPROT_STATIC, 3),
			routeOf(syscall.RT_TABLE_MAIN, 24, syscall.RTPROT_KERNEL, 6),
		},
	}
}

func addressOf(index int, ip []byte, length, scope byte) *message {
	family := byte(syscall.AF_INET)
	if len(ip) > 4 {
		ip = append(ip, make([]byte, 16-len(ip))...)
		family = syscall.AF_INET6
	}
	m := &message{kind: syscall.RTM_NEWADDR, head: header(syscall.RTM_NEWADDR, family)}
	m.head[1], m.head[3] = length, scope
	native.PutUint32(m.head[4:], uint32(index))
	m.set(syscall.IFA_ADDRESS, ip)
	return m
}

func routeOf(table, length, protocol byte, oif int) *message {
	m := &message{kind: syscall.RTM_NEWROUTE, head: header(syscall.RTM_NEWROUTE, syscall.AF_INET)}
	m.head[1], m.head[4], m.head[5], m.head[7] = length, table, protocol, syscall.RTN_UNICAST
	m.set(syscall.RTA_TABLE, number(int(table)))
	m.set(syscall.RTA_OIF, number(oif))
	if length > 0 {
		m.set(syscall.RTA_DST, []byte{10, table, 0, 0})
	}
	return m
}
