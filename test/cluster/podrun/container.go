// SPDX-License-Identifier: Apache-2.0

package podrun

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// stage is what the first process of a container's namespaces does: its mounts
// become its own, /proc shows its processes, and crun gets the one hierarchy of
// control groups that it can do with.
const stage = `set -e
mount --make-rprivate /
mount -t proc proc /proc
umount -R -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
exec "$@"`

// runContainer runs one to its end, and reports whether it did what it should.
func (p *pod) runContainer(c *corev1.Container) bool {
	image, ok := p.runner.options.Images[c.Image]
	if !ok {
		p.set(c.Name, waiting("ErrImagePull", fmt.Sprintf("there is no image %q here", c.Image)))
		p.report(p.active)
		<-p.active.Done()
		return false
	}
	say := func(err error) { p.set(c.Name, waiting("CreateContainerConfigError", err.Error())) }
	if !p.retry(func() error { return p.prepare(c, image) }, say) {
		return false
	}
	started := metav1.Now()
	p.set(c.Name, corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}})
	p.report(p.active)
	end := p.execute(c)
	end.StartedAt, end.FinishedAt = started, metav1.Now()
	p.set(c.Name, corev1.ContainerState{Terminated: end})
	os.RemoveAll(p.path(c.Name, "root"))
	p.report(p.active)
	return end.ExitCode == 0
}

// prepare makes the bundle of a container (runtime-spec, bundle.md). It may be
// tried again.
func (p *pod) prepare(c *corev1.Container, image Image) error {
	if err := os.RemoveAll(p.path(c.Name)); err != nil {
		return err
	}
	if err := os.MkdirAll(p.path(c.Name, "root"), 0o755); err != nil {
		return err
	}
	if err := image.unpack(p.path(c.Name, "root")); err != nil {
		return err
	}
	for _, f := range []struct {
		name, content string
		mode          os.FileMode
	}{
		{"hosts", p.hosts(), 0o644}, {"resolv.conf", "", 0o644}, {"hostname", p.object.Name + "\n", 0o644}, {"message", "", 0o666},
	} {
		if err := writeFile(p.path(c.Name, f.name), []byte(f.content), f.mode); err != nil {
			return err
		}
	}
	config, err := p.config(c, image)
	if err != nil {
		return err
	}
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(p.path(c.Name, "config.json"), data, 0o600)
}

func (p *pod) hosts() string {
	out := "127.0.0.1 localhost\n::1 localhost\n"
	for name, address := range p.runner.options.Hosts {
		out += address + " " + name + "\n"
	}
	return out
}

// execute runs a container that is prepared.
func (p *pod) execute(c *corev1.Container) *corev1.ContainerStateTerminated {
	log, err := os.Create(p.path(c.Name, "log"))
	if err != nil {
		return &corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError", Message: err.Error()}
	}
	defer log.Close()
	cmd := exec.CommandContext(p.active, "sh", "-c", stage, "sh",
		"crun", "--root", p.path(c.Name, "state"), "--log", p.path(c.Name, "crun.log"), "--cgroup-manager=disabled",
		"run", "--bundle", p.path(c.Name), string(p.object.UID))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = p.grace()
	// When the first process of its process namespace is killed, so are all others.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL, Setpgid: true,
	}
	done := make(chan error)
	go func() {
		// The signal comes when the thread that started it ends, so it must last as
		// long (go.dev/issue/27505).
		runtime.LockOSThread()
		done <- cmd.Run()
	}()
	if err := <-done; cmd.ProcessState == nil {
		return &corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError", Message: err.Error()}
	}
	return p.result(c, cmd.ProcessState)
}

// grace is how long a container may take to end. It is a matter of seconds here.
func (p *pod) grace() time.Duration {
	if seconds := p.object.Spec.TerminationGracePeriodSeconds; seconds != nil {
		return min(time.Duration(*seconds)*time.Second, maxGrace)
	}
	return maxGrace
}

const maxGrace = 5 * time.Second

// result is how a container ended, with its last words.
func (p *pod) result(c *corev1.Container, state *os.ProcessState) *corev1.ContainerStateTerminated {
	end := &corev1.ContainerStateTerminated{ExitCode: int32(state.ExitCode()), Reason: "Completed"}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		end.ExitCode = 128 + int32(status.Signal())
	}
	if end.ExitCode == 0 {
		end.Message = p.message(c)
		return end
	}
	end.Reason, end.Message = "Error", p.message(c)
	if said, err := os.ReadFile(p.path(c.Name, "crun.log")); err == nil && len(said) > 0 && end.ExitCode != 137 {
		return &corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError", Message: string(said)}
	}
	if end.Message == "" && c.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError {
		log, _ := os.ReadFile(p.path(c.Name, "log")) // execute made it
		end.Message = tail(log, maxFallbackBytes, maxFallbackLines)
	}
	return end
}

// As the kubelet has it (pkg/kubelet/container: MaxContainerTerminationMessage…).
const (
	maxMessageBytes  = 4 << 10
	maxFallbackBytes = 2 << 10
	maxFallbackLines = 80
)

// message is what the container wrote to its termination log.
func (p *pod) message(c *corev1.Container) string {
	data, _ := os.ReadFile(p.path(c.Name, "message")) // prepare made it
	return string(data[:min(len(data), maxMessageBytes)])
}

// tail is the end of a log: so many lines, but of these no more than so many bytes.
func tail(log []byte, size, lines int) string {
	text := strings.TrimSuffix(string(log), "\n")
	all := strings.Split(text, "\n")
	out := strings.Join(all[max(0, len(all)-lines):], "\n")
	if len(log) > 0 && bytes.HasSuffix(log, []byte("\n")) {
		out += "\n"
	}
	return out[max(0, len(out)-size):]
}

var errNotRoot = errors.New("container has runAsNonRoot and image will run as root")
