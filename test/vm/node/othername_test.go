// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDriverOfAnotherName: a device goes from an in-tree driver to one of an image that has another name, though that was loaded
// before, when the device was taken; and back.
func TestDriverOfAnotherName(t *testing.T) {
	const device = "/sys/bus/pci/devices/0000:00:00.0/driver"
	n := newNode(t)
	inTree := filepath.Join("/lib/modules", n.release, "kernel/drivers/misc/kmm_pci_old.ko")
	require.NoError(t, os.MkdirAll(filepath.Dir(inTree), 0o755))
	data, err := os.ReadFile(filepath.Join(modules, "kmm_pci_old.ko"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(inTree, data, 0o644))
	n.command("depmod")
	t.Cleanup(func() {
		for _, name := range []string{"kmm_pci", "kmm_pci_old"} {
			if _, err := n.host.Module(name); err == nil {
				n.command("rmmod", name)
			}
		}
		require.NoError(t, os.Remove(inTree))
		n.command("depmod")
	})
	driver := func() string {
		to, _ := os.Readlink(device)
		return filepath.Base(to)
	}
	loadedAs := func() uint64 { // the kernel makes another directory each time
		info, err := os.Stat("/sys/module/kmm_pci")
		require.NoError(t, err)
		return info.Sys().(*syscall.Stat_t).Ino
	}
	n.command("modprobe", "kmm_pci_old")
	require.Equal(t, "kmm_pci_old", driver())

	image := n.image("other", []string{"kmm_pci.ko"}, nil)
	n.document("other.yaml", module("other", image, "kmm_pci"))
	n.requireLoaded()
	n.requireBuild("kmm_pci.ko")
	assert.Equal(t, "kmm_pci_old", driver(), "nobody has asked for more")

	n.document("other.yaml", module("other", image, "kmm_pci", "inTreeModulesToRemove: [kmm_pci_old]"))
	n.requireLoaded()
	n.requireBuild("kmm_pci.ko")
	n.requireAbsent("kmm_pci_old")
	assert.Equal(t, "kmm_pci", driver())

	// Again by hand: it finds no device, and the other keeps what it has.
	before := loadedAs()
	n.command("insmod", inTree)
	n.requireLoaded()
	n.requireAbsent("kmm_pci_old")
	assert.Equal(t, "kmm_pci", driver())
	assert.Equal(t, before, loadedAs())

	// A change that fails after the new driver has the device.
	n.remove("other.yaml")
	n.requireLoaded()
	n.requireAbsent("kmm_pci")
	n.command("modprobe", "kmm_pci_old")
	require.Equal(t, "kmm_pci_old", driver())
	n.document("other.yaml", module("other", n.image("fails", []string{"kmm_pci.ko", "kmm_fail.ko"}, nil), "kmm_fail",
		"modprobe.modulesLoadingOrder: [kmm_fail, kmm_pci]", "inTreeModulesToRemove: [kmm_pci_old]"))
	_, all, code := n.once()
	require.NotEqual(t, 0, code, all)
	n.requireAbsent("kmm_pci")
	assert.Equal(t, "kmm_pci_old", driver())
}
