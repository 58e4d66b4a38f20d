// SPDX-License-Identifier: Apache-2.0

package points

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	launchEnv = "KMMD_POINTS_LAUNCH" // the program to become
	launchFD  = 3                    // where the listener is handed over
)

// Launch puts the filter on and becomes the program to be watched, if this
// process was started by Start for that; otherwise it returns at once. It must
// come first in TestMain.
func Launch() {
	target, ok := os.LookupEnv(launchEnv)
	if !ok {
		return
	}
	err := launch(target)
	fmt.Fprintf(os.Stderr, "watch %s: %v\n", target, err)
	os.Exit(127)
}

func launch(target string) error {
	runtime.LockOSThread() // the filter is this thread's, and execve leaves no other
	fd, err := install()
	if err != nil {
		return fmt.Errorf("install a seccomp filter: %w", err)
	}
	// Nobody listens before it has been sent: no call of these may be a point.
	if err := unix.Sendmsg(launchFD, []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		return fmt.Errorf("hand over the listener: %w", err)
	}
	unix.CloseOnExec(fd)
	unix.CloseOnExec(launchFD)
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, launchEnv+"=") {
			env = append(env, v)
		}
	}
	return syscall.Exec(target, os.Args, env)
}

func socketpair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "points"), os.NewFile(uintptr(fds[1]), "points"), nil
}

// receiveListener waits until the launcher has sent it, or has ended.
func receiveListener(from *os.File) (*listener, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(int(from.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	if n == 0 {
		return nil, errors.New("the launcher has ended: does TestMain call points.Launch?")
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("no listener was sent: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	return &listener{fd: fds[0]}, nil
}
