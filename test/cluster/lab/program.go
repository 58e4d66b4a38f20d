// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Program is one that runs beside the control plane. Its log is among those of
// the servers.
type Program struct {
	process *process
	log     string
}

// StartProgram starts a program; name is that of its log, to which several may
// append one after the other. It is asked to end, by SIGTERM, when we die; the
// caller ends it before the cluster.
func (c *Cluster) StartProgram(name string, cmd *exec.Cmd) (*Program, error) {
	return c.startProgram(name, cmd, syscall.SIGTERM)
}

func (c *Cluster) startProgram(name string, cmd *exec.Cmd, death syscall.Signal) (*Program, error) {
	p, err := c.startCommand(name, cmd, death)
	if err != nil {
		return nil, err
	}
	return &Program{process: p, log: c.path("log", name+".log")}, nil
}

// StartWatcher runs kmm-watcher, as make build leaves it, with its ServiceAccount,
// as a pod of its Deployment does. identity is its name in the lease.
func (c *Cluster) StartWatcher(ctx context.Context, identity string, flags ...string) (*Program, error) {
	config, err := c.ServiceAccount(ctx, "kmm-system", "kmm-watcher", "")
	if err != nil {
		return nil, err
	}
	name := "kmm-watcher-" + identity
	if err := c.writeKubeconfig(name, config); err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(c.repo, ".lab", "bin", "kmm-watcher"), append([]string{"--kubeconfig", c.path(name + ".kubeconfig"),
		"--listen", "127.0.0.1:0", "--namespace", "kmm-system", "--identity", identity, "--agent-image", "kmmd:latest"}, flags...)...)
	p, err := c.startProgram(name, cmd, syscall.SIGKILL)
	if err != nil {
		return nil, fmt.Errorf("%w (make build makes it)", err)
	}
	return p, nil
}

// Kill is kill -9.
func (p *Program) Kill() { p.process.kill() }

// Stop asks it to end, as a kubelet does by SIGTERM, and waits.
func (p *Program) Stop() { p.process.end(syscall.SIGTERM, stopGrace) }

// stopGrace is for a machine that does other things, too.
const stopGrace = 30 * time.Second

// Alive reports whether it runs.
func (p *Program) Alive() bool { return p.process.alive() }

// Log is what it has written so far.
func (p *Program) Log() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return fmt.Sprintf("(%v)", err)
	}
	return string(data)
}
