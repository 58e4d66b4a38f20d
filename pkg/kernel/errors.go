// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What a caller branches on. Every one of them comes wrapped.
var (
	// ErrNotLoaded: the kernel has no loadable module of that name (delete_module's ENOENT, which built-in ones get too).
	ErrNotLoaded = errors.New("module is not loaded")
	// ErrLoaded: a module of that name is there already (finit_module's EEXIST); which build of it, the kernel does not say.
	ErrLoaded = errors.New("module is already loaded")
	// ErrInUse: other modules use it or its reference count is not 0 (delete_module's EAGAIN).
	ErrInUse = errors.New("module is in use")
	// ErrBusy: a module of that name is coming or going, a dependency is stuck, or it can not be removed (EBUSY).
	ErrBusy = errors.New("module is busy")
	// ErrPermission: EPERM or EACCES; CauseOf tells why.
	ErrPermission = errors.New("not permitted")
	// ErrTimeout: the kernel did not answer before the deadline; what was asked may still be done, or hang for ever.
	ErrTimeout = errors.New("kernel did not answer")
	// ErrNoChild: the kernel was not asked, for want of a process that does so; memory, or a limit of processes or files.
	ErrNoChild = errors.New("no process to be had")
)

// Error is a load, unload or write which the kernel refused or did not answer. errors.Is finds the errno and the sentinel.
type Error struct {
	Op     string   // "load", "unload" or "write"
	Module string   // as given by the caller; of a write the path of the file
	Err    error    // a syscall.Errno, or what kept the system call from being made or answered
	Log    []string // what the kernel printed about it meanwhile, without time stamps; escaped as /dev/kmsg has it
	Init   bool     // the errno is known to be the init function's own, whatever it means else (OfInit)
}

// OfInit is the error of a load whose errno, as Host.Module has told, is nobody's but the init function's: one may return
// EBUSY or EEXIST too, of which it is then neither ErrBusy nor ErrLoaded. Another error is returned as it is.
func OfInit(err error) error {
	var e *Error
	if !errors.As(err, &e) || e.Op != opLoad {
		return err
	}
	own := *e
	own.Init = true
	return &own
}

// shownLines is how many log lines Error.Error repeats.
const shownLines = 6

// Error returns one line with the name of the errno and the kernel's own words:
//
//	load dummy: finit_module: ENOEXEC (exec format error); kernel: "dummy: version magic 'a' should be 'b'"
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: ", e.Op, e.Module)
	var errno syscall.Errno
	if errors.As(e.Err, &errno) {
		fmt.Fprintf(&b, "%s%s (%s)", syscallName(e.Op), ErrnoName(errno), errno.Error())
	} else {
		b.WriteString(e.Err.Error())
	}
	if e.Init {
		b.WriteString(" from its init function")
	}
	if len(e.Log) == 0 {
		return b.String()
	}
	b.WriteString("; kernel: ")
	for i, l := range e.Log {
		if i == shownLines {
			fmt.Fprintf(&b, " and %d more lines", len(e.Log)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(`"` + l + `"`)
	}
	return b.String()
}

// Unwrap returns the errno and, where there is one, the sentinel that says the same.
func (e *Error) Unwrap() []error {
	errs := []error{e.Err}
	if s := sentinel(e.Op, e.Err); s != nil && !e.Init {
		errs = append(errs, s)
	}
	return errs
}

// sentinel maps the errno of a system call to what it means to our callers.
func sentinel(op string, err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return nil
	}
	switch {
	case errno == unix.EPERM || errno == unix.EACCES:
		return ErrPermission
	case errno == unix.EBUSY:
		return ErrBusy
	case op == opLoad && errno == unix.EEXIST:
		return ErrLoaded
	case op == opUnload && errno == unix.EAGAIN:
		return ErrInUse
	case op == opUnload && errno == unix.ENOENT:
		return ErrNotLoaded
	}
	return nil
}

// ErrnoName returns the C name of the errno in err, "ENOEXEC", "errno 999" when it has no name, "" when err holds none.
// A module's init function may return the kernel's internal ones, which errno.h of user space lacks.
func ErrnoName(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return ""
	}
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	// include/linux/errno.h
	switch errno {
	case 512:
		return "ERESTARTSYS"
	case 517:
		return "EPROBE_DEFER"
	case 524:
		return "ENOTSUPP"
	}
	return "errno " + strconv.Itoa(int(errno))
}

// syscallName is what stands before an errno, unless the operation says it already.
func syscallName(op string) string {
	switch op {
	case opLoad:
		return callFinit + ": "
	case opUnload:
		return callDelete + ": "
	}
	return ""
}
