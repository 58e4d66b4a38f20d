// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"fmt"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Where a filter finds what is called (struct seccomp_data, include/uapi/linux/seccomp.h). Both architectures are
// little-endian: the lower half of an argument comes first.
const (
	dataCall = 0
	dataArch = 4
	dataArgs = 16

	x32Bit = 0x40000000 // of the number of a call: the x32 interface of amd64 (arch/x86/include/uapi/asm/unistd.h)

	namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
		unix.CLONE_NEWPID | unix.CLONE_NEWNET
)

var (
	allow  = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	eperm  = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	enosys = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
)

// rule is a system call, and what has to hold of its arguments; with several conditions, all.
type rule struct {
	call uint32
	when []condition
}

// condition is about the lower half of one argument. The kernel takes a descriptor or flags from no more than that.
type condition struct {
	argument uint32
	test     bpf.JumpTest
	value    uint32
}

// match is the rule as a program: it returns then if the call is it, and else goes on behind. The number of the call is
// loaded before and after.
func (r rule) match(then bpf.RetConstant) []bpf.Instruction {
	var inner []bpf.Instruction
	n := len(r.when)
	for i, c := range r.when {
		// Two instructions for each condition that is still to come, and the return, are left out when this one fails.
		skip := 2*(n-1-i) + 1
		inner = append(inner, bpf.LoadAbsolute{Off: dataArgs + 8*c.argument, Size: 4},
			bpf.JumpIf{Cond: c.test, Val: c.value, SkipFalse: uint8(skip)})
	}
	inner = append(inner, then)
	if n > 0 {
		inner = append(inner, bpf.LoadAbsolute{Off: dataCall, Size: 4})
	}
	return append([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpEqual, Val: r.call, SkipFalse: uint8(len(inner))}}, inner...)
}

// start refuses all that is not of this architecture, where the numbers mean something else.
func start() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: dataArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: architecture, SkipTrue: 1},
		eperm,
		bpf.LoadAbsolute{Off: dataCall, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: x32Bit, SkipTrue: 1},
		eperm,
	}
}

// noClone3 says that there is no clone3, whose flags a filter can not see: callers take clone.
func noClone3() []bpf.Instruction { return rule{call: unix.SYS_CLONE3}.match(enosys) }

// without is a filter that lets everything through but these calls. Namespaces are not made with clone either.
func without(calls, more []uint32) []unix.SockFilter {
	program := start()
	for _, list := range [][]uint32{calls, more} {
		for _, call := range list {
			program = append(program, rule{call: call}.match(eperm)...)
		}
	}
	program = append(program, noClone3()...)
	program = append(program, rule{unix.SYS_CLONE, []condition{{0, bpf.JumpBitsSet, namespaces}}}.match(eperm)...)
	// Who trusts which key is read; nothing else is done with keys.
	program = append(program, rule{unix.SYS_KEYCTL, []condition{{0, bpf.JumpNotEqual, unix.KEYCTL_READ}}}.match(eperm)...)
	return assemble(append(program, allow))
}

// only is a filter that lets nothing through but this.
func only(rules []rule) []unix.SockFilter {
	program := append(start(), noClone3()...)
	for _, r := range rules {
		program = append(program, r.match(allow)...)
	}
	return assemble(append(program, eperm))
}

// assemble panics for a program that can not be: all are made of tables of this package.
func assemble(program []bpf.Instruction) []unix.SockFilter {
	raw, err := bpf.Assemble(program)
	if err != nil {
		panic("confine: " + err.Error())
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out
}

// setFilter gives all threads the filter, for good (seccomp(2); SECCOMP_FILTER_FLAG_TSYNC, Linux 3.17). The calling
// thread has no_new_privs.
func setFilter(program []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	switch {
	case errno != 0:
		return fmt.Errorf("set a filter for system calls: %w", errno)
	case thread != 0:
		return fmt.Errorf("set a filter for system calls: thread %d has another", thread)
	}
	return nil
}
