// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	ueventGroup  = 1       // the kernel's own events; group 2 is udev's (lib/kobject_uevent.c)
	ueventBuffer = 1 << 20 // bytes waiting; a module with many devices brings hundreds of events at once
	ueventSize   = 8 << 10 // one event; the kernel builds it in 2 KiB (UEVENT_BUFFER_SIZE)

	// ueventPause is how long the next events wait to be read, ueventsAtOnce how many are read then. A chain of modules, or a
	// storm, is looked at a few times and not at each event; what the buffer does not hold meanwhile is lost, which is told, too.
	ueventPause   = 50 * time.Millisecond
	ueventsAtOnce = 100_000
)

// WatchModules calls changed after module events of the kernel (a module became live, or goes) and whenever events were
// lost, from one goroutine, until ctx is done; then it returns nil. It does so at once for the first of them, and once for
// those that come in the next twentieth of a second; after a removal also without any, since the kernel tells of one just
// before the module is gone (kernel/module/sysfs.c, mod_sysfs_teardown). It calls ready once, when nothing that
// happens afterwards can be missed. An event carries no fact: read the modules again. A load that fails, and a module
// that hangs in its init function, cause no event. No privilege is needed, but a network namespace that belongs to the
// initial user namespace; lib/kobject_uevent.c delivers to no other.
func (h *Host) WatchModules(ctx context.Context, ready, changed func()) error {
	e, err := openUevents()
	if err != nil {
		return fmt.Errorf("watch modules: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, e.end)
	defer e.close()
	defer cancel()
	ready()
	buf := make([]byte, ueventSize)
	for ctx.Err() == nil {
		told, going, err := e.read(buf)
		if told {
			changed()
			select {
			case <-time.After(ueventPause):
			case <-ctx.Done():
			}
		}
		if going {
			changed()
		}
		if err != nil && !errors.Is(err, errNoMore) {
			return fmt.Errorf("watch modules: %w", err)
		}
	}
	return nil
}

// uevents are the kernel's events as they come. They are waited for by a thread that does nothing else: the runtime's
// poller would be woken by each of those that are left for later.
type uevents struct {
	socket  int // not blocking
	stopped int // an eventfd(2): nothing is waited for any more
	ended   chan struct{}
}

// errNoMore says that end was called.
var errNoMore = errors.New("no more events are read")

// openUevents subscribes to the kernel's events.
func openUevents() (*uevents, error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// Only root may exceed the default; with less, overflows are seen and answered by changed.
	_ = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, ueventBuffer)
	if err := unix.Bind(socket, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: ueventGroup}); err != nil {
		unix.Close(socket)
		return nil, os.NewSyscallError("bind", err)
	}
	return newUevents(socket)
}

// newUevents takes the socket over, also with an error.
func newUevents(socket int) (*uevents, error) {
	stopped, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(socket)
		return nil, os.NewSyscallError("eventfd", err)
	}
	return &uevents{socket: socket, stopped: stopped, ended: make(chan struct{})}, nil
}

// end has read come back with errNoMore. It is called once, by any goroutine.
func (e *uevents) end() {
	// It can fail only when the counter is full.
	_, _ = unix.Write(e.stopped, binary.NativeEndian.AppendUint64(nil, 1))
	close(e.ended)
}

// close waits for end, and comes after read has come back.
func (e *uevents) close() {
	<-e.ended
	unix.Close(e.socket)
	unix.Close(e.stopped)
}

// read waits for an event and reads all that are there. told: at least one is about a module, or some were lost;
// going: a module goes, or may have.
func (e *uevents) read(buf []byte) (told, going bool, err error) {
	if err := e.wait(); err != nil {
		return false, false, err
	}
	for range ueventsAtOnce {
		n, lost, err := e.one(buf)
		if n < 0 || err != nil {
			return told, going, err
		}
		about := lost || isModuleEvent(buf[:n])
		told = told || about
		going = going || lost || about && bytes.HasPrefix(buf[:n], []byte("remove@"))
	}
	return told, going, nil
}

// wait blocks until there is something to be read, be it an error.
func (e *uevents) wait() error {
	fds := []unix.PollFd{{Fd: int32(e.socket), Events: unix.POLLIN}, {Fd: int32(e.stopped), Events: unix.POLLIN}}
	if _, err := again(func() (int, error) { return unix.Poll(fds, -1) }); err != nil {
		return os.NewSyscallError("poll", err)
	}
	if fds[1].Revents != 0 {
		return errNoMore
	}
	return nil
}

// one reads a datagram; n is -1 when there is none. lost: the socket overflowed and events are gone. A datagram that is
// not the kernel's own comes back as empty.
func (e *uevents) one(buf []byte) (n int, lost bool, err error) {
	var from unix.Sockaddr
	n, err = again(func() (n int, err error) {
		n, from, err = unix.Recvfrom(e.socket, buf, 0)
		return n, err
	})
	switch {
	case errors.Is(err, unix.ENOBUFS):
		return 0, true, nil
	case errors.Is(err, unix.EAGAIN):
		return -1, false, nil
	case err != nil:
		return 0, false, os.NewSyscallError("recvfrom", err)
	}
	if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
		return 0, false, nil
	}
	return n, false, nil
}

// isModuleEvent tells whether a kernel uevent is about a module:
//
//	add@/module/dummy\0ACTION=add\0DEVPATH=/module/dummy\0SUBSYSTEM=module\0SEQNUM=567\0
func isModuleEvent(msg []byte) bool {
	return bytes.Contains(msg, []byte("\x00SUBSYSTEM=module\x00"))
}
