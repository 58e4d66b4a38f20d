// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// event is one of the kernel's about a module: it became live, or goes. The
// kernel sends the first when init has succeeded, before finit_module(2) returns.
type event struct {
	action, module string // "add" or "remove"
	at             time.Time
}

// events are those of this kernel, as they come.
type events <-chan event

// patience is for anything to happen at all, even when emulated.
const patience = 2 * time.Minute

// listen subscribes. Times are taken by a thread that does nothing else.
func listen() (events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}))
	if err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	out := make(chan event, 10000)
	go func() {
		runtime.LockOSThread()
		buf := make([]byte, 8<<10)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			at := time.Now()
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) {
				continue
			}
			if err != nil {
				close(out)
				return
			}
			// add@/module/dummy\0ACTION=add\0…
			head, _, _ := bytes.Cut(buf[:n], []byte{0})
			action, path, ok := strings.Cut(string(head), "@/module/")
			if ok && !strings.Contains(path, "/") {
				out <- event{action, path, at}
			}
		}
	}()
	return out, nil
}

// forget drops what has come until now.
func (e events) forget() {
	for {
		select {
		case <-e:
		default:
			return
		}
	}
}

// wait returns when the event came.
func (e events) wait(action, module string) (time.Time, error) {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		select {
		case ev, ok := <-e:
			if !ok {
				return time.Time{}, errors.New("the kernel's events can not be read any more")
			}
			if ev.action == action && ev.module == module {
				return ev.at, nil
			}
		case <-limit.C:
			return time.Time{}, fmt.Errorf("no event %s of %s within %s", action, module, patience)
		}
	}
}
