// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestOfNVMe: the disk of a device that may have several controllers is not below any of them.
func TestOfNVMe(t *testing.T) {
	const (
		ctl       = "sys/devices/pci0000:00/0000:00:05.0"
		fabrics   = "sys/devices/virtual/nvme-fabrics/ctl/"
		subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys"
	)
	machine := files{
		"sys/module/nvme/refcnt": "0\n", "sys/module/nvme/drivers/pci:nvme": "-> /sys/bus/pci/drivers/nvme",
		"sys/module/nvme_tcp/refcnt": "0\n", "sys/module/nvme_rdma/refcnt": "0\n", "sys/module/nvme_core/refcnt": "3\n",
		"sys/bus/pci/drivers/nvme/0000:00:05.0": "-> " + ctl,
		"proc/devices":                          "Block devices:\n259 blkext\n",

		// Its only controller is on the PCI bus.
		ctl + "/nvme/nvme0/transport":               "pcie\n",
		ctl + "/nvme/nvme0/nvme0c0n1/hidden":        "1\n",
		"sys/class/nvme/nvme0":                      "-> " + ctl + "/nvme/nvme0",
		"sys/block/nvme0c0n1":                       "-> " + ctl + "/nvme/nvme0/nvme0c0n1",
		subsystem + "0/nvme0":                       "-> " + ctl + "/nvme/nvme0",
		subsystem + "0/nvme0n1/dev":                 "259:0\n",
		subsystem + "0/nvme0n1/nvme0n1p1/dev":       "259:1\n",
		"sys/class/nvme-subsystem/nvme-subsys0":     "-> " + subsystem + "0",
		"sys/block/nvme0n1":                         "-> " + subsystem + "0/nvme0n1",
		"sys/class/block/nvme0n1":                   "-> " + subsystem + "0/nvme0n1",
		"sys/class/block/nvme0n1p1":                 "-> " + subsystem + "0/nvme0n1/nvme0n1p1",
		subsystem + "0/nvme0n1/nvme0n1p1/partition": "1\n",

		// Reached by TCP and RDMA.
		fabrics + "nvme1/transport":             "tcp\n",
		fabrics + "nvme2/transport":             "rdma\n",
		"sys/class/nvme/nvme1":                  "-> " + fabrics + "nvme1",
		"sys/class/nvme/nvme2":                  "-> " + fabrics + "nvme2",
		subsystem + "1/nvme1":                   "-> " + fabrics + "nvme1",
		subsystem + "1/nvme2":                   "-> " + fabrics + "nvme2",
		subsystem + "1/nvme1n1/dev":             "259:2\n",
		"sys/class/nvme-subsystem/nvme-subsys1": "-> " + subsystem + "1",
		"sys/block/nvme1n1":                     "-> " + subsystem + "1/nvme1n1",
		"sys/class/block/nvme1n1":               "-> " + subsystem + "1/nvme1n1",

		// With nvme_core.multipath=0 it is below its controller.
		fabrics + "nvme3/transport":       "tcp\n",
		fabrics + "nvme3/nvme3n1/dev":     "259:3\n",
		"sys/class/nvme/nvme3":            "-> " + fabrics + "nvme3",
		"sys/block/nvme3n1":               "-> " + fabrics + "nvme3/nvme3n1",
		"sys/class/block/nvme3n1":         "-> " + fabrics + "nvme3/nvme3n1",
		"sys/class/nvme/nvme4":            "-> " + fabrics + "nvme4", // it goes this moment
		"sys/class/nvme-fabrics/ctl/none": "",

		"proc/1/mountinfo": "22 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw\n23 22 259:2 / /data rw - xfs /dev/nvme1n1 rw\n",
	}
	root, data, plain := Block{Name: "nvme0n1", Mounts: []string{"/"}}, Block{Name: "nvme1n1", Mounts: []string{"/data"}}, Block{Name: "nvme3n1"}
	for _, tt := range []struct {
		module string
		want   []Block
	}{
		{"nvme", []Block{root}},
		{"nvme_tcp", []Block{data, plain}},
		{"nvme_rdma", []Block{data}},
		{"nvme_core", nil},
	} {
		t.Run(tt.module, func(t *testing.T) { assert.Equal(t, tt.want, of(t, tree(t, machine), tt.module).Blocks) })
	}
}
