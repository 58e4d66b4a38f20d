// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"
)

// change is what became of the documents.
type change int

const (
	nothing change = iota // for as long as was waited
	partial               // something happened, or is under way
	whole                 // a document is there as a whole, and nobody writes one
)

// watched are the events of inotify(7) that are asked for.
const watched = syscall.IN_CREATE | syscall.IN_MODIFY | syscall.IN_CLOSE_WRITE | syscall.IN_MOVED_FROM | syscall.IN_MOVED_TO |
	syscall.IN_DELETE | syscall.IN_DELETE_SELF | syscall.IN_MOVE_SELF | syscall.IN_ATTRIB

// changes are those of a directory of documents, or of one document. It is
// inotify(7) itself, because what the libraries for it leave out is what counts
// here: that a file which was written has been closed.
type changes struct {
	path   string
	f      *os.File // registered with the runtime's poller: deadlines work
	fd     int      // the same
	parent int      // watch of the directory above
	open   map[string]bool
	buf    []byte
}

// openChanges sees nothing until add. The caller closes it.
func openChanges(path string) (*changes, error) {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	return &changes{
		path: filepath.Clean(path), f: os.NewFile(uintptr(fd), "inotify"), fd: fd, parent: -1,
		open: map[string]bool{}, buf: make([]byte, 16<<10),
	}, nil
}

// add watches the path and the directory it is in: editors replace files. What is
// watched already stays so. One that is missing, fs.ErrNotExist, is no error: it
// is seen when it comes, if the directory above is there.
func (c *changes) add() error {
	for _, path := range []string{filepath.Dir(c.path), c.path} {
		watch, err := syscall.InotifyAddWatch(c.fd, path, watched)
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			return &os.PathError{Op: "inotify_add_watch", Path: path, Err: err}
		}
		if err == nil && path != c.path {
			c.parent = watch
		}
	}
	return nil
}

// wait returns what happened, or nothing when the time has come; the zero time
// never comes. When ctx is done it returns at once.
func (c *changes) wait(ctx context.Context, until time.Time) (change, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		if err := c.f.SetReadDeadline(until); err != nil {
			return nothing, err
		}
		if ctx.Err() != nil { // the deadline of the line above has replaced that of ctx
			return nothing, nil
		}
		n, err := c.f.Read(c.buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			clear(c.open) // whoever writes still will be heard of again; links are never closed
			return nothing, nil
		}
		if err != nil {
			return nothing, err
		}
		if what := c.sum(c.buf[:n]); what != nothing {
			return what, nil
		}
	}
}

// still reports whether nothing has happened since wait returned. What has is
// returned by the next wait.
func (c *changes) still() bool {
	waiting := 0
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(c.fd), syscall.TIOCINQ, uintptr(unsafe.Pointer(&waiting)))
	return errno == 0 && waiting == 0
}

// sum reads events as inotify(7) lays them out: watch, mask, cookie and the length
// of the name, 32 bits each, then the name with NULs behind it.
func (c *changes) sum(events []byte) change {
	what := nothing
	for len(events) >= syscall.SizeofInotifyEvent {
		watch, mask := int(int32(binary.NativeEndian.Uint32(events))), binary.NativeEndian.Uint32(events[4:])
		end := min(syscall.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(events[12:])), len(events))
		name, _, _ := bytes.Cut(events[syscall.SizeofInotifyEvent:end], []byte{0})
		events = events[end:]
		what = max(what, c.one(watch, mask, string(name)))
	}
	if len(c.open) > 0 {
		what = min(what, partial)
	}
	return what
}

// one takes an event in.
func (c *changes) one(watch int, mask uint32, name string) change {
	if mask&syscall.IN_Q_OVERFLOW != 0 {
		clear(c.open)
		return partial
	}
	if mask&syscall.IN_IGNORED != 0 || watch == c.parent && name != filepath.Base(c.path) {
		return nothing
	}
	if mask&syscall.IN_MOVE_SELF != 0 && watch != c.parent { // it is another one's now
		_, _ = syscall.InotifyRmWatch(c.fd, uint32(watch))
	}
	if name == "" || mask&syscall.IN_ISDIR != 0 {
		return partial
	}
	switch {
	case mask&syscall.IN_MOVED_TO != 0:
		delete(c.open, name)
		return whole
	case !isDocument(name):
		return partial
	case mask&(syscall.IN_CREATE|syscall.IN_MODIFY) != 0:
		c.open[name] = true
	case mask&syscall.IN_CLOSE_WRITE != 0:
		delete(c.open, name)
		return whole
	case mask&(syscall.IN_DELETE|syscall.IN_MOVED_FROM) != 0:
		delete(c.open, name)
	}
	return partial
}

func (c *changes) close() { _ = c.f.Close() }
