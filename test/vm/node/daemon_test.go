// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/source/file"
	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/test/vm/guest"
)

const tick = 50 * time.Millisecond

// daemon is a running `kmmd run`.
type daemon struct {
	n   *node
	cmd *exec.Cmd
	log strings.Builder
}

// start starts a daemon and waits until it is ready.
func (n *node) start() *daemon {
	n.t.Helper()
	d := &daemon{n: n, cmd: exec.Command(binary, "--config", n.path("kmmd.toml"), "run")}
	d.cmd.Stderr = &d.log
	require.NoError(n.t, d.cmd.Start())
	n.t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			d.stop()
		}
		if n.t.Failed() {
			n.t.Log(d.log.String())
		}
	})
	require.Eventually(n.t, func() bool { return guest.Get("/readyz") == "ok\n" }, patience, tick, "the daemon becomes ready")
	return d
}

// stop ends a daemon as systemd does and requires a clean end.
func (d *daemon) stop() {
	d.n.t.Helper()
	require.NoError(d.n.t, d.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(d.n.t, d.cmd.Wait(), d.log.String())
}

// status reads what the daemon reported last.
func (n *node) status() spec.Status {
	s, err := file.ReadStatus(n.path("run/status.json"))
	if err != nil {
		return spec.Status{}
	}
	return s
}

func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	require.Eventually(n.t, ok, patience, tick, what)
}

// runs reports whether the kernel runs exactly this file.
func (n *node) runs(file string) bool {
	m, err := n.host.Module("dummy")
	return err == nil && m.State == "live" && (m.Parameters["build"] == "out-of-tree") == (file == "dummy.ko")
}

// TestDaemon: documents come, change and go; somebody removes the module by
// hand, or brings the in-tree one back.
func TestDaemon(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	n.command("modprobe", "dummy")
	n.start()
	assert.Equal(t, "ok\n", guest.Get("/livez"))

	image := n.image("daemon", []string{"dummy.ko"}, nil)
	n.document("dummy.yaml", module("dummy", image, "dummy", "inTreeModulesToRemove: [dummy]"))
	n.eventually("the new document is obeyed", func() bool { return n.runs("dummy.ko") && n.status().OK() && len(n.status().Modules) == 1 })
	assert.Contains(t, guest.Get("/metrics"), `kmmd_module_state{name="dummy",namespace="default",reason="",state="Loaded"} 1`)

	guest.Unload(n.t, "dummy")
	gone := time.Now()
	n.eventually("removed by hand: back", func() bool { return n.runs("dummy.ko") })
	assert.Less(t, time.Since(gone), 20*time.Second, "at once, though emulated, and not by a look now and then")
	t.Logf("removed by hand: back after %s", time.Since(gone).Round(time.Millisecond))

	// The in-tree one by its path: nothing holds off insmod.
	guest.Unload(n.t, "dummy")
	tree := n.requireInTreeFile("dummy")
	_ = exec.Command("insmod", tree).Run() // kmmd may be faster
	n.eventually("in-tree one back: replaced", func() bool { return n.runs("dummy.ko") })

	n.document("dummy.yaml", module("dummy", image, "dummy", "inTreeModulesToRemove: [dummy]", "modprobe.parameters: [numdummies=2]"))
	n.eventually("changed parameters are loaded", func() bool {
		m, err := n.host.Module("dummy")
		return err == nil && m.Parameters["numdummies"] == "2" && n.status().OK()
	})

	n.document("dummy.yaml", "kind: [")
	n.eventually("a broken document is reported", func() bool { return len(n.status().Invalid) == 1 })
	n.requireBuild("dummy.ko")

	n.remove("dummy.yaml")
	n.eventually("its removal unloads", func() bool { _, err := n.host.Module("dummy"); return err != nil && len(n.status().Invalid) == 0 })
}

// TestRestart: a new daemon adopts what runs; nothing is loaded, unloaded or
// written.
func TestRestart(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	n.command("modprobe", "dummy")
	image := n.image("restart", []string{"dummy.ko", "kmm_dep.ko", "kmm_base.ko", "kmm_fw.ko"}, map[string]string{"kmm/fw.bin": "fw"})
	n.document("dummy.yaml", module("dummy", image, "dummy", "inTreeModulesToRemove: [dummy]", "modprobe.parameters: [numdummies=2]"))
	n.document("dep.yaml", module("dep", image, "kmm_dep"))
	n.document("fw.yaml", module("fw", image, "kmm_fw", "modprobe.firmwarePath: /firmware"))
	for _, lost := range []string{"nothing", "the ledger", "kill -9"} {
		t.Run(lost+" is lost", func(t *testing.T) {
			d := n.start()
			n.eventually("all loaded", func() bool { return n.status().OK() && len(n.status().Modules) == 3 })
			before := n.status()
			ifindex, err := os.ReadFile("/sys/class/net/dummy1/ifindex")
			require.NoError(t, err)
			if lost == "kill -9" {
				require.NoError(t, d.cmd.Process.Kill())
				_ = d.cmd.Wait()
			} else {
				d.stop()
			}
			if lost == "the ledger" {
				require.NoError(t, os.Remove(n.path("run/ledger.json")))
			}
			events := n.countModuleEvents(func() {
				d = n.start()
				n.eventually("adopted", func() bool { return strings.Contains(guest.Get("/metrics"), `kmmd_reconciles_total{result="ok"}`) })
				assert.NotContains(t, guest.Get("/metrics"), `kmmd_step_duration_seconds_count{step="load"}`)
				assert.NotContains(t, guest.Get("/metrics"), `kmmd_step_duration_seconds_count{step="unload"}`)
				assert.NotContains(t, guest.Get("/metrics"), `kmmd_step_duration_seconds_count{step="install-firmware"}`)
				assert.NotContains(t, guest.Get("/metrics"), `kmmd_step_duration_seconds_count{step="set-firmware-path"}`)
			})
			assert.Zero(t, events, "no module came or went")
			after, err := os.ReadFile("/sys/class/net/dummy1/ifindex")
			require.NoError(t, err)
			assert.Equal(t, string(ifindex), string(after))
			assert.Equal(t, before.Modules, n.status().Modules)
			d.stop()
		})
	}
}

// countModuleEvents counts the kernel's module events while f runs.
func (n *node) countModuleEvents(f func()) int64 {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var events atomic.Int64
	subscribed, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- n.host.WatchModules(ctx, func() { close(subscribed) }, func() { events.Add(1) })
	}()
	<-subscribed
	f()
	cancel()
	require.NoError(n.t, <-done)
	return events.Load()
}

// TestOneAtATime: a second kmmd refuses to change a node that has one.
func TestOneAtATime(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	d := n.start()
	_, all, code := n.once()
	assert.Equal(t, 1, code)
	assert.Contains(t, all, "another kmmd (pid")
	d.stop()
}

// TestRefusalIsRemembered: a restarted daemon does not take the in-tree module
// away again for a file that the kernel has refused.
func TestRefusalIsRemembered(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	n.command("modprobe", "dummy")
	n.document("bad.yaml", module("bad", n.image("refused", []string{"variants/init-fails/dummy.ko"}, nil), "dummy", "inTreeModulesToRemove: [dummy]"))
	d := n.start()
	n.eventually("it failed", func() bool {
		s := n.status()
		return len(s.Modules) == 1 && s.Modules[0].Reason == spec.ReasonInitFailed
	})
	n.requireInTree("dummy")
	d.stop()
	events := n.countModuleEvents(func() { d = n.start() })
	assert.Zero(t, events)
	assert.Equal(t, spec.ReasonInitFailed, n.status().Modules[0].Reason)
	assert.Contains(t, n.status().Modules[0].Message, "init fails, as it was built to")
	d.stop()
}

// TestStatusCommand: what another process says of the daemon's node.
func TestStatusCommand(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	_, all, code := n.run(binary, nil, "status")
	assert.Equal(t, 1, code)
	assert.Contains(t, all, "has reported nothing since this boot")
	n.document("base.yaml", module("base", n.image("st", []string{"kmm_base.ko"}, nil), "kmm_base"))
	n.requireLoaded()
	out, all, code := n.run(binary, nil, "status")
	assert.Equal(t, 0, code, all)
	assert.Contains(t, out, "default/base: Loaded")
	out, all, code = n.run(binary, nil, "plan")
	assert.Equal(t, 0, code, all)
	assert.Contains(t, out, "nothing to do")
}

// TestPlan prints the steps and takes none.
func TestPlan(t *testing.T) {
	guest.OneKernel(t)
	n := newNode(t)
	n.command("modprobe", "dummy")
	n.document("dummy.yaml", module("dummy", n.image("plan", []string{"dummy.ko"}, map[string]string{"f": "1"}), "dummy",
		"inTreeModulesToRemove: [dummy]", "modprobe.firmwarePath: /firmware"))
	out, all, code := n.run(binary, nil, "plan")
	require.Equal(t, 0, code, all)
	for _, words := range []string{"1. hold off modprobe and udev: dummy", "2. install the firmware of ", "3. point firmware_class.path to ",
		"4. unload dummy (in-tree module to be replaced)", "5. load dummy from "} {
		assert.Contains(t, out, words)
	}
	n.requireInTree("dummy")
	for _, path := range []string{"state/images", "firmware", "run/ledger.json"} {
		assert.NoFileExists(t, n.path(path))
		assert.NoDirExists(t, n.path(path))
	}
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	for _, e := range left {
		assert.NotContains(t, e.Name(), "kmmd-plan-")
	}
}
