// SPDX-License-Identifier: Apache-2.0

// Package points runs a program and halts it at each system call by which it
// changes something that outlives it: a file, a name, what is durable, a module
// of the kernel. Such a point has a number; what happens there (nothing, an
// error, the end of the program) is for the caller to decide. The program need
// not know of it: it is the one that ships.
//
// It uses a seccomp filter with a listener (seccomp_unotify(2)), which programs
// that are started by the program inherit. Linux 5.19 or newer, amd64 or arm64;
// CAP_SYS_ADMIN. Tests only.
package points

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// Point is one system call, about to be made.
type Point struct {
	N    int    // of this run, from 1
	PID  int    // of the thread that makes it
	Call string // "renameat", "finit_module", …
	Path string // absolute, as the program names it; of delete_module the module's name
	To   string // of renameat and linkat: the new name
}

// String is a line of a list: "12 renameat /run/a.tmp -> /run/a".
func (p Point) String() string {
	s := fmt.Sprintf("%d %s %s", p.N, p.Call, p.Path)
	if p.To != "" {
		s += " -> " + p.To
	}
	return s
}

// Module says whether the call loads or removes a module of the kernel.
func (p Point) Module() bool { return p.Call == "finit_module" || p.Call == "delete_module" }

// Verdict is what becomes of a call: Go, Never, or an errno that is its result
// without that it is made.
type Verdict int

const (
	// Go lets the call be made.
	Go Verdict = 0
	// Never leaves it unanswered: its process has been killed.
	Never Verdict = -1
)

// Fail is the verdict that an errno is the call's result.
func Fail(e syscall.Errno) Verdict { return Verdict(e) }

// At is called at each point, before the call is made, and decides.
type At func(Point) Verdict

// Kill ends cmd without warning at a point, and gives the verdict for it. A child
// whose call it is lives on and makes it.
func Kill(cmd *exec.Cmd, p Point) Verdict {
	own := p.Process() == cmd.Process.Pid
	_ = cmd.Process.Kill()
	if own {
		return Never
	}
	return Go
}

// Process is the process that makes the call; 0 when it has gone.
func (p Point) Process() int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	_, rest, _ := strings.Cut(string(status), "\nTgid:")
	pid, _ := strconv.Atoi(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]))
	return pid
}

// Running is a program that is being watched.
type Running struct {
	cmd  *exec.Cmd
	done chan error
}

// Start starts cmd, which may not have extra files, and calls at for each of its
// points, from one goroutine. The caller calls Wait.
func Start(cmd *exec.Cmd, at At) (*Running, error) {
	if len(cmd.ExtraFiles) > 0 {
		return nil, errors.New("watch a program: it has extra files")
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("watch a program: %w", err)
	}
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, fmt.Errorf("watch a program: %w", err)
	}
	defer ours.Close()
	target := cmd.Path
	cmd.Path = self
	cmd.Env = append(cmd.Environ(), launchEnv+"="+target)
	cmd.ExtraFiles = []*os.File{theirs}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", target, err)
	}
	l, err := receiveListener(ours)
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, errors.Join(fmt.Errorf("watch %s: %w", target, err), cmd.Wait())
	}
	r := &Running{cmd: cmd, done: make(chan error, 1)}
	go func() { r.done <- l.serve(at) }()
	return r, nil
}

// Wait waits until the program, and all that it has started, have ended. The
// error is that of cmd.Wait, or why the program could not be watched to its end.
func (r *Running) Wait() error {
	err := r.cmd.Wait()
	return errors.Join(err, <-r.done)
}
