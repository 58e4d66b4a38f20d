// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDriverless(t *testing.T) {
	assert.Empty(t, tree(t, files{"sys/devices/": ""}).Driverless())
	h := tree(t, pci(), files{
		"sys/bus/pci/devices/" + addr + "/modalias":   "pci:v1\n",
		"sys/bus/pci/devices/" + second + "/modalias": "pci:v2\n",
		"sys/bus/acpi/devices/PNP0C0F:00/modalias":    "acpi:PNP0C0F:\n",
		"sys/bus/acpi/devices/PNP0C0F:01/modalias":    "acpi:PNP0C0F:\n",
		"sys/bus/acpi/devices/PNP0C0F:02/modalias":    "\n",
		"sys/bus/cpu/devices/cpu0/online":             "1\n",
	})
	assert.Equal(t, []string{"acpi:PNP0C0F:", "pci:v2"}, h.Driverless())
}

func TestProbe(t *testing.T) {
	for _, tt := range []struct {
		name    string
		devices []Device
		want    string // what is written for PCI
		err     string
	}{
		{"none", nil, "", ""},
		{"without a driver", []Device{card(second, "old")}, second, ""},
		{"with a driver", []Device{card(addr, "old")}, "", ""},
		{"by a path", []Device{card("../devices/"+second, "")}, "", `offer pci "../devices/0000:00:03.0" to other drivers: no name of a device`},
		{"bus by a path", []Device{{Bus: "../bus/pci", Address: second}}, "", `offer ../bus/pci "0000:00:03.0" to other drivers: no name of a device`},
		{"two lines", []Device{card(second+"\nx", "")}, "", `offer pci "0000:00:03.0\nx" to other drivers: no name of a device`},
		{"the others all the same", []Device{card("..", ""), card(second, "")}, second, `offer pci ".." to other drivers: no name of a device`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := pci()
			f["sys/bus/pci/drivers_probe"] = ""
			h := tree(t, f)
			check(t, h.Probe(tt.devices, kernelWrite), tt.err)
			assert.Equal(t, tt.want, content(t, h, "sys/bus/pci/drivers_probe"))
		})
	}

	h := tree(t, files{"sys/bus/usb/devices/1-1.2:1.0/x": "", "sys/bus/usb/drivers_probe": ""})
	require.NoError(t, h.Probe([]Device{{Bus: "usb", Address: "1-1.2:1.0"}}, kernelWrite))
	assert.Equal(t, "1-1.2:1.0", content(t, h, "sys/bus/usb/drivers_probe"))
	require.ErrorIs(t, h.Probe([]Device{{Bus: "nosuch", Address: "x"}}, kernelWrite), os.ErrNotExist)
}
