// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"testing"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/plan"
)

func TestLeave(t *testing.T) {
	golden(t, "leave", []planCase{
		{"users before what they use", nil, plan.Facts{
			Loaded: running(live(image("base"), "middle", "top"), live(image("middle"), "top"), live(image("top"))),
			Ours:   ledger(entry(image("base"), nic), entry(image("middle"), nic), entry(image("top"), nic)),
		}},
		{"autoload is let go", nil, plan.Facts{
			Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dummy"), nic)),
			Held: map[string][]string{nic: {"dummy"}, disk: {"brd"}}, Wanted: set(disk),
		}},
		{"only a hold is left", nil, plan.Facts{Held: map[string][]string{nic: {"dummy"}}}},
		{"in-tree dependencies that others use are spared, and what these use", nil, plan.Facts{
			Loaded: running(live(inTree("a"), "b"), live(inTree("b"), "dummy", "other"), live(inTree("c"), "dummy"), live(image("dummy"))),
			Ours:   ledger(entry(inTree("a"), nic), entry(inTree("b"), nic), entry(inTree("c"), nic), entry(image("dummy"), nic)),
		}},
		{"an in-tree dependency with an open file is spared", nil, plan.Facts{
			Loaded: running(held(live(inTree("bus"), "dummy"), 1), live(image("dummy"))),
			Ours:   ledger(entry(inTree("bus"), nic), entry(image("dummy"), nic)),
		}},
		{"an in-tree dependency that is never to be removed is spared", nil, plan.Facts{
			Loaded: running(live(inTree("bus"), "dummy"), live(image("dummy"))), NeverRemove: set("bus"),
			Ours: ledger(entry(inTree("bus"), nic), entry(image("dummy"), nic)),
		}},
		{"an in-tree dependency that is permanent is spared", nil, plan.Facts{
			Loaded: running(permanent(live(inTree("bus"), "dummy")), live(image("dummy"))),
			Ours:   ledger(entry(inTree("bus"), nic), entry(image("dummy"), nic)),
		}},
		{"dependencies of the image, too, are spared while others use them", nil, plan.Facts{
			Loaded: running(live(image("base"), "dummy", "other"), live(image("helper"), "other"), live(image("dummy"))),
			Ours:   ledger(entry(dependency(image("base")), nic), entry(soft(image("helper")), nic), entry(image("dummy"), nic)),
		}},
		{"a dependency that something uses stays, whatever that is", nil, plan.Facts{
			Loaded: running(held(live(image("base"), "dummy"), 1), live(image("dummy"))),
			Ours:   ledger(entry(dependency(image("base")), nic), entry(image("dummy"), nic)),
		}},
		{"it is tried when what may hold it has gone", nil, plan.Facts{
			Loaded: running(place(held(live(image("base"), "dummy"), 1), 1), place(live(image("dummy")), 0)),
			Ours:   ledger(entry(dependency(image("base")), nic), entry(image("dummy"), nic)),
		}},
		{"dependencies of the image go with it", nil, plan.Facts{
			Loaded: running(live(image("base"), "dummy"), live(image("helper")), live(image("dummy"))),
			Ours:   ledger(entry(dependency(image("base")), nic), entry(soft(image("helper")), nic), entry(image("dummy"), nic)),
		}},
		{"what was loaded later goes before", nil, plan.Facts{
			Loaded: running(place(live(image("a")), 2), place(live(image("c")), 1), place(live(image("b")), 0)),
			Ours:   ledger(entry(image("a"), nic), entry(image("b"), nic), entry(image("c"), nic)),
		}},
		{"what was loaded later may hold what it does not use", nil, plan.Facts{
			Loaded: running(place(held(live(image("base")), 1), 1), place(live(image("dummy")), 0)),
			Ours:   ledger(entry(image("base"), nic), entry(image("dummy"), nic)),
		}},
		{"what was loaded earlier does not", nil, plan.Facts{
			Loaded: running(place(live(image("base")), 1), place(held(live(image("dummy")), 1), 0)),
			Ours:   ledger(entry(image("base"), nic), entry(image("dummy"), nic)),
		}},
		{"an open file is no module", nil, plan.Facts{
			Loaded: running(place(held(live(image("base")), 1), 1), place(live(image("dummy")), 0)),
			Ours:   ledger(entry(image("base"), nic), entry(image("dummy"), nic)),
			Uses:   map[string]devices.Use{"base": {Files: []devices.OpenFile{{PID: 7, Command: "cat", Path: "/dev/base"}}}},
		}},
		{"what is never to be removed stays", nil, plan.Facts{
			Loaded: running(live(image("dummy"))), NeverRemove: set("dummy"), Ours: ledger(entry(image("dummy"), nic)),
		}},
		{"shared with another Module", []plan.Want{wants(disk, image("dep"), image("brd"))}, plan.Facts{
			Loaded: running(live(image("dep"), "brd", "dummy"), live(image("brd")), live(image("dummy"))),
			Ours:   ledger(entry(image("dep"), disk, nic), entry(image("brd"), disk), entry(image("dummy"), nic)),
		}},
		{"kept for a Module that wants the same", []plan.Want{wants(disk, image("dummy", "level=1"))}, plan.Facts{
			Loaded: running(live(image("dummy", "level=1"))), Ours: ledger(entry(image("dummy", "level=1"), nic)),
		}},
		{"not kept for one that wants other parameters", []plan.Want{wants(disk, image("dummy", "level=2"))}, plan.Facts{
			Loaded: running(live(image("dummy", "level=1"))), Ours: ledger(entry(image("dummy", "level=1"), nic)),
		}},
		{"not kept for one that wants another build", []plan.Want{wants(disk, newer(image("dummy")))}, plan.Facts{
			Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dummy"), nic)),
		}},
		{"two leave", nil, plan.Facts{
			Loaded: running(live(image("dep"), "brd", "dummy"), live(image("brd")), live(image("dummy"))),
			Ours:   ledger(entry(image("dep"), disk, nic), entry(image("brd"), disk), entry(image("dummy"), nic)),
		}},
		{"gone already", nil, plan.Facts{Ours: ledger(entry(image("dummy"), nic))}},
		{"another build runs by now", nil, plan.Facts{
			Loaded: running(live(inTree("dummy"))), Ours: ledger(entry(image("dummy"), nic)),
		}},
		{"with firmware", nil, plan.Facts{
			Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dummy"), nic)),
			FirmwareOwners: []string{nic}, FirmwarePath: firmwares, FirmwareBefore: "/opt/fw",
		}},
		{"in use by a module", nil, plan.Facts{
			Loaded: running(live(image("dummy"), "other")), Ours: ledger(entry(image("dummy"), nic)),
		}},
		{"in use by a module and by references", nil, plan.Facts{
			Loaded: running(held(live(image("dummy"), "other"), 2)), Ours: ledger(entry(image("dummy"), nic)),
		}},
		{"permanent", nil, plan.Facts{
			Loaded: running(permanent(live(image("dummy")))), Ours: ledger(entry(image("dummy"), nic)),
		}},
		{"still coming", nil, plan.Facts{
			Loaded: running(inState(live(image("dummy")), "coming")), Ours: ledger(entry(image("dummy"), nic)),
		}},
		{"nothing leaves while a document can not be read", []plan.Want{wants(disk, image("brd"))}, plan.Facts{
			Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dummy"), nic)),
			FirmwareOwners: []string{nic}, Held: map[string][]string{nic: {"dummy"}}, KeepAll: true,
		}},
		{"a Module that can not be resolved stays", nil, plan.Facts{
			Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dummy"), nic)), Wanted: set(nic),
		}},
	})
}

func TestFirmware(t *testing.T) {
	withFirmware := func(owner, dir string) plan.Want {
		w := wants(owner, image("dummy"))
		w.FirmwareDir = dir
		return w
	}
	loaded := running(live(image("dummy")))
	ours := ledger(entry(image("dummy"), nic))
	golden(t, "firmware", []planCase{
		{"new: before the load", []plan.Want{removing(withFirmware(nic, "/images/1/fw"), "dummy")}, plan.Facts{
			Loaded: running(live(inTree("dummy"))), InTree: files(inTree("dummy")),
		}},
		{"new, the path is right", []plan.Want{withFirmware(nic, "/images/1/fw")}, plan.Facts{FirmwarePath: firmwares}},
		{"current", []plan.Want{withFirmware(nic, "/images/1/fw")}, plan.Facts{
			Loaded: loaded, Ours: ours, FirmwareCurrent: set(nic), FirmwareOwners: []string{nic},
			FirmwareDirs: map[string]string{nic: "/images/1/fw"}, FirmwarePath: firmwares,
		}},
		{"current, but somebody changed the path", []plan.Want{withFirmware(nic, "/images/1/fw")}, plan.Facts{
			Loaded: loaded, Ours: ours, FirmwareCurrent: set(nic), FirmwareOwners: []string{nic}, FirmwarePath: "/elsewhere",
		}},
		{"changed: the old one can come back", []plan.Want{withFirmware(nic, "/images/2/fw")}, plan.Facts{
			Loaded: loaded, Ours: ours, FirmwareOwners: []string{nic}, FirmwarePath: firmwares,
			FirmwareDirs: map[string]string{nic: "/images/1/fw"},
		}},
		{"dropped by the last owner", []plan.Want{wants(nic, image("dummy"))}, plan.Facts{
			Loaded: loaded, Ours: ours, FirmwareOwners: []string{nic}, FirmwarePath: firmwares, FirmwareBefore: "/opt/fw",
		}},
		{"dropped, the path was unset before", []plan.Want{wants(nic, image("dummy"))}, plan.Facts{
			Loaded: loaded, Ours: ours, FirmwareOwners: []string{nic}, FirmwarePath: firmwares,
		}},
		{"dropped, the path was like this before", []plan.Want{wants(nic, image("dummy"))}, plan.Facts{
			Loaded: loaded, Ours: ours, FirmwareOwners: []string{nic}, FirmwarePath: firmwares, FirmwareBefore: firmwares,
		}},
		{"dropped, somebody else has set the path since", []plan.Want{wants(nic, image("dummy"))}, plan.Facts{
			Loaded: loaded, Ours: ours, FirmwareOwners: []string{nic}, FirmwarePath: "/elsewhere", FirmwareBefore: "/opt/fw",
		}},
		{"dropped while another has some", []plan.Want{wants(nic, image("dummy")), wants(disk, image("brd"))}, plan.Facts{
			Loaded: running(live(image("dummy")), live(image("brd"))), FirmwareOwners: []string{disk, nic},
			Ours: ledger(entry(image("dummy"), nic), entry(image("brd"), disk)), FirmwarePath: firmwares, FirmwareBefore: "/opt/fw",
		}},
		{"owner gone while another remains", []plan.Want{withFirmware(nic, "/images/1/fw")}, plan.Facts{
			Loaded: loaded, Ours: ours, FirmwareCurrent: set(nic), FirmwareOwners: []string{disk, nic}, FirmwarePath: firmwares,
		}},
		{"last owner gone, no module left", nil, plan.Facts{
			FirmwareOwners: []string{nic}, FirmwarePath: firmwares, FirmwareBefore: "/opt/fw",
		}},
		{"both owners gone", nil, plan.Facts{
			FirmwareOwners: []string{disk, nic}, FirmwarePath: firmwares, FirmwareBefore: "/opt/fw",
		}},
		{"both owners gone, the last one is in use", nil, plan.Facts{
			FirmwareOwners: []string{disk, nic}, FirmwarePath: firmwares, FirmwareBefore: "/opt/fw",
			Loaded: running(held(live(image("dummy")), 1)), Ours: ours,
		}},
		{"both owners gone, the first one is in use", nil, plan.Facts{
			FirmwareOwners: []string{disk, nic}, FirmwarePath: firmwares, FirmwareBefore: "/opt/fw",
			Loaded: running(held(live(image("brd")), 1)), Ours: ledger(entry(image("brd"), disk)),
		}},
		{"one gone, the other drops its own", []plan.Want{wants(nic, image("dummy"))}, plan.Facts{
			Loaded: loaded, Ours: ours, FirmwareOwners: []string{disk, nic}, FirmwarePath: firmwares, FirmwareBefore: "/opt/fw",
		}},
	})
}
