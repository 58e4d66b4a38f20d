// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/plan"
)

// Devices is what the agent needs of pkg/devices.
type Devices interface {
	Of(module string) (devices.Use, error)
	Driverless() (aliases []string)
	Network
	PCI
}

// Network saves and gives back the configuration of interfaces.
type Network interface {
	SaveNetwork(interfaces []devices.Interface) (*devices.Network, error)
	RestoreNetwork(ctx context.Context, n *devices.Network) error
}

// PCI takes devices from their driver and gives them back; Probe is for any bus.
type PCI interface {
	Probe(devs []devices.Device, write devices.Write) error
	Bind(devs []devices.Device, write devices.Write) error
	Unbind(devs []devices.Device, write devices.Write) error
	ResetSRIOV(d devices.Device, write devices.Write) (before int, err error)
	SetSRIOV(d devices.Device, n int, write devices.Write) error
}

// defaultNetworkTimeout is how long the devices of saved interfaces may take to
// come back.
const defaultNetworkTimeout = 30 * time.Second

// lookAgain is how long that is for interfaces that have not come back in that time: nothing else goes on meanwhile. An address
// of one that is there at last is checked for duplicates for a second or two, before routes can have it.
const lookAgain = 5 * time.Second

// lookCloser finds out what hangs on modules that have to go. What can not be
// found out is as good as a use: nothing is taken away blindly.
func (a *Agent) lookCloser(f *plan.Facts, names []string) {
	if a.cfg.Devices == nil {
		return
	}
	f.Uses, f.UseUnknown = map[string]devices.Use{}, map[string]error{}
	for _, name := range names {
		u, err := a.cfg.Devices.Of(name)
		if err != nil && !errors.Is(err, devices.ErrNotLoaded) {
			f.UseUnknown[name] = err
		}
		f.Uses[name] = u
	}
}

// saveNetwork puts the configuration into the ledger before anything is
// touched: a kmmd that starts after a crash gives it back.
func (a *Agent) saveNetwork(s plan.SaveNetwork) error {
	n, err := a.cfg.Devices.SaveNetwork(s.Interfaces)
	if err != nil {
		return err
	}
	for _, lost := range n.Lost {
		a.cfg.Log.Warn("can not be given back", "module", s.Owner, "what", lost)
	}
	a.ledger.Networks[s.Owner] = a.ledger.Networks[s.Owner].and(n)
	return a.ledger.save()
}

func (a *Agent) networkTimeout() time.Duration {
	return cmp.Or(a.cfg.NetworkTimeout, defaultNetworkTimeout)
}

// restoreNetwork gives back what was saved for an owner, if anything. What was
// saved first comes last, and has the last word: an interface that lost its
// driver since was saved again without what it had.
func (a *Agent) restoreNetwork(ctx context.Context, owner string, timeout time.Duration) error {
	var errs []error
	for _, n := range slices.Backward(a.ledger.Networks[owner]) {
		errs = append(errs, a.restoreOne(ctx, owner, n, timeout))
	}
	return errors.Join(errs...)
}

// restoreOne gives back one configuration. Only an interface that does not come
// back, or comes without its carrier, is an error; what else could not be given
// back is reported.
func (a *Agent) restoreOne(ctx context.Context, owner string, n *devices.Network, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := a.cfg.Devices.RestoreNetwork(ctx, n)
	if errors.Is(err, devices.ErrMissing) || errors.Is(err, devices.ErrNoCarrier) {
		return fmt.Errorf("wait %s for the interfaces: %w", timeout, err)
	}
	if err != nil {
		a.cfg.Log.Error("not all of the network configuration could be given back", "module", owner, "err", err)
	}
	return nil
}

// write has the kernel call a driver, which may take as long as one that is
// loaded or unloaded.
func (a *Agent) write(ctx context.Context, timeout time.Duration) devices.Write {
	return func(d devices.Device, file *os.File, text string) error {
		return a.cfg.Kernel.Write(ctx, kernel.WriteRequest{Device: d.Address, Driver: d.Driver, File: file, Text: text, Timeout: timeout})
	}
}

// hanging is what is to be said of a change in which a driver did not come
// back, while it has not: its device is locked, and modules that drive it could
// be neither loaded nor unloaded. Which devices that may be is in the ledger.
func (a *Agent) hanging(owner string) error {
	devs := a.ledger.SRIOV[owner]
	for _, u := range a.ledger.Journal[owner] {
		devs = slices.Concat(devs, u.Bind)
		if u.SRIOV != nil {
			devs = append(devs, *u.SRIOV)
		}
	}
	for _, d := range devs {
		if err := a.cfg.Kernel.Hanging(d.Address); err != nil {
			return err
		}
	}
	return nil
}

// resetSRIOV notes how many virtual functions there were, then removes them.
func (a *Agent) resetSRIOV(ctx context.Context, s plan.ResetSRIOV) error {
	a.ledger.SRIOV[s.Owner] = append(a.ledger.SRIOV[s.Owner], s.Device)
	if err := a.ledger.save(); err != nil {
		return err
	}
	_, err := a.cfg.Devices.ResetSRIOV(s.Device, a.write(ctx, a.cfg.UnloadTimeout))
	return err
}

// restoreSRIOV makes the virtual functions again. A driver that has none is no
// failure.
func (a *Agent) restoreSRIOV(ctx context.Context, owner string, d devices.Device) error {
	err := a.cfg.Devices.SetSRIOV(d, d.VFs, a.write(ctx, a.cfg.LoadTimeout))
	if errors.Is(err, devices.ErrNoSRIOV) {
		a.cfg.Log.Warn("virtual functions can not be made again", "module", owner, "device", d.Address, "err", err)
		err = nil
	}
	if err == nil {
		a.ledger.SRIOV[owner] = slices.DeleteFunc(a.ledger.SRIOV[owner], func(o devices.Device) bool { return o.Address == d.Address })
		if len(a.ledger.SRIOV[owner]) == 0 {
			delete(a.ledger.SRIOV, owner)
		}
	}
	return err
}
