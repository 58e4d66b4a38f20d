// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
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

// Write writes a text into a file of sysfs that is open for writing, which has the kernel call a driver of the device, and
// returns what the kernel answers. A driver may never come back, so this package does not do it itself: whoever calls says how
// long is waited, and how that is made sure.
type Write func(d Device, file *os.File, text string) error

// order writes into a file of the kernel, which must be there.
func order(write Write, d Device, path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(write(d, f, text), f.Close())
}

// pciFile returns a file of a PCI device. Nothing but the address of a device ever becomes part of a path.
func (h *Host) pciFile(d Device, file string) (string, error) {
	if d.Bus != "pci" || !pciAddress.MatchString(d.Address) {
		return "", fmt.Errorf("%s %q: %w", d.Bus, d.Address, ErrNotPCI)
	}
	return h.path("sys/bus/pci/devices", d.Address, file), nil
}

// Unbind takes PCI devices from their driver. One that has no driver is left alone; one with another driver than the
// one said is an error, as is a device that is not on the PCI bus (ErrNotPCI), or what write returns. The first error ends it:
// what a driver does with one device, such as hang, it may well do with the next. It blocks as long as write does. Privilege:
// root.
func (h *Host) Unbind(devices []Device, write Write) error {
	for _, d := range devices {
		link, err := h.pciFile(d, "driver")
		if err == nil {
			switch driver := target(link); driver {
			case "":
			case d.Driver:
				err = order(write, d, filepath.Join(link, "unbind"), d.Address)
			default:
				err = fmt.Errorf("its driver is %s", driver)
			}
		}
		if err != nil {
			return fmt.Errorf("unbind %s from %s: %w", d.Address, d.Driver, err)
		}
	}
	return nil
}

// Bind gives PCI devices to the driver said, which must be loaded. One that has it is left alone; one with another is
// an error; all errors are joined and the other devices bound. A driver that is loaded takes all devices it knows by itself:
// Bind is for one that was there all the time. It blocks as long as write does. Privilege: root.
func (h *Host) Bind(devices []Device, write Write) error {
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
				err = order(write, d, h.path("sys/bus/pci/drivers", d.Driver, "bind"), d.Address)
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
// device that can have none had 0. It blocks as long as write does, until the drivers of the functions let go. Privilege: root.
func (h *Host) ResetSRIOV(d Device, write Write) (before int, err error) {
	file, err := h.pciFile(d, "sriov_numvfs")
	if err != nil {
		return 0, fmt.Errorf("remove virtual functions: %w", err)
	}
	before = len(functionLinks(filepath.Dir(file)))
	if before == 0 {
		return 0, nil
	}
	if err := order(write, d, file, "0"); err != nil {
		return before, fmt.Errorf("remove virtual functions of %s: %w", d.Address, err)
	}
	return before, nil
}

// SetSRIOV makes a PCI device have n virtual functions. The kernel changes their number only from 0
// (drivers/pci/iov.c, sriov_numvfs_store), so others are removed first. ErrNoSRIOV when the device or its present
// driver has no virtual functions, or not so many. It blocks as long as write does. Privilege: root.
func (h *Host) SetSRIOV(d Device, n int, write Write) error {
	file, err := h.pciFile(d, "sriov_numvfs")
	if err != nil {
		return fmt.Errorf("make virtual functions: %w", err)
	}
	err = h.setSRIOV(d, file, n, write)
	if err != nil {
		return fmt.Errorf("make %d virtual functions of %s: %w", n, d.Address, err)
	}
	return nil
}

func (h *Host) setSRIOV(d Device, file string, n int, write Write) error {
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
	if len(functionLinks(filepath.Dir(file))) == n {
		return nil
	}
	if _, err := h.ResetSRIOV(d, write); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	// ENOENT from a driver that has no way to do it.
	if err := order(write, d, file, strconv.Itoa(n)); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: its driver has no virtual functions", ErrNoSRIOV)
	} else if err != nil {
		return err
	}
	return nil
}

// functionLinks lists the links virtfn0, virtfn1, … of a PCI device's directory, one for each virtual function it has now
// (drivers/pci/iov.c, pci_iov_sysfs_link). Reading sriov_numvfs instead would wait for the lock of the device, which is held
// while its driver does something (sriov_numvfs_show since Linux 5.5, not in all later ones): for ever, when that hangs.
func functionLinks(dir string) []string {
	return slices.DeleteFunc(names(dir), func(name string) bool { return !strings.HasPrefix(name, "virtfn") })
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
