// SPDX-License-Identifier: Apache-2.0

// Package lab tests the lab itself, from inside: what the other VM tests take for granted. See also ../selftest.
package lab

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	modules  = "/kmmd-test/modules"
	variants = modules + "/variants"
)

func TestMain(m *testing.M) {
	if os.Getenv("KMMD_VM") == "" {
		return // only of interest in a VM: make vm
	}
	os.Exit(m.Run())
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return strings.TrimSpace(string(b))
}

// run returns stdout and stderr of a command, and the error when it fails.
func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}

func mustRun(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := run(name, args...)
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return out
}

// dmesgSince returns the kernel messages printed while f ran.
func dmesgSince(t *testing.T, f func()) string {
	t.Helper()
	before := mustRun(t, "dmesg")
	f()
	return strings.TrimPrefix(mustRun(t, "dmesg"), before)
}

func TestGuest(t *testing.T) {
	assert.True(t, strings.HasPrefix(read(t, "/proc/sys/kernel/osrelease"), os.Getenv("KMMD_VM_KERNEL")+"."))
	assert.Equal(t, 0, os.Getuid())
	assert.Equal(t, "/sbin/modprobe", read(t, "/proc/sys/kernel/modprobe"))
	assert.Contains(t, mustRun(t, "/sbin/modprobe", "-V"), "kmod version")
	mounts := read(t, "/proc/self/mounts")
	assert.Contains(t, mounts, "tmpfs /run tmpfs rw")
	assert.Contains(t, mounts, "securityfs /sys/kernel/security ")
	require.NoError(t, os.WriteFile("/var/lib/probe", nil, 0o600))
	kmsg, err := os.Open("/dev/kmsg")
	require.NoError(t, err)
	require.NoError(t, kmsg.Close())
	assert.Equal(t, "kept in the guest", read(t, "testdata/probe"))
}

// An emulated processor does not say that it has cmpxchg16b: QEMU 7.2 gets the
// flags after it wrong, and an interrupt there can kill the kernel.
func TestProcessor(t *testing.T) {
	info := read(t, "/proc/cpuinfo")
	assert.Contains(t, info, " cx8 ")
	if strings.Contains(info, "QEMU TCG") {
		assert.NotContains(t, info, " cx16 ")
	}
}

func TestRegistry(t *testing.T) {
	resp, err := http.Get("http://" + os.Getenv("KMMD_VM_REGISTRY") + "/v2/")
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, http.StatusOK, resp.StatusCode)
	assert.Equal(t, "registry/2.0", resp.Header.Get("Docker-Distribution-Api-Version"))
}

// The kernel calls the real modprobe for a kind of link it does not know.
func TestAutoload(t *testing.T) {
	require.NoDirExists(t, "/sys/module/dummy")
	mustRun(t, "ip", "link", "add", "type", "dummy")
	assert.DirExists(t, "/sys/module/dummy")
	assert.Empty(t, read(t, "/sys/module/dummy/taint"))
	mustRun(t, "rmmod", "dummy")
}

func TestModules(t *testing.T) {
	mustRun(t, "insmod", modules+"/kmm_base.ko", "level=7", "flag=y", "label=x", "list=5,6", "negated=1", "secret=1")
	for name, want := range map[string]string{
		"level": "7", "flag": "Y", "label": "x", "list": "5,6", "negated": "Y", "secret": "1",
		"count": "2", "big": "4294967296", "octet": "7", "small": "-3", "fixed": "fixed", "bare": "0", "switched": "0",
	} {
		assert.Equal(t, want, read(t, "/sys/module/kmm_base/parameters/"+name), name)
	}
	assert.NoFileExists(t, "/sys/module/kmm_base/parameters/hidden")

	device, err := os.Open("/dev/kmm_base")
	require.NoError(t, err)
	assert.Equal(t, "1", read(t, "/sys/module/kmm_base/refcnt"))
	require.NoError(t, device.Close())

	mustRun(t, "insmod", modules+"/kmm_dep.ko")
	assert.Equal(t, "7", read(t, "/sys/module/kmm_dep/parameters/seen"))
	assert.FileExists(t, "/sys/module/kmm_base/holders/kmm_dep") // a link, like those in /sys/class
	mustRun(t, "rmmod", "kmm_dep", "kmm_base")

	mustRun(t, "insmod", modules+"/kmm_softdep.ko")
	mustRun(t, "rmmod", "kmm_softdep")
}

func TestFirmware(t *testing.T) {
	log := dmesgSince(t, func() {
		_, err := run("insmod", modules+"/kmm_fw.ko")
		require.Error(t, err)
	})
	assert.Contains(t, log, "Direct firmware load for kmm/fw.bin failed with error -2")
	mustRun(t, "insmod", modules+"/kmm_fw.ko", "need=0")
	assert.Empty(t, read(t, "/sys/module/kmm_fw/parameters/got"))
	mustRun(t, "rmmod", "kmm_fw")

	require.NoError(t, os.MkdirAll("/lib/firmware/kmm", 0o755))
	require.NoError(t, os.WriteFile("/lib/firmware/kmm/fw.bin", []byte("blob\x00"), 0o600))
	mustRun(t, "insmod", modules+"/kmm_fw.ko")
	assert.Equal(t, "5:blob.", read(t, "/sys/module/kmm_fw/parameters/got"))
	mustRun(t, "rmmod", "kmm_fw")
	require.NoError(t, os.RemoveAll("/lib/firmware/kmm"))
}

func TestFailingInit(t *testing.T) {
	log := dmesgSince(t, func() {
		out, err := run("insmod", modules+"/kmm_fail.ko", "err=-5")
		require.Error(t, err)
		assert.Contains(t, out, "Input/output error")
	})
	assert.Contains(t, log, "kmm_fail: no such hardware (-5)")
}

func TestDummy(t *testing.T) {
	mustRun(t, "insmod", modules+"/dummy.ko", "numdummies=2")
	assert.Equal(t, "out-of-tree", read(t, "/sys/module/dummy/parameters/build"))
	assert.Equal(t, "2", read(t, "/sys/module/dummy/parameters/numdummies"))
	assert.Equal(t, "OE", read(t, "/sys/module/dummy/taint"))
	assert.FileExists(t, "/sys/class/net/dummy1")
	mustRun(t, "ip", "link", "add", "type", "dummy")
	assert.FileExists(t, "/sys/class/net/dummy2")
	mustRun(t, "rmmod", "dummy")
	assert.NoFileExists(t, "/sys/class/net/dummy0")
}

// What the kernel says to each variant of dummy; "" means it loads.
func TestVariants(t *testing.T) {
	want := map[string]string{
		"second":         "",
		"other-release":  "",
		"init-fails":     "dummy: init fails, as it was built to",
		"unknown-symbol": "dummy: Unknown symbol kmm_no_such_symbol (err -2)",
		"wrong-crc":      "dummy: disagrees about version of symbol register_netdev",
		"wrong-layout":   "dummy: disagrees about version of symbol module_layout",
		"wrong-machine":  "Invalid architecture in ELF header: 183",
		"wrong-vermagic": "dummy: version magic",
		"truncated":      "Invalid ELF section header overflow",
	}
	files, err := filepath.Glob(variants + "/*/dummy.ko")
	require.NoError(t, err)
	assert.Len(t, files, len(want))
	buildIDs := map[string]string{string(buildID(t, modules+"/dummy.ko")): "dummy.ko"}
	for name, line := range want {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(variants, name, "dummy.ko")
			if name != "truncated" {
				id := string(buildID(t, path))
				assert.Empty(t, buildIDs[id], "has another one's build-id")
				buildIDs[id] = name
			}
			var loadErr error
			log := dmesgSince(t, func() { _, loadErr = run("insmod", path) })
			if line != "" {
				require.Error(t, loadErr)
				assert.Contains(t, log, line)
				return
			}
			require.NoError(t, loadErr, log)
			note, err := os.ReadFile("/sys/module/dummy/notes/.note.gnu.build-id")
			require.NoError(t, err)
			assert.Equal(t, buildID(t, path), note)
			mustRun(t, "rmmod", "dummy")
		})
	}
}

// buildID returns the build-id note of a module file as the kernel shows it: header, "GNU", 20 bytes.
func buildID(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	head := []byte("\x04\x00\x00\x00\x14\x00\x00\x00\x03\x00\x00\x00GNU\x00")
	at := bytes.Index(b, head)
	require.Positive(t, at)
	return b[at : at+len(head)+20]
}
