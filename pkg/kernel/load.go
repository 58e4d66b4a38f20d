// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	opLoad   = "load"
	opUnload = "unload"
)

// DefaultTimeout is how long Load and Unload wait when the caller gives no time. The kernel itself waits up to 30 s
// for a dependency that is still in its init function (kernel/module/main.c, resolve_symbol_wait).
const DefaultTimeout = 2 * time.Minute

// LoadRequest is one module file and how to load it.
type LoadRequest struct {
	Name              string   // the kernel's name of the module, for messages and to find the kernel's lines about it
	File              *os.File // open for reading; nobody may have the same file open for writing
	Parameters        string   // one string as finit_module takes it: "level=3 label=\"a b\""
	IgnoreVermagic    bool     // taints the kernel (F); needs CONFIG_MODULE_FORCE_LOAD
	IgnoreModversions bool     // likewise
	Compressed        bool     // File is compressed the way Host.Compression names
	Timeout           time.Duration
}

// Load gives the module file to finit_module(2) and returns nil when the module is live. It does so in a child of this
// program, the one that waits or one of its own, which must call RunChild first thing in main: an oops in the module's init function leaves the
// calling thread in the kernel for ever. After Timeout the child is killed and Load returns ErrTimeout at once, though
// the child may still be in the kernel, and the module may still become live.
//
// Any failure of the kernel is an *Error with its errno and its words; see ErrLoaded, ErrBusy, ErrPermission,
// ErrTimeout, ErrNoChild and CauseOf. Nil does not say which build runs: since Linux 6.5 a load of the same file by somebody else
// at the same time gives us that one's result (kernel/module/main.c, idempotent_init_module). Parameters the module does
// not have are no error for the kernel.
//
// Once the system call was started ctx can not stop it. The caller closes File. Needs CAP_SYS_MODULE, and CAP_SYSLOG
// for the kernel's words.
func (h *Host) Load(ctx context.Context, r LoadRequest) error {
	if r.File == nil {
		return &Error{Op: opLoad, Module: r.Name, Err: errors.New("no file given")}
	}
	return h.change(ctx, opLoad, r.Name, r.Timeout, r.call())
}

// call is the system call that loads it.
func (r *LoadRequest) call() syscallRequest {
	flags := 0
	if r.IgnoreVermagic {
		flags |= unix.MODULE_INIT_IGNORE_VERMAGIC
	}
	if r.IgnoreModversions {
		flags |= unix.MODULE_INIT_IGNORE_MODVERSIONS
	}
	if r.Compressed {
		flags |= unix.MODULE_INIT_COMPRESSED_FILE
	}
	return syscallRequest{call: callFinit, flags: flags, text: r.Parameters, file: r.File}
}

// Unload removes a module with delete_module(2), in a child and with a deadline as Load does. The kernel refuses with
// ErrNotLoaded (also for a built-in one, and for "a-b" where the module is a_b), ErrInUse, ErrBusy (coming, going, or
// without an exit function), ErrPermission; ErrTimeout when its exit function does not come back. A module without
// references may still carry a device somebody needs: look before.
func (h *Host) Unload(ctx context.Context, name string, timeout time.Duration) error {
	if name == "" || len(name) > maxName {
		return &Error{Op: opUnload, Module: name, Err: fmt.Errorf("%w: no module has such a name", ErrNotLoaded)}
	}
	return h.change(ctx, opUnload, name, timeout, syscallRequest{call: callDelete, flags: unix.O_NONBLOCK, text: name})
}

// change makes one system call in a child and adds the kernel's words to a failure.
func (h *Host) change(ctx context.Context, op, module string, timeout time.Duration, r syscallRequest) error {
	if err := ctx.Err(); err != nil {
		return &Error{Op: op, Module: module, Err: err}
	}
	if strings.ContainsRune(r.text+module, 0) {
		return &Error{Op: op, Module: module, Err: unix.EINVAL}
	}
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	if r.file != nil && h.keeps(r.file) {
		copied, err := Sealed(module, func(w io.Writer) error {
			_, err := io.Copy(w, io.NewSectionReader(r.file, 0, math.MaxInt64))
			return err
		})
		if err != nil {
			return &Error{Op: op, Module: module, Err: err}
		}
		defer copied.Close()
		r.file = copied
	}
	log := h.openKmsg()
	defer log.close()
	done, err := h.byWaiting(r, childName(op, module), timeout)
	if !done {
		_, err = r.run(h.exe, childName(op, module), timeout)
	}
	if err == nil {
		return nil
	}
	return h.failed(op, module, r.file, err, timeout, log)
}

// failed tells of a call that failed, with the kernel's words.
func (h *Host) failed(op, module string, file *os.File, err error, timeout time.Duration, log kmsg) error {
	h.keepFile(file, err)
	if errors.Is(err, ErrTimeout) {
		err = fmt.Errorf("%w within %s: %s", err, timeout, h.stateNow(module))
	}
	return &Error{Op: op, Module: module, Err: err, Log: log.about(module)}
}

// keepFile keeps a file open for good when the call with it did not come to its end. A thread that dies in a module's
// init leaves an entry on its stack in the kernel's table of loads, which is found by the address of the file's inode
// (kernel/module/main.c, idempotent_init_module, Linux 6.5). Were the inode freed, the next file in memory would likely be
// at its address: that load would run into the entry, and the machine would hang.
func (h *Host) keepFile(f *os.File, err error) {
	var ended *childEnded
	if f == nil || !errors.Is(err, ErrTimeout) && !errors.As(err, &ended) {
		return
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return // out of descriptors: there is nothing better to be done
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept = append(h.kept, os.NewFile(uintptr(fd), f.Name()))
}

// keeps tells whether a call with that file did not come to its end. It is given to the kernel no second time, but as a
// copy, which has an inode of its own. What an earlier process met is not known.
func (h *Host) keeps(f *os.File) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.kept, func(kept *os.File) bool {
		a, err := f.Stat()
		b, err2 := kept.Stat()
		return err == nil && err2 == nil && os.SameFile(a, b)
	})
}

// stateNow says for a message in which state the module is.
func (h *Host) stateNow(module string) string {
	s, err := h.readLine("sys/module/" + module + "/initstate")
	if err != nil {
		return "no such module in the kernel"
	}
	return "module is " + strconv.Quote(s)
}
