// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
)

var (
	busName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	// A device's name, of any bus: no path, and one line.
	deviceName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:,@+-]*$`)
)

// Probe offers devices without a driver to those that are loaded, whichever takes them (drivers/base/bus.c,
// drivers_probe_store): when a driver goes, the kernel does not. One that has a driver is left alone, as is one that nobody
// takes; all errors are joined, and the other devices offered. It blocks as long as write does. Privilege: root.
func (h *Host) Probe(devices []Device, write Write) error {
	var errs []error
	for _, d := range devices {
		var err error
		if !busName.MatchString(d.Bus) || !deviceName.MatchString(d.Address) {
			err = errors.New("no name of a device")
		} else if bus := h.path("sys/bus", d.Bus); target(filepath.Join(bus, "devices", d.Address, "driver")) == "" {
			err = order(write, d, filepath.Join(bus, "drivers_probe"), d.Address)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("offer %s %q to other drivers: %w", d.Bus, d.Address, err))
		}
	}
	return errors.Join(errs...)
}

// Driverless is what the devices of all buses that have no driver say of themselves, for which modules have aliases:
// "pci:v00008086d00001533sv…". It is sorted, and has each once. A device that can not be read is left out. It waits for no driver.
func (h *Host) Driverless() (aliases []string) {
	for _, bus := range names(h.path("sys/bus")) {
		for _, address := range names(h.path("sys/bus", bus, "devices")) {
			dir := h.path("sys/bus", bus, "devices", address)
			if target(filepath.Join(dir, "driver")) != "" {
				continue
			}
			if alias := h.line("sys/bus", bus, "devices", address, "modalias"); alias != "" {
				aliases = append(aliases, alias)
			}
		}
	}
	slices.Sort(aliases)
	return slices.Compact(aliases)
}
