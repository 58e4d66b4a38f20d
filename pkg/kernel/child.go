// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The child gets its order in one environment variable, "finit_module 0 level=3", and the module file as descriptor 3.
// It writes the errno in decimal, 0 for success, to its standard output, and is gone.
const (
	childEnv    = "KMMD_SYSCALL_CHILD"
	childPrefix = "kmmd: " // of argv[0]: "kmmd: load dummy" is what ps(1) shows of a child that hangs
	childFile   = 3

	callFinit  = "finit_module"
	callDelete = "delete_module"
)

const (
	killGrace  = 100 * time.Millisecond // for the killed child to be gone; one that is stuck in the kernel never is
	busyTries  = 25                     // times a file that somebody has open for writing is tried
	busyPause  = 20 * time.Millisecond
	answerSize = 64 << 10 // the answer is a number; a crash of the child's own is longer
)

// syscallRequest is one system call to be made in a child.
type syscallRequest struct {
	call  string
	flags int
	text  string // module parameters, or the name to delete
	file  *os.File
}

// RunChild makes the system call and exits if this process was started by Host.Load or Host.Unload as their child;
// otherwise it returns at once. It must come first in main, and in TestMain of a test that loads modules.
func RunChild() {
	// Still the first thread of the process, whose state ps(1) shows: the system call is to be its.
	runtime.LockOSThread()
	order, ok := os.LookupEnv(childEnv)
	if !ok || len(os.Args) != 1 || !strings.HasPrefix(os.Args[0], childPrefix) {
		runtime.UnlockOSThread()
		return
	}
	// A system call that started is waited for: stopping the service signals its whole control group.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	// The kernel's messages name the calling thread: "Lockdown: kmmd-child: ...", "Comm: kmmd-child" in an oops.
	_ = os.WriteFile("/proc/thread-self/comm", []byte("kmmd-child"), 0)
	answer := strconv.Itoa(int(obey(order)))
	if _, err := os.Stdout.WriteString(answer + "\n"); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// obey makes the system call of an order.
func obey(order string) syscall.Errno {
	f := strings.SplitN(order, " ", 3)
	if len(f) != 3 {
		return unix.EINVAL
	}
	flags, err := strconv.Atoi(f[1])
	if err != nil {
		return unix.EINVAL
	}
	busy := 0
	for {
		switch f[0] {
		case callFinit:
			err = unix.FinitModule(childFile, f[2], flags)
		case callDelete:
			err = unix.DeleteModule(f[2], flags)
		default:
			return unix.EINVAL
		}
		switch {
		case err == nil:
			return 0
		case errors.Is(err, unix.EINTR):
			// Both calls wait interruptibly, finit_module since Linux 6.5 without restarting; the runtime's
			// pre-emption signals are signals. The parent's deadline ends this.
			continue
		case errors.Is(err, unix.ETXTBSY) && busy < busyTries:
			// A process forked while we wrote the file holds our descriptor until its exec.
			busy++
			time.Sleep(busyPause)
			continue
		}
		var errno syscall.Errno
		if !errors.As(err, &errno) {
			return unix.EINVAL
		}
		return errno
	}
}

// run starts the child and waits for its answer. The error is an errno, ErrTimeout, or what went wrong around it.
//
// The child has no parent-death signal: if we are killed while it is in the kernel, the kernel finishes the load
// either way, and who starts next reads what there is.
func (r syscallRequest) run(exe, name string, timeout time.Duration) error {
	if _, ok := os.LookupEnv(childEnv); ok {
		return errors.New("start child: this is the child, main does not call kernel.RunChild first")
	}
	out, in, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start child: %w", err)
	}
	cmd := &exec.Cmd{
		Path:   exe,
		Args:   []string{name},
		Env:    []string{childEnv + "=" + r.call + " " + strconv.Itoa(r.flags) + " " + r.text},
		Stdout: in,
		Stderr: in,
		// A group of its own: an interrupt from the terminal is for us.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	if r.file != nil {
		cmd.ExtraFiles = []*os.File{r.file}
	}
	err = cmd.Start()
	_ = in.Close()
	if err != nil {
		_ = out.Close()
		return fmt.Errorf("start child: %w", noErrno{err})
	}
	// One answer fits: the goroutine ends with the child, be it long after we gave up.
	answer := make(chan error, 1)
	go func() {
		text, _ := io.ReadAll(io.LimitReader(out, answerSize))
		_ = out.Close()
		answer <- parseAnswer(string(text), cmd.Wait())
	}()
	return await(answer, cmd.Process, timeout)
}

// await returns the answer, or kills the child at the deadline. SIGKILL does not wake a thread that sleeps in an init
// function: the child may live on until that returns, and is reaped then.
func await(answer <-chan error, child *os.Process, timeout time.Duration) error {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	select {
	case err := <-answer:
		return err
	case <-deadline.C:
	}
	_ = child.Kill()
	grace := time.NewTimer(killGrace)
	defer grace.Stop()
	select {
	case err := <-answer:
		var ended *childEnded
		if !errors.As(err, &ended) {
			return err // it answered just before the end
		}
	case <-grace.C:
	}
	return ErrTimeout
}

// parseAnswer reads the first line of the child's output.
func parseAnswer(text string, end error) error {
	first, _, _ := strings.Cut(text, "\n")
	n, err := strconv.Atoi(first)
	switch {
	case err != nil || n < 0:
		return &childEnded{text: first, end: end}
	case n == 0:
		return nil
	}
	return syscall.Errno(n)
}

// childEnded says that the child ended without an answer.
type childEnded struct {
	text string // what it said instead, if anything
	end  error
}

func (e *childEnded) Error() string {
	s := "child ended without an answer"
	if e.end != nil {
		s += ": " + e.end.Error()
	}
	if e.text != "" {
		s += ": " + strconv.Quote(e.text)
	}
	return s
}

func (e *childEnded) Unwrap() error { return e.end }

// noErrno hides the errno of starting the child, which is not the kernel's answer about the module.
type noErrno struct{ err error }

func (e noErrno) Error() string { return e.err.Error() }

func childName(op, module string) string { return childPrefix + op + " " + module }
