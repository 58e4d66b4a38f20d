// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/devices"
)

// For a VM with a device that has virtual functions:
//
//	KMMD_VM_QEMU="-machine q35 -device pcie-root-port,id=r0 -device nvme-subsys,id=s0
//	  -device nvme,serial=a,subsys=s0,bus=r0,sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2,max_ioqpairs=6,msix_qsize=7"
func TestVirtualFunctions(t *testing.T) {
	files, err := filepath.Glob("/sys/bus/pci/devices/*/sriov_totalvfs")
	require.NoError(t, err)
	if len(files) == 0 {
		t.Skip("the VM has no device with virtual functions")
	}
	h := devices.Open("")
	d := devices.Device{Bus: "pci", Address: filepath.Base(filepath.Dir(files[0]))}
	require.NoError(t, h.SetSRIOV(d, 1))
	require.NoError(t, h.SetSRIOV(d, 2), "from another number")
	require.NoError(t, h.SetSRIOV(d, 2), "again")
	assert.ErrorIs(t, h.SetSRIOV(d, 3), devices.ErrNoSRIOV)
	found := false
	for _, b := range use(t, "nvme").Bound {
		found = found || b.Address == d.Address && b.VFs == 2
	}
	assert.True(t, found)

	before, err := h.ResetSRIOV(d)
	require.NoError(t, err)
	assert.Equal(t, 2, before)
	before, err = h.ResetSRIOV(d)
	require.NoError(t, err)
	assert.Equal(t, 0, before)
	require.NoError(t, h.SetSRIOV(d, 0))

	// Without its driver nobody makes any.
	d.Driver = "nvme"
	require.NoError(t, h.Unbind([]devices.Device{d}))
	assert.ErrorIs(t, h.SetSRIOV(d, 2), devices.ErrNoSRIOV)
	require.NoError(t, h.Bind([]devices.Device{d}))
	require.NoError(t, h.SetSRIOV(d, 2))
	_, err = h.ResetSRIOV(d)
	require.NoError(t, err)
}
