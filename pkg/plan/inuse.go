// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// SaveNetwork remembers the configuration of interfaces that are about to lose
// their driver.
type SaveNetwork struct {
	Owner      string              `json:"owner"`
	Interfaces []devices.Interface `json:"interfaces"`
}

// RestoreNetwork waits for the devices to come back and gives them what was
// saved for the owner.
type RestoreNetwork struct {
	Owner string `json:"owner"`
}

// Unbind takes PCI devices from their driver before it is unloaded.
type Unbind struct {
	Devices []devices.Device `json:"devices"`
}

// ResetSRIOV removes the virtual functions of a PCI device.
type ResetSRIOV struct {
	Owner  string         `json:"owner"`
	Device devices.Device `json:"device"`
}

// RestoreSRIOV gives a PCI device its virtual functions back, where the driver
// it has now can.
type RestoreSRIOV struct {
	Owner  string         `json:"owner"`
	Device devices.Device `json:"device"`
}

func (SaveNetwork) step() string    { return "save-network" }
func (RestoreNetwork) step() string { return "restore-network" }
func (Unbind) step() string         { return "unbind" }
func (ResetSRIOV) step() string     { return "reset-sriov" }
func (RestoreSRIOV) step() string   { return "restore-sriov" }

func (s SaveNetwork) String() string {
	var names []string
	for _, i := range s.Interfaces {
		names = append(names, i.Name)
	}
	return "save the configuration of " + strings.Join(names, ", ")
}

func (s RestoreNetwork) String() string { return "give the interfaces their configuration back" }

func (s Unbind) String() string {
	var names []string
	for _, d := range s.Devices {
		names = append(names, d.Address)
	}
	return "unbind " + strings.Join(names, ", ")
}

func (s ResetSRIOV) String() string {
	return fmt.Sprintf("remove the %d virtual functions of %s", s.Device.VFs, s.Device.Address)
}

func (s RestoreSRIOV) String() string {
	return fmt.Sprintf("make the %d virtual functions of %s again", s.Device.VFs, s.Device.Address)
}

// Carries reports whether somebody would miss an interface.
func Carries(i devices.Interface) bool {
	return i.Up || i.Master != "" || i.Routes > 0 || len(i.Addresses) > 0 || len(i.Stacked) > 0
}

// obstacles says what keeps a module from being unloaded although its
// reference count may be 0: a bound device holds no reference, and its
// interface or disk goes away without a word (drivers/base/bus.c,
// bus_remove_driver). A Module that leaves has no document any more that could
// allow virtual functions to go.
func obstacles(u devices.Use, network, sriov, leaving bool) []string {
	var out []string
	for _, b := range u.Blocks {
		if len(b.Mounts) > 0 || b.Swap || len(b.Holders) > 0 {
			out = append(out, b.String()+": a disk in use never loses its driver")
		}
	}
	for _, d := range u.Bound {
		if d.Elsewhere {
			whose := map[bool]string{true: " or a virtual function of it"}[d.VFs > 0]
			out = append(out, fmt.Sprintf("%s%s has an interface in another network namespace, whose configuration can not be saved", d.Address, whose))
		}
		switch {
		case d.VFs == 0:
		case leaving:
			out = append(out, fmt.Sprintf("%s has %d virtual functions, which would be lost, and no document allows that any more: "+
				"write 0 to /sys/bus/%s/devices/%s/sriov_numvfs when nobody uses them, or put the document back", d.Address, d.VFs, d.Bus, d.Address))
		case !sriov:
			out = append(out, fmt.Sprintf("%s has %d virtual functions, which would be lost; beforeUnload: [%s] allows that", d.Address, d.VFs, spec.ActionSRIOVReset))
		}
	}
	for _, f := range u.Assigned {
		// vfio asks it to let go and waits (drivers/vfio/vfio_main.c, vfio_unregister_group_dev), and so does who asked.
		out = append(out, f.String()+": a virtual function that a process has to itself is never taken away; end that process")
	}
	for _, i := range u.Interfaces {
		switch {
		case !Carries(i):
		case u.NetworkRoot != "":
			// Who opens a file there waits until the server answers, for ever if need be, and that is kmmd first of all.
			out = append(out, fmt.Sprintf("%s would lose its driver, but %s: without it nothing there could be read, the next driver neither, "+
				"so allowInUse: [%s] does not help", i, u.NetworkRoot, spec.UseNetwork))
		case i.Unmakeable && !leaving:
			// It does not come back with the driver, and its keys or ports are nowhere but in it.
			out = append(out, fmt.Sprintf("%s would be lost: a link of the kind %s can not be made again, so allowInUse: [%s] does not help; "+
				"delete it before, and make it anew after", i, i.Kind, spec.UseNetwork))
		case !network:
			out = append(out, fmt.Sprintf("%s would lose its driver; allowInUse: [%s] (annotation %s) allows that, and its configuration is given back", i, spec.UseNetwork, spec.AnnotationAllowInUse))
		}
	}
	return out
}

// checkUse refuses what is in use and not allowed, and gives the steps around
// the exchange for what is.
func (b *builder) checkUse(order []string) (before, after []Step) {
	var interfaces []devices.Interface
	for _, name := range order {
		if err := b.f.UseUnknown[name]; err != nil {
			b.block(spec.ReasonInternal, "what hangs on %s can not be told: %v", name, err)
			continue
		}
		u := b.f.Uses[name]
		if o := obstacles(u, b.w.AllowNetwork, b.w.ResetSRIOV, false); len(o) > 0 {
			b.block(spec.ReasonInUse, "%s is in use: %s", name, strings.Join(o, "; "))
			continue
		}
		if slices.ContainsFunc(u.Interfaces, Carries) {
			interfaces = append(interfaces, u.Interfaces...)
		}
		var pci []devices.Device
		for _, d := range u.Bound {
			if d.VFs > 0 {
				before = append(before, ResetSRIOV{b.w.Owner, d})
				after = append(after, RestoreSRIOV{b.w.Owner, d})
			}
			if d.Bus == "pci" {
				pci = append(pci, d)
			}
		}
		if b.w.Unbind && len(pci) > 0 {
			before = append(before, Unbind{pci})
		}
	}
	for _, d := range b.f.PendingSRIOV[b.w.Owner] {
		after = append(after, RestoreSRIOV{b.w.Owner, d})
	}
	if len(interfaces) > 0 {
		before = append([]Step{SaveNetwork{b.w.Owner, interfaces}}, before...)
	}
	if len(interfaces) > 0 || b.f.PendingNetwork[b.w.Owner] {
		after = append(after, RestoreNetwork{b.w.Owner})
	}
	return before, after
}
