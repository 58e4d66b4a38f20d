// SPDX-License-Identifier: Apache-2.0

// Package worker is a VM that is a node of a cluster of the lab as real ones
// are: Debian under systemd, with containerd, kubelet and kube-proxy, on a disk.
// What runs in it is looked at from a shell on a serial port. Tests only.
package worker

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

const (
	repository = "../.." // of the package that uses this one
	files      = repository + "/.lab/e2e"
	// patience is for a VM, emulated, on a machine that does other things, too.
	patience = 10 * time.Minute
)

// Options say what a node is.
type Options struct {
	Name    string
	Address string // in the VM and on the loopback interface of this machine: 10.0.2.15 or higher
	Pods    string // network of its pods: 10.244.1.0/24
}

// Worker is a node.
type Worker struct {
	t       *testing.T
	cluster *lab.Cluster
	options Options
	dir     string
	boots   int
	program *lab.Program
	shell   *shell
}

// New makes one that is off and has never been on. It is off again when the test
// has ended.
func New(t *testing.T, cluster *lab.Cluster, o Options) *Worker {
	t.Helper()
	require.FileExists(t, files+"/node.ext4", "run test/e2e/setup (make setup-e2e)")
	w := &Worker{t: t, cluster: cluster, options: o, dir: t.TempDir()}
	w.command("cp", "--sparse=always", files+"/node.ext4", w.path("disk"))
	w.command("ip", "address", "add", o.Address+"/32", "dev", "lo")
	// The API server asks from 127.0.0.1, which the VM sees as 10.0.2.2. From the
	// address itself would not do: the VM takes that for its own.
	w.command("ip", "route", "replace", "local", o.Address, "dev", "lo", "src", "127.0.0.1", "table", "local")
	t.Cleanup(w.Cut)
	return w
}

func (w *Worker) command(name string, args ...string) {
	w.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(w.t, err, "%s", out)
}

func (w *Worker) path(name string) string { return filepath.Join(w.dir, name) }

// Name of the node.
func (w *Worker) Name() string { return w.options.Name }

// Boot starts the VM with a kernel and returns at once: see WaitShell.
func (w *Worker) Boot(release string) {
	w.t.Helper()
	require.Nil(w.t, w.program, "it is on")
	w.boots++
	require.NoError(w.t, w.seed())
	kernel, err := filepath.Glob(filepath.Join(repository, ".lab", release, "boot", "vmlinuz-*"))
	require.NoError(w.t, err)
	require.Len(w.t, kernel, 1)
	// Emulated, without cmpxchg16b: QEMU gets the flags after it wrong, see test/vm/lib.sh.
	accelerator, processor := "tcg,thread=multi,tb-size=512", "max,-cx16"
	if a := os.Getenv("KMMD_VM_ACCEL"); a != "" {
		accelerator, processor = a, "max"
	}
	cmd := exec.Command("qemu-system-x86_64",
		"-accel", accelerator, "-cpu", processor, "-smp", "2", "-m", "1536",
		"-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot",
		"-kernel", kernel[0], "-initrd", filepath.Join(files, release+".initrd"),
		"-append", "console=ttyS0 panic=-1 mitigations=off tsc=reliable no_timer_check net.ifnames=0",
		"-drive", "if=virtio,format=raw,cache=unsafe,file="+w.path("disk"),
		"-drive", "if=virtio,format=raw,readonly=on,file="+w.path("seed"),
		"-netdev", fmt.Sprintf("user,id=net0,net=10.0.2.0/24,hostfwd=tcp:%[1]s:10250-%[1]s:10250", w.options.Address),
		"-device", "virtio-net-pci,netdev=net0,romfile=", "-device", "virtio-rng-pci",
		"-serial", "file:"+w.path("console"), "-serial", "unix:"+w.path("shell")+",server=on,wait=off",
	)
	_ = os.Remove(w.path("shell")) // of an earlier boot
	w.program, err = w.cluster.StartProgram(fmt.Sprintf("%s-%d", w.options.Name, w.boots), cmd)
	require.NoError(w.t, err)
	// Now: what the guest says while nobody listens is lost.
	w.wait("it listens", func() (err error) {
		w.shell, err = dial(w.path("shell"))
		return err
	})
}

// WaitShell waits until the node can be looked at.
func (w *Worker) WaitShell() {
	w.t.Helper()
	w.wait("it has a shell", w.shell.started)
}

// wait waits for something that the VM has to do.
func (w *Worker) wait(what string, check func() error) {
	w.t.Helper()
	lab.WaitFor(w.t, patience, w.options.Name+": "+what, func() error {
		if !w.program.Alive() {
			w.t.Fatalf("%s: %s: the VM has ended: %s", w.options.Name, what, w.program.Log())
		}
		return check()
	})
}

// Cut takes the power away. What the kernel said must be no complaint about
// itself.
func (w *Worker) Cut() {
	if w.program == nil {
		return
	}
	if w.t.Failed() {
		w.show()
	}
	w.program.Stop()
	w.ended()
}

// PowerOff has systemd end everything, and waits.
func (w *Worker) PowerOff() {
	w.t.Helper()
	w.Run("systemctl poweroff --no-block")
	lab.WaitFor(w.t, patience, w.options.Name+" is off", func() error {
		if w.program.Alive() {
			return fmt.Errorf("it is on")
		}
		return nil
	})
	w.ended()
}

func (w *Worker) ended() {
	if w.shell != nil {
		w.shell.close()
	}
	console, err := os.ReadFile(w.path("console"))
	assert.NoError(w.t, err)
	text := strings.ReplaceAll(string(console), "\r", "")
	for _, bad := range []string{"BUG: ", "Oops", "Call Trace", "Kernel panic"} {
		assert.NotContains(w.t, text, bad)
	}
	saved := filepath.Join(repository, ".lab", "log", fmt.Sprintf("e2e-%s-%d-console.txt", w.options.Name, w.boots))
	assert.NoError(w.t, os.WriteFile(saved, []byte(text), 0o644))
	w.program = nil
}

// show shows what the node has to say, for a test that failed.
func (w *Worker) show() {
	if w.shell == nil {
		return
	}
	for _, command := range []string{
		"systemctl --failed --no-legend; systemctl list-jobs --no-legend",
		"journalctl --no-pager -o short-monotonic -n 60 -u kubelet", "journalctl --no-pager -o short-monotonic -n 40 -u containerd",
		"journalctl --no-pager -o short-monotonic -n 20 -u kube-proxy", "cat /proc/modules | grep dummy; free -m; df -h /",
		"tail -n 60 /var/log/pods/*/*/*.log", "dmesg | tail -n 30",
	} {
		code, out, err := w.shell.run(command)
		w.t.Logf("--- %s: %s (%d, %v)\n%s", w.options.Name, command, code, err, out)
	}
}

// Run runs a command of the shell in the node, as root, requires that it succeeds,
// and returns what it wrote.
func (w *Worker) Run(command string) string {
	w.t.Helper()
	code, out, err := w.shell.run(command)
	require.NoError(w.t, err, "%s: %s", w.options.Name, command)
	require.Zero(w.t, code, "%s: %s: %s", w.options.Name, command, out)
	return out
}
