// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/test/faults/points"
	"github.com/kmm-node/kmmd/test/vm/guest"
)

const allowNetwork = "allowInUse: [network]"

// nic is the driver of the interface over which this VM talks to the registry.
func nic(image string, extra ...string) string {
	return module("nic", image, "virtio_net", append([]string{"inTreeModulesToRemove: [virtio_net]"}, extra...)...)
}

// newNIC is a node whose interface has all that must not be lost, and a TCP
// connection over it.
func newNIC(t *testing.T) (n *node, conn *connection) {
	t.Helper()
	n = newNode(t)
	t.Cleanup(func() { resetNIC(n) })
	for _, line := range []string{
		"addr add 10.0.2.77/24 dev eth0",
		"link set eth0 mtu 1400 txqueuelen 777",
		"link add link eth0 name eth0.5 type vlan id 5",
		"addr add 192.168.5.1/24 dev eth0.5",
		"link set eth0.5 up",
		"route add 198.51.100.0/24 via 10.0.2.2",
		"route add 203.0.113.0/24 via 192.168.5.9",
		"route add default via 10.0.2.2 table 100",
		"rule add from 10.0.2.77 lookup 100",
		"neigh add 10.0.2.99 lladdr 02:00:00:00:00:99 nud permanent dev eth0",
	} {
		n.command("ip", strings.Fields(line)...)
	}
	n.eventually("the link watcher has run", func() bool {
		state, err := os.ReadFile("/sys/class/net/eth0/operstate")
		return err == nil && strings.TrimSpace(string(state)) != "down"
	})
	return n, dial(n)
}

// resetNIC brings the in-tree driver and the plain configuration back.
func resetNIC(n *node) {
	require.NoError(n.t, n.host.HoldAutoload(nil))
	_ = n.tryCommand("rmmod", "virtio_net") // unless a test has left none
	n.command("modprobe", "virtio_net")
	for _, line := range []string{"link set eth0 up", "addr add 10.0.2.15/24 dev eth0", "route add default via 10.0.2.2"} {
		n.command("ip", strings.Fields(line)...)
	}
	_ = n.tryCommand("ip", "rule", "del", "from", "10.0.2.77")
	n.eventually("the registry is reachable again", func() bool {
		c, err := net.DialTimeout("tcp", os.Getenv("KMMD_VM_REGISTRY"), time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// network is the configuration as ip shows it, without indexes.
func (n *node) network() string {
	var out strings.Builder
	for _, args := range []string{"-br -4 addr show dev eth0", "-br -4 addr show dev eth0.5", "-br link show dev eth0.5",
		"-4 route show table main", "-4 route show table 100", "rule show", "neigh show dev eth0 nud permanent"} {
		fmt.Fprintf(&out, "%s: %s\n", args, n.command("ip", strings.Fields(args)...))
	}
	for _, f := range []string{"mtu", "tx_queue_len", "address"} {
		data, err := os.ReadFile("/sys/class/net/eth0/" + f)
		require.NoError(n.t, err)
		fmt.Fprintf(&out, "%s: %s", f, data)
	}
	// UNKNOWN turns into UP when the link watcher has run.
	return operstate.ReplaceAllString(out.String(), " up ")
}

var operstate = regexp.MustCompile(` +(UP|UNKNOWN) +`)

// connection is one TCP connection to the registry.
type connection struct {
	n    *node
	conn net.Conn
	r    *bufio.Reader
}

func dial(n *node) *connection {
	n.t.Helper()
	conn, err := net.DialTimeout("tcp", os.Getenv("KMMD_VM_REGISTRY"), 10*time.Second)
	require.NoError(n.t, err)
	n.t.Cleanup(func() { _ = conn.Close() })
	c := &connection{n, conn, bufio.NewReader(conn)}
	c.requireAlive()
	return c
}

// requireAlive asks something over the connection.
func (c *connection) requireAlive() {
	c.n.t.Helper()
	require.NoError(c.n.t, c.conn.SetDeadline(time.Now().Add(patience)))
	req, err := http.NewRequest(http.MethodGet, "http://"+os.Getenv("KMMD_VM_REGISTRY")+"/v2/", nil)
	require.NoError(c.n.t, err)
	require.NoError(c.n.t, req.Write(c.conn))
	resp, err := http.ReadResponse(c.r, req)
	require.NoError(c.n.t, err, "the connection lives")
	_, err = bufio.NewReader(resp.Body).WriteTo(&strings.Builder{})
	require.NoError(c.n.t, err)
	require.Equal(c.n.t, http.StatusOK, resp.StatusCode)
}

func TestNICRefusedByDefault(t *testing.T) {
	guest.OneKernel(t)
	n, conn := newNIC(t)
	before := n.network()
	n.document("nic.yaml", nic(n.image("nic", []string{"virtio_net.ko"}, nil)))
	status, all, code := n.once()
	require.Equal(t, 1, code, all)
	assert.Equal(t, spec.ReasonInUse, status.Modules[0].Reason)
	for _, words := range []string{"eth0", "10.0.2.15/24", "10.0.2.77/24", "eth0.5", "allowInUse: [network]"} {
		assert.Contains(t, status.Modules[0].Message, words)
	}
	n.requireInTree("virtio_net")
	assert.Equal(t, before, n.network())
	conn.requireAlive()

	out, _, code := n.run(binary, nil, "why", "virtio-net")
	assert.Equal(t, 1, code)
	assert.Contains(t, out, "10.0.2.15/24")
}

func TestNICSwap(t *testing.T) {
	n, conn := newNIC(t)
	before := n.network()
	n.document("nic.yaml", nic(n.image("nic", []string{"virtio_net.ko"}, nil), allowNetwork))
	out, all, code := n.run(binary, nil, "plan")
	require.Equal(t, 0, code, all)
	assert.Contains(t, out, "save the configuration of eth0")
	n.requireLoaded()
	m := n.requireBuild("virtio_net.ko")
	assert.Contains(t, m.Taint, "O")
	assert.Equal(t, before, n.network(), "all given back")
	conn.requireAlive()
	dial(n)

	// Without the document nobody allows the driver to go, and no other comes.
	n.remove("nic.yaml")
	status, all, code := n.once()
	require.Equal(t, 1, code, all)
	require.Len(t, status.Leaving, 1)
	assert.Equal(t, spec.ReasonInUse, status.Leaving[0].Reason)
	n.requireBuild("virtio_net.ko")
	conn.requireAlive()
}

func TestNICFails(t *testing.T) {
	guest.OneKernel(t)
	tests := []struct {
		name, variant, words string
		reason               spec.Reason
	}{
		{"init fails", "nic-init-fails", "virtio_net: init fails, as it was built to", spec.ReasonInitFailed},
		{"no device comes back", "nic-no-device", "eth0", spec.ReasonInterfaceLost},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, conn := newNIC(t)
			n.configure("network_timeout = \"15s\"\n")
			before := n.network()
			n.document("nic.yaml", nic(n.image(tt.variant, []string{"variants/" + tt.variant + "/virtio_net.ko"}, nil), allowNetwork))
			status, all, code := n.once()
			require.Equal(t, 1, code, all)
			assert.Equal(t, tt.reason, status.Modules[0].Reason, all)
			assert.Contains(t, status.Modules[0].Message, tt.words)
			assert.True(t, status.Modules[0].RolledBack)
			n.requireInTree("virtio_net")
			assert.Equal(t, before, n.network(), "all given back to the in-tree driver")
			conn.requireAlive()
		})
	}
}

// TestNICFailsCold: the in-tree driver has not been loaded yet when it is held off, or somebody has removed ours since. The kernel
// refuses ours, and nobody asks for the other again: kmmd loads it for the card.
func TestNICFailsCold(t *testing.T) {
	guest.OneKernel(t)
	for name, ran := range map[string]bool{"before any driver": false, "after ours was removed": true} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			t.Cleanup(func() { resetNIC(n) })
			n.write("node.conf", "options virtio_net napi_tx=0\n")
			n.command("cp", n.path("node.conf"), "/etc/modprobe.d/kmmd-test.conf")
			t.Cleanup(func() { assert.NoError(t, os.Remove("/etc/modprobe.d/kmmd-test.conf")) })
			if ran {
				n.document("nic.yaml", nic(n.image("nic", []string{"virtio_net.ko"}, nil), allowNetwork))
				n.requireLoaded()
			}
			n.document("nic.yaml", nic(n.image("nic-init-fails", []string{"variants/nic-init-fails/virtio_net.ko"}, nil), allowNetwork))
			_, all, code := n.run(binary, nil, "image", "pull")
			require.Equal(t, 0, code, all)
			n.command("rmmod", "virtio_net")
			require.NoFileExists(t, "/sys/class/net/eth0")
			status, all, code := n.onceOffline()
			require.Equal(t, 1, code, all)
			assert.Equal(t, spec.ReasonInitFailed, status.Modules[0].Reason, all)
			assert.Contains(t, status.Modules[0].Message, "; virtio_net runs instead, from "+n.requireInTreeFile("virtio_net"))
			assert.Equal(t, "N", n.requireInTree("virtio_net").Parameters["napi_tx"], "with the node's own options")
			require.FileExists(t, "/sys/class/net/eth0")
			assert.NoFileExists(t, "/run/modprobe.d/00-kmmd.conf")
		})
	}
}

// onceOffline is once without a network.
func (n *node) onceOffline() (status spec.Status, all string, code int) {
	n.t.Helper()
	out, all, code := n.run(binary, nil, "run", "--once", "--offline", "-o", "json")
	require.NoError(n.t, json.Unmarshal([]byte(out), &status), all)
	return status, all, code
}

// TestNICKill kills kmmd before each step of the swap is noted as done; the next
// start gives the node its network back.
func TestNICKill(t *testing.T) {
	guest.OneKernel(t)
	for steps := 1; ; steps++ {
		killed := false
		t.Run(fmt.Sprintf("after step %d", steps), func(t *testing.T) {
			n, conn := newNIC(t)
			before := n.network()
			n.document("nic.yaml", nic(n.image("nic", []string{"virtio_net.ko"}, nil), allowNetwork))
			killed = n.killAfter(steps)
			n.requireLoaded()
			n.requireBuild("virtio_net.ko")
			assert.Equal(t, before, n.network())
			conn.requireAlive()
		})
		if !killed || t.Failed() {
			assert.GreaterOrEqual(t, steps, 5)
			return
		}
	}
}

// killAfter runs kmmd and kills it when it is about to note that so many steps have
// been made. It reports false when it made fewer.
func (n *node) killAfter(steps int) (killed bool) {
	n.t.Helper()
	cmd := exec.Command(binary, "--config", n.path("kmmd.toml"), "run", "--once")
	notes := 0 // the first is of what comes
	r, err := points.Start(cmd, func(p points.Point) points.Verdict {
		if p.To == n.path("run/ledger.json") {
			if notes++; notes == steps+1 {
				killed = true
				return points.Kill(cmd, p)
			}
		}
		return points.Go
	})
	require.NoError(n.t, err)
	if err := r.Wait(); !killed {
		require.NoError(n.t, err)
	}
	return killed
}

// TestMountedDisk: never, whatever is allowed.
func TestMountedDisk(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	n.command("modprobe", "null_blk", "memory_backed=1", "gb=1", "nr_devices=1")
	n.command("busybox", "mke2fs", "/dev/nullb0")
	require.NoError(t, os.Mkdir(n.path("mnt"), 0o755))
	n.command("busybox", "mount", "-t", "ext2", "/dev/nullb0", n.path("mnt"))
	t.Cleanup(func() { n.command("busybox", "umount", n.path("mnt")) })
	n.document("disk.yaml", module("disk", n.image("disk", []string{"kmm_base.ko"}, nil), "kmm_base", "inTreeModulesToRemove: [null_blk]", allowNetwork))
	status, all, code := n.once()
	require.Equal(t, 1, code, all)
	assert.Equal(t, spec.ReasonInUse, status.Modules[0].Reason)
	assert.Contains(t, status.Modules[0].Message, n.path("mnt"))
	n.requireInTree("null_blk")
	n.requireAbsent("kmm_base")
}

// TestOpenDevice: the process that holds a module is named.
func TestOpenDevice(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	n.document("base.yaml", module("base", n.image("open", []string{"kmm_base.ko"}, nil), "kmm_base"))
	n.requireLoaded()
	f, err := os.Open("/dev/kmm_base")
	require.NoError(t, err)
	n.remove("base.yaml")
	status, all, code := n.once()
	require.Equal(t, 1, code, all)
	require.Len(t, status.Leaving, 1)
	assert.Contains(t, status.Leaving[0].Message, fmt.Sprintf("/dev/kmm_base open in process %d", os.Getpid()))
	require.NoError(t, f.Close())
	_, all, code = n.once()
	assert.Equal(t, 0, code, all)
	n.requireAbsent("kmm_base")
}
