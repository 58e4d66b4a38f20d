// SPDX-License-Identifier: Apache-2.0

// Package confine takes from this process, for good, what it does not need: capabilities, system calls, and the
// right to gain any by running a program. It never gives anything, and decides nothing at run time: there are four kinds of
// process, each with its list in this package (docs/decisions/020).
//
// What is taken is taken from all threads, and inherited by children. Tests do it in processes of their own.
package confine

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Daemon confines the process that keeps the node as it is asked to (kmmd run): the six capabilities of docs/install.md, of
// which CAP_SYS_MODULE is not in effect: its children have use of it, not itself. Filtered is false where the kernel, or
// whoever started us, lets us set no filter for system calls; the rest holds. It is to be called before the
// process reads anything that others wrote.
func Daemon() (filtered bool, err error) {
	if err := bound(daemonKeeps()); err != nil {
		return false, err
	}
	if err := limit(daemonKeeps(), cap.SYS_MODULE); err != nil {
		return false, err
	}
	if err := undumpable(); err != nil {
		return false, err
	}
	return install(without(refused(), nil)), nil
}

// Command confines any other command: it looks at the node, and at files for the one who calls it. It runs no
// program, loads and removes no module. Filtered is as for Daemon.
func Command() (filtered bool, err error) {
	if err := limit(commandKeeps()); err != nil {
		return false, err
	}
	return install(without(refused(), changing())), nil
}

// Child confines a process that is about to make one system call, unix.SYS_FINIT_MODULE of the descriptor file,
// unix.SYS_DELETE_MODULE, or unix.SYS_WRITE to file, and to answer on its standard output: CAP_SYS_MODULE, without which a
// write does, and just those calls that its end and Go's runtime may need. Everything else is refused with EPERM. Filtered
// is as for Daemon.
func Child(call uint32, file int) (filtered bool, err error) {
	keep := []cap.Value{cap.SYS_MODULE}
	if call == unix.SYS_WRITE {
		keep = nil // who opened the file had the right to
	}
	if err := limit(keep); err != nil {
		return false, err
	}
	if err := undumpable(); err != nil {
		return false, err
	}
	return install(only(childMay(call, file))), nil
}

// Waiting confines a process that waits on the socket orders for loads and unloads, each with the descriptor of its file,
// which it moves to file: what Child leaves for these two calls, and what it takes to be given another descriptor. Filtered is as for
// Daemon.
func Waiting(orders, file int) (filtered bool, err error) {
	if err := limit([]cap.Value{cap.SYS_MODULE}); err != nil {
		return false, err
	}
	if err := undumpable(); err != nil {
		return false, err
	}
	return install(only(waitingMay(orders, file))), nil
}

// undumpable has the kernel write no core of the process, which may hold credentials, and keeps processes without
// CAP_SYS_PTRACE out of its memory (prctl(2), PR_SET_DUMPABLE).
func undumpable() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}

// install sets no_new_privs and a filter on all threads.
func install(program []unix.SockFilter) (filtered bool) {
	runtime.LockOSThread() // who sets the filter needs no_new_privs
	defer runtime.UnlockOSThread()
	return setFilter(program) == nil
}
