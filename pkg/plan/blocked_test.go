// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"errors"
	"testing"

	"github.com/kmm-node/kmmd/pkg/plan"
)

func TestBlocked(t *testing.T) {
	swap := []plan.Want{removing(wants(nic, image("dummy")), "dummy")}
	way := files(inTree("dummy"))
	golden(t, "blocked", []planCase{
		{"the module is built in", []plan.Want{wants(nic, image("dummy"))}, plan.Facts{Builtin: set("dummy")}},
		{"what should leave is built in", []plan.Want{removing(wants(nic, image("nic")), "dummy", "brd")},
			plan.Facts{Builtin: set("dummy", "brd")}},
		{"both", swap, plan.Facts{Builtin: set("dummy")}},
		{"in use by a module", swap, plan.Facts{Loaded: running(live(inTree("dummy"), "other")), InTree: way}},
		{"in use by references", swap, plan.Facts{Loaded: running(held(live(inTree("dummy")), 3)), InTree: way}},
		{"in use by both", swap, plan.Facts{Loaded: running(held(live(inTree("dummy"), "a", "b"), 1)), InTree: way}},
		{"of two, one is in use", []plan.Want{removing(wants(nic, image("nic")), "brd", "dummy")},
			plan.Facts{Loaded: running(held(live(inTree("brd")), 1), live(inTree("dummy"))), InTree: files(inTree("brd"), inTree("dummy"))}},
		{"permanent", swap, plan.Facts{Loaded: running(permanent(live(inTree("dummy")))), InTree: way}},
		{"coming", swap, plan.Facts{Loaded: running(inState(live(inTree("dummy")), "coming")), InTree: way}},
		{"going", swap, plan.Facts{Loaded: running(inState(live(inTree("dummy")), "going")), InTree: way}},
		{"our own is still coming", []plan.Want{wants(nic, image("dummy"))},
			plan.Facts{Loaded: running(inState(live(image("dummy")), "coming")), Ours: ledger(entry(image("dummy"), nic))}},
		{"no way back", swap, plan.Facts{Loaded: running(live(inTree("dummy")))}},
		{"no way back and in use", swap, plan.Facts{Loaded: running(live(inTree("dummy"), "other"))}},
		{"wrong build", []plan.Want{wants(nic, image("dummy"))}, plan.Facts{Loaded: running(live(inTree("dummy")))}},
		{"wrong build without build-id", []plan.Want{wants(nic, image("dummy"))}, plan.Facts{Loaded: running(live(bare(inTree("dummy"))))}},
		{"a new build of what is in use", []plan.Want{wants(nic, newer(image("dummy")))},
			plan.Facts{Loaded: running(live(image("dummy"), "other")), Ours: ledger(entry(image("dummy"), nic))}},
		{"a new build of a dependency of another Module's",
			[]plan.Want{wants(nic, newer(image("base")), image("dummy")), wants(disk, image("brd"))},
			plan.Facts{
				Loaded: running(live(image("base"), "brd"), live(image("brd")), live(image("dummy"))),
				Ours:   ledger(entry(image("base"), nic), entry(image("brd"), disk), entry(image("dummy"), nic)),
			}},
		{"never to be loaded", []plan.Want{wants(nic, inTree("bus"), image("dummy"))}, plan.Facts{NeverLoad: set("dummy", "bus", "brd")}},
		{"never to be loaded, but runs", []plan.Want{wants(nic, image("dummy"))},
			plan.Facts{NeverLoad: set("dummy"), Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dummy"), nic))}},
		{"never to be removed", swap, plan.Facts{NeverRemove: set("dummy"), Loaded: running(live(inTree("dummy"))), InTree: way}},
		{"never to be removed, not loaded", swap, plan.Facts{NeverRemove: set("dummy"), InTree: way}},
		{"never to be removed for another build", []plan.Want{wants(nic, newer(image("dummy")))},
			plan.Facts{NeverRemove: set("dummy"), Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dummy"), nic))}},
		{"firmware of others", []plan.Want{wants(nic, image("dummy"))},
			plan.Facts{FirmwareConflict: map[string]error{nic: errors.New("a.bin belongs to default/disk")}}},
		{"one is blocked, the other is not", []plan.Want{wants(nic, image("dummy")), wants(disk, image("brd"))},
			plan.Facts{Builtin: set("dummy")}},
	})
}

func TestConflict(t *testing.T) {
	golden(t, "conflict", []planCase{
		{"builds", []plan.Want{wants(nic, image("dummy")), wants(disk, newer(image("dummy")))}, plan.Facts{}},
		{"builds of a dependency", []plan.Want{
			wants(nic, image("dep"), image("dummy")), wants(disk, newer(image("dep")), image("brd")),
		}, plan.Facts{}},
		{"parameters", []plan.Want{wants(nic, image("dummy", "level=1")), wants(disk, image("dummy", "level=2"))}, plan.Facts{}},
		{"one loads what the other removes", []plan.Want{
			wants(nic, image("dummy")), removing(wants(disk, image("brd")), "dummy"),
		}, plan.Facts{}},
		{"an in-tree dependency that the other removes", []plan.Want{
			wants(nic, inTree("bus"), image("dummy")), removing(wants(disk, image("brd")), "bus"),
		}, plan.Facts{}},
		{"a softdep that the other removes is none", []plan.Want{
			wants(nic, soft(image("helper")), image("dummy")), removing(wants(disk, image("brd")), "helper"),
		}, plan.Facts{}},
		{"a softdep that the other removes, and which ran before", []plan.Want{
			wants(nic, soft(inTree("helper")), image("dummy")), removing(wants(disk, image("brd")), "helper"),
		}, plan.Facts{
			Loaded: running(live(inTree("helper")), live(image("dummy"))), InTree: files(inTree("helper")),
			Ours: ledger(entry(soft(inTree("helper")), nic), entry(image("dummy"), nic)),
		}},
		{"a softdep of the image that the other removes, and which ran before", []plan.Want{
			wants(nic, soft(image("helper")), image("dummy")), removing(wants(disk, image("brd")), "helper"),
		}, plan.Facts{
			Loaded: running(live(image("helper")), live(image("dummy"))), InTree: files(inTree("helper")),
			Ours: ledger(entry(soft(image("helper")), nic), entry(image("dummy"), nic)),
		}},
		{"a softdep that the other removes and loads", []plan.Want{
			wants(nic, soft(inTree("helper")), image("dummy")), removing(wants(disk, image("helper")), "helper"),
		}, plan.Facts{}},
		{"builds of a softdep", []plan.Want{
			wants(nic, soft(newer(image("helper"))), image("dummy")), wants(disk, soft(image("helper")), image("brd")),
		}, plan.Facts{}},
		{"builds of a softdep, of which one runs", []plan.Want{
			wants(nic, soft(newer(image("helper"))), image("dummy")), wants(disk, soft(image("helper")), image("brd")),
		}, plan.Facts{
			Loaded: running(live(image("helper")), live(image("dummy")), live(image("brd"))),
			Ours:   ledger(entry(soft(image("helper")), disk), entry(image("dummy"), nic), entry(image("brd"), disk)),
		}},
		{"a softdep, of which the other names another build", []plan.Want{
			wants(nic, newer(image("helper"))), wants(disk, soft(image("helper")), image("brd")),
		}, plan.Facts{}},
		{"a softdep that runs, of which the other names another build", []plan.Want{
			wants(nic, newer(image("helper"))), wants(disk, soft(image("helper")), image("brd")),
		}, plan.Facts{
			Loaded: running(live(image("helper")), live(image("brd"))), Ours: ledger(entry(soft(image("helper")), disk), entry(image("brd"), disk)),
		}},
		{"a softdep of both, of which one names another build", []plan.Want{
			wants(nic, newer(image("helper"))), wants(disk, soft(image("helper")), image("brd")),
		}, plan.Facts{
			Loaded: running(live(image("helper")), live(image("brd"))), Ours: ledger(entry(image("helper"), disk, nic), entry(image("brd"), disk)),
		}},
		{"a softdep that replaces the in-tree one, of which the other names another build", []plan.Want{
			wants(nic, newer(image("helper"))), removing(wants(disk, soft(image("helper")), image("brd")), "helper"),
		}, plan.Facts{Loaded: running(live(inTree("helper"))), InTree: files(inTree("helper")), Held: map[string][]string{disk: {"helper"}}}},
		{"a softdep that replaces the in-tree one, of which another build runs for the other", []plan.Want{
			wants(nic, newer(image("helper"))), removing(wants(disk, soft(image("helper")), image("brd")), "helper"),
		}, plan.Facts{
			Loaded: running(live(newer(image("helper")))), InTree: files(inTree("helper")), Held: map[string][]string{disk: {"helper"}},
			Ours: ledger(entry(newer(image("helper")), nic)),
		}},
		{"a softdep of both that replaces the in-tree one, of which another build runs", []plan.Want{
			wants(nic, soft(newer(image("helper"))), image("dummy")), removing(wants(disk, soft(image("helper")), image("brd")), "helper"),
		}, plan.Facts{
			Loaded: running(live(newer(image("helper"))), live(image("dummy"))), InTree: files(inTree("helper")), Held: map[string][]string{disk: {"helper"}},
			Ours: ledger(entry(soft(newer(image("helper"))), nic), entry(image("dummy"), nic)),
		}},
		{"a softdep that replaces an in-tree one which the other needs", []plan.Want{
			wants(nic, inTree("helper"), image("dummy")), removing(wants(disk, soft(image("helper")), image("brd")), "helper"),
		}, plan.Facts{
			Loaded: running(live(inTree("helper")), live(image("dummy"))), InTree: files(inTree("helper")), Held: map[string][]string{disk: {"helper"}},
			Ours: ledger(entry(inTree("helper"), nic), entry(image("dummy"), nic)),
		}},
		{"a softdep that the other names with parameters", []plan.Want{
			wants(nic, image("helper", "level=1")), wants(disk, soft(image("helper")), image("brd")),
		}, plan.Facts{}},
		{"a softdep that runs for the other with parameters", []plan.Want{wants(nic, soft(image("helper")), image("dummy"))}, plan.Facts{
			Loaded: running(live(image("helper", "level=1")), live(image("dummy"))), Wanted: set(disk),
			Ours: ledger(entry(image("helper", "level=1"), disk), entry(image("dummy"), nic)),
		}},
		{"both remove the same", []plan.Want{
			removing(wants(nic, image("dummy")), "old"), removing(wants(disk, image("brd")), "old"),
		}, plan.Facts{Loaded: running(live(inTree("old"))), InTree: files(inTree("old"))}},
		{"three of which two", []plan.Want{
			wants(nic, image("dummy")), wants(disk, newer(image("dummy"))), wants("z/third", image("other")),
		}, plan.Facts{}},
		{"the node's own files differ from nothing", []plan.Want{
			wants(nic, inTree("bus"), image("dummy")), wants(disk, newer(image("bus"))),
		}, plan.Facts{}},
		{"running for a Module that is not resolved: builds", []plan.Want{wants(nic, image("dummy"))}, plan.Facts{
			Loaded: running(live(newer(image("dummy")))), Ours: ledger(entry(newer(image("dummy")), disk)), Wanted: set(disk),
		}},
		{"running for a Module that is not resolved: parameters", []plan.Want{wants(nic, image("dummy", "level=1"))}, plan.Facts{
			Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dummy"), disk)), Wanted: set(disk),
		}},
		{"running for a Module that is not resolved: the same name is removed and loaded", []plan.Want{removing(wants(nic, image("dummy")), "dummy")}, plan.Facts{
			Loaded: running(live(newer(image("dummy")))), Ours: ledger(entry(newer(image("dummy")), disk)), Wanted: set(disk),
			InTree: files(inTree("dummy")),
		}},
		// A transaction is one Module's, so this one waits until one of both has gone.
		{"two Modules want a newer build of what they share", []plan.Want{
			wants(nic, newer(image("dep")), image("dummy")), wants(disk, newer(image("dep")), image("brd")),
		}, plan.Facts{
			Loaded: running(live(image("dep"), "brd", "dummy"), live(image("brd")), live(image("dummy"))),
			Ours:   ledger(entry(image("dep"), disk, nic), entry(image("brd"), disk), entry(image("dummy"), nic)),
		}},
		{"running for a Module that is not resolved: removal", []plan.Want{removing(wants(nic, image("nic")), "dummy")}, plan.Facts{
			Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dummy"), disk)), Wanted: set(disk),
			InTree: files(inTree("dummy")),
		}},
	})
}
