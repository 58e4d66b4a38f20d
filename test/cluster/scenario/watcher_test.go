// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

// binary is the watcher as make build leaves it.
const binary = "../../../.lab/bin/kmm-watcher"

// process is one kmm-watcher that runs.
type process struct {
	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startWatcher runs kmm-watcher with its ServiceAccount, as a pod of its
// Deployment does. identity is its name in the lease.
func startWatcher(c *lab.Cluster, identity string) (*process, error) {
	config, err := c.ServiceAccount(context.Background(), "kmm-system", "kmm-watcher", "")
	if err != nil {
		return nil, err
	}
	kubeconfig, err := lab.Kubeconfig(config, config.Host)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "kmmd-watcher.")
	if err != nil {
		return nil, fmt.Errorf("start kmm-watcher: %w", err)
	}
	file := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(file, kubeconfig, 0o600); err != nil {
		return nil, fmt.Errorf("start kmm-watcher: %w", err)
	}
	p := &process{log: &lockedBuffer{}, done: make(chan struct{})}
	p.cmd = exec.Command(binary, "--kubeconfig", file, "--listen", "127.0.0.1:0", "--namespace", "kmm-system", "--identity", identity)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The signal comes when the thread that started it ends, so it must last as
		// long (go.dev/issue/27505).
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		defer close(p.done)
		_ = p.cmd.Wait() // killed, or its log says why
		_ = os.RemoveAll(dir)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start kmm-watcher (make build makes it): %w", err)
	}
	return p, nil
}

// newWatcher is startWatcher for one test.
func newWatcher(t *testing.T, c *lab.Cluster, identity string) *process {
	t.Helper()
	p, err := startWatcher(c, identity)
	require.NoError(t, err)
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			p.show(t.Output())
		}
	})
	return p
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // gone already is fine
	<-p.done
}

// stop is what a kubelet does: SIGTERM.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.done
}

func (p *process) show(w io.Writer) {
	fmt.Fprintf(w, "--- kmm-watcher\n%s", p.log.String())
}
