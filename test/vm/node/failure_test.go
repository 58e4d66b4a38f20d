// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/test/vm/guest"
)

const removeBoth = "inTreeModulesToRemove: [dummy, null_blk]"

// failure is a Module that can not be loaded in place of two in-tree modules.
type failure struct {
	name       string
	document   func(n *node) string
	reason     spec.Reason
	words      []string // of the kernel where it says any
	rolledBack bool     // it had to be tried to be known
}

var failures = []failure{
	{"init fails", variant("init-fails"), spec.ReasonInitFailed,
		[]string{"EIO", "dummy: init fails, as it was built to", "rolled back: dummy runs again", "null_blk runs again"}, true},
	{"unknown symbol", variant("unknown-symbol"), spec.ReasonUnknownSymbol, []string{"kmm_no_such_symbol"}, false},
	{"wrong symbol version", variant("wrong-crc"), spec.ReasonSymbolVersion, []string{"dummy"}, false},
	{"wrong vermagic", variant("wrong-vermagic"), spec.ReasonWrongKernel, []string{"version magic"}, false},
	{"built for another release", variant("other-release"), spec.ReasonWrongKernel, []string{"its vermagic says"}, false},
	{"truncated file", variant("truncated"), spec.ReasonImageInvalid, []string{"dummy.ko"}, false},
	{"another machine's file", variant("wrong-machine"), spec.ReasonWrongKernel, []string{"dummy.ko", "it is for arm64"}, false},
	{"missing firmware", func(n *node) string {
		return module("bad", n.image("nofw", []string{"kmm_fw.ko"}, nil), "kmm_fw", removeBoth)
	}, spec.ReasonFirmwareMissing, []string{"Direct firmware load for kmm/fw.bin failed with error -2"}, true},
	{"firmware directory missing", func(n *node) string {
		return module("bad", n.image("nofwdir", []string{"kmm_fw.ko"}, nil), "kmm_fw", removeBoth, "modprobe.firmwarePath: /firmware")
	}, spec.ReasonFirmwareMissing, []string{"/firmware"}, false},
	{"missing image", func(*node) string {
		return module("bad", os.Getenv("KMMD_VM_REGISTRY")+"/test/none:1", "dummy", removeBoth)
	}, spec.ReasonImageNotFound, []string{"/test/none"}, false},
	{"no registry", func(*node) string {
		return module("bad", "10.0.2.2:1/test/none:1", "dummy", removeBoth)
	}, spec.ReasonImageUnreachable, []string{"10.0.2.2:1"}, false},
	{"image for other kernels", func(n *node) string {
		return module("bad", n.image("empty", nil, map[string]string{"a": "b"}), "dummy", removeBoth)
	}, spec.ReasonNoModules, nil, false},
	{"no such module in the image", func(n *node) string {
		return module("bad", n.image("one", []string{"kmm_base.ko"}, nil), "kmm_nosuch", removeBoth)
	}, spec.ReasonModuleNotFound, []string{"kmm_nosuch"}, false},
	{"missing dependency", func(n *node) string {
		return module("bad", n.image("nodep", []string{"kmm_dep.ko"}, nil), "kmm_dep", removeBoth)
	}, spec.ReasonModuleNotFound, []string{"kmm_base", "kmm_dep"}, false},
	{"no mapping", func(n *node) string {
		return strings.Replace(module("bad", n.image("map", []string{"dummy.ko"}, nil), "dummy", removeBoth), "'^.+$'", "'^5\\.'", 1)
	}, spec.ReasonNoMapping, []string{`regexp "^5\."`}, false},
	{"builtin to remove", func(n *node) string {
		return module("bad", n.image("builtin", []string{"dummy.ko"}, nil), "dummy", "inTreeModulesToRemove: [dummy, null_blk, ext4]")
	}, spec.ReasonBuiltin, []string{"ext4 is built into this kernel"}, false},
	{"unknown parameter", func(n *node) string {
		return module("bad", n.image("param", []string{"dummy.ko"}, nil), "dummy", removeBoth, "modprobe.parameters: [nosuch=1]")
	}, spec.ReasonInvalidParameter, []string{"nosuch"}, false},
	{"parameter of the wrong type", func(n *node) string {
		return module("bad", n.image("param2", []string{"dummy.ko"}, nil), "dummy", removeBoth, "modprobe.parameters: [numdummies=many]")
	}, spec.ReasonInvalidParameter, []string{"numdummies", "many"}, false},
}

func variant(name string) func(n *node) string {
	return func(n *node) string {
		return module("bad", n.image(name, []string{"variants/" + name + "/dummy.ko"}, nil), "dummy", removeBoth)
	}
}

// TestFailures: a named reason, the kernel's words, exit code 1, and the
// in-tree modules still, or again, as they were.
func TestFailures(t *testing.T) {
	for _, tt := range failures {
		t.Run(tt.name, func(t *testing.T) {
			if !tt.rolledBack { // the kernel was not asked; test/vm/preflight has what it would have said
				guest.OneKernel(t)
			}
			n := newNode(t)
			n.command("modprobe", "dummy")
			n.command("modprobe", "null_blk", "nr_devices=3", "hw_queue_depth=32", "mbps=7")
			n.document("bad.yaml", tt.document(n))
			requireFailure(t, n, tt)
		})
	}
}

func requireFailure(t *testing.T, n *node, tt failure) {
	t.Helper()
	before := n.requireInTree("null_blk").Parameters
	index, err := os.ReadFile("/sys/class/net/dummy0/ifindex")
	require.NoError(t, err)

	status, all, code := n.once()
	require.Equal(t, 1, code, all)
	require.Len(t, status.Modules, 1)
	m := status.Modules[0]
	assert.Equal(t, spec.StateFailed, m.State)
	assert.Equal(t, tt.reason, m.Reason, m.Message)
	for _, w := range tt.words {
		assert.Contains(t, m.Message, w)
	}
	assert.Equal(t, tt.rolledBack, m.RolledBack)

	n.requireInTree("dummy")
	after := n.requireInTree("null_blk").Parameters
	assert.Equal(t, before, after, "old parameters")
	again, err := os.ReadFile("/sys/class/net/dummy0/ifindex")
	require.NoError(t, err)
	assert.Equal(t, tt.rolledBack, string(index) != string(again), "removed only if that had to be tried")
	held, err := n.host.Held()
	require.NoError(t, err)
	assert.Empty(t, held)
	entries, err := os.ReadDir(n.path("firmware"))
	if err == nil {
		assert.Empty(t, entries)
	}
}

// TestInUse: what is held is not removed, and the holder is named.
func TestInUse(t *testing.T) {
	tests := []struct {
		name, module, words string
		hold                func(n *node) (release func())
	}{
		{"by a module", "stp", "used by the modules bridge", func(n *node) func() {
			n.command("modprobe", "bridge")
			return func() { n.command("modprobe", "-r", "bridge") }
		}},
		{"by an open file", "tun", "references are held by open files", func(n *node) func() {
			n.command("modprobe", "tun")
			require.NoError(n.t, os.MkdirAll("/dev/net", 0o755))
			f, err := os.Open("/dev/net/tun")
			require.NoError(n.t, err)
			return func() { assert.NoError(n.t, f.Close()); n.command("rmmod", "tun") }
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			release := tt.hold(n)
			n.document("use.yaml", module("use", n.image("use", []string{"kmm_base.ko"}, nil), "kmm_base", "inTreeModulesToRemove: ["+tt.module+"]"))
			status, all, code := n.once()
			require.Equal(t, 1, code, all)
			assert.Equal(t, spec.ReasonInUse, status.Modules[0].Reason)
			assert.Contains(t, status.Modules[0].Message, tt.module+" is in use: ")
			assert.Contains(t, status.Modules[0].Message, tt.words)
			n.requireInTree(tt.module)
			n.requireAbsent("kmm_base")

			out, _, code := n.run(binary, nil, "plan")
			assert.Equal(t, 1, code)
			assert.Contains(t, out, "blocked, InUse")
			release()
			n.requireLoaded()
		})
	}
}

// TestWrongBuild: a same-named module that nobody asked to remove is neither
// touched nor taken for ours.
func TestWrongBuild(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	n.command("modprobe", "dummy")
	n.document("dummy.yaml", module("dummy", n.image("plain", []string{"dummy.ko"}, nil), "dummy"))
	status, all, code := n.once()
	require.Equal(t, 1, code, all)
	assert.Equal(t, spec.ReasonWrongBuild, status.Modules[0].Reason)
	n.requireInTree("dummy")
}

// TestInvalidDocument: nothing of the file is done, what runs stays, exit code 2.
func TestInvalidDocument(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	n.document("base.yaml", module("base", n.image("inv", []string{"kmm_base.ko"}, nil), "kmm_base"))
	n.requireLoaded()
	n.document("base.yaml", "kind: Module\nspec: {moduleLoader: {container: {kernelMapings: []}}}\n")
	status, all, code := n.once()
	require.Equal(t, 2, code, all)
	assert.Contains(t, all, "base.yaml:2: spec.moduleLoader.container.kernelMapings: unknown field; did you mean \"kernelMappings\"?")
	require.Len(t, status.Invalid, 1)
	n.requireBuild("kmm_base.ko")
}

// TestPreflightCommands: one report names all that is wrong, and nothing is
// touched for it.
func TestPreflightCommands(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	n.command("modprobe", "dummy")
	n.document("bad.yaml", module("bad", n.image("many", []string{"variants/unknown-symbol/dummy.ko"}, nil), "dummy",
		"inTreeModulesToRemove: [dummy]", "modprobe.parameters: [nosuch=1, numdummies=x]"))
	for _, command := range [][]string{{"plan"}, {"explain", "--preflight"}} {
		out, all, code := n.run(binary, nil, command...)
		assert.Equal(t, 1, code, all)
		for _, words := range []string{"unknown parameter nosuch", "numdummies=x", "kmm_no_such_symbol"} {
			assert.Contains(t, out, words, command)
		}
	}
	_, all, code := n.run(binary, nil, "explain", "--preflight", "--kernel", "x")
	assert.Equal(t, 2, code, all)
	n.requireInTree("dummy")
}
