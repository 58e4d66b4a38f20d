// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	eth0 = "/sys/class/net/eth0"
	nic  = "/sys/module/virtio_net"
)

// What can be put on top of the interface: the modules are there, and ip tells of it in JSON.
func TestLinksOnTop(t *testing.T) {
	for name, kind := range map[string]string{"eth0.5": "vlan", "bond7": "bond", "br7": "bridge"} {
		t.Run(kind, func(t *testing.T) {
			args := []string{"link", "add", name, "type", kind}
			if kind == "vlan" {
				args = []string{"link", "add", "link", "eth0", "name", name, "type", kind, "id", "5"}
			}
			mustRun(t, "ip", args...)
			defer mustRun(t, "ip", "link", "del", name)
			var links []struct {
				LinkInfo struct {
					Kind string `json:"info_kind"`
				}
			}
			require.NoError(t, json.Unmarshal([]byte(mustRun(t, "ip", "-j", "-d", "link", "show", name)), &links))
			require.Len(t, links, 1)
			assert.Equal(t, kind, links[0].LinkInfo.Kind)
		})
	}
	mustRun(t, "ip", "rule", "add", "from", "10.0.2.15", "table", "100")
	assert.Contains(t, mustRun(t, "ip", "-j", "rule"), `"table":"100"`)
	mustRun(t, "ip", "rule", "del", "from", "10.0.2.15", "table", "100")
	mustRun(t, "rmmod", "8021q", "bonding", "bridge")
}

// The driver under the interface over which the VM talks to the registry, replaced by one built out of tree.
func TestNetworkDriver(t *testing.T) {
	before := identity(t)
	removeNIC(t)
	mustRun(t, "insmod", modules+"/virtio_net.ko", "napi_weight=32")
	assert.Equal(t, "out-of-tree", read(t, nic+"/parameters/build"))
	assert.Equal(t, "32", read(t, nic+"/parameters/napi_weight"))
	assert.Equal(t, "OE", read(t, nic+"/taint"))
	assert.Equal(t, before, identity(t))
	assert.NotContains(t, mustRun(t, "ip", "-j", "addr"), "10.0.2.15")
	reach(t)
	removeNIC(t)
}

func TestNetworkDriverInitFails(t *testing.T) {
	removeNIC(t)
	log := dmesgSince(t, func() {
		out, err := run("insmod", variants+"/nic-init-fails/virtio_net.ko")
		require.Error(t, err)
		assert.Contains(t, out, "Input/output error")
	})
	assert.Contains(t, log, "virtio_net: init fails, as it was built to")
	assert.NoDirExists(t, nic)
	assert.NoDirExists(t, eth0)
}

func TestNetworkDriverNoDevice(t *testing.T) {
	removeNIC(t)
	mustRun(t, "insmod", variants+"/nic-no-device/virtio_net.ko")
	assert.Equal(t, "nic-no-device", read(t, nic+"/parameters/build"))
	assert.DirExists(t, "/sys/bus/virtio/drivers/virtio_net")
	assert.NoFileExists(t, "/sys/bus/virtio/devices/virtio0/driver")
	assert.NoDirExists(t, eth0)
}

func TestNetworkDriverInitHangs(t *testing.T) {
	inTree := strings.TrimSpace(mustRun(t, "modinfo", "-n", "virtio_net"))
	removeNIC(t)
	insmod := exec.Command("insmod", variants+"/nic-init-hangs/virtio_net.ko", "secs=20")
	require.NoError(t, insmod.Start())
	require.Eventually(t, func() bool {
		state, err := os.ReadFile(nic + "/initstate")
		return err == nil && string(state) == "coming\n"
	}, time.Minute, 10*time.Millisecond)
	assert.NoDirExists(t, eth0)
	out, err := run("rmmod", "virtio_net")
	require.Error(t, err)
	assert.Contains(t, out, "in use")
	// The kernel does not refuse another module of that name, it lets it wait. That one can be killed, not so the first.
	_, err = run("timeout", "1", "insmod", inTree)
	require.EqualError(t, err, "signal: terminated") // by timeout
	require.NoError(t, insmod.Process.Kill())
	assert.Equal(t, "coming", read(t, nic+"/initstate"))

	_ = insmod.Wait()
	assert.Equal(t, "live", read(t, nic+"/initstate"))
	assert.Equal(t, "nic-init-hangs", read(t, nic+"/parameters/build"))
	reach(t)
}

// removeNIC takes the in-tree driver away, or the one a test has put in its place, and promises to bring it back.
func removeNIC(t *testing.T) {
	t.Helper()
	before := identity(t)
	require.NoError(t, askRegistry())
	mustRun(t, "rmmod", "virtio_net")
	require.NoDirExists(t, eth0)
	require.ErrorIs(t, askRegistry(), syscall.ENETUNREACH)
	t.Cleanup(func() {
		_, _ = run("rmmod", "virtio_net")
		mustRun(t, "modprobe", "virtio_net")
		assert.Empty(t, read(t, nic+"/taint"))
		assert.Equal(t, before, identity(t))
		reach(t)
	})
}

// identity tells what stays when the driver of eth0 is replaced: where its device is, and the MAC address.
func identity(t *testing.T) [2]string {
	t.Helper()
	device, err := filepath.EvalSymlinks(eth0 + "/device")
	require.NoError(t, err)
	return [2]string{device, read(t, eth0+"/address")}
}

// reach gives eth0 the address of the VM, as /init does, and asks the registry.
func reach(t *testing.T) {
	t.Helper()
	mustRun(t, "ip", "link", "set", "eth0", "up")
	mustRun(t, "ip", "addr", "replace", "10.0.2.15/24", "dev", "eth0")
	mustRun(t, "ip", "route", "replace", "default", "via", "10.0.2.2")
	assert.NoError(t, askRegistry())
}

// askRegistry asks over a new connection.
func askRegistry() error {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + os.Getenv("KMMD_VM_REGISTRY") + "/v2/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask registry: %s", resp.Status)
	}
	return nil
}
