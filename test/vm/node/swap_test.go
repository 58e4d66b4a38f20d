// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/test/vm/guest"
)

// swapTOML is module("dummy", …) in the other notation.
func swapTOML(image string) string {
	return fmt.Sprintf(`apiVersion = "kmm.sigs.x-k8s.io/v1beta1"
kind = "Module"

[metadata]
name = "dummy"

[spec.moduleLoader.container]
inTreeModulesToRemove = ["dummy"]
registryTLS = { insecure = true }

[spec.moduleLoader.container.modprobe]
moduleName = "dummy"
parameters = ["numdummies=2"]

[[spec.moduleLoader.container.kernelMappings]]
regexp = '^.+$'
containerImage = %q
`, image)
}

func TestSwap(t *testing.T) {
	documents := map[string]func(image string) string{
		"dummy.yaml": func(image string) string {
			return module("dummy", image, "dummy", "inTreeModulesToRemove: [dummy]", "modprobe.parameters: [numdummies=2]")
		},
		"dummy.toml": swapTOML,
	}
	for name, document := range documents {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.command("modprobe", "dummy")
			n.requireInTree("dummy")
			n.document(name, document(n.image("swap", []string{"dummy.ko"}, nil)))

			status := n.requireLoaded()
			m := n.requireBuild("dummy.ko")
			assert.Contains(t, m.Taint, "O", "an out-of-tree module taints")
			assert.Equal(t, "2", m.Parameters["numdummies"])
			assert.Equal(t, "out-of-tree", m.Parameters["build"])
			assert.Equal(t, m.BuildID, status.Modules[0].Kernel[0].BuildID)
			assert.Regexp(t, `^sha256:[0-9a-f]{64}$`, status.Modules[0].Digest)
			assert.FileExists(t, "/sys/class/net/dummy1/ifindex")

			n.command("ip", "link", "add", "mine", "type", "dummy")
			n.requireBuild("dummy.ko")

			n.remove(name)
			_, all, code := n.once()
			require.Equal(t, 0, code, all)
			n.requireAbsent("dummy")
			held, err := n.host.Held()
			require.NoError(t, err)
			assert.Empty(t, held, "autoload is let go with the document")
		})
	}
}

func TestFirmware(t *testing.T) {
	n := newNode(t)
	image := n.image("fw", []string{"kmm_fw.ko"}, map[string]string{"kmm/fw.bin": "hello firmware"})
	n.document("fw.yaml", module("fw", image, "kmm_fw", "modprobe.firmwarePath: /firmware"))
	n.requireLoaded()
	m := n.requireBuild("kmm_fw.ko")
	assert.Equal(t, "14:hello firmware", m.Parameters["got"], "the driver has found it")
	path, err := n.host.FirmwarePath()
	require.NoError(t, err)
	assert.Equal(t, n.path("firmware"), path)

	n.remove("fw.yaml")
	_, all, code := n.once()
	require.Equal(t, 0, code, all)
	n.requireAbsent("kmm_fw")
	entries, err := os.ReadDir(n.path("firmware"))
	require.NoError(t, err)
	assert.Empty(t, entries, "firmware is gone, directories too")
	path, err = n.host.FirmwarePath()
	require.NoError(t, err)
	assert.Empty(t, path, "firmware_class.path is what it was")
}

func TestDependencies(t *testing.T) {
	n := newNode(t)
	image := n.image("dep", []string{"kmm_dep.ko", "kmm_base.ko"}, nil)
	n.document("dep.yaml", module("dep", image, "kmm-dep"))
	n.requireLoaded()
	n.requireBuild("kmm_dep.ko")
	n.requireBuild("kmm_base.ko")

	n.remove("dep.yaml")
	_, all, code := n.once()
	require.Equal(t, 0, code, all)
	n.requireAbsent("kmm_dep")
	n.requireAbsent("kmm_base")
}

// TestParameters hands over one of each type.
func TestParameters(t *testing.T) {
	n := newNode(t)
	image := n.image("base", []string{"kmm_base.ko"}, nil)
	n.document("base.yaml", module("base", image, "kmm_base", `modprobe.parameters: [level=-7, count=0x10, flag, "label=two words", "list=1,2,3"]`))
	n.requireLoaded()
	m := n.requireBuild("kmm_base.ko")
	want := map[string]string{"level": "-7", "count": "16", "flag": "Y", "label": "two words", "list": "1,2,3"}
	for name, value := range want {
		assert.Equal(t, value, m.Parameters[name], name)
	}
}

// TestUpgrade changes parameters, then the image; each is one reload.
func TestUpgrade(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	n.command("modprobe", "dummy")
	first := n.image("one", []string{"dummy.ko"}, nil)
	second := n.image("two", []string{"variants/second/dummy.ko"}, nil)
	n.document("dummy.yaml", module("dummy", first, "dummy", "inTreeModulesToRemove: [dummy]"))
	n.requireLoaded()
	n.document("dummy.yaml", module("dummy", first, "dummy", "inTreeModulesToRemove: [dummy]", "modprobe.parameters: [numdummies=3]"))
	n.requireLoaded()
	assert.Equal(t, "3", n.requireBuild("dummy.ko").Parameters["numdummies"])
	n.document("dummy.yaml", module("dummy", second, "dummy", "inTreeModulesToRemove: [dummy]"))
	n.requireLoaded()
	n.requireBuild("variants/second/dummy.ko")
}

// TestOrder loads what modulesLoadingOrder names from the end of the list, and unloads it from its beginning: the last one is
// held by the first, which uses no symbol of it.
func TestOrder(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	image := n.image("order", []string{"kmm_taker.ko", "dummy.ko", "kmm_base.ko"}, nil)
	n.document("order.yaml", module("order", image, "kmm_taker", "modprobe.modulesLoadingOrder: [kmm_taker, dummy, kmm_base]"))
	status := n.requireLoaded()
	require.Len(t, status.Modules[0].Kernel, 3)
	mods, err := n.host.Modules()
	require.NoError(t, err)
	for i, name := range []string{"kmm_taker", "dummy", "kmm_base"} {
		assert.Equal(t, name, mods[i].Name, "newest first")
	}
	assert.Equal(t, 1, mods[2].Refs)
	assert.Empty(t, mods[2].UsedBy, "nobody is named")

	other := n.image("order-2", []string{"kmm_taker.ko", "variants/second/dummy.ko", "kmm_base.ko"}, nil)
	n.document("order.yaml", module("order", other, "kmm_taker", "modprobe.modulesLoadingOrder: [kmm_taker, dummy, kmm_base]"))
	n.requireLoaded()
	n.requireBuild("variants/second/dummy.ko")
	mods, err = n.host.Modules()
	require.NoError(t, err)
	for i, name := range []string{"kmm_taker", "dummy", "kmm_base"} {
		assert.Equal(t, name, mods[i].Name, "what comes after the new build is loaded anew")
	}

	n.remove("order.yaml")
	_, all, code := n.once()
	require.Equal(t, 0, code, all)
	for _, name := range []string{"kmm_taker", "dummy", "kmm_base"} {
		n.requireAbsent(name)
	}
}

// TestHostDependencies: what the image does not have comes from the node's own
// modules, and goes again with the Module.
func TestHostDependencies(t *testing.T) {
	n := newNode(t)
	for _, name := range []string{"bridge", "stp", "llc"} {
		n.requireAbsent(name)
	}
	file := n.requireInTreeFile("bridge") // compressed on some kernels
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	ref := os.Getenv("KMMD_VM_REGISTRY") + "/test/bridge:1"
	imagestest.Push(t, ref, imagestest.Layer(t, map[string]string{"drivers/lib/modules/" + n.release + "/extra/" + filepath.Base(file): string(data)}))
	n.document("bridge.yaml", module("bridge", ref, "bridge", "modprobe.dirName: /drivers"))
	n.requireLoaded()
	for _, name := range []string{"bridge", "stp", "llc"} {
		n.requireInTree(name)
	}
	// Somebody else begins to use a dependency: it stays.
	n.command("modprobe", "garp")
	n.remove("bridge.yaml")
	_, all, code := n.once()
	require.Equal(t, 0, code, all)
	n.requireAbsent("bridge")
	n.requireInTree("stp")
	n.command("modprobe", "-r", "garp")
}

// TestPackedByHand: xz(1) has a check that no kernel knows, unless told otherwise. Such a file is loaded all the same, and is
// a way back.
func TestPackedByHand(t *testing.T) {
	n := newNode(t)
	n.command("modprobe", "dummy")
	own := n.requireInTreeFile("dummy")
	kept, err := os.ReadFile(own)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.WriteFile(own, kept, 0o644)) })
	require.NoError(t, os.WriteFile(own, packedByHand(t, own), 0o644))
	packed := func(file string) string {
		ref := os.Getenv("KMMD_VM_REGISTRY") + "/test/packed:" + filepath.Base(filepath.Dir(file))
		content := string(packedByHand(t, filepath.Join(modules, file)))
		imagestest.Push(t, ref, imagestest.Layer(t, map[string]string{"opt/lib/modules/" + n.release + "/dummy.ko.xz": content}))
		return module("dummy", ref, "dummy", "inTreeModulesToRemove: [dummy]")
	}
	n.document("dummy.yaml", packed("variants/init-fails/dummy.ko"))
	status, all, code := n.once()
	require.Equal(t, 1, code, all)
	require.Len(t, status.Modules, 1)
	assert.Equal(t, spec.ReasonInitFailed, status.Modules[0].Reason, all)
	assert.True(t, status.Modules[0].RolledBack, all)
	n.requireInTree("dummy")

	n.document("dummy.yaml", packed("variants/second/dummy.ko"))
	n.requireLoaded()
	n.requireBuild("variants/second/dummy.ko")
}

// packedByHand is a module file as `xz FILE` packs it.
func packedByHand(t *testing.T, path string) []byte {
	t.Helper()
	var plain bytes.Buffer
	require.NoError(t, kmod.Decompress(path, &plain))
	return kmodtest.XZ(t, plain.Bytes(), xz.CRC64)
}

// TestOtherRelease: a file for another release is loaded when the document allows it, and not by force, since the kernel goes
// by the CRCs.
func TestOtherRelease(t *testing.T) {
	n := newNode(t)
	n.command("modprobe", "null_blk") // tells the kernel's version magic
	image := n.image("other-release", []string{"variants/other-release/dummy.ko"}, nil)
	n.document("dummy.yaml", module("dummy", image, "dummy", "modprobe.args: {load: [--force-vermagic]}"))
	n.requireLoaded()
	assert.Equal(t, "OE", n.requireBuild("variants/other-release/dummy.ko").Taint)
}

// TestSoftdep: a softdep that can not be had is a warning.
func TestSoftdep(t *testing.T) {
	n := newNode(t)
	n.document("soft.yaml", module("soft", n.image("soft", []string{"kmm_softdep.ko", "kmm_base.ko"}, nil), "kmm_softdep"))
	n.requireLoaded()
	n.requireBuild("kmm_softdep.ko")
	n.requireBuild("kmm_base.ko")
	n.remove("soft.yaml")
	_, all, code := n.once()
	require.Equal(t, 0, code, all)
	n.requireAbsent("kmm_softdep")
	n.requireAbsent("kmm_base")
}

// TestDeps compares with modprobe on the node itself.
func TestDeps(t *testing.T) {
	n := newNode(t)
	for _, name := range []string{"bridge", "vfio-pci", "nfsd", "rtnl-link-dummy", "ext4", "xfs"} {
		want := n.command("modprobe", "--show-depends", name)
		got, all, code := n.run(binary, nil, "deps", name)
		require.Equal(t, 0, code, all)
		assert.Equal(t, want, got, name)
	}
	_, all, code := n.run(binary, nil, "deps", "nosuchmodule")
	assert.Equal(t, 1, code)
	assert.Contains(t, all, "nosuchmodule")
}
