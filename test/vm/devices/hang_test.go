// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/kernel"
)

// ordered has a child of this test write, as kmmd does, and the kernel answer within so long.
func ordered(t *testing.T, host *kernel.Host, timeout time.Duration) devices.Write {
	t.Helper()
	return func(d devices.Device, f *os.File, text string) error {
		return host.Write(t.Context(), kernel.WriteRequest{Device: d.Address, Driver: d.Driver, File: f, Text: text, Timeout: timeout})
	}
}

// patiently is ordered for drivers that come back.
func patiently(t *testing.T) devices.Write {
	t.Helper()
	host, err := kernel.Open("")
	require.NoError(t, err)
	return ordered(t, host, time.Minute)
}

// TestDriverHangs: a driver whose remove or probe does not come back keeps neither us waiting, nor from looking at what there
// is; nor does the device, once it has.
func TestDriverHangs(t *testing.T) {
	const brief = 10 * time.Second // for the child to have begun, on a machine that does much else
	host, err := kernel.Open("")
	require.NoError(t, err)
	parameter := func(name, value string) {
		require.NoError(t, os.WriteFile("/sys/module/kmm_pci/parameters/"+name, []byte(value), 0))
	}
	sh(t, "insmod /kmmd-test/modules/kmm_pci.ko")
	t.Cleanup(func() {
		for _, name := range []string{"hang_remove", "hang_probe"} {
			parameter(name, "0")
		}
		sh(t, "rmmod kmm_pci")
	})
	h, bound := devices.Open(""), use(t, "kmm_pci").Bound
	require.Len(t, bound, 1)
	d := bound[0]
	driver := filepath.Join("/sys/bus/pci/devices", d.Address, "driver")
	back := func() {
		require.Eventually(t, func() bool { return host.Hanging(d.Address) == nil }, patience, tick, "it has come back")
	}

	parameter("hang_remove", "1")
	err = h.Unbind(bound, ordered(t, host, brief))
	require.ErrorIs(t, err, kernel.ErrTimeout)
	assert.ErrorContains(t, err, "unbind "+d.Address+" from kmm_pci: write "+driver+"/unbind: kernel did not answer within 10s: the driver still is at it")
	assert.ErrorContains(t, err, `kernel: "kmm_pci `+d.Address+`: remove hangs"`)
	require.Error(t, host.Hanging(d.Address))
	err = h.Bind(bound, ordered(t, host, patience))
	require.ErrorIs(t, err, kernel.ErrTimeout)
	assert.ErrorContains(t, err, "an earlier call")
	assert.Empty(t, use(t, "kmm_pci").Bound, "looking does not wait for the device")
	_, err = h.ResetSRIOV(d, ordered(t, host, patience))
	require.NoError(t, err)
	parameter("hang_remove", "0")
	back()
	require.NoFileExists(t, driver)

	parameter("hang_probe", "1")
	err = h.Bind(bound, ordered(t, host, brief))
	require.ErrorIs(t, err, kernel.ErrTimeout)
	assert.ErrorContains(t, err, "bind "+d.Address+" to kmm_pci: ")
	assert.ErrorContains(t, err, `: probe hangs"`)
	use(t, "kmm_pci")
	parameter("hang_probe", "0")
	back()
	assert.Equal(t, bound, use(t, "kmm_pci").Bound, "it was bound after all")
	require.NoError(t, h.Unbind(bound, ordered(t, host, patience)))
	require.NoError(t, h.Bind(bound, ordered(t, host, patience)))
}

// TestProbe: a device whose driver goes is offered to nobody; a driver that is there takes it when it is offered.
func TestProbe(t *testing.T) {
	const driver = "/sys/bus/pci/devices/0000:00:00.0/driver"
	sh(t, "insmod /kmmd-test/modules/kmm_pci.ko; insmod /kmmd-test/modules/kmm_pci_old.ko")
	t.Cleanup(func() { sh(t, "rmmod kmm_pci_old") })
	bound := use(t, "kmm_pci").Bound
	require.Len(t, bound, 1)
	sh(t, "rmmod kmm_pci")
	require.NoFileExists(t, driver)
	for range 2 {
		require.NoError(t, devices.Open("").Probe(bound, patiently(t)))
		to, err := os.Readlink(driver)
		require.NoError(t, err)
		assert.Equal(t, "kmm_pci_old", filepath.Base(to))
	}
}
