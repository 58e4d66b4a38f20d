// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/plan"
)

// driven are the devices of a new driver that is to be unloaded.
func (a *Agent) driven(file *plan.File) []devices.Device {
	if file == nil || file.FromHost || a.cfg.Devices == nil {
		return nil
	}
	u, err := a.cfg.Devices.Of(file.Name)
	if err != nil && !errors.Is(err, devices.ErrNotLoaded) {
		a.cfg.Log.Warn("its devices are not known", "name", file.Name, "err", err)
	}
	return u.Bound
}

// offer has the kernel look for a driver for devices whose new one has gone. An
// old one that is loaded after that takes them by itself; one of another name may
// have come back long before, when the new one could not be unloaded yet.
func (a *Agent) offer(ctx context.Context, owner string, freed []devices.Device) {
	if len(freed) == 0 {
		return
	}
	if err := a.cfg.Devices.Probe(freed, a.write(ctx, a.cfg.LoadTimeout)); err != nil {
		a.cfg.Log.Error("devices may be without a driver", "module", owner, "err", err)
	}
}
