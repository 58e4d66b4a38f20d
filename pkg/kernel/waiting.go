// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/confine"
	"github.com/kmm-node/kmmd/pkg/memory"
)

// A child that waits is started ahead and makes one system call after the other: to start a process takes longer than
// most loads. It is given on its standard input, a socket, for each: the lengths of two texts and whether the call depends
// on the one before (32 bits each, in the machine's order), its name while it is at it, the order as a child of one call has
// it, and with them the file. It answers there as the other does. It may be given several orders at once; one that depends
// on a call that failed is not obeyed, and answered with ECANCELED, which neither call ever gives. A child that does not answer in
// time is killed and not asked again.
const (
	waitingName = childPrefix + "waits"
	orderHead   = 12
	maxOrder    = 1 << 20 // of the two texts; a longer one goes to a child of its own
	waitingMax  = len(childPrefix) + len(opUnload) + 1 + maxName
	// waitingMemory is what the runtime of a child may have, in bytes, before it collects garbage: some 5 MiB are there from
	// the start, and an order takes a few times its size.
	waitingMemory = 16 << 20
)

// waiting is such a child, seen from the parent.
type waiting struct {
	process *os.Process
	orders  int        // our end of the socket
	said    string     // what was read from it and is no answer yet
	ended   chan error // how it ended, once
}

// Prepare starts the child that the next Load or Unload will use, unless one waits already. Without, they start one
// themselves. It lives until Close, or until this process ends.
func (h *Host) Prepare() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waits != nil {
		return nil
	}
	w, err := startWaiting(h.exe)
	if err == nil {
		h.waits = w
	}
	return err
}

// Close ends what Prepare has started. The Host can be used on.
func (h *Host) Close() {
	if w := h.takeWaiting(); w != nil {
		w.close()
	}
}

func (h *Host) takeWaiting() *waiting {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.waits
	h.waits = nil
	return w
}

// keepWaiting has it wait for the next call, unless another one does.
func (h *Host) keepWaiting(w *waiting) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waits == nil {
		h.waits = w
		return
	}
	w.close()
}

// byWaiting has the call made by the child that waits. ok is false when there is none that takes it.
func (h *Host) byWaiting(r syscallRequest, name string, timeout time.Duration) (ok bool, err error) {
	w := h.takeWaiting()
	if w == nil {
		return false, nil
	}
	ok, alive, err := w.call(r, name, timeout)
	if alive {
		h.keepWaiting(w)
	} else {
		w.close()
	}
	return ok, err
}

func startWaiting(exe string) (*waiting, error) {
	if isChild() {
		return nil, errors.New("start child: this is the child, main does not call kernel.RunChild first")
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start child: %w", noErrno{err})
	}
	theirs := os.NewFile(uintptr(fds[0]), "child")
	defer theirs.Close()
	long := fmt.Sprintf("%-*s", waitingMax, waitingName)   // as long as the name may ever become
	cmd := childCommand(exe, long, theirs, theirs, theirs) // the last keeps the place of the module's file
	if err := cmd.Start(); err != nil {
		unix.Close(fds[1])
		return nil, fmt.Errorf("start child: %w", noErrno{err})
	}
	w := &waiting{process: cmd.Process, orders: fds[1], ended: make(chan error, 1)}
	go func() { w.ended <- cmd.Wait() }() // ends with the child
	return w, nil
}

// call has the child make a call. ok is false when it has not got the order; alive tells whether it may be asked again.
func (w *waiting) call(r syscallRequest, name string, timeout time.Duration) (ok, alive bool, err error) {
	limit := time.Now().Add(timeout)
	if ok, alive, err = w.send(r, name, false, limit); ok && err == nil {
		return w.answer(limit)
	}
	return ok, alive, err
}

// send gives the child an order. ok is false when it has not got it.
func (w *waiting) send(r syscallRequest, name string, depends bool, limit time.Time) (ok, alive bool, err error) {
	order := r.String()
	if len(name)+len(order) > maxOrder {
		return false, true, nil
	}
	text := make([]byte, 0, orderHead+len(name)+len(order))
	text = binary.NativeEndian.AppendUint32(text, uint32(len(name)))
	text = binary.NativeEndian.AppendUint32(text, uint32(len(order)))
	after := uint32(0)
	if depends {
		after = 1
	}
	text = binary.NativeEndian.AppendUint32(text, after)
	text = append(append(text, name...), order...)
	var rights []byte
	if r.file != nil {
		raw, err := r.file.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { rights = unix.UnixRights(int(fd)) })
		}
		if err != nil {
			return true, true, err
		}
	}
	// A child that has been gone for long has got nothing; of an order that it has got in part it has made nothing.
	for len(text) > 0 {
		n, err := unix.SendmsgN(w.orders, text, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch err {
		case nil:
			text, rights = text[n:], nil
		case unix.EINTR:
		case unix.EAGAIN:
			if w.wait(unix.POLLOUT, limit) != nil {
				return false, false, nil
			}
		default:
			return false, false, nil
		}
	}
	return true, true, nil
}

func (w *waiting) close() { unix.Close(w.orders) }

// wait blocks this thread, which is quicker than the runtime's poller, until there is something to be read, or room to
// write. The error is os.ErrDeadlineExceeded, or poll(2)'s.
func (w *waiting) wait(what int16, limit time.Time) error {
	fds := []unix.PollFd{{Fd: int32(w.orders), Events: what}}
	for {
		left := time.Until(limit)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		n, err := unix.Poll(fds, int(min(left.Milliseconds()+1, math.MaxInt32)))
		if n > 0 || err != nil && err != unix.EINTR {
			return err
		}
	}
}

// answer waits for one. Whatever else comes is the child's last words.
func (w *waiting) answer(limit time.Time) (ok, alive bool, err error) {
	for err == nil && !strings.Contains(w.said, "\n") {
		err = w.read(limit)
	}
	line, rest, _ := strings.Cut(w.said, "\n")
	late := errors.Is(err, os.ErrDeadlineExceeded)
	if err == nil && isAnswer(line) {
		w.said = rest
		return true, true, parseAnswer(line, nil)
	}
	if late {
		_ = w.process.Kill()
	}
	grace := endGrace
	if late {
		grace = killGrace
	}
	limit = time.Now().Add(grace)
	for err = nil; err == nil && len(w.said) < answerSize; {
		err = w.read(limit)
	}
	if late && !isAnswer(w.said) {
		return true, false, ErrTimeout
	}
	select {
	case err = <-w.ended:
	case <-time.After(grace):
	}
	return true, false, parseAnswer(w.said, err)
}

func isAnswer(text string) bool {
	var ended *childEnded
	return !errors.As(parseAnswer(text, nil), &ended)
}

// read adds to what was said.
func (w *waiting) read(limit time.Time) error {
	if err := w.wait(unix.POLLIN, limit); err != nil {
		return err
	}
	buf := make([]byte, 4<<10)
	n, err := again(func() (int, error) { return unix.Read(w.orders, buf) })
	if n <= 0 && err == nil {
		err = io.EOF
	}
	w.said += string(buf[:max(n, 0)])
	return err
}

// isWaiting tells a child that waits from one of a single call.
func isWaiting() bool { return strings.HasPrefix(os.Args[0], waitingName) }

// serve is the child: it does not return.
func serve() {
	const orders = 0
	rename(waitingName)
	// It waits for long, and needs little of this program. The runtime would collect garbage every two minutes, also where there
	// is none, and read its own code anew for that.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(waitingMemory)
	memory.GiveBack()
	closeFrom(childFile + 1)
	if _, err := confine.Waiting(orders, childFile); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var errno syscall.Errno
	for {
		r, name, depends, err := receive(orders)
		if err != nil {
			os.Exit(0) // nobody needs it any more
		}
		if depends && errno != 0 {
			errno = unix.ECANCELED
		} else {
			rename(name)
			errno = r.obey()
		}
		_ = unix.Dup3(orders, childFile, unix.O_CLOEXEC) // lets go of the module's file
		rename(waitingName)
		if _, err := unix.Write(1, fmt.Appendf(nil, "%d\n", int(errno))); err != nil {
			os.Exit(0)
		}
	}
}

// receive waits for an order and puts its file where obey looks for it.
func receive(socket int) (r syscallRequest, name string, depends bool, err error) {
	head, rights := make([]byte, orderHead), make([]byte, unix.CmsgSpace(4))
	n, got, err := recvmsg(socket, head, rights)
	if err != nil {
		return r, "", false, err
	}
	if messages, err := unix.ParseSocketControlMessage(rights[:got]); err == nil && len(messages) == 1 {
		if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) == 1 {
			err = unix.Dup3(fds[0], childFile, unix.O_CLOEXEC)
			_ = unix.Close(fds[0])
			if err != nil {
				return r, "", false, err
			}
		}
	}
	if err := fill(socket, head[n:]); err != nil {
		return r, "", false, err
	}
	first, second := binary.NativeEndian.Uint32(head), binary.NativeEndian.Uint32(head[4:])
	if uint64(first)+uint64(second) > maxOrder {
		return r, "", false, io.ErrShortBuffer
	}
	text := make([]byte, first+second)
	if err := fill(socket, text); err != nil {
		return r, "", false, err
	}
	r, err = parseOrder(string(text[first:]))
	return r, string(text[:first]), binary.NativeEndian.Uint32(head[8:]) != 0, err
}

func fill(socket int, b []byte) error {
	for len(b) > 0 {
		n, _, err := recvmsg(socket, b, nil)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func recvmsg(socket int, b, rights []byte) (n, got int, err error) {
	n, err = again(func() (n int, err error) {
		n, got, _, _, err = unix.Recvmsg(socket, b, rights, unix.MSG_CMSG_CLOEXEC)
		return n, err
	})
	if err == nil && n == 0 {
		err = io.EOF
	}
	return n, got, err
}

// rename changes what ps(1) shows. The kernel takes it for one text that ends with its first NUL when the last byte of
// the arguments is none (fs/proc/base.c, get_mm_cmdline).
func rename(name string) {
	size := len(os.Args[0])
	place := unsafe.Slice(unsafe.StringData(os.Args[0]), size+1) // with the NUL; the runtime has not copied it
	clear(place)
	copy(place[:size-1], name)
	place[size] = ' '
}
