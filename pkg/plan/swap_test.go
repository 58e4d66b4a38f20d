// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"testing"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/plan"
)

func TestSwap(t *testing.T) {
	golden(t, "swap", []planCase{
		{"nothing is wanted and nothing is there", nil, plan.Facts{}},
		{"first load", []plan.Want{wants(nic, image("dep"), image("dummy", "level=1"))}, plan.Facts{}},
		{"no in-tree module runs",
			[]plan.Want{removing(wants(nic, image("dummy")), "dummy")}, plan.Facts{InTree: files(inTree("dummy"))}},
		{"of the same name",
			[]plan.Want{removing(wants(nic, image("dummy")), "dummy")},
			plan.Facts{Loaded: running(live(inTree("dummy"))), InTree: files(inTree("dummy"))}},
		{"of another name",
			[]plan.Want{removing(wants(nic, image("dummy2")), "dummy")},
			plan.Facts{Loaded: running(live(inTree("dummy"))), InTree: files(inTree("dummy"))}},
		{"the in-tree module is named later",
			[]plan.Want{removing(wants(nic, inTree("bus"), soft(image("helper")), image("base"), image("new")), "a_old")},
			plan.Facts{
				Loaded: running(live(inTree("a_old")), live(inTree("bus")), live(image("helper")), live(image("base"), "new"), live(image("new"))),
				Ours:   ledger(entry(inTree("bus"), nic), entry(soft(image("helper")), nic), entry(image("base"), nic), entry(image("new"), nic)),
				InTree: files(inTree("a_old")),
			}},
		{"the in-tree module is named later, and another Module has the new one too",
			[]plan.Want{removing(wants(nic, image("base"), image("new")), "old"), wants(disk, image("base"))},
			plan.Facts{
				Loaded: running(live(inTree("old")), live(image("base"), "new"), live(image("new"))),
				Ours:   ledger(entry(image("base"), disk, nic), entry(image("new"), nic)), InTree: files(inTree("old")),
			}},
		{"the in-tree module is named later, and the new one is not in the ledger",
			[]plan.Want{removing(wants(nic, image("new")), "old")},
			plan.Facts{Loaded: running(live(inTree("old")), live(image("new", "level=3"))), InTree: files(inTree("old"))}},
		{"the in-tree module is named later, and the new one is in use",
			[]plan.Want{removing(wants(nic, image("new")), "old")},
			plan.Facts{
				Loaded: running(live(inTree("old")), held(live(image("new")), 1)), Ours: ledger(entry(image("new"), nic)),
				InTree: files(inTree("old")),
			}},
		{"an in-tree module of the same name is there again: the others stay",
			[]plan.Want{removing(wants(nic, image("base"), image("dummy")), "dummy")},
			plan.Facts{
				Loaded: running(live(inTree("dummy")), live(image("base"))), Ours: ledger(entry(image("base"), nic), entry(image("dummy"), nic)),
				InTree: files(inTree("dummy")), Held: map[string][]string{nic: {"dummy"}},
			}},
		{"one in-tree module holds another",
			[]plan.Want{removing(wants(nic, image("nic")), "a_core", "b_user", "c_user")},
			plan.Facts{
				Loaded: running(live(inTree("a_core"), "b_user", "c_user"), live(inTree("b_user"), "c_user"), live(inTree("c_user"))),
				InTree: files(inTree("a_core"), inTree("b_user"), inTree("c_user")),
			}},
		{"in-tree parameters come back, what can not be read back does not",
			[]plan.Want{removing(wants(nic, image("dummy")), "dummy")},
			plan.Facts{
				Loaded: running(withParameters(live(inTree("dummy")), "level=3", "label=(null)", "on=Y", "odd=x", "list=")),
				InTree: files(typed(inTree("dummy"))),
			}},
		{"holding off is done already",
			[]plan.Want{removing(wants(nic, image("dummy")), "dummy")},
			plan.Facts{Held: map[string][]string{nic: {"dummy"}}}},
		{"nothing is removed any more",
			[]plan.Want{wants(nic, image("dummy"))},
			plan.Facts{
				Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dummy"), nic)),
				Held: map[string][]string{nic: {"dummy"}},
			}},
		{"flags and softdeps",
			[]plan.Want{wants(nic, soft(image("helper")), inTree("bus"), image("dummy"))}, plan.Facts{}},
		{"what the document loads after a module that goes is loaded anew",
			[]plan.Want{ordered(wants(nic, image("c"), newer(image("b")), image("a")), "c", "b", "a")},
			plan.Facts{
				Loaded: running(place(live(image("c")), 2), place(live(image("b")), 1), place(live(image("a")), 0)),
				Ours:   ledger(entry(image("a"), nic), entry(image("b"), nic), entry(image("c"), nic)),
			}},
		{"unless that never goes",
			[]plan.Want{ordered(wants(nic, newer(image("c")), image("b"), image("a")), "c", "b", "a")},
			plan.Facts{
				Loaded: running(place(live(image("c")), 2), place(permanent(live(image("b"))), 1), place(live(image("a")), 0)),
				Ours:   ledger(entry(image("a"), nic), entry(image("b"), nic), entry(image("c"), nic)), NeverRemove: set("a"),
			}},
		{"what has outlived its Module makes room for the next one",
			[]plan.Want{wants(nic, dependency(newer(image("base"))), newer(image("dummy")))},
			plan.Facts{Loaded: running(live(image("base"))), Ours: ledger(entry(dependency(image("base"))))}},
		{"but for one that has devices, and nothing to come back from",
			[]plan.Want{wants(nic, dependency(newer(image("base"))), newer(image("dummy")))},
			plan.Facts{
				Loaded: running(live(image("base"))), Ours: ledger(entry(dependency(image("base")))),
				Uses: map[string]devices.Use{"base": {Bound: []devices.Device{{Bus: "pci", Address: "0000:00:02.0"}}}},
			}},
		{"and is taken over as it is",
			[]plan.Want{wants(nic, dependency(image("base")), image("dummy"))},
			plan.Facts{Loaded: running(live(image("base"))), Ours: ledger(entry(dependency(image("base"))))}},
		{"and is removed when that is asked for",
			[]plan.Want{removing(wants(nic, newer(image("dummy"))), "base")},
			plan.Facts{Loaded: running(live(image("base"))), Ours: ledger(entry(dependency(image("base")))), InTree: files(inTree("base"))}},
		{"a dependency that the document names by now",
			[]plan.Want{ordered(wants(nic, image("b"), image("a")), "b", "a")},
			plan.Facts{
				Loaded: running(place(live(image("b"), "a"), 1), place(live(image("a")), 0)),
				Ours:   ledger(entry(dependency(image("b")), nic), entry(image("a"), nic)),
			}},
		{"what the document loads later may hold what it does not use",
			[]plan.Want{ordered(wants(nic, newer(image("b")), image("a")), "b", "a")},
			plan.Facts{
				Loaded: running(place(held(live(image("b")), 1), 1), place(live(image("a")), 0)),
				Ours:   ledger(entry(image("a"), nic), entry(image("b"), nic)),
			}},
		{"so may an in-tree module that is to be removed as well",
			[]plan.Want{removing(wants(nic, image("nic")), "a_core", "b_user")},
			plan.Facts{
				Loaded: running(place(held(live(inTree("a_core")), 1), 1), place(live(inTree("b_user")), 0)),
				InTree: files(inTree("a_core"), inTree("b_user")),
			}},
		{"what no document names is not tried",
			[]plan.Want{wants(nic, dependency(newer(image("base"))), newer(image("dummy")))},
			plan.Facts{
				Loaded: running(place(held(live(image("base"), "dummy"), 1), 1), place(live(image("dummy")), 0)),
				Ours:   ledger(entry(dependency(image("base")), nic), entry(image("dummy"), nic)),
			}},
		{"a dependency that a newer image does not have goes with the build that used it",
			[]plan.Want{wants(nic, newer(image("dummy")))},
			plan.Facts{
				Loaded: running(live(image("base"), "dummy"), live(image("dummy"))),
				Ours:   ledger(entry(dependency(image("base")), nic), entry(image("dummy"), nic)),
			}},
		{"and stays when others use it",
			[]plan.Want{wants(nic, newer(image("dummy")))},
			plan.Facts{
				Loaded: running(live(image("base"), "dummy", "other"), live(image("dummy"))),
				Ours:   ledger(entry(dependency(image("base")), nic), entry(image("dummy"), nic)),
			}},
		{"a softdep follows its image",
			[]plan.Want{wants(nic, soft(newer(image("helper"))), newer(image("dummy")))},
			plan.Facts{Loaded: running(live(image("helper")), live(image("dummy"))), Ours: ledger(entry(image("helper"), nic), entry(image("dummy"), nic))}},
		{"a softdep that another Module has too stays",
			[]plan.Want{wants(nic, soft(newer(image("helper"))), image("dummy"))},
			plan.Facts{Loaded: running(live(image("helper")), live(image("dummy"))), Ours: ledger(entry(image("helper"), disk, nic), entry(image("dummy"), nic))}},
		{"a softdep that somebody else has loaded stays",
			[]plan.Want{wants(nic, soft(newer(image("helper"))), image("dummy"))},
			plan.Facts{Loaded: running(live(image("helper")), live(image("dummy"))), Ours: ledger(entry(image("dummy"), nic))}},
		{"a softdep in use stays",
			[]plan.Want{wants(nic, soft(newer(image("helper"))), image("dummy"))},
			plan.Facts{Loaded: running(live(image("helper"), "other"), live(image("dummy"))), Ours: ledger(entry(image("helper"), nic), entry(image("dummy"), nic))}},
		{"a softdep that is never to be removed stays",
			[]plan.Want{wants(nic, soft(newer(image("helper"))), image("dummy"))},
			plan.Facts{Loaded: running(live(image("helper")), live(image("dummy"))), Ours: ledger(entry(image("helper"), nic), entry(image("dummy"), nic)),
				NeverRemove: set("helper")}},
		{"the in-tree dependency runs, whatever its build",
			[]plan.Want{wants(nic, inTree("bus"), image("dummy"))},
			plan.Facts{Loaded: running(live(newer(inTree("bus")), "other"))}},
		{"a built-in dependency of the host is no obstacle",
			[]plan.Want{wants(nic, inTree("bus"), image("dummy"))}, plan.Facts{Builtin: set("bus")}},
		{"two Modules, by owner",
			[]plan.Want{wants(nic, image("dummy")), wants(disk, image("brd"))}, plan.Facts{}},
		{"who brings a module comes before who takes the node's own",
			[]plan.Want{
				removing(wants("z/provider", image("bus")), "bus"), wants(disk, inTree("bus"), image("brd")), wants(nic, inTree("brd"), image("dummy")),
			}, plan.Facts{}},
		{"who takes what the other brings, in a circle: by owner",
			[]plan.Want{
				wants(nic, inTree("a"), image("b")), wants(disk, inTree("b"), image("a")),
			}, plan.Facts{}},
		{"two Modules share a dependency",
			[]plan.Want{wants(nic, image("dep"), image("dummy")), wants(disk, image("dep"), image("brd"))}, plan.Facts{}},
	})
}

func TestAdopt(t *testing.T) {
	golden(t, "adopt", []planCase{
		{"met", []plan.Want{wants(nic, image("dummy", "level=1"))},
			plan.Facts{
				Loaded: running(live(image("dummy", "level=1"))), Ours: ledger(entry(image("dummy", "level=1"), nic)),
			}},
		{"met, though somebody wrote a parameter since", []plan.Want{wants(nic, image("dummy", "level=1"))},
			plan.Facts{
				Loaded: running(withParameters(live(image("dummy")), "level=7")), Ours: ledger(entry(image("dummy", "level=1"), nic)),
			}},
		{"without ledger", []plan.Want{removing(wants(nic, image("dep"), image("dummy", "level=1")), "dummy")},
			plan.Facts{
				Loaded: running(live(image("dep"), "dummy"), live(image("dummy", "level=1"))), InTree: files(inTree("dummy")),
			}},
		{"without ledger, a parameter that is not shown", []plan.Want{wants(nic, image("dummy", "level=1"))},
			plan.Facts{Loaded: running(live(image("dummy")))}},
		{"without ledger, other parameters", []plan.Want{removing(wants(nic, image("dummy", "level=1")), "dummy")},
			plan.Facts{Loaded: running(withParameters(live(image("dummy")), "level=2")), InTree: files(typed(inTree("dummy")))}},
		{"without ledger, the in-tree dependency is not ours", []plan.Want{wants(nic, inTree("bus"), image("dummy"))},
			plan.Facts{Loaded: running(live(inTree("bus"), "dummy"), live(image("dummy")))}},
		{"loaded for another Module", []plan.Want{wants(nic, image("dep"), image("dummy")), wants(disk, image("dep"))},
			plan.Facts{Loaded: running(live(image("dep"))), Ours: ledger(entry(image("dep"), disk))}},
		{"an in-tree dependency that was loaded for another Module",
			[]plan.Want{wants(nic, inTree("bus"), image("dummy")), wants(disk, inTree("bus"), image("brd"))},
			plan.Facts{
				Loaded: running(live(inTree("bus"), "brd"), live(image("brd"))),
				Ours:   ledger(entry(inTree("bus"), disk), entry(image("brd"), disk)),
			}},
		{"the same build in another image", []plan.Want{wants(nic, again(image("dummy")))},
			plan.Facts{Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dummy"), nic))}},
		{"what was a softdep is named", []plan.Want{wants(nic, image("dummy"))},
			plan.Facts{Loaded: running(live(image("dummy"))), Ours: ledger(entry(soft(image("dummy")), nic))}},
		{"a softdep of one, named by the other", []plan.Want{wants(nic, image("dummy")), wants(disk, soft(image("dummy")))},
			plan.Facts{Loaded: running(live(image("dummy"))), Ours: ledger(entry(soft(image("dummy")), disk, nic))}},
		{"the same build in the images of two Modules",
			[]plan.Want{wants(nic, again(image("dep"))), wants(disk, image("dep"))},
			plan.Facts{Loaded: running(live(image("dep"))), Ours: ledger(entry(image("dep"), disk, nic))}},
		{"no build-id, known by the ledger", []plan.Want{wants(nic, bare(image("dummy")))},
			plan.Facts{Loaded: running(live(bare(image("dummy")))), Ours: ledger(entry(bare(image("dummy")), nic))}},
	})
}

func TestChange(t *testing.T) {
	stack := ledger(entry(image("base"), nic), entry(image("middle"), nic), entry(image("top"), nic))
	tower := running(live(image("base"), "middle"), live(image("middle"), "top"), live(image("top")))
	golden(t, "change", []planCase{
		{"parameters", []plan.Want{wants(nic, image("dummy", "level=2"))},
			plan.Facts{
				Loaded: running(live(image("dummy", "level=1"))), Ours: ledger(entry(image("dummy", "level=1"), nic)),
			}},
		{"parameters, with the dependency untouched", []plan.Want{wants(nic, image("dep"), image("dummy", "level=2"))},
			plan.Facts{
				Loaded: running(live(image("dep"), "dummy"), live(image("dummy"))),
				Ours:   ledger(entry(image("dep"), nic), entry(image("dummy"), nic)),
			}},
		{"build", []plan.Want{removing(wants(nic, newer(image("dummy"))), "dummy")},
			plan.Facts{
				Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dummy"), nic)),
				InTree: files(inTree("dummy")), Held: map[string][]string{nic: {"dummy"}},
			}},
		{"of a dependency: what uses it is loaded again",
			[]plan.Want{wants(nic, newer(image("base")), image("middle"), image("top"))},
			plan.Facts{Loaded: tower, Ours: stack}},
		{"of a dependency in the middle", []plan.Want{wants(nic, image("base"), newer(image("middle")), image("top"))},
			plan.Facts{Loaded: tower, Ours: stack}},
		{"no longer asked for", []plan.Want{wants(nic, image("base"))}, plan.Facts{Loaded: tower, Ours: stack}},
		{"a dropped in-tree dependency that something uses stays", []plan.Want{wants(nic, image("dummy"))},
			plan.Facts{
				Loaded: running(live(inTree("bus"), "other"), live(image("dummy"))),
				Ours:   ledger(entry(inTree("bus"), nic), entry(image("dummy"), nic)),
			}},
		{"a dropped in-tree dependency that nobody uses goes", []plan.Want{wants(nic, image("dummy"))},
			plan.Facts{
				Loaded: running(live(inTree("bus")), live(image("dummy"))),
				Ours:   ledger(entry(inTree("bus"), nic), entry(image("dummy"), nic)),
			}},
		{"a dropped in-tree dependency that never goes stays", []plan.Want{wants(nic, newer(image("dummy")))},
			plan.Facts{Loaded: running(live(inTree("bus")), permanent(live(inTree("clk"))), live(image("dummy"))), NeverRemove: set("bus"),
				Ours: ledger(entry(inTree("bus"), nic), entry(inTree("clk"), nic), entry(image("dummy"), nic))}},
		{"a dropped softdep in use stays", []plan.Want{wants(nic, newer(image("dummy")))},
			plan.Facts{
				Loaded: running(held(live(image("helper")), 1), live(image("dummy"))),
				Ours:   ledger(entry(soft(image("helper")), nic), entry(image("dummy"), nic)),
			}},
		{"dropped dependencies go with what used them", []plan.Want{wants(nic, image("dummy"))},
			plan.Facts{
				Loaded: running(live(inTree("bus"), "card", "helper"), live(image("card")), live(image("dummy")), live(image("helper"), "card")),
				Ours:   ledger(entry(inTree("bus"), nic), entry(image("card"), nic), entry(image("dummy"), nic), entry(soft(image("helper")), nic)),
			}},
		{"dropped, but of another Module too", []plan.Want{wants(nic, image("dummy")), wants(disk, image("dep"))},
			plan.Facts{
				Loaded: running(live(image("dep")), live(image("dummy"))),
				Ours:   ledger(entry(image("dep"), disk, nic), entry(image("dummy"), nic)),
			}},
		{"dropped and gone already", []plan.Want{wants(nic, image("dummy"))},
			plan.Facts{Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dep"), nic), entry(image("dummy"), nic))}},
		{"another module is named", []plan.Want{wants(nic, image("dummy2"))},
			plan.Facts{Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dummy"), nic))}},
		{"another module is named, and the one before is removed as in-tree", []plan.Want{removing(wants(nic, image("dummy2")), "dummy")},
			plan.Facts{
				Loaded: running(live(image("dummy"))), Ours: ledger(entry(image("dummy"), nic)), InTree: files(inTree("dummy")),
				Held: map[string][]string{nic: {"dummy"}},
			}},
		{"the ledger's build does not run any more: not ours", []plan.Want{removing(wants(nic, image("dummy")), "dummy")},
			plan.Facts{
				Loaded: running(live(inTree("dummy"))), Ours: ledger(entry(image("dummy"), nic)), InTree: files(inTree("dummy")),
				Held: map[string][]string{nic: {"dummy"}},
			}},
		{"removed by somebody", []plan.Want{wants(nic, image("dummy"))}, plan.Facts{Ours: ledger(entry(image("dummy"), nic))}},
		{"no build-id, another file", []plan.Want{wants(nic, bare(newer(image("dummy"))))},
			plan.Facts{Loaded: running(live(bare(image("dummy")))), Ours: ledger(entry(bare(image("dummy")), nic))}},
	})
}
