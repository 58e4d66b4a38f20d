// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/devices"
)

// TestInUse replaces a driver on which something hangs.
func TestInUse(t *testing.T) {
	eth := devices.Interface{Name: "eth0", Up: true, Addresses: []string{"10.0.0.1/24"}}
	down := devices.Interface{Name: "eth1"}
	pci := devices.Device{Bus: "pci", Address: "0000:00:02.0", Driver: "old"}
	vfs := devices.Device{Bus: "pci", Address: "0000:00:02.0", Driver: "old", VFs: 4}
	allow := func(w *Want) { w.AllowNetwork = true }
	tests := []struct {
		name    string
		use     devices.Use
		change  func(w *Want)
		blocked string
		steps   []string
	}{
		{"nothing hangs on it", devices.Use{}, nil, "", []string{"hold", "unload", "load"}},
		{"interface that nobody misses", devices.Use{Interfaces: []devices.Interface{down}}, nil, "", []string{"hold", "unload", "load"}},
		{"interface in use", devices.Use{Interfaces: []devices.Interface{eth}}, nil, "eth0", nil},
		{"interface in use, allowed", devices.Use{Interfaces: []devices.Interface{eth}}, allow, "",
			[]string{"hold", "save-network", "unload", "load", "restore-network"}},
		{"link that can not be made again", devices.Use{Interfaces: []devices.Interface{{Name: "wg0", Kind: "wireguard", Up: true, Unmakeable: true}}}, allow,
			"a link of the kind wireguard can not be made again", nil},
		{"link that can not be made again and nobody misses", devices.Use{Interfaces: []devices.Interface{{Name: "wg0", Kind: "wireguard", Unmakeable: true}}},
			nil, "", []string{"hold", "unload", "load"}},
		{"interface in use, the root on the network", devices.Use{Interfaces: []devices.Interface{eth}, NetworkRoot: "/ is on the network (disk sda)"}, allow,
			"/ is on the network (disk sda): without it nothing", nil},
		{"interface that nobody misses, the root on the network", devices.Use{Interfaces: []devices.Interface{down}, NetworkRoot: "/ is on the network (disk sda)"},
			nil, "", []string{"hold", "unload", "load"}},
		{"mounted disk", devices.Use{Blocks: []devices.Block{{Name: "vda", Mounts: []string{"/"}}}}, allow, "a disk in use never", nil},
		{"swap", devices.Use{Blocks: []devices.Block{{Name: "vda", Swap: true}}}, allow, "a disk in use never", nil},
		{"disk under another", devices.Use{Blocks: []devices.Block{{Name: "vda", Holders: []string{"dm-0"}}}}, allow, "a disk in use never", nil},
		{"disk that nobody uses", devices.Use{Blocks: []devices.Block{{Name: "vda"}}}, nil, "", []string{"hold", "unload", "load"}},
		{"other network namespace", devices.Use{Bound: []devices.Device{{Bus: "pci", Address: "a", Elsewhere: true}}}, allow, "another network namespace", nil},
		{"other network namespace, of a virtual function", devices.Use{Bound: []devices.Device{{Bus: "pci", Address: "a", Elsewhere: true, VFs: 1}}},
			func(w *Want) { w.AllowNetwork, w.ResetSRIOV = true, true }, "a or a virtual function of it has an interface in another", nil},
		{"virtual functions", devices.Use{Bound: []devices.Device{vfs}}, nil, "4 virtual functions", nil},
		{"virtual functions, allowed", devices.Use{Bound: []devices.Device{vfs}}, func(w *Want) { w.ResetSRIOV = true }, "",
			[]string{"hold", "reset-sriov", "unload", "load", "restore-sriov"}},
		{"virtual functions, one in a virtual machine", devices.Use{Bound: []devices.Device{vfs}, Assigned: []devices.OpenFile{{Path: "/dev/vfio/12", PID: 812, Command: "qemu"}}},
			func(w *Want) { w.AllowNetwork, w.ResetSRIOV = true, true }, "/dev/vfio/12 open in process 812 (qemu): a virtual function", nil},
		{"unbind", devices.Use{Bound: []devices.Device{pci}}, func(w *Want) { w.Unbind = true }, "", []string{"hold", "unbind", "unload", "load"}},
		{"all of it", devices.Use{Bound: []devices.Device{vfs}, Interfaces: []devices.Interface{eth}},
			func(w *Want) { w.AllowNetwork, w.Unbind, w.ResetSRIOV = true, true, true }, "",
			[]string{"hold", "save-network", "reset-sriov", "unbind", "unload", "load", "restore-sriov", "restore-network"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := Want{Owner: "ns/nic", Files: []File{{Name: "new", Path: "/new.ko", BuildID: "aa"}}, Remove: []string{"old"}}
			if tt.change != nil {
				tt.change(&w)
			}
			f := Facts{
				Loaded: map[string]Loaded{"old": {Name: "old", State: "live", BuildID: "bb"}},
				InTree: map[string]*File{"old": {Name: "old", Path: "/old.ko", BuildID: "bb", FromHost: true}},
				Wanted: map[string]bool{"ns/nic": true}, Uses: map[string]devices.Use{"old": tt.use},
			}
			p := Make([]Want{w}, f)
			require.Len(t, p.Transactions, 1)
			tr := p.Transactions[0]
			assert.Equal(t, []string{"old"}, p.Unloads(), "told also when blocked")
			if tt.blocked != "" {
				require.NotEmpty(t, tr.Blocked)
				assert.Equal(t, "InUse", tr.Blocked[0].Reason)
				assert.Contains(t, tr.Blocked[0].Message, tt.blocked)
				assert.Empty(t, tr.Steps)
				return
			}
			require.Empty(t, tr.Blocked)
			var kinds []string
			for _, s := range tr.Steps {
				kinds = append(kinds, Kind(s))
				assert.NotEmpty(t, s.String())
			}
			assert.Equal(t, tt.steps, kinds)

			f.UseUnknown = map[string]error{"old": errors.New("netlink is mute")}
			tr = Make([]Want{w}, f).Transactions[0]
			require.NotEmpty(t, tr.Blocked)
			assert.Contains(t, tr.Blocked[0].Message, "netlink is mute")
		})
	}
}

// TestInTreeModuleNamedLater: the kernel offers the devices of a driver that goes to no driver that is there.
func TestInTreeModuleNamedLater(t *testing.T) {
	bound := devices.Use{Bound: []devices.Device{{Bus: "pci", Address: "0000:00:02.0", Driver: "old"}}}
	for _, tt := range []struct {
		name   string
		uses   map[string]devices.Use
		unbind bool
		steps  []string
	}{
		{"not looked at yet", nil, false, []string{"hold", "unload new", "unload old", "load new"}},
		{"it has a device", map[string]devices.Use{"old": bound, "new": {}}, false, []string{"hold", "unload new", "unload old", "load new"}},
		{"it has none", map[string]devices.Use{"old": {}, "new": bound}, false, []string{"hold", "unload old"}},
		{"it may have had one", map[string]devices.Use{"old": {}, "new": {}}, true, []string{"hold", "unload new", "unload old", "load new"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := Want{Owner: "ns/nic", Files: []File{{Name: "new", Path: "/new.ko", BuildID: "aa"}}, Remove: []string{"old"}, Unbind: tt.unbind}
			tr := Make([]Want{w}, Facts{
				Loaded: map[string]Loaded{"old": {Name: "old", State: "live", BuildID: "bb"}, "new": {Name: "new", State: "live", BuildID: "aa"}},
				Ours:   map[string]Entry{"new": {Owners: []string{"ns/nic"}, File: w.Files[0]}},
				InTree: map[string]*File{"old": {Name: "old", Path: "/old.ko", BuildID: "bb", FromHost: true}},
				Wanted: map[string]bool{"ns/nic": true}, Uses: tt.uses,
			}).Transactions[0]
			require.Empty(t, tr.Blocked)
			var got []string
			for _, s := range tr.Steps {
				switch s := s.(type) {
				case Unload:
					got = append(got, "unload "+s.Name)
				case Load:
					got = append(got, "load "+s.File.Name)
				default:
					got = append(got, Kind(s))
				}
			}
			assert.Equal(t, tt.steps, got)
		})
	}
}

// TestPending: what was not given back before an interruption is given back.
func TestPending(t *testing.T) {
	w := Want{Owner: "ns/nic", Files: []File{{Name: "new", Path: "/new.ko", BuildID: "aa"}}}
	f := Facts{
		Loaded: map[string]Loaded{"new": {Name: "new", State: "live", BuildID: "aa"}},
		Ours:   map[string]Entry{"new": {Owners: []string{"ns/nic"}, File: w.Files[0]}},
		Wanted: map[string]bool{"ns/nic": true}, PendingNetwork: map[string]bool{"ns/nic": true},
		PendingSRIOV: map[string][]devices.Device{"ns/nic": {{Address: "0000:00:02.0", VFs: 2}}},
	}
	tr := Make([]Want{w}, f).Transactions[0]
	require.Len(t, tr.Steps, 2)
	assert.Equal(t, "restore-sriov", Kind(tr.Steps[0]))
	assert.Equal(t, "restore-network", Kind(tr.Steps[1]))
}

// TestDependencyInUse: what was only loaded for others to use stays when it has got a use of its own, and stops nothing.
func TestDependencyInUse(t *testing.T) {
	up := devices.Interface{Name: "eth0", Up: true}
	inUse := map[string]devices.Use{
		"interface":         {Interfaces: []devices.Interface{up}},
		"disk":              {Blocks: []devices.Block{{Name: "sda", Mounts: []string{"/"}}}},
		"virtual functions": {Bound: []devices.Device{{Bus: "pci", Address: "0000:00:02.0", VFs: 8}}},
		"not known":         {},
	}
	nic := File{Name: "nic", Path: "/nic.ko", BuildID: "aa"}
	for name, use := range inUse {
		for _, dep := range []File{{Name: "dep", BuildID: "bb", FromHost: true}, {Name: "dep", BuildID: "bb", Optional: true}} {
			for _, allowed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, in-tree %t, allowed %t", name, dep.FromHost, allowed), func(t *testing.T) {
					f := Facts{
						AllowNetwork: allowed, Uses: map[string]devices.Use{"dep": use}, UseUnknown: map[string]error{},
						Loaded: map[string]Loaded{
							"nic": {Name: "nic", State: "live", BuildID: "aa"},
							"dep": {Name: "dep", State: "live", BuildID: "bb", Refs: 1, UsedBy: []string{"nic"}},
						},
						Ours: map[string]Entry{"nic": {Owners: []string{"ns/nic"}, File: nic}, "dep": {Owners: []string{"ns/nic"}, File: dep}},
					}
					if name == "not known" {
						f.UseUnknown["dep"] = errors.New("netlink is mute")
					}
					if dep.FromHost {
						tr := Make(nil, f).Transactions[0]
						assert.Empty(t, tr.Blocked)
						assert.Equal(t, []Step{Unload{Name: "nic", Why: "its Module is gone", Ours: true}, Forget{Owner: "ns/nic", Name: "dep"}}, tr.Steps)
					}

					f.Wanted = map[string]bool{"ns/nic": true}
					f.Loaded["dep"] = Loaded{Name: "dep", State: "live", BuildID: "bb"}
					w := Want{Owner: "ns/nic", Files: []File{nic}, AllowNetwork: allowed}
					tr := Make([]Want{w}, f).Transactions[0]
					assert.Empty(t, tr.Blocked, "asked for no more")
					assert.Empty(t, tr.Steps)
				})
			}
		}
	}
}

// TestSoftdepInUse follows its image as far as the document allows.
func TestSoftdepInUse(t *testing.T) {
	w := Want{Owner: "ns/nic", Files: []File{{Name: "soft", Path: "/2.ko", BuildID: "cc", Optional: true}}}
	f := Facts{
		Wanted: map[string]bool{"ns/nic": true}, Uses: map[string]devices.Use{"soft": {Interfaces: []devices.Interface{{Name: "eth0", Up: true}}}},
		Loaded: map[string]Loaded{"soft": {Name: "soft", State: "live", BuildID: "bb"}},
		Ours:   map[string]Entry{"soft": {Owners: []string{"ns/nic"}, File: File{Name: "soft", Path: "/1.ko", BuildID: "bb", Optional: true}}},
	}
	tr := Make([]Want{w}, f).Transactions[0]
	assert.Empty(t, tr.Blocked)
	assert.Empty(t, tr.Steps)
	w.AllowNetwork = true
	var kinds []string
	for _, s := range Make([]Want{w}, f).Transactions[0].Steps {
		kinds = append(kinds, Kind(s))
	}
	assert.Equal(t, []string{"save-network", "unload", "load", "restore-network"}, kinds)
}

// TestLeavingInUse: a document that is gone allows nothing any more, the node's policy only what it names.
func TestLeavingInUse(t *testing.T) {
	eth := devices.Use{Interfaces: []devices.Interface{{Name: "eth0", Up: true}}}
	vfs := devices.Use{Bound: []devices.Device{{Bus: "pci", Address: "0000:00:02.0", Driver: "new", VFs: 8}}}
	wg := devices.Use{Interfaces: []devices.Interface{{Name: "wg0", Kind: "wireguard", Up: true, Unmakeable: true}}}
	for _, tt := range []struct {
		name         string
		use          devices.Use
		allowNetwork bool
		blocked      string
	}{
		{"interface", eth, false, "eth0"},
		{"interface, allowed by the node", eth, true, ""},
		{"link that can not be made again, allowed by the node", wg, true, ""},
		{"virtual functions", vfs, false, "write 0 to /sys/bus/pci/devices/0000:00:02.0/sriov_numvfs"},
		{"virtual functions, the node allows network", vfs, true, "8 virtual functions"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := Make(nil, Facts{
				Loaded: map[string]Loaded{"new": {Name: "new", State: "live", BuildID: "aa"}},
				Ours:   map[string]Entry{"new": {Owners: []string{"ns/nic"}, File: File{Name: "new", BuildID: "aa"}}},
				Uses:   map[string]devices.Use{"new": tt.use}, AllowNetwork: tt.allowNetwork,
			}).Transactions[0]
			if tt.blocked == "" {
				assert.Empty(t, tr.Blocked)
				return
			}
			require.Len(t, tr.Blocked, 1)
			assert.Equal(t, "InUse", tr.Blocked[0].Reason)
			assert.Contains(t, tr.Blocked[0].Message, tt.blocked)
		})
	}
}
