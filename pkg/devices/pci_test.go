// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	addr    = "0000:00:02.0"
	second  = "0000:00:03.0"
	drivers = "sys/bus/pci/drivers/"
)

// pci has two devices: the first with a driver, the second without.
func pci() files {
	return files{
		"sys/bus/pci/devices/" + addr + "/driver":   "-> " + drivers + "e1000e",
		"sys/bus/pci/devices/" + second + "/vendor": "0x8086\n",
		drivers + "e1000e/bind":                     "", drivers + "e1000e/unbind": "",
		drivers + "vfio-pci/bind": "", drivers + "vfio-pci/unbind": "",
		"sys/bus/pci/secret/driver":         "-> " + drivers + "e1000e",
		"sys/bus/pci/secret/sriov_numvfs":   "4\n",
		"sys/bus/pci/secret/sriov_totalvfs": "8\n",
		"sys/bus/pci/bind":                  "",
	}
}

func card(address, driver string) Device { return Device{Bus: "pci", Address: address, Driver: driver} }

// written returns what was written into the files of the drivers.
func written(t *testing.T, h *Host) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, name := range []string{"e1000e/bind", "e1000e/unbind", "vfio-pci/bind", "vfio-pci/unbind", "../bind"} {
		if s := content(t, h, drivers+name); s != "" {
			got[name] = s
		}
	}
	return got
}

func TestNotPCI(t *testing.T) {
	tests := []struct{ name, bus, address string }{
		{"no bus", "", addr},
		{"virtio", "virtio", "virtio0"},
		{"usb with an address of PCI", "usb", addr},
		{"bus by a path", "pci/../pci", addr},
		{"bus in capitals", "PCI", addr},
		{"no address", "pci", ""},
		{"without a domain", "pci", "00:02.0"},
		{"short domain", "pci", "000:00:02.0"},
		{"long domain", "pci", "000000000:00:02.0"},
		{"no function", "pci", "0000:00:02"},
		{"function 8", "pci", "0000:00:02.8"},
		{"two functions", "pci", "0000:00:02.00"},
		{"capitals", "pci", "0000:0A:02.0"},
		{"not hexadecimal", "pci", "0000:0g:02.0"},
		{"any character for the dot", "pci", "0000:00:0230"},
		{"newline after", "pci", addr + "\n"},
		{"newline before", "pci", "\n" + addr},
		{"two lines", "pci", "x\n" + addr},
		{"space", "pci", " " + addr},
		{"zero byte", "pci", addr + "\x00"},
		{"up", "pci", "../x"},
		{"up to a device", "pci", "../secret"},
		{"up from a device", "pci", addr + "/../../secret"},
		{"up before a device", "pci", "../devices/" + addr},
		{"this directory", "pci", "."},
		{"the one above", "pci", ".."},
		{"from the root", "pci", "/sys/bus/pci/secret"},
		{"slash after", "pci", addr + "/"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := tree(t, pci())
			d := Device{Bus: tt.bus, Address: tt.address, Driver: "e1000e"}
			require.ErrorIs(t, h.Unbind([]Device{d}, kernelWrite), ErrNotPCI)
			require.ErrorIs(t, h.Bind([]Device{d}, kernelWrite), ErrNotPCI)
			_, err := h.ResetSRIOV(d, kernelWrite)
			require.ErrorIs(t, err, ErrNotPCI)
			require.ErrorIs(t, h.SetSRIOV(d, 1, kernelWrite), ErrNotPCI)
			assert.Empty(t, written(t, h))
			assert.Equal(t, "4\n", content(t, h, "sys/bus/pci/secret/sriov_numvfs"))
		})
	}
}

func TestPCIFile(t *testing.T) {
	h := Open("/root")
	for _, address := range []string{addr, "ffff:ff:1f.7", "10000:e1:00.0", "0000abcd:00:1f.6"} {
		t.Run(address, func(t *testing.T) {
			got, err := h.pciFile(card(address, ""), "driver")
			require.NoError(t, err)
			assert.Equal(t, "/root/sys/bus/pci/devices/"+address+"/driver", got)
		})
	}
}

func TestUnbind(t *testing.T) {
	tests := []struct {
		name    string
		devices []Device
		want    map[string]string
		err     string
	}{
		{"none", nil, map[string]string{}, ""},
		{"bound", []Device{card(addr, "e1000e")}, map[string]string{"e1000e/unbind": addr}, ""},
		{"no driver", []Device{card(second, "e1000e")}, map[string]string{}, ""},
		{"gone", []Device{card("0000:00:09.0", "e1000e")}, map[string]string{}, ""},
		{"another driver", []Device{card(addr, "vfio-pci")}, map[string]string{},
			"unbind 0000:00:02.0 from vfio-pci: its driver is e1000e"},
		{"a driver nobody said", []Device{card(addr, "")}, map[string]string{}, "unbind 0000:00:02.0 from : its driver is e1000e"},
		{"none after one that can not be", []Device{card("../x", "e1000e"), card(addr, "e1000e")},
			map[string]string{}, `unbind ../x from e1000e: pci "../x": not a PCI device`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := tree(t, pci())
			check(t, h.Unbind(tt.devices, kernelWrite), tt.err)
			assert.Equal(t, tt.want, written(t, h))
		})
	}
}

func TestBind(t *testing.T) {
	tests := []struct {
		name    string
		devices []Device
		want    map[string]string
		err     string
	}{
		{"none", nil, map[string]string{}, ""},
		{"unbound", []Device{card(second, "vfio-pci")}, map[string]string{"vfio-pci/bind": second}, ""},
		{"bound already", []Device{card(addr, "e1000e")}, map[string]string{}, ""},
		{"another driver", []Device{card(addr, "vfio-pci")}, map[string]string{}, "bind 0000:00:02.0 to vfio-pci: its driver is e1000e"},
		{"no driver said", []Device{card(second, "")}, map[string]string{}, `bind 0000:00:03.0 to : "" is no name of a driver`},
		{"driver by a path", []Device{card(second, "..")}, map[string]string{}, `bind 0000:00:03.0 to ..: ".." is no name of a driver`},
		{"driver by a longer path", []Device{card(second, "e1000e/../vfio-pci")}, map[string]string{},
			`bind 0000:00:03.0 to e1000e/../vfio-pci: "e1000e/../vfio-pci" is no name of a driver`},
		{"driver with a newline", []Device{card(second, "e1000e\n")}, map[string]string{},
			"bind 0000:00:03.0 to e1000e\n: \"e1000e\\n\" is no name of a driver"},
		{"the others all the same", []Device{card("../x", "e1000e"), card(second, "e1000e")},
			map[string]string{"e1000e/bind": second}, `bind ../x to e1000e: pci "../x": not a PCI device`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := tree(t, pci())
			check(t, h.Bind(tt.devices, kernelWrite), tt.err)
			assert.Equal(t, tt.want, written(t, h))
		})
	}

	h := tree(t, pci())
	require.ErrorIs(t, h.Bind([]Device{card(second, "nosuch")}, kernelWrite), os.ErrNotExist, "a driver that is not loaded")
	_, err := os.Stat(h.path(drivers, "nosuch"))
	require.ErrorIs(t, err, os.ErrNotExist, "no file is made")
}

// check compares an error with its text; "" is none.
func check(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		require.NoError(t, err)
		return
	}
	require.EqualError(t, err, want)
}

// kernelWrite writes as the kernel does, which makes and removes the links to virtual functions.
func kernelWrite(_ Device, file *os.File, text string) error {
	if _, err := file.WriteString(text); err != nil || filepath.Base(file.Name()) != "sriov_numvfs" {
		return err
	}
	dir := filepath.Dir(file.Name())
	for _, link := range functionLinks(dir) {
		if err := os.Remove(filepath.Join(dir, link)); err != nil {
			return err
		}
	}
	n, err := strconv.Atoi(text)
	for i := range n {
		err = errors.Join(err, os.Symlink("../function", filepath.Join(dir, "virtfn"+strconv.Itoa(i))))
	}
	return err
}

// vfs are the files of a device with virtual functions, -1 for one that can have none. What is read of sriov_numvfs is wrong:
// reading it may wait for the device.
func vfs(now int, total string) files {
	dir := "sys/bus/pci/devices/" + addr
	f := files{dir + "/vendor": "0x8086\n"}
	if now >= 0 {
		f[dir+"/sriov_numvfs"] = ""
	}
	for i := range now {
		f[dir+"/virtfn"+strconv.Itoa(i)] = "-> function"
	}
	if total != "" {
		f["sys/bus/pci/devices/"+addr+"/sriov_totalvfs"] = total
	}
	return f
}

func TestResetSRIOV(t *testing.T) {
	tests := []struct {
		name        string
		now, before int
		want        string
	}{
		{"some", 4, 4, "0"},
		{"none", 0, 0, ""},
		{"can have none", -1, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := tree(t, vfs(tt.now, "8\n"))
			before, err := h.ResetSRIOV(card(addr, ""), kernelWrite)
			require.NoError(t, err)
			assert.Equal(t, tt.before, before)
			assert.Equal(t, tt.want, h.numVFs())
		})
	}
}

// TestNoAnswer: what is told of a write that fails, and that nothing is written after it.
func TestNoAnswer(t *testing.T) {
	hangs := errors.New("no answer")
	var asked []string
	write := func(d Device, file *os.File, text string) error {
		asked = append(asked, d.Address+" "+filepath.Base(file.Name())+" "+text)
		return hangs
	}
	h := tree(t, pci(), vfs(2, "8\n"), files{"sys/bus/pci/devices/0000:00:04.0/driver": "-> " + drivers + "e1000e"})
	d := card(addr, "e1000e")
	check(t, h.Unbind([]Device{d, card("0000:00:04.0", "e1000e")}, write), "unbind 0000:00:02.0 from e1000e: no answer")
	check(t, h.Bind([]Device{card(second, "e1000e"), card(second, "vfio-pci")}, write),
		"bind 0000:00:03.0 to e1000e: no answer\nbind 0000:00:03.0 to vfio-pci: no answer")
	_, err := h.ResetSRIOV(d, write)
	require.ErrorIs(t, err, hangs)
	check(t, err, "remove virtual functions of 0000:00:02.0: no answer")
	err = h.SetSRIOV(d, 4, write)
	require.ErrorIs(t, err, hangs)
	check(t, err, "make 4 virtual functions of 0000:00:02.0: remove virtual functions of 0000:00:02.0: no answer")
	assert.Equal(t, []string{addr + " unbind " + addr, second + " bind " + second, second + " bind " + second, addr + " sriov_numvfs 0", addr + " sriov_numvfs 0"}, asked)
}

// numVFs is what was written last, "" when nothing was.
func (h *Host) numVFs() string {
	b, err := os.ReadFile(h.path("sys/bus/pci/devices", addr, "sriov_numvfs"))
	if err != nil {
		return ""
	}
	return string(b)
}

func TestSetSRIOV(t *testing.T) {
	tests := []struct {
		name  string
		now   int
		total string
		n     int
		want  string
		is    error
		err   string
	}{
		{"from none", 0, "8\n", 4, "4", nil, ""},
		{"from others", 2, "8\n", 4, "4", nil, ""},
		{"all", 0, "8\n", 8, "8", nil, ""},
		{"to none", 2, "8\n", 0, "0", nil, ""},
		{"as it is", 4, "8\n", 4, "", nil, ""},
		{"too many", 0, "8\n", 9, "", ErrNoSRIOV, "make 9 virtual functions of 0000:00:02.0: no SR-IOV: it can have 8"},
		{"less than none", 2, "8\n", -1, "", nil, "make -1 virtual functions of 0000:00:02.0: less than none"},
		{"no SR-IOV", -1, "", 1, "", ErrNoSRIOV, "make 1 virtual functions of 0000:00:02.0: no SR-IOV: it can have 0"},
		{"none of no SR-IOV", -1, "", 0, "", nil, ""},
		{"no number", 0, "x\n", 1, "", strconv.ErrSyntax, ""},
		{"its driver allows none", 0, "0\n", 1, "", ErrNoSRIOV,
			"make 1 virtual functions of 0000:00:02.0: no SR-IOV: it can have 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := tree(t, vfs(tt.now, tt.total))
			err := h.SetSRIOV(card(addr, ""), tt.n, kernelWrite)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
			}
			if tt.is == nil || tt.err != "" {
				check(t, err, tt.err)
			}
			assert.Equal(t, tt.want, h.numVFs())
		})
	}
}

func TestSRIOVRoundTrip(t *testing.T) {
	h := tree(t, vfs(4, "8\n"))
	before, err := h.ResetSRIOV(card(addr, ""), kernelWrite)
	require.NoError(t, err)
	assert.Equal(t, "0", h.numVFs())
	require.NoError(t, h.SetSRIOV(card(addr, ""), before, kernelWrite))
	assert.Equal(t, "4", h.numVFs())
}
