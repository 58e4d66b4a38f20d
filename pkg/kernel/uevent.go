// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"context"
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
)

// WatchModules calls changed after every module event of the kernel (a module became live, or goes) and whenever
// events were lost, from one goroutine, until ctx is done; then it returns nil. It calls ready once, when nothing that
// happens afterwards can be missed. An event carries no fact: read the modules again. A load that fails, and a module
// that hangs in its init function, cause no event. No privilege is needed, but a network namespace that belongs to the
// initial user namespace; lib/kobject_uevent.c delivers to no other.
func (h *Host) WatchModules(ctx context.Context, ready, changed func()) error {
	f, err := openUevents()
	if err != nil {
		return fmt.Errorf("watch modules: %w", err)
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	ready()
	buf := make([]byte, ueventSize)
	for ctx.Err() == nil {
		n, lost, err := readUevent(f, buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return fmt.Errorf("watch modules: %w", err)
		case lost || isModuleEvent(buf[:n]):
			changed()
		}
	}
	return nil
}

// openUevents subscribes to the kernel's events. The file is registered with the runtime's poller: deadlines work.
func openUevents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// Only root may exceed the default; with less, overflows are seen and answered by changed.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, ueventBuffer)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: ueventGroup}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "uevents"), nil
}

// readUevent waits for one datagram. lost: the socket overflowed and events are gone. A datagram that is not the
// kernel's own comes back as empty.
func readUevent(f *os.File, buf []byte) (n int, lost bool, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	var from unix.Sockaddr
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		for {
			if n, from, rerr = unix.Recvfrom(int(fd), buf, 0); rerr != unix.EINTR {
				return rerr != unix.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return 0, false, err
	case rerr == unix.ENOBUFS:
		return 0, true, nil
	case rerr != nil:
		return 0, false, os.NewSyscallError("recvfrom", rerr)
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
