// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"strings"
)

// String says it in one paragraph, for somebody who was woken up by it.
func (u Use) String() string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if len(u.Holders) > 0 {
		add("held by %s", strings.Join(u.Holders, ", "))
	}
	for _, d := range u.Bound {
		add("%s", d)
	}
	for _, i := range u.Interfaces {
		add("%s", i)
	}
	if u.NetworkRoot != "" {
		add("%s", u.NetworkRoot)
	}
	for _, b := range u.Blocks {
		add("%s", b)
	}
	for _, f := range u.Files {
		add("%s", f)
	}
	for _, f := range u.Assigned {
		add("a virtual function by %s", f)
	}
	if len(parts) == 0 && u.Refs > 0 {
		add("somebody who can not be seen uses it")
	}
	if len(parts) == 0 {
		add("nothing uses it")
	}
	return fmt.Sprintf("%s: refcnt %d; %s", u.Module, u.Refs, strings.Join(parts, "; "))
}

// String: "drives virtio device virtio0 (virtio_net)".
func (d Device) String() string {
	s := fmt.Sprintf("drives %s device %s (%s)", d.Bus, d.Address, d.Driver)
	if d.VFs > 0 {
		s += fmt.Sprintf(" with %d virtual functions", d.VFs)
	}
	if d.Elsewhere {
		s += " whose interface is in another network namespace"
	}
	return s
}

// String: "interface eth0 (52:54:00:12:34:56, up, 10.0.2.15/24, 3 routes, default route, port of br0, carries eth0.5)".
func (i Interface) String() string {
	var parts []string
	if i.MAC != "" {
		parts = append(parts, i.MAC)
	}
	if i.Up {
		parts = append(parts, "up")
	} else {
		parts = append(parts, "down")
	}
	parts = append(parts, i.Addresses...)
	if i.Routes == 1 {
		parts = append(parts, "1 route")
	} else if i.Routes > 1 {
		parts = append(parts, fmt.Sprintf("%d routes", i.Routes))
	}
	if i.Default {
		parts = append(parts, "default route")
	}
	if i.Master != "" {
		parts = append(parts, "port of "+i.Master)
	}
	if len(i.Stacked) > 0 {
		parts = append(parts, "carries "+strings.Join(i.Stacked, ", "))
	}
	return fmt.Sprintf("interface %s (%s)", i.Name, strings.Join(parts, ", "))
}

// String: "disk vda mounted on /, /var, used for swap, under dm-0".
func (b Block) String() string {
	s := "disk " + b.Name
	var parts []string
	if len(b.Mounts) > 0 {
		parts = append(parts, "mounted on "+strings.Join(b.Mounts, ", "))
	}
	if b.Swap {
		parts = append(parts, "used for swap")
	}
	if len(b.Holders) > 0 {
		parts = append(parts, "under "+strings.Join(b.Holders, ", "))
	}
	if len(parts) == 0 {
		return s
	}
	return s + " " + strings.Join(parts, ", ")
}

// String: "/dev/kmm_base open in process 812 (tail) of pod 2ca9d7f6-…".
func (f OpenFile) String() string {
	s := fmt.Sprintf("%s open in process %d (%s)", f.Path, f.PID, f.Command)
	if f.Pod != "" {
		s += " of pod " + f.Pod
	}
	return s
}
