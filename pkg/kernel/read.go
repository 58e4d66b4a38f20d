// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// attribute is larger than what most files of /sys hold; they hold a page at most (fs/sysfs/file.c).
const attribute = 512

// readFile is os.ReadFile without what that does for files that may block: a look at the kernel reads many small ones,
// and the poller would cost more than they.
func readFile(path string) ([]byte, error) {
	fd, err := again(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, attribute)
	for {
		n, err := again(func() (int, error) { return unix.Read(fd, buf[len(buf):cap(buf)]) })
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return buf, nil
		}
		buf = buf[:len(buf)+n]
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, 8*cap(buf)), buf...)
		}
	}
}

// again repeats a call that a signal has interrupted.
func again(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
