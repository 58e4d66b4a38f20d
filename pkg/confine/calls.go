// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// refused are the calls that neither kmmd nor Go's runtime makes, and that are of use to an intruder: they need a privilege,
// reach into other processes, or open a large part of the kernel. A list of what is allowed would be shorter to reason
// about, but the next Go may make a call that is not on it, and a node must not lose its driver for that.
func refused() []uint32 {
	return slices.Concat([]uint32{
		// File systems and roots.
		unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE,
		unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
		unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_ACCT,
		unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_MKNODAT, unix.SYS_FANOTIFY_INIT, unix.SYS_FANOTIFY_MARK,
		// Namespaces; clone is looked at by its flags.
		unix.SYS_SETNS, unix.SYS_UNSHARE,
		// Other processes.
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_KCMP,
		unix.SYS_PIDFD_GETFD, unix.SYS_MOVE_PAGES, unix.SYS_MIGRATE_PAGES,
		// Programs in the kernel, its counters, its faults, rings that a filter does not see.
		unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
		// Another kernel; a module without a file.
		unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT, unix.SYS_INIT_MODULE,
		// The machine's clock and names.
		unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX,
		unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_VHANGUP,
		// Other users, other personalities.
		unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETREUID, unix.SYS_SETREGID, unix.SYS_SETRESUID, unix.SYS_SETRESGID,
		unix.SYS_SETFSUID, unix.SYS_SETFSGID, unix.SYS_SETGROUPS, unix.SYS_PERSONALITY,
		// Keys; keyctl is looked at by what it is to do.
		unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
		// What passes messages and memory between processes.
		unix.SYS_SHMGET, unix.SYS_SHMAT, unix.SYS_MSGGET, unix.SYS_SEMGET, unix.SYS_MQ_OPEN, unix.SYS_REMAP_FILE_PAGES, unix.SYS_VMSPLICE,
	}, refusedHere())
}

// changing are the calls of Daemon that no other command makes: it runs itself, which loads and removes modules.
func changing() []uint32 {
	return []uint32{unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE}
}

// childMay is all that Child leaves. Go's runtime waits, takes memory, handles signals and starts threads; it starts no
// process, and maps nothing that can be executed.
func childMay(call uint32, file int) []rule {
	order := rule{call: call}
	if call != unix.SYS_DELETE_MODULE {
		order.when = []condition{{0, bpf.JumpEqual, uint32(file)}}
	}
	rules := []rule{
		order,
		{unix.SYS_WRITE, []condition{{0, bpf.JumpEqual, 1}}},
		{unix.SYS_WRITE, []condition{{0, bpf.JumpEqual, 2}}}, // of a crash
		{unix.SYS_CLONE, []condition{{0, bpf.JumpBitsSet, unix.CLONE_THREAD}, {0, bpf.JumpBitsNotSet, namespaces}}},
		{unix.SYS_MMAP, []condition{{2, bpf.JumpBitsNotSet, unix.PROT_EXEC}}},
	}
	for _, call := range []uint32{
		unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
		unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_RESTART_SYSCALL, unix.SYS_SCHED_YIELD, unix.SYS_CLOCK_GETTIME,
		unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, // a timer of the runtime's own
		unix.SYS_MUNMAP, unix.SYS_MADVISE,
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
		unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_TGKILL,
	} {
		rules = append(rules, rule{call: call})
	}
	return append(rules, libraryMay()...)
}

// waitingMay is all that Waiting leaves.
func waitingMay(orders, file int) []rule {
	return slices.Concat([]rule{
		{unix.SYS_RECVMSG, []condition{{0, bpf.JumpEqual, uint32(orders)}}},
		{unix.SYS_DUP3, []condition{{1, bpf.JumpEqual, uint32(file)}}},
		{call: unix.SYS_CLOSE},
	}, childMay(unix.SYS_FINIT_MODULE, file), childMay(unix.SYS_DELETE_MODULE, file)[:1])
}
