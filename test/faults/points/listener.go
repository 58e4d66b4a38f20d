// SPDX-License-Identifier: Apache-2.0

package points

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// listener answers what the filter asks.
type listener struct {
	fd int
	n  int // points so far
}

// notification is struct seccomp_notif, reply struct seccomp_notif_resp
// (linux/seccomp.h).
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type reply struct {
	id    uint64
	val   int64
	error int32
	flags uint32
}

// serve answers until no process has the filter any more.
func (l *listener) serve(at At) error {
	defer unix.Close(l.fd)
	for {
		fds := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return os.NewSyscallError("poll", err)
		case fds[0].Revents&unix.POLLIN != 0:
			if err := l.one(at); err != nil {
				return err
			}
		case fds[0].Revents&unix.POLLHUP != 0:
			return nil
		}
	}
}

// one takes up one call and answers it. One that has gone meanwhile, by a signal
// or a kill, is passed over.
func (l *listener) one(at At) error {
	var n notification
	if err := l.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
			return nil
		}
		return fmt.Errorf("take up a call: %w", err)
	}
	verdict := Go
	if p, ok := point(&n); ok {
		l.n++
		p.N = l.n
		verdict = at(p)
	}
	if verdict == Never {
		return nil
	}
	r := reply{id: n.id, error: -int32(verdict)}
	if verdict == Go {
		r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	}
	if err := l.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("answer a call: %w", err)
	}
	return nil
}

func (l *listener) ioctl(request uint, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), uintptr(request), uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// point says what a call changes; ok is false for what is no point: pipes,
// sockets, devices, and the thread's own name.
func point(n *notification) (p Point, ok bool) {
	for _, c := range calls {
		if c.nr != uintptr(n.nr) {
			continue
		}
		p = Point{PID: int(n.pid), Call: c.name}
		switch {
		case c.fd >= 0:
			p.Path = openFile(p.PID, n.args[c.fd])
		case c.dir < 0: // no path but a name
			p.Path = text(p.PID, n.args[c.path])
			return p, true
		default:
			p.Path = join(p.PID, n.args[c.dir], n.args[c.path])
		}
		if c.toPath >= 0 {
			p.To = join(p.PID, n.args[c.toDir], n.args[c.toPath])
		}
		for _, prefix := range []string{"/dev/", "/proc/"} {
			if strings.HasPrefix(p.Path, prefix) {
				return p, false
			}
		}
		return p, filepath.IsAbs(p.Path) // an fd of a socket is "socket:[1]"
	}
	return p, false
}

func openFile(pid int, fd uint64) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, int32(fd)))
	return path
}

// join is the path of an …at call.
func join(pid int, dir, address uint64) string {
	path := ""
	if address != 0 {
		path = text(pid, address)
	}
	if filepath.IsAbs(path) {
		return path
	}
	if int32(dir) == unix.AT_FDCWD {
		cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		return filepath.Join(cwd, path)
	}
	return filepath.Join(openFile(pid, dir), path)
}

// text reads a string of another process: as much as its pages have, to the
// first NUL.
func text(pid int, address uint64) string {
	const page = 4096
	buf := make([]byte, 0, page)
	for len(buf) < page {
		part := make([]byte, page-int(address%page))
		n, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &part[0], Len: uint64(len(part))}},
			[]unix.RemoteIovec{{Base: uintptr(address), Len: len(part)}}, 0)
		if err != nil || n == 0 {
			break
		}
		if end := bytes.IndexByte(part[:n], 0); end >= 0 {
			return string(append(buf, part[:end]...))
		}
		buf, address = append(buf, part[:n]...), address+uint64(n)
	}
	return string(buf)
}
