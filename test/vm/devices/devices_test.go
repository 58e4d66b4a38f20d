// SPDX-License-Identifier: Apache-2.0

// Package devices tests pkg/devices on a real kernel.
package devices

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/kernel"
)

func TestMain(m *testing.M) {
	kernel.RunChild()
	if os.Getenv("KMMD_VM") == "" {
		fmt.Println("these tests change the running kernel; run them with -exec test/vm/exec")
		return
	}
	nl.EnableErrorMessageReporting = true
	os.Exit(m.Run())
}

// prelude has what the scripts below share: settled waits until an interface has the IPv6 address it makes itself.
const prelude = `
settled() { until ip -6 addr show dev $1 scope link -tentative | grep -q fe80; do sleep 0.1; done; }
`

// sh runs lines of shell and requires each to end well.
func sh(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-ec", prelude+script)
	cmd.WaitDelay = time.Second // the shell's children keep the pipe
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s\n%s", script, out)
	return string(out)
}

// volatile is what differs between two looks at the same configuration: counters, indices, clocks, link state.
var volatile = []string{
	"ifindex", "link_index", "valid_life_time", "preferred_life_time", "operstate", "expires", "used", "probes",
	"confirmed", "updated", "refcnt", "tentative", "qdisc", "stats64", "carrier_up_count", "carrier_down_count", "unbalanced_time",
}

// network returns all of the network's configuration, one JSON document for each line of ip.
func network(t *testing.T) []string {
	t.Helper()
	kinds := []string{
		"-d addr", "-4 route show table all", "-6 route show table all", "-4 rule", "-6 rule", "neigh show nud permanent",
		"neigh show proxy", "-6 neigh show proxy", "nexthop",
	}
	const end = "\n---\n"
	script := ""
	for _, what := range kinds {
		script += "ip -j " + what + "; printf '" + strings.ReplaceAll(end, "\n", `\n`) + "'\n"
	}
	var list []string
	answers := strings.Split(sh(t, script), end) // one shell for all: programs are what takes time here
	for i, what := range kinds {
		var entries []map[string]any
		if strings.TrimSpace(answers[i]) == "" {
			continue
		}
		require.NoError(t, json.Unmarshal([]byte(answers[i]), &entries), "%s: %s", what, answers[i])
		for _, e := range entries {
			strip(e)
			if len(e) == 0 {
				continue
			}
			b, err := json.Marshal(e)
			require.NoError(t, err)
			list = append(list, what+": "+string(b))
		}
	}
	list = append(list, forwarding(t)...)
	// Settings of interfaces; the IPv6 secret that nobody set can not be read.
	sysctls := sh(t, "grep -rs . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv[46]/neigh/*/gc_stale_time || true")
	return append(list, strings.Split(strings.TrimSpace(sysctls), "\n")...)
}

// forwarding returns the entries of bridges and VXLANs and the VLANs of bridge ports.
func forwarding(t *testing.T) []string {
	t.Helper()
	var list []string
	entries, err := netlink.NeighList(0, unix.AF_BRIDGE)
	require.NoError(t, err)
	vlans, err := netlink.BridgeVlanList()
	require.NoError(t, err)
	for _, e := range entries {
		if len(e.HardwareAddr) > 0 && e.HardwareAddr[0]&1 == 0 && e.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0 {
			l, err := netlink.LinkByIndex(e.LinkIndex)
			require.NoError(t, err)
			list = append(list, fmt.Sprint("fdb: ", l.Attrs().Name, e.HardwareAddr, e.State, e.Flags, e.Vlan, e.IP))
		}
	}
	for index, of := range vlans {
		l, err := netlink.LinkByIndex(int(index))
		require.NoError(t, err)
		for _, v := range of {
			list = append(list, fmt.Sprint("vlan: ", l.Attrs().Name, *v))
		}
	}
	return list
}

func strip(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range volatile {
			delete(v, key)
		}
		// The bridge's clocks and ids.
		for key := range v {
			if strings.HasSuffix(key, "_timer") {
				delete(v, key)
			}
		}
		if flags, ok := v["flags"].([]any); ok {
			kept := []any{}
			for _, f := range flags {
				if f != "LOWER_UP" && f != "NO-CARRIER" && f != "linkdown" {
					kept = append(kept, f)
				}
			}
			v["flags"] = kept
		}
		// Which link-local address comes first depends on when the kernel makes its own.
		if addresses, ok := v["addr_info"].([]any); ok {
			slices.SortStableFunc(addresses, func(a, b any) int { return strings.Compare(linkLocal(a), linkLocal(b)) })
		}
		for _, e := range v {
			strip(e)
		}
	case []any:
		for _, e := range v {
			strip(e)
		}
	}
}

// linkLocal returns a link-local address, "" for another one.
func linkLocal(address any) string {
	if a, ok := address.(map[string]any); ok && a["scope"] == "link" {
		return fmt.Sprint(a["local"])
	}
	return ""
}

// settle waits until no IPv6 address is being checked for duplicates any more and every link that is up has its own.
func settle(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		return strings.TrimSpace(sh(t, "ip -6 addr show tentative")) == ""
	}, patience, tick)
}

func use(t *testing.T, module string) devices.Use {
	t.Helper()
	u, err := devices.Open("").Of(module)
	require.NoError(t, err)
	t.Log(u)
	return u
}

// saved saves the network of a module's interfaces and sends it through JSON, as it must survive its process.
func saved(t *testing.T, module string) *devices.Network {
	t.Helper()
	n, err := devices.Open("").SaveNetwork(use(t, module).Interfaces)
	require.NoError(t, err)
	b, err := json.MarshalIndent(n, "", " ")
	require.NoError(t, err)
	var again devices.Network
	require.NoError(t, json.Unmarshal(b, &again))
	b2, err := json.MarshalIndent(&again, "", " ")
	require.NoError(t, err)
	require.JSONEq(t, string(b), string(b2))
	if testing.Verbose() {
		for _, list := range []any{n.Addresses, n.NextHops, n.Neighbors, n.Routes, n.Rules, n.Lost} {
			b, err := json.Marshal(list)
			require.NoError(t, err)
			t.Log(string(b))
		}
	}
	return &again
}

// exchange takes the driver away and loads it again: the interface has lost everything.
func exchange(t *testing.T, module string) {
	t.Helper()
	parameters := map[string]string{"dummy": " numdummies=0"}
	sh(t, "rmmod "+module+" && modprobe "+module+parameters[module])
}

// difference returns the lines only one of the two has, "" when there are none.
func difference(before, after []string) string {
	var b strings.Builder
	for _, line := range before {
		if !slices.Contains(after, line) {
			b.WriteString("- " + line + "\n")
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			b.WriteString("+ " + line + "\n")
		}
	}
	if b.Len() == 0 && len(before) != len(after) {
		b.WriteString("something is there twice\n")
	}
	return b.String()
}

// assertSame waits until the network is as it was: what the kernel makes by itself takes a moment.
func assertSame(t *testing.T, before []string) {
	t.Helper()
	diff := ""
	for deadline := time.After(patience); ; {
		if diff = difference(before, network(t)); diff == "" {
			return
		}
		select {
		case <-time.After(tick):
		case <-deadline:
			assert.Fail(t, "the network is not as it was", "%s", diff)
			return
		}
	}
}
