// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/record"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// refuseFirst has the kernel refuse the first load of a module, and tells what seen returned at each.
func (n *node) refuseFirst(name string, seen func() string) *[]string {
	var all []string
	n.OnCall(func(call string) {
		if !strings.HasPrefix(call, "load "+name) {
			return
		}
		all = append(all, seen())
		n.FailInit(name, map[bool]syscall.Errno{true: syscall.EIO}[len(all) == 1])
	})
	return &all
}

// TestRollbackFirmware: the old driver is loaded again with its own firmware, be that of an earlier boot.
func TestRollbackFirmware(t *testing.T) {
	for name, rebooted := range map[string]bool{"same boot": false, "after a boot": true} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			first := n.swap(n.image("1", ours("1"), map[string]string{"nic.bin": "old", "gone.bin": "g"}))
			first.firmware = "/firmware"
			require.True(t, n.reconcile(first).OK())
			if rebooted {
				n.Reboot(release)
				n.start()
				require.True(t, n.reconcile(first).OK())
			}
			second := first
			second.image = n.image("2", ours("2"), map[string]string{"nic.bin": "new"})
			seen := n.refuseFirst("dummy", func() string {
				data, _ := os.ReadFile(n.path("firmware/nic.bin"))
				_, err := os.Stat(n.path("firmware/gone.bin"))
				return string(data) + map[bool]string{true: " gone.bin"}[err == nil]
			})
			assert.True(t, one(t, n.reconcile(second)).RolledBack)
			assert.Equal(t, []string{"new", "old gone.bin"}, *seen)
			assert.Equal(t, "1", n.runs("dummy"))
			assert.Equal(t, "old", readFile(t, n.path("firmware/nic.bin")))
			assert.FileExists(t, n.path("firmware/gone.bin"))
		})
	}
}

// TestRollbackWithoutDisk: the disk fails before the old firmware is put back. The old driver, of an image or of the node, comes back
// all the same; the firmware follows once the disk is there again.
func TestRollbackWithoutDisk(t *testing.T) {
	for name, upgrade := range map[string]bool{"of an image": true, "in-tree": false} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.Preload(n.inTree("dummy"), "")
			before := "in-tree"
			if upgrade {
				first := n.swap(n.image("1", ours("1"), map[string]string{"nic.bin": "old"}))
				first.firmware = "/firmware"
				require.True(t, n.reconcile(first).OK())
				before = "1"
			}
			second := n.swap(n.image("2", ours("2"), map[string]string{"nic.bin": "new"}))
			second.firmware = "/firmware"
			disk := []string{n.path("images"), n.path("host")}
			tries := n.refuseFirst("dummy", func() string { return "" })
			gone := false
			n.start(func(c *agent.Config) {
				c.AfterStep = func() {
					for _, path := range disk {
						if !gone && len(*tries) == 1 {
							require.NoError(t, os.Rename(path, path+".gone"))
						}
					}
					gone = len(*tries) > 0
				}
			})
			s := one(t, n.reconcile(second))
			assert.Equal(t, upgrade, strings.Contains(s.Message, "; roll back: put back firmware: "), s.Message)
			assert.Equal(t, before, n.runs("dummy"), s.Message)

			for _, path := range disk {
				require.NoError(t, os.RemoveAll(path))
				require.NoError(t, os.Rename(path+".gone", path))
			}
			s = one(t, n.reconcile(second))
			assert.True(t, s.RolledBack, s.Message)
			assert.Equal(t, before, n.runs("dummy"))
			if upgrade {
				assert.Equal(t, "old", readFile(t, n.path("firmware/nic.bin")))
			} else {
				assert.NoFileExists(t, n.path("firmware/nic.bin"))
			}
		})
	}
}

// TestDiskGoesWithDriver: the disk fails as the kernel refuses the new driver. The old one comes back with the disk.
func TestDiskGoesWithDriver(t *testing.T) {
	n := newNode(t)
	first := n.swap(n.image("1", ours("1"), nil))
	require.True(t, n.reconcile(first).OK())
	second := n.swap(n.image("2", ours("2"), nil))
	store := n.path("images")
	n.refuseFirst("dummy", func() string {
		if _, err := os.Stat(store + ".gone"); err != nil {
			assert.NoError(t, os.Rename(store, store+".gone"))
		}
		return ""
	})
	assert.Contains(t, one(t, n.reconcile(second)).Message, "; roll back: verify ")
	assert.Empty(t, n.runs("dummy"))

	n.OnCall(nil)
	n.FailInit("dummy", 0)
	require.NoError(t, os.RemoveAll(store))
	require.NoError(t, os.Rename(store+".gone", store))
	assert.True(t, one(t, n.reconcile(second)).RolledBack)
	assert.Equal(t, "1", n.runs("dummy"))
}

// heldSwap is a swap of dummy that fails when it has done so, while somebody has opened the new one's device at once.
func heldSwap(t *testing.T) (*node, want) {
	t.Helper()
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	n.FailInit("helper", syscall.ENODEV)
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "helper", remove: []string{"dummy"}, order: []string{"helper", "dummy"}}
	n.OnCall(func(call string) {
		if call == "load helper" {
			n.Hold("dummy", 1) // somebody opens its device at once
		}
	})
	return n, w
}

// TestRollbackInUse: the new build can not go when it is to be taken back. The old one comes as soon as it has gone.
func TestRollbackInUse(t *testing.T) {
	n, w := heldSwap(t)
	told := func(s spec.Status, back bool) {
		t.Helper()
		require.Equal(t, spec.ReasonInitFailed, s.Modules[0].Reason)
		assert.Equal(t, back, s.Modules[0].RolledBack)
		assert.Equal(t, !back, strings.Contains(s.Modules[0].Message, "; roll back: "), s.Modules[0].Message)
		assert.Contains(t, s.Modules[0].Message, "helper")
	}
	told(n.reconcile(w), false)
	assert.Equal(t, "1", n.runs("dummy"))
	n.OnCall(nil)
	told(n.reconcile(w), false)
	assert.Equal(t, "1", n.runs("dummy"))
	n.start()
	told(n.reconcile(w), false)
	n.Hold("dummy", 0)
	told(n.reconcile(w), true)
	assert.Equal(t, "in-tree", n.runs("dummy"))
	assert.NotContains(t, n.ledger(), "journal")
	n.start()
	told(n.reconcile(w), true)
}

// TestLeavesInUse: why a Module stays that leaves before its failed change could be rolled back.
func TestLeavesInUse(t *testing.T) {
	n, w := heldSwap(t)
	n.reconcile(w)
	n.OnCall(nil)
	for range 2 {
		s := n.reconcile()
		require.Len(t, s.Leaving, 1)
		assert.Equal(t, spec.StateFailed, s.Leaving[0].State)
		assert.Equal(t, spec.ReasonInUse, s.Leaving[0].Reason)
		assert.Contains(t, s.Leaving[0].Message, "unload dummy: ")
		n.start()
	}
	n.Hold("dummy", 0)
	assert.True(t, n.reconcile().OK())
	assert.Equal(t, "in-tree", n.runs("dummy"))
}

// TestRollbackIsTriedAgain: also when nothing else happens, soon at first and then less often.
func TestRollbackIsTriedAgain(t *testing.T) {
	for _, tt := range []struct {
		held, within time.Duration
		tries        int // but for those that the change itself is a hint for
	}{
		{time.Second, 2 * time.Second, 1},              // after 2 s
		{10 * time.Minute, 2 * time.Minute, 6 + 3 + 1}, // after 2, 6, 14, 30, 62, 126 s, then each 120 s
	} {
		t.Run(tt.held.String(), func(t *testing.T) {
			n, w := heldSwap(t)
			synctest.Test(t, func(t *testing.T) {
				n.start()
				stop := n.daemon()
				defer stop()
				n.agent.SetDesired(documents(w))
				advance(time.Millisecond)
				first := n.calls()
				advance(tt.held)
				require.Equal(t, "1", n.runs("dummy"))
				n.Hold("dummy", 0)
				advance(tt.within)
				assert.Equal(t, "in-tree", n.runs("dummy"))
				assert.NotContains(t, n.ledger(), "journal")
				later := n.calls()
				assert.Equal(t, tt.tries, strings.Count(strings.Join(later, "\n"), "unload dummy"))
				assert.Equal(t, 1, strings.Count(strings.Join(append(first, later...), "\n"), "load helper"))
			})
		})
	}
}

// TestRefusalOutlastsABlock: what the kernel has refused is not tried again because something was in the way meanwhile.
func TestRefusalOutlastsABlock(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	n.FailInit("base", syscall.EIO, "base: broken")
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "base", remove: []string{"dummy"}}
	n.reconcile(w)
	n.calls()
	for range 2 {
		n.Hold("dummy", 1)
		assert.Equal(t, spec.ReasonInUse, one(t, n.reconcile(w)).Reason)
		n.Hold("dummy", 0)
		assert.Equal(t, spec.ReasonInitFailed, one(t, n.reconcile(w)).Reason)
	}
	assert.Empty(t, n.calls(), "the driver that works is not taken away again")
}

// TestRefusalOutlastsAStart: also when a softdep could not be loaded, and was left out.
func TestRefusalOutlastsAStart(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	files := ours("1")
	helper := files["helper.ko"]
	helper.Softdeps = []string{"pre: base"}
	files["helper.ko"] = helper
	n.FailInit("base", syscall.EIO)
	n.FailInit("helper", syscall.EIO)
	w := want{name: "nic", image: n.image("1", files, nil), module: "helper", remove: []string{"dummy"}}
	n.reconcile(w)
	require.NotEmpty(t, n.calls())
	n.start()
	n.reconcile(w)
	assert.Empty(t, n.calls())
}

// removeModules takes module files out of a directory, as a disk that is cleaned up does.
func removeModules(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".ko") {
			return err
		}
		return os.Remove(path)
	}))
}

// TestStoreIsDamaged: a file of the store that is missed when it is to be loaded is got again; the driver that works is
// not taken away for it again and again.
func TestStoreIsDamaged(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	n.Hold("dummy", 1)
	w := n.swap(n.image("1", ours("1"), nil))
	synctest.Test(t, func(t *testing.T) {
		n.start()
		stop := n.daemon()
		defer stop()
		n.agent.SetDesired(documents(w))
		advance(time.Second)
		require.Equal(t, spec.ReasonInUse, one(t, n.last()).Reason)
		removeModules(t, n.path("images"))
		n.Hold("dummy", 0)
		advance(20 * time.Minute)
	})
	assert.Equal(t, spec.StateLoaded, one(t, n.last()).State, one(t, n.last()).Message)
	assert.LessOrEqual(t, strings.Count(strings.Join(n.calls(), "\n"), "unload dummy"), 2)
}

// TestHostGrows: a module that was nowhere is found once a package has brought it.
func TestHostGrows(t *testing.T) {
	n := newNode(t)
	require.NoError(t, os.Rename(n.inTree("core"), n.path("core.ko")))
	index := n.path("host/lib/modules", release, "modules.dep")
	require.NoError(t, os.WriteFile(index, []byte("kernel/dummy.ko:\n"), 0o644))
	w := want{name: "nic", image: n.image("1", only(ours("1"), "hostuser"), nil), module: "hostuser"}
	require.Equal(t, spec.ReasonModuleNotFound, one(t, n.reconcile(w)).Reason)
	asked := len(n.images.asked)
	n.reconcile(w)
	require.Len(t, n.images.asked, asked, "nothing has changed")
	require.NoError(t, os.Rename(n.path("core.ko"), n.inTree("core")))
	require.NoError(t, os.WriteFile(index, []byte("kernel/dummy.ko:\nkernel/core.ko:\n"), 0o644)) // depmod
	m := one(t, n.reconcile(w))
	assert.Equal(t, spec.StateLoaded, m.State, m.Message)
}

// TestForeignBuildGoes: what was loaded by somebody in between is no refusal of the kernel.
func TestForeignBuildGoes(t *testing.T) {
	n := newNode(t)
	n.beat(n.inTree("dummy"), 1)
	w := n.swap(n.image("1", ours("1"), nil))
	w.remove = nil
	for range 2 {
		require.Equal(t, spec.ReasonWrongBuild, one(t, n.reconcile(w)).Reason)
	}
	require.NoError(t, n.Rmmod("dummy"))
	m := one(t, n.reconcile(w))
	assert.Equal(t, spec.StateLoaded, m.State, m.Message)
	assert.Equal(t, "1", n.runs("dummy"))
}

// TestRollbackOfTwoImages: a change was killed, gone on with for another image, and refused: of neither is anything left.
func TestRollbackOfTwoImages(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	first := want{name: "nic", image: n.image("1", ours("1"), nil), module: "dummy", remove: []string{"dummy"}, order: []string{"dummy", "helper"}}
	second := want{name: "nic", image: n.image("2", ours("2"), nil), module: "base", remove: []string{"dummy"}}
	n.OnCall(func(call string) {
		if strings.HasPrefix(call, "load dummy") {
			panic(killed{})
		}
	})
	n.start()
	assert.Panics(t, func() { n.reconcile(first) })
	require.Equal(t, "1", n.runs("helper"))
	n.OnCall(nil)
	n.FailInit("base", syscall.EIO)
	n.start()
	for range 2 {
		assert.Equal(t, spec.ReasonInitFailed, one(t, n.reconcile(second)).Reason)
		assert.Equal(t, "in-tree", n.runs("dummy"))
		assert.Empty(t, n.runs("helper"))
		assert.Empty(t, n.runs("base"))
	}
}

// TestOldParametersAreRefused: what ran comes back without the parameters that it can not be loaded with again, whatever is said of
// them, and only then.
func TestOldParametersAreRefused(t *testing.T) {
	const first, plain = "load dummy numdummies=3", "load dummy"
	for _, tt := range []struct {
		name  string
		fails func(n *node)
		calls []string // the first ones
		back  bool
	}{
		{"not at all", func(*node) {}, []string{first}, true},
		{"by the kernel", func(n *node) {
			n.FailInit("dummy", syscall.EINVAL, "dummy: `3' invalid for parameter `numdummies'")
		}, []string{first, plain}, true},
		{"by its init function", func(n *node) { n.FailInit("dummy", syscall.EINVAL) }, []string{first, plain}, true},
		{"as busy by its init function", func(n *node) { n.FailInit("dummy", syscall.EBUSY) }, []string{first, first, first, plain}, true},
		{"no answer", func(n *node) { n.HangInit("dummy") }, []string{first}, false},
		{"somebody writes the file", func(n *node) { n.FailInit("dummy", syscall.ETXTBSY) }, []string{first}, false},
		{"a dependency hangs", func(n *node) {
			n.FailInit("dummy", syscall.EBUSY, "dummy: gave up waiting for init of module x.")
		}, []string{first}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			n.Preload(n.inTree("dummy"), "numdummies=3")
			n.FailInit("helper", syscall.ENODEV)
			w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "helper", remove: []string{"dummy"}}
			var calls []string
			n.OnCall(func(call string) {
				if !strings.HasPrefix(call, "load dummy") {
					return
				}
				calls = append(calls, call)
				n.FailInit("dummy", 0)
				if call != plain {
					tt.fails(n)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				assert.Equal(t, tt.back, one(t, n.reconcile(w)).RolledBack)
			})
			require.GreaterOrEqual(t, len(calls), len(tt.calls))
			assert.Equal(t, tt.calls, calls[:len(tt.calls)])
			assert.Equal(t, slices.Contains(tt.calls, plain), slices.Contains(calls, plain))
		})
	}
}

// TestOldParametersCanNotBePassed: the kernel has no way to quote a value.
func TestOldParametersCanNotBePassed(t *testing.T) {
	n := newNode(t)
	load := `{"name":"dummy","path":"` + n.inTree("dummy") + `","fromHost":true,"parameters":["numdummies=3","build=a \"b"]}`
	ledger := `{"bootID":"` + n.BootID() + `","journal":{"default/nic":[{"load":` + load + `}]}}`
	require.NoError(t, os.WriteFile(n.path("run/ledger.json"), record.Seal([]byte(ledger)), 0o600))
	n.reconcile()
	assert.Equal(t, []string{"load dummy"}, n.calls())
	assert.NotContains(t, n.ledger(), "journal")
}

// TestOldParametersOfOurs: a build of ours that came back without its parameters is not taken for one that has them.
func TestOldParametersOfOurs(t *testing.T) {
	n := newNode(t)
	w := n.swap(n.image("1", ours("1"), nil))
	w.parameters = []string{"numdummies=1"}
	require.True(t, n.reconcile(w).OK())
	next := w
	next.image, next.order = n.image("2", ours("2"), nil), []string{"side", "dummy"}
	next.module = "side"
	next.parameters = nil
	n.FailInit("side", syscall.EIO)
	n.OnCall(func(call string) {
		if strings.HasPrefix(call, "load dummy") {
			n.FailInit("dummy", map[bool]syscall.Errno{true: syscall.EIO}[strings.Contains(call, "=")])
		}
	})
	s := one(t, n.reconcile(next))
	assert.True(t, s.RolledBack)
	require.Len(t, s.Kernel, 1)
	assert.Empty(t, s.Kernel[0].Parameters)
	n.OnCall(nil)
	n.FailInit("dummy", 0)
	n.calls()
	require.True(t, n.reconcile(w).OK())
	assert.Equal(t, []string{"unload dummy", "load dummy numdummies=1"}, n.calls())
}

// killAtLoad starts a kmmd that dies before it loads a module.
func (n *node) killAtLoad(module string, w want) {
	n.t.Helper()
	n.OnCall(func(call string) {
		if call == "load "+module {
			panic(killed{})
		}
	})
	defer n.OnCall(nil)
	n.start()
	assert.Panics(n.t, func() { n.reconcile(w) })
	n.calls()
}

// TestRollbackOfAnothers: what a killed kmmd has loaded is another Module's by the time when it is taken back.
func TestRollbackOfAnothers(t *testing.T) {
	n := newNode(t)
	image := n.image("1", ours("1"), nil)
	top := want{name: "top", image: image, module: "top"}
	n.killAtLoad("top", top)
	top.image = n.registry.Host + "/modules:none"
	base := want{name: "base", image: image, module: "base"}
	n.start()
	for range 2 {
		assert.Equal(t, map[string]string{"base": "Loaded", "top": "Failed ImageNotFound"}, states(n.reconcile(base, top)))
	}
	assert.Equal(t, []string{"unload middle"}, n.calls())
	assert.NotContains(t, n.ledger(), "journal")
	require.True(t, n.reconcile().OK())
	assert.Equal(t, []string{"unload base"}, n.calls())
}

// TestRollbackToAnothers: the build before is not loaded again, nor taken for what runs, where another Module has the new one.
func TestRollbackToAnothers(t *testing.T) {
	n := newNode(t)
	first, second := n.image("1", ours("1"), nil), n.image("2", ours("2"), nil)
	top := want{name: "top", image: first, module: "top"}
	require.True(t, n.reconcile(top).OK())
	top.image = second
	n.killAtLoad("top", top)
	require.Equal(t, "2", n.runs("base"))
	top.image = n.registry.Host + "/modules:none"
	base := want{name: "base", image: second, module: "base"}
	n.start()
	for range 2 {
		assert.Equal(t, "Loaded", states(n.reconcile(base, top))["base"])
	}
	assert.Equal(t, "2", n.runs("base"))
	assert.NotContains(t, n.calls(), "unload base")
}

// TestRollbackLeavesInTree: an in-tree dependency that something else uses by now, that can not go, or that the node keeps, stays.
func TestRollbackLeavesInTree(t *testing.T) {
	for name, keep := range map[string]func(n *node, c *agent.Config){
		"used":      func(n *node, _ *agent.Config) { n.Preload(n.inTree("user"), "") },
		"held":      func(n *node, _ *agent.Config) { n.Hold("core", 1) },
		"permanent": func(n *node, _ *agent.Config) { n.SetPermanent("core") },
		"policy":    func(_ *node, c *agent.Config) { c.NeverRemove = []string{"core"} },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			w := want{name: "nic", image: n.image("1", only(ours("1"), "hostuser"), nil), module: "hostuser"}
			n.killAtLoad("hostuser", w)
			require.Equal(t, "in-tree", n.runs("core"))
			w.image = n.registry.Host + "/modules:none"
			n.start(func(c *agent.Config) { keep(n, c) })
			n.reconcile(w)
			assert.NotContains(t, n.ledger(), "journal")
			assert.Empty(t, n.ledger()["modules"])
			assert.Equal(t, "in-tree", n.runs("core"))
		})
	}
}

// TestRollbackWaitsForUser: an in-tree dependency goes with the module of ours that uses it, when that can go.
func TestRollbackWaitsForUser(t *testing.T) {
	n := newNode(t)
	files := ours("1")
	w := want{name: "nic", image: n.image("1", only(files, "hostuser", "helper"), nil), module: "helper", order: []string{"helper", "hostuser"}}
	n.FailInit("helper", syscall.ENODEV)
	n.OnCall(func(call string) {
		if call == "load helper" {
			n.Hold("hostuser", 1)
		}
	})
	n.reconcile(w)
	require.Equal(t, "1", n.runs("hostuser"))
	n.Hold("hostuser", 0)
	n.reconcile(w)
	assert.Empty(t, n.runs("hostuser"))
	assert.Empty(t, n.runs("core"))
	assert.NotContains(t, n.ledger(), "journal")
}

// counting counts looks at the kernel's modules.
type counting struct {
	*kerneltest.Kernel
	n atomic.Int64
}

func (c *counting) Modules(closer ...string) ([]kernel.Module, error) {
	c.n.Add(1)
	return c.Kernel.Modules(closer...)
}

// TestBlockedRests: what is in the way, and can not be tried, has nobody look without a pause.
func TestBlockedRests(t *testing.T) {
	inUse := func(n *node, w want) {
		n.Preload(n.inTree("dummy"), "")
		n.Hold("dummy", 1)
		n.agent.SetDesired(documents(w))
	}
	elsewhere := func(how func(n *node, ref string)) func(n *node, w want) {
		return func(n *node, w want) {
			inUse(n, w)
			advance(time.Second)
			w.image = "localhost/none:1"
			how(n, w.image)
			n.agent.SetDesired(documents(w))
		}
	}
	for name, play := range map[string]func(n *node, w want){
		"in use":                                inUse,
		"in use, then without an image":         elsewhere(func(n *node, ref string) { n.images.fail(ref, images.ErrNoModules) }),
		"in use, then with an image that hangs": elsewhere(func(n *node, ref string) { n.images.hang(ref, true) }),
		"hangs in its init": func(n *node, w want) {
			n.Preload(n.inTree("dummy"), "")
			n.SetState("dummy", "coming")
			n.agent.SetDesired(documents(w))
		},
		"leaves, and then a document can not be read": func(n *node, w want) {
			n.agent.SetDesired(documents(w))
			advance(time.Second)
			n.Hold("dummy", 1)
			n.agent.SetDesired(documents())
			advance(time.Second)
			d := documents()
			d.Invalid = []error{os.ErrInvalid}
			n.agent.SetDesired(d)
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			k := &counting{Kernel: n.Kernel}
			w := n.swap(n.image("1", ours("1"), nil))
			synctest.Test(t, func(t *testing.T) {
				c := n.config()
				c.Kernel = k
				n.agent = agent.New(c)
				stop := n.daemon()
				defer stop()
				play(n, w)
				advance(10 * time.Second)
				k.n.Store(0)
				advance(10 * time.Second)
				assert.Less(t, k.n.Load(), int64(20), "looks in ten seconds")
			})
		})
	}
}
