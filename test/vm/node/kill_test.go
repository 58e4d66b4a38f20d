// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/test/vm/guest"
)

// scenario is a change of the node that is killed after each of its steps.
type scenario struct {
	name  string
	begin func(n *node) // the state before; documents in place
	end   func(t *testing.T, n *node, status spec.Status, code int)
	// once loaded, these must not be loaded again by the next start
	kept []string
}

// TestKill kills kmmd with SIGKILL after the first step, after the second, and
// so on; the next start must end in the wanted state.
func TestKill(t *testing.T) {
	guest.OneKernel(t)
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			killed := 0
			for steps := 1; ; steps++ {
				if !killAfter(t, sc, steps) {
					break
				}
				killed++
			}
			t.Logf("killed after each of %d steps", killed)
			assert.GreaterOrEqual(t, killed, 2, "the scenario has steps to be killed after")
		})
	}
}

// killAfter plays a scenario once. It reports false when kmmd was done before
// it made so many steps.
func killAfter(t *testing.T, sc scenario, steps int) (killed bool) {
	t.Run(fmt.Sprintf("after step %d", steps), func(t *testing.T) {
		n := newNode(t)
		sc.begin(n)
		_, all, code := n.run(faulty, []string{fmt.Sprintf("KMMD_FAULT_KILL_AFTER=%d", steps)}, "run", "--once")
		killed = code == -1
		before := map[string]string{}
		for _, path := range sc.kept {
			if id, err := os.ReadFile(path); err == nil && builtBy(n) {
				before[path] = string(id)
			}
		}
		status, _, code := n.once()
		sc.end(t, n, status, code)
		for path, id := range before {
			now, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, id, string(now), "%s: what ran was not loaded a second time", path)
		}
		if code == 0 {
			again, all2, _ := n.once()
			assert.Equal(t, status.Modules, again.Modules, "a second look changes nothing: %s %s", all, all2)
		}
		journal, err := os.ReadFile(n.path("run/ledger.json"))
		require.NoError(t, err)
		assert.NotContains(t, string(journal), `"journal"`, "nothing is left to undo")
	})
	return killed
}

// builtBy reports whether our dummy runs.
func builtBy(n *node) bool {
	m, err := n.host.Module("dummy")
	return err == nil && m.Parameters["build"] == "out-of-tree"
}

func scenarios() []scenario {
	const ifindex = "/sys/class/net/dummy0/ifindex"
	firmware := map[string]string{"a.bin": "a", "sub/b.bin": "b"}
	full := func(n *node, image string) string {
		return module("dummy", image, "dummy", "inTreeModulesToRemove: [dummy, null_blk]", "modprobe.firmwarePath: /firmware",
			"modprobe.parameters: [numdummies=1]", "modprobe.modulesLoadingOrder: [dummy, kmm_dep]")
	}
	files := []string{"dummy.ko", "kmm_dep.ko", "kmm_base.ko"}
	inTree := func(n *node) {
		n.command("modprobe", "dummy")
		n.command("modprobe", "null_blk", "nr_devices=2")
	}
	return []scenario{
		{"swap", func(n *node) {
			inTree(n)
			n.document("dummy.yaml", full(n, n.image("kill", files, firmware)))
		}, func(t *testing.T, n *node, status spec.Status, code int) {
			require.Equal(t, 0, code)
			n.requireBuild("dummy.ko")
			n.requireBuild("kmm_dep.ko")
			n.requireAbsent("null_blk")
			assert.FileExists(t, n.path("firmware/sub/b.bin"))
		}, []string{ifindex}},
		{"swap that fails", func(n *node) {
			inTree(n)
			bad := []string{"variants/init-fails/dummy.ko", "kmm_dep.ko", "kmm_base.ko"}
			n.document("dummy.yaml", full(n, n.image("killbad", bad, firmware)))
		}, func(t *testing.T, n *node, status spec.Status, code int) {
			require.Equal(t, 1, code)
			assert.Equal(t, spec.ReasonInitFailed, status.Modules[0].Reason)
			n.requireInTree("dummy")
			assert.Equal(t, "2", n.requireInTree("null_blk").Parameters["nr_devices"])
			n.requireAbsent("kmm_dep")
			n.requireAbsent("kmm_base")
			assert.NoFileExists(t, n.path("firmware/sub/b.bin"))
		}, nil},
		{"upgrade", func(n *node) {
			n.command("modprobe", "dummy")
			n.document("dummy.yaml", full(n, n.image("killold", []string{"variants/second/dummy.ko", "kmm_dep.ko", "kmm_base.ko"}, firmware)))
			n.requireLoaded()
			n.document("dummy.yaml", full(n, n.image("killnew", files, map[string]string{"a.bin": "new"})))
		}, func(t *testing.T, n *node, status spec.Status, code int) {
			require.Equal(t, 0, code)
			n.requireBuild("dummy.ko")
			n.requireBuild("kmm_dep.ko")
			assert.FileExists(t, n.path("firmware/a.bin"))
			assert.NoFileExists(t, n.path("firmware/sub/b.bin"))
		}, []string{ifindex}},
		{"upgrade that fails", func(n *node) {
			n.document("dummy.yaml", full(n, n.image("killgood", files, firmware)))
			n.requireLoaded()
			bad := []string{"variants/init-fails/dummy.ko", "kmm_dep.ko", "kmm_base.ko"}
			n.document("dummy.yaml", full(n, n.image("killbad2", bad, map[string]string{"a.bin": "new"})))
		}, func(t *testing.T, n *node, status spec.Status, code int) {
			require.Equal(t, 1, code)
			n.requireBuild("dummy.ko")
			n.requireBuild("kmm_dep.ko")
			data, err := os.ReadFile(n.path("firmware/a.bin"))
			require.NoError(t, err)
			assert.Equal(t, "a", string(data))
			assert.FileExists(t, n.path("firmware/sub/b.bin"))
		}, nil},
		{"document removed", func(n *node) {
			n.document("dummy.yaml", full(n, n.image("killgone", files, firmware)))
			n.requireLoaded()
			n.remove("dummy.yaml")
		}, func(t *testing.T, n *node, status spec.Status, code int) {
			require.Equal(t, 0, code)
			for _, name := range []string{"dummy", "kmm_dep", "kmm_base"} {
				n.requireAbsent(name)
			}
			assert.NoDirExists(t, n.path("firmware/sub"))
			held, err := n.host.Held()
			require.NoError(t, err)
			assert.Empty(t, held)
			path, err := n.host.FirmwarePath()
			require.NoError(t, err)
			assert.Empty(t, path)
		}, nil},
	}
}
