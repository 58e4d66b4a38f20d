// SPDX-License-Identifier: Apache-2.0

package points

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is a system call that changes something. Go makes no others for that:
// package os uses the variants with a directory everywhere.
type call struct {
	nr   uintptr
	name string
	// What its arguments are: the index of each, -1 for none.
	dir, path     int // a directory's descriptor and a path below it
	toDir, toPath int // of a new name
	fd            int // an open file, when there is no path
	flags         int // the call changes something only if one of writing is set
}

// writing are the flags of openat(2) of a file that is made or changed.
const writing = unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC

func atPath(nr uintptr, name string) call  { return call{nr, name, 0, 1, -1, -1, -1, -1} }
func ofFile(nr uintptr, name string) call  { return call{nr, name, -1, -1, -1, -1, 0, -1} }
func newName(nr uintptr, name string) call { return call{nr, name, 0, 1, 2, 3, -1, -1} }

var calls = []call{
	{unix.SYS_OPENAT, "openat", 0, 1, -1, -1, -1, 2},
	atPath(unix.SYS_MKDIRAT, "mkdirat"),
	atPath(unix.SYS_UNLINKAT, "unlinkat"),
	atPath(unix.SYS_FCHMODAT, "fchmodat"),
	atPath(unix.SYS_FCHOWNAT, "fchownat"),
	atPath(unix.SYS_UTIMENSAT, "utimensat"),
	newName(unix.SYS_RENAMEAT, "renameat"),
	newName(unix.SYS_RENAMEAT2, "renameat2"),
	newName(unix.SYS_LINKAT, "linkat"),
	{unix.SYS_SYMLINKAT, "symlinkat", 1, 2, -1, -1, -1, -1},
	ofFile(unix.SYS_WRITE, "write"),
	ofFile(unix.SYS_PWRITE64, "pwrite64"),
	ofFile(unix.SYS_WRITEV, "writev"),
	ofFile(unix.SYS_FTRUNCATE, "ftruncate"),
	ofFile(unix.SYS_FALLOCATE, "fallocate"),
	ofFile(unix.SYS_FCHMOD, "fchmod"),
	ofFile(unix.SYS_FCHOWN, "fchown"),
	ofFile(unix.SYS_FSYNC, "fsync"),
	ofFile(unix.SYS_FDATASYNC, "fdatasync"),
	ofFile(unix.SYS_SENDFILE, "sendfile"),
	{unix.SYS_COPY_FILE_RANGE, "copy_file_range", -1, -1, -1, -1, 2, -1},
	{unix.SYS_SPLICE, "splice", -1, -1, -1, -1, 2, -1},
	ofFile(unix.SYS_FINIT_MODULE, "finit_module"),
	{unix.SYS_DELETE_MODULE, "delete_module", -1, 0, -1, -1, -1, -1},
}

// Where struct seccomp_data (linux/seccomp.h) has the number and the low halves
// of the arguments.
const (
	dataNr   = 0
	dataArgs = 16
)

// program has the kernel ask the listener about calls, and allows all others.
// A jump is at most 255 long: a call that needs a look at its flags has its own
// answer right behind it.
func program() []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	jump := func(test uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	out := []unix.SockFilter{load(dataNr)}
	for _, c := range calls {
		if c.flags < 0 {
			out = append(out, jump(unix.BPF_JEQ, uint32(c.nr), 0, 1), answer(unix.SECCOMP_RET_USER_NOTIF))
			continue
		}
		out = append(out,
			jump(unix.BPF_JEQ, uint32(c.nr), 0, 4),
			load(uint32(dataArgs+8*c.flags)),
			jump(unix.BPF_JSET, writing, 0, 1),
			answer(unix.SECCOMP_RET_USER_NOTIF),
			answer(unix.SECCOMP_RET_ALLOW),
		)
	}
	return append(out, answer(unix.SECCOMP_RET_ALLOW))
}

// install puts the filter on this thread and gives its listener. Once a call has
// been taken up by the listener, only a kill ends its wait: the runtime's own
// signals do not have it asked a second time.
func install() (fd int, err error) {
	filter := program()
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	for privileged := true; ; privileged = false {
		r, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
			unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, uintptr(unsafe.Pointer(&prog)))
		switch {
		case errno == 0:
			return int(r), nil
		case errno != unix.EACCES || !privileged:
			return -1, errno
		}
		// Who has no CAP_SYS_ADMIN gives up set-uid programs instead.
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return -1, err
		}
	}
}
