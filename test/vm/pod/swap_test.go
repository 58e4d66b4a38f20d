// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/kmm-node/kmmd/pkg/spec"
)

// TestPod is a day of the DaemonSet's pod: probes, a swap, healing, firmware, the
// kernel's words, what somebody has open, and back.
func TestPod(t *testing.T) {
	require.NoError(t, run("modprobe", "dummy", "numdummies=0"))
	at := registry(t)
	object, toml := agent(t)
	daemon(t, object, toml)
	day := t // documents stay until it is over
	eventually(t, "it is ready, asked over the pod's network", func() string {
		r, err := http.Get("http://" + podSide + ":9808/readyz")
		if err != nil {
			return err.Error()
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return r.Status
		}
		return ""
	})

	t.Run("swap", func(t *testing.T) {
		want(day, "dummy", image(t, at, "dummy", nil, "dummy.ko"), "dummy, parameters: [numdummies=0]", ", inTreeModulesToRemove: [dummy]")
		m := status(t, "dummy", loaded)
		assert.True(t, runs(t, "dummy.ko"))
		assert.Empty(t, m.Warnings)
		conf, err := os.ReadFile("/run/modprobe.d/00-kmmd.conf")
		require.NoError(t, err)
		assert.Contains(t, string(conf), "install dummy /bin/false", "autoload is held off on the node")

		// Events of the kernel come into the pod's network, too.
		require.NoError(t, run("rmmod", "dummy"))
		eventually(t, "it is healed", func() string {
			if !runs(t, "dummy.ko") {
				return "it does not run"
			}
			return ""
		})
		status(t, "dummy", loaded)
	})
	t.Run("interfaces are left alone", func(t *testing.T) {
		require.NoError(t, run("ip", "link", "add", "dummy0", "type", "dummy"))
		unwant(day, "dummy")
		m := status(t, "dummy", func(m spec.ModuleStatus) bool { return m.Reason != "" })
		assert.Contains(t, m.Message, "hostNetwork")
		assert.True(t, runs(t, "dummy.ko"))
		require.NoError(t, run("ip", "link", "del", "dummy0"))
		want(day, "other", image(t, at, "base", nil, "kmm_base.ko"), "kmm_base", "") // has it look again
		eventually(t, "it is unloaded", func() string { return absent("dummy") })
	})
	t.Run("somebody has it open", func(t *testing.T) {
		status(t, "other", loaded)
		end := hold(t, "/dev/kmm_base")
		unwant(day, "other")
		m := status(t, "other", func(m spec.ModuleStatus) bool { return m.Reason == spec.ReasonInUse })
		assert.Contains(t, m.Message, "/dev/kmm_base open in process")
		assert.Contains(t, m.Message, "sleep")
		end()
		want(day, "again", image(t, at, "fw", map[string]string{"kmm/fw.bin": "hello"}, "kmm_fw.ko"), "kmm_fw, firmwarePath: /firmware", "")
		eventually(t, "it is unloaded", func() string { return absent("kmm_base") })
		status(t, "again", loaded)
		assert.FileExists(t, "/var/lib/firmware/kmm/fw.bin")
		path, err := os.ReadFile("/sys/module/firmware_class/parameters/path")
		require.NoError(t, err)
		assert.Equal(t, "/var/lib/firmware\n", string(path))
		unwant(day, "again")
		eventually(t, "it is unloaded", func() string { return absent("kmm_fw") })
	})
	t.Run("the kernel's words", func(t *testing.T) {
		want(day, "fail", image(t, at, "fail", nil, "kmm_fail.ko"), "kmm_fail", "")
		m := status(t, "fail", func(m spec.ModuleStatus) bool { return m.Reason == spec.ReasonInitFailed })
		assert.Contains(t, m.Message, "no such hardware", "syslog(2): there is no /dev/kmsg in the pod")
	})
}

// hold has a process that is not root's keep a device open.
func hold(t *testing.T, device string) (end func()) {
	t.Helper()
	f, err := os.Open(device)
	require.NoError(t, err)
	defer f.Close()
	cmd := exec.Command("sleep", "1000")
	cmd.Stdin = f
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}, Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	done := false
	end = func() {
		if !done {
			done = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(end)
	return end
}

// TestHostNetwork: with it, the configuration of an interface is given back; for
// that it has CAP_NET_ADMIN.
func TestHostNetwork(t *testing.T) {
	t.Run("as it is", func(t *testing.T) {
		swapNetwork(t, func(*corev1.Pod) {})
		assert.Contains(t, output(t, "ip", "addr", "show", "dev", "dummy0"), "10.99.0.1/24")
		assert.Contains(t, output(t, "ip", "link", "show", "dev", "dummy0"), "mtu 1300")
		assert.Contains(t, output(t, "ip", "route", "show", "198.51.100.0/24"), "via 10.99.0.9")
		assert.Equal(t, "2\n", output(t, "cat", "/proc/sys/net/ipv4/conf/dummy0/rp_filter"), "written below /host/proc")
	})
	t.Run("without NET_ADMIN", func(t *testing.T) {
		swapNetwork(t, func(p *corev1.Pod) {
			c := p.Spec.Containers[0].SecurityContext.Capabilities
			c.Add = slices.DeleteFunc(c.Add, func(have corev1.Capability) bool { return have == "NET_ADMIN" })
		})
		assert.NotContains(t, output(t, "ip", "route", "show", "198.51.100.0/24"), "via 10.99.0.9")
	})
}

// swapNetwork replaces the driver of an interface in use, from a pod in the node's
// network, and cleans up when the test ends.
func swapNetwork(t *testing.T, change func(*corev1.Pod)) {
	t.Helper()
	object, toml := agent(t)
	object.Spec.HostNetwork = true
	for i, m := range object.Spec.Containers[0].VolumeMounts {
		if m.Name == "proc" {
			object.Spec.Containers[0].VolumeMounts[i].ReadOnly = false // deploy/components/host-network
		}
	}
	change(object)
	require.NoError(t, run("modprobe", "dummy", "numdummies=0"))
	t.Cleanup(func() {
		if err := run("rmmod", "dummy"); err != nil { // kmmd may have heard that its document is gone
			assert.NoDirExists(t, "/sys/module/dummy", err)
		}
		assert.NoError(t, os.RemoveAll("/run/modprobe.d/00-kmmd.conf"))
		assert.NoError(t, os.RemoveAll("/run/kmmd/ledger.json"))
	})
	for _, line := range [][]string{{"link", "add", "dummy0", "type", "dummy"}, {"link", "set", "dummy0", "mtu", "1300"}, {"addr", "add", "10.99.0.1/24", "dev", "dummy0"},
		{"link", "set", "dummy0", "up"}, {"route", "add", "198.51.100.0/24", "via", "10.99.0.9"}} {
		require.NoError(t, run("ip", line...))
	}
	require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/conf/dummy0/rp_filter", []byte("2"), 0))
	daemon(t, object, toml)
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	want(t, name, image(t, os.Getenv("KMMD_VM_REGISTRY"), "host", nil, "dummy.ko"), "dummy, parameters: [numdummies=0]",
		", inTreeModulesToRemove: [dummy], allowInUse: [network]")
	status(t, name, func(m spec.ModuleStatus) bool {
		return m.State == spec.StateLoaded || m.RolledBack || m.State == spec.StateFailed
	})
}

// output is what a program of the guest says.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	assert.NoError(t, err, "%s", out)
	return string(out)
}
