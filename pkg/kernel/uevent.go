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
		told, going, err := readUevents(f, buf)
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
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("watch modules: %w", err)
		}
	}
	return nil
}

// readUevents waits for an event and reads all that are there. told: at least one is about a module, or some were lost;
// going: a module goes, or may have.
func readUevents(f *os.File, buf []byte) (told, going bool, err error) {
	for i := 0; ; i++ {
		n, lost, err := readUevent(f, buf, i == 0)
		if err != nil {
			return told, going, err
		}
		if n == 0 && !lost && i > 0 || i == ueventsAtOnce {
			return told, going, nil
		}
		about := lost || isModuleEvent(buf[:n])
		told = told || about
		going = going || lost || about && bytes.HasPrefix(buf[:n], []byte("remove@"))
	}
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

// readUevent reads one datagram, and waits for it if it is to; else there may be none, which is an empty one. lost: the
// socket overflowed and events are gone. A datagram that is not the kernel's own comes back as empty.
func readUevent(f *os.File, buf []byte, wait bool) (n int, lost bool, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	var from unix.Sockaddr
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		n, rerr = again(func() (n int, err error) {
			n, from, err = unix.Recvfrom(int(fd), buf, 0)
			return n, err
		})
		return !errors.Is(rerr, unix.EAGAIN) || !wait
	})
	switch {
	case err != nil:
		return 0, false, err
	case errors.Is(rerr, unix.ENOBUFS):
		return 0, true, nil
	case errors.Is(rerr, unix.EAGAIN):
		return 0, false, nil
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
