// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a server. Its methods may be called on nil, which does not run.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// startProcess starts a program of the bin directory; see startCommand.
func (c *Cluster) startProcess(name string, args ...string) (*process, error) {
	cmd := exec.Command(filepath.Join(c.options.Bin, name), args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "GOGC=400") // memory for a fifth of a server's processor time: most only start, and do little
	return c.startCommand(name, cmd, syscall.SIGKILL)
}

// startCommand starts a program that appends to a log of that name, and gets a
// signal when we die.
func (c *Cluster) startCommand(name string, cmd *exec.Cmd, death syscall.Signal) (*process, error) {
	log, err := os.OpenFile(c.path("log", name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	p := &process{name: name, cmd: cmd, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// A process group of its own: Ctrl-C is for us, and we end the servers.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: death, Setpgid: true}
	started := make(chan error)
	go func() {
		// The signal comes when the thread that started it ends, so it must last as
		// long (go.dev/issue/27505).
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait() //nolint:errcheck // how it ended is in the log
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

func (p *process) alive() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) kill() { p.end(syscall.SIGKILL, 0) }

// end sends a signal and waits until the process has ended, but kills it after
// grace.
func (p *process) end(signal syscall.Signal, grace time.Duration) {
	if !p.alive() {
		return
	}
	p.cmd.Process.Signal(signal) //nolint:errcheck // it may have ended just now
	select {
	case <-p.done:
		return
	case <-time.After(grace):
	}
	p.cmd.Process.Kill() //nolint:errcheck // as above
	<-p.done
}

// port is a number that nobody else gets as long as we hold it: a socket that is
// bound and never listens. The servers share it by SO_REUSEPORT, so that also one
// that is down for a while finds its port free.
type port struct {
	number int
	socket int
}

func reservePort() (*port, error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reserve port: %w", err)
	}
	p := &port{socket: socket}
	if p.number, err = bindReusable(socket); err != nil {
		unix.Close(socket)
		return nil, fmt.Errorf("reserve port: %w", err)
	}
	return p, nil
}

func bindReusable(socket int) (int, error) {
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return 0, err
	}
	if err := unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, err
	}
	address, err := unix.Getsockname(socket)
	if err != nil {
		return 0, err
	}
	return address.(*unix.SockaddrInet4).Port, nil
}

func (p *port) release() {
	if p != nil {
		unix.Close(p.socket)
	}
}

// How much of each log is shown.
const logTail = 4 << 10

// LogTails is the end of each server's log, for a test that failed.
func (c *Cluster) LogTails() string {
	var out strings.Builder
	files, _ := filepath.Glob(c.path("log", "*.log"))
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil && filepath.Base(file) != auditLog {
			data = data[max(0, len(data)-logTail):]
			fmt.Fprintf(&out, "--- %s\n%s\n", filepath.Base(file), data)
		}
	}
	return out.String()
}

// saveLogs is a convenience: not worth an error when the place is somebody else's.
func (c *Cluster) saveLogs() {
	if c.options.Logs == "" {
		return
	}
	os.RemoveAll(c.options.Logs)
	os.MkdirAll(filepath.Dir(c.options.Logs), 0o755)   //nolint:errcheck // see above
	os.CopyFS(c.options.Logs, os.DirFS(c.path("log"))) //nolint:errcheck // see above
}
