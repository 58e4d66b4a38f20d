// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/test/vm/guest"
)

// kmmImage makes an image as for the KMM operator, with what depmod makes, and
// unpacks it as that operator's worker does: for modprobe -d.
func (n *node) kmmImage(name string, files []string, firmware map[string]string) (ref, unpacked string) {
	n.t.Helper()
	unpacked = n.t.TempDir()
	dir := filepath.Join(unpacked, "opt/lib/modules", n.release)
	require.NoError(n.t, os.MkdirAll(dir, 0o755))
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(modules, f))
		require.NoError(n.t, err)
		require.NoError(n.t, os.WriteFile(filepath.Join(dir, filepath.Base(f)), data, 0o644))
	}
	n.command("depmod", "-b", filepath.Join(unpacked, "opt"), n.release)
	content := map[string]string{}
	require.NoError(n.t, filepath.WalkDir(unpacked, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(unpacked, path)
		content[rel] = string(data)
		return err
	}))
	for path, body := range firmware {
		content["firmware/"+path] = body
	}
	ref = os.Getenv("KMMD_VM_REGISTRY") + "/test/" + name + ":1"
	imagestest.Push(n.t, ref, imagestest.Layer(n.t, content))
	return ref, filepath.Join(unpacked, "opt")
}

// birthmarks are other ones once a module was loaded again: the inode of its
// directory in sysfs, of which the kernel makes a new one each time, and the
// index of its interface.
func (n *node) birthmarks(names ...string) map[string]string {
	n.t.Helper()
	out := map[string]string{}
	for _, name := range names {
		info, err := os.Stat("/sys/module/" + name)
		require.NoError(n.t, err)
		st, ok := info.Sys().(*syscall.Stat_t)
		require.True(n.t, ok)
		out[name] = fmt.Sprint(st.Ino)
	}
	for _, name := range []string{"dummy0", "dummy1"} {
		index, err := os.ReadFile("/sys/class/net/" + name + "/ifindex")
		require.NoError(n.t, err)
		out[name] = string(index)
	}
	return out
}

// TestFromKMM: what modprobe has loaded from the files of an image, kmmd adopts;
// and modprobe unloads and loads what kmmd has adopted, once kmmd is stopped. No
// module is loaded again on either way. Firmware that was copied for the modules is no
// obstacle to that of their next image.
func TestFromKMM(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	n.command("modprobe", "dummy")
	firmware := map[string]string{"kmm/fw.bin": "fw"}
	image, opt := n.kmmImage("from-kmm", []string{"dummy.ko", "kmm_dep.ko", "kmm_base.ko", "kmm_fw.ko"}, firmware)

	// What the operator's worker does for three Modules.
	n.command("modprobe", "-rv", "dummy")
	n.command("modprobe", "-vd", opt, "dummy", "numdummies=2")
	n.command("modprobe", "-vd", opt, "kmm_dep")
	require.NoError(t, os.MkdirAll(n.path("firmware/kmm"), 0o755))
	n.write("firmware/kmm/fw.bin", "fw")
	path, err := n.host.FirmwarePath()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, n.host.SetFirmwarePath(path)) })
	require.NoError(t, n.host.SetFirmwarePath(n.path("firmware")))
	n.command("modprobe", "-vd", opt, "kmm_fw")
	all := []string{"dummy", "kmm_dep", "kmm_base", "kmm_fw"}
	for _, name := range all {
		n.requireBuild(name + ".ko")
	}
	before := n.birthmarks(all...)

	// The same Modules for kmmd, from the same image.
	n.document("dummy.yaml", module("dummy", image, "dummy", "inTreeModulesToRemove: [dummy]", "modprobe.parameters: [numdummies=2]"))
	n.document("dep.yaml", module("dep", image, "kmm_dep"))
	n.document("fw.yaml", module("fw", image, "kmm_fw", "modprobe.firmwarePath: /firmware"))
	out, said, code := n.run(binary, nil, "plan")
	require.Equal(t, 0, code, said)
	for _, name := range all {
		assert.Contains(t, out, "adopt "+name+": it runs already")
		assert.NotContains(t, out, " load "+name)
		assert.NotContains(t, out, " unload "+name)
	}
	var d *daemon
	events := n.countModuleEvents(func() {
		d = n.start()
		n.eventually("adopted", func() bool { return n.status().OK() && len(n.status().Modules) == 3 })
	})
	assert.Zero(t, events, "no module came or went")
	assert.Equal(t, before, n.birthmarks(all...), "the very same modules")
	for _, step := range []string{"load", "unload"} {
		assert.NotContains(t, guest.Get("/metrics"), `kmmd_step_duration_seconds_count{step="`+step+`"}`)
	}

	// The same module in a newer image, with other firmware: that takes the place of what the worker has copied.
	newer := n.image("from-kmm-newer", []string{"kmm_fw.ko"}, map[string]string{"kmm/fw.bin": "newer"})
	events = n.countModuleEvents(func() {
		n.document("fw.yaml", module("fw", newer, "kmm_fw", "modprobe.firmwarePath: /firmware"))
		n.eventually("the firmware of the newer image", func() bool {
			data, err := os.ReadFile(n.path("firmware/kmm/fw.bin"))
			return err == nil && string(data) == "newer" && n.status().OK() && len(n.status().Modules) == 3
		})
	})
	assert.Zero(t, events)
	assert.Equal(t, before, n.birthmarks(all...))

	// And back: kmmd is stopped and unloads nothing.
	events = n.countModuleEvents(d.stop)
	assert.Zero(t, events)
	assert.Equal(t, before, n.birthmarks(all...))
	// Autoload of what was replaced is still held off, on the host only: the worker
	// has a file system of its own.
	held := "/run/modprobe.d/00-kmmd.conf"
	assert.FileExists(t, held)
	require.NoError(t, os.Remove(held))
	n.command("modprobe", "-vd", opt, "dummy", "numdummies=2")
	assert.Equal(t, before, n.birthmarks(all...), "what runs is left alone by modprobe")
	for _, name := range []string{"kmm_fw", "kmm_dep", "dummy"} {
		n.command("modprobe", "-rvd", opt, name)
		n.requireAbsent(name)
	}
	n.requireAbsent("kmm_base")
	n.command("modprobe", "-vd", opt, "dummy", "numdummies=2")
	n.requireBuild("dummy.ko")
	again := n.birthmarks("dummy")
	assert.NotEqual(t, before["dummy"], again["dummy"], "a module that was loaded again shows")
	assert.NotEqual(t, before["dummy0"], again["dummy0"])
}

// TestFromKMMOtherBuild: what modprobe has loaded from another image is not taken
// for ours, and not touched.
func TestFromKMMOtherBuild(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	_, opt := n.kmmImage("old", []string{"variants/second/dummy.ko"}, nil)
	n.command("modprobe", "-vd", opt, "dummy")
	before, err := os.ReadFile("/sys/class/net/dummy0/ifindex")
	require.NoError(t, err)
	n.document("dummy.yaml", module("dummy", n.image("new", []string{"dummy.ko"}, nil), "dummy"))
	status, all, code := n.once()
	require.Equal(t, 1, code, all)
	assert.Contains(t, status.Modules[0].Message, "another build of dummy runs")
	after, err := os.ReadFile("/sys/class/net/dummy0/ifindex")
	require.NoError(t, err)
	assert.Equal(t, string(before), string(after))
}
