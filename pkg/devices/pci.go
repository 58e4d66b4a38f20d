// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

var (
	// ErrNotPCI is returned for a device that is not named by its PCI address.
	ErrNotPCI = errors.New("not a PCI device")
	// ErrNoSRIOV is returned when virtual functions are asked of a device or driver that has none.
	ErrNoSRIOV = errors.New("no SR-IOV")
)

var (
	pciAddress = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)
	pciDriver  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+ -]*$`)
)

// pciFile returns a file of a PCI device. Nothing but the address of a device ever becomes part of a path.
func (h *Host) pciFile(d Device, file string) (string, error) {
	if d.Bus != "pci" || !pciAddress.MatchString(d.Address) {
		return "", fmt.Errorf("%s %q: %w", d.Bus, d.Address, ErrNotPCI)
	}
	return h.path("sys/bus/pci/devices", d.Address, file), nil
}

// Unbind takes PCI devices from their driver. One that has no driver is left alone; one with another driver than the
// one said is an error, as is a device that is not on the PCI bus (ErrNotPCI); all errors are joined and the other
// devices unbound. It blocks as long as the driver takes to let go. Privilege: root.
func (h *Host) Unbind(devices []Device) error {
	var errs []error
	for _, d := range devices {
		link, err := h.pciFile(d, "driver")
		if err == nil {
			switch driver := target(link); driver {
			case "":
			case d.Driver:
				err = overwrite(filepath.Join(link, "unbind"), d.Address)
			default:
				err = fmt.Errorf("its driver is %s", driver)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("unbind %s from %s: %w", d.Address, d.Driver, err))
		}
	}
	return errors.Join(errs...)
}

// Bind gives PCI devices to the driver said, which must be loaded. One that has it is left alone; one with another is
// an error. A driver that is loaded takes all devices it knows by itself: Bind is for one that was there all the time.
// Privilege: root.
func (h *Host) Bind(devices []Device) error {
	var errs []error
	for _, d := range devices {
		link, err := h.pciFile(d, "driver")
		if err == nil && !pciDriver.MatchString(d.Driver) {
			err = fmt.Errorf("%q is no name of a driver", d.Driver)
		}
		if err == nil {
			switch driver := target(link); driver {
			case d.Driver:
			case "":
				err = overwrite(h.path("sys/bus/pci/drivers", d.Driver, "bind"), d.Address)
			default:
				err = fmt.Errorf("its driver is %s", driver)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("bind %s to %s: %w", d.Address, d.Driver, err))
		}
	}
	return errors.Join(errs...)
}

// ResetSRIOV removes all virtual functions of a PCI device and returns how many there were, for SetSRIOV later. A
// device that can have none had 0. It blocks until the drivers of the functions let go. Privilege: root.
func (h *Host) ResetSRIOV(d Device) (before int, err error) {
	file, err := h.pciFile(d, "sriov_numvfs")
	if err != nil {
		return 0, fmt.Errorf("remove virtual functions: %w", err)
	}
	before, err = readInt(file)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err == nil && before > 0 {
		err = overwrite(file, "0")
	}
	if err != nil {
		return before, fmt.Errorf("remove virtual functions of %s: %w", d.Address, err)
	}
	return before, nil
}

// SetSRIOV makes a PCI device have n virtual functions. The kernel changes their number only from 0
// (drivers/pci/iov.c, sriov_numvfs_store), so others are removed first. ErrNoSRIOV when the device or its present
// driver has no virtual functions, or not so many. Privilege: root.
func (h *Host) SetSRIOV(d Device, n int) error {
	file, err := h.pciFile(d, "sriov_numvfs")
	if err != nil {
		return fmt.Errorf("make virtual functions: %w", err)
	}
	err = h.setSRIOV(d, file, n)
	if err != nil {
		return fmt.Errorf("make %d virtual functions of %s: %w", n, d.Address, err)
	}
	return nil
}

func (h *Host) setSRIOV(d Device, file string, n int) error {
	total, err := readInt(filepath.Join(filepath.Dir(file), "sriov_totalvfs"))
	if errors.Is(err, os.ErrNotExist) {
		total, err = 0, nil
	}
	switch {
	case err != nil:
		return err
	case n < 0:
		return errors.New("less than none")
	case n > total:
		return fmt.Errorf("%w: it can have %d", ErrNoSRIOV, total)
	case total == 0:
		return nil
	}
	now, err := readInt(file)
	if err != nil || now == n {
		return err
	}
	if _, err := h.ResetSRIOV(d); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	// ENOENT from a driver that has no way to do it.
	if err := overwrite(file, strconv.Itoa(n)); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: its driver has no virtual functions", ErrNoSRIOV)
	} else if err != nil {
		return err
	}
	return nil
}

func readInt(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(string(b[:max(len(b)-1, 0)]))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", file, err)
	}
	return n, nil
}
