// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/confine"
)

// The child gets its order on its standard input, "finit_module 0 level=3", and the file it is about as descriptor 3. It
// writes the errno in decimal, 0 for success, to its standard output, and is gone. It has no other descriptor, no environment,
// and may do nothing else (confine.Child).
const (
	childPrefix = "kmmd: " // of argv[0]: "kmmd: load dummy" is what ps(1) shows of a child that hangs
	childFile   = 3
	childFiles  = 256 // descriptors that the child looks at one by one; those of the runtime are among them

	callFinit  = "finit_module"
	callDelete = "delete_module"
	callWrite  = "write"
)

const (
	killGrace  = 100 * time.Millisecond // for the killed child to be gone; one that is stuck in the kernel never is
	endGrace   = 10 * time.Second       // for one to be gone that has closed its end, or says what is no answer: it is at its end
	busyTries  = 25                     // times a file that somebody has open for writing is tried
	busyPause  = 20 * time.Millisecond
	answerSize = 64 << 10 // the answer is a number; a crash of the child's own is longer
)

// syscallRequest is one system call to be made in a child.
type syscallRequest struct {
	call  string
	flags int
	text  string // module parameters, the name to delete, or what to write
	file  *os.File
}

func (r syscallRequest) String() string { return r.call + " " + strconv.Itoa(r.flags) + " " + r.text }

// RunChild makes the system call and exits if this process was started by Host.Load, Host.Unload or Host.Write as their
// child; otherwise it returns at once. It must come first in main, and in TestMain of a test that loads modules.
func RunChild() {
	// Still the first thread of the process, whose state ps(1) shows: the system call is to be its.
	runtime.LockOSThread()
	if !isChild() {
		runtime.UnlockOSThread()
		return
	}
	// The runtime has a file of its own open, from which it learns of other limits of its control group; with a number
	// that was set it does not look there again.
	runtime.GOMAXPROCS(1)
	// A system call that started is waited for: stopping the service signals its whole control group.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	// The kernel's messages name the calling thread: "Lockdown: kmmd-child: ...", "Comm: kmmd-child" in an oops.
	name := [16]byte{}
	copy(name[:], "kmmd-child")
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
	if isWaiting() {
		serve()
	}
	debug.SetGCPercent(-1) // it does not live so long
	r, err := readOrder()
	if err == nil {
		err = r.confine()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = unix.Write(1, []byte(strconv.Itoa(int(r.obey()))+"\n"))
	os.Exit(0)
}

// isChild tells by the name that run gives it.
func isChild() bool { return len(os.Args) == 1 && strings.HasPrefix(os.Args[0], childPrefix) }

// readOrder takes the order from standard input and closes that.
func readOrder() (syscallRequest, error) {
	text, err := io.ReadAll(os.Stdin)
	if err = errors.Join(err, os.Stdin.Close()); err != nil {
		return syscallRequest{}, fmt.Errorf("read the order: %w", err)
	}
	return parseOrder(string(text))
}

func parseOrder(text string) (syscallRequest, error) {
	f := strings.SplitN(text, " ", 3)
	if len(f) != 3 || f[0] != callFinit && f[0] != callDelete && f[0] != callWrite {
		return syscallRequest{}, fmt.Errorf("%q is no order", text)
	}
	flags, err := strconv.Atoi(f[1])
	return syscallRequest{call: f[0], flags: flags, text: f[2]}, err
}

// confine closes what files are open besides, and gives up what the one system call does not need.
func (r syscallRequest) confine() error {
	call, first := uint32(unix.SYS_DELETE_MODULE), childFile
	switch r.call {
	case callFinit:
		call, first = unix.SYS_FINIT_MODULE, childFile+1
	case callWrite:
		call, first = unix.SYS_WRITE, childFile+1
	}
	closeFrom(first)
	_, err := confine.Child(call, childFile)
	return err
}

// closeFrom closes all descriptors from first on.
func closeFrom(first int) {
	for fd := first; fd < childFiles; fd++ {
		// Not those without a type, by which the runtime waits, should there be any: it can not do without.
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT != 0 {
			unix.Close(fd)
		}
	}
	_ = unix.CloseRange(childFiles, math.MaxUint32, 0) // Linux 5.9
}

// obey makes the system call.
func (r syscallRequest) obey() syscall.Errno {
	busy := 0
	for {
		var err error
		switch r.call {
		case callFinit:
			err = unix.FinitModule(childFile, r.text, r.flags)
		case callWrite:
			_, err = unix.Write(childFile, []byte(r.text)) // sysfs takes all of it, or none
		default:
			err = unix.DeleteModule(r.text, r.flags)
		}
		switch {
		case err == nil:
			return 0
		case errors.Is(err, unix.EINTR):
			// The calls wait interruptibly, finit_module since Linux 6.5 without restarting; the runtime's
			// pre-emption signals are signals. The parent's deadline ends this.
			continue
		case errors.Is(err, unix.ETXTBSY) && busy < busyTries:
			// A process forked while we wrote the file holds our descriptor until its exec.
			busy++
			pause := unix.NsecToTimespec(int64(busyPause))
			_ = unix.Nanosleep(&pause, nil)
			continue
		}
		var errno syscall.Errno
		if !errors.As(err, &errno) {
			return unix.EINVAL
		}
		return errno
	}
}

// run starts the child and waits for its answer. The error is an errno, ErrTimeout, or what went wrong around it; ended is
// closed once there is no child any more.
//
// The child has no parent-death signal: if we are killed while it is in the kernel, the kernel finishes the load
// either way, and who starts next reads what there is.
func (r syscallRequest) run(exe, name string, timeout time.Duration) (ended <-chan struct{}, err error) {
	if isChild() {
		return nil, errors.New("start child: this is the child, main does not call kernel.RunChild first")
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start child: %w", noErrno{err})
	}
	cmd := childCommand(exe, name, strings.NewReader(r.String()), in, r.file)
	err = cmd.Start()
	_ = in.Close()
	if err != nil {
		_ = out.Close()
		return nil, fmt.Errorf("start child: %w", noErrno{err})
	}
	// One answer fits: the goroutine ends with the child, be it long after we gave up.
	answer, gone := make(chan error, 1), make(chan struct{})
	go func() {
		text, _ := io.ReadAll(io.LimitReader(out, answerSize))
		_ = out.Close()
		end := cmd.Wait()
		close(gone)
		answer <- parseAnswer(string(text), end)
	}()
	return gone, await(answer, cmd.Process, timeout)
}

// childCommand is a child that is to be started: it has the order's source, where it answers, and the file as childFile, if any.
func childCommand(exe, name string, orders io.Reader, answers, file *os.File) *exec.Cmd {
	cmd := &exec.Cmd{
		Path: exe, Args: []string{name}, Env: []string{}, Dir: "/",
		Stdin: orders, Stdout: answers, Stderr: answers,
		// A group of its own: an interrupt from the terminal is for us.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	if file != nil {
		cmd.ExtraFiles = []*os.File{file}
	}
	return cmd
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

// noErrno is ErrNoChild. It hides the errno of starting the child, which is not the kernel's answer about the module.
type noErrno struct{ err error }

func (e noErrno) Error() string { return e.err.Error() }
func (e noErrno) Unwrap() error { return ErrNoChild }

func childName(op, module string) string { return childPrefix + op + " " + module }
