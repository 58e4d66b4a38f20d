// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// verdict has a filter judge a call, as the kernel would. The machine of x/net reads network byte order.
func verdict(t *testing.T, program []unix.SockFilter, arch, call uint32, args ...uint32) uint32 {
	t.Helper()
	raw := make([]bpf.RawInstruction, len(program))
	for i, p := range program {
		raw[i] = bpf.RawInstruction{Op: p.Code, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	code, ok := bpf.Disassemble(raw)
	require.True(t, ok)
	vm, err := bpf.NewVM(code)
	require.NoError(t, err)
	data := make([]byte, dataArgs+6*8)
	binary.BigEndian.PutUint32(data[dataCall:], call)
	binary.BigEndian.PutUint32(data[dataArch:], arch)
	for i, arg := range args {
		binary.BigEndian.PutUint32(data[dataArgs+8*i:], arg)
	}
	n, err := vm.Run(data)
	require.NoError(t, err)
	return uint32(n)
}

const (
	allowed = unix.SECCOMP_RET_ALLOW
	denied  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	missing = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

func TestFilters(t *testing.T) {
	daemon, command := without(refused(), nil), without(refused(), changing())
	load, unload := only(childMay(unix.SYS_FINIT_MODULE, 3)), only(childMay(unix.SYS_DELETE_MODULE, 3))
	write, waiting := only(childMay(unix.SYS_WRITE, 3)), only(waitingMay(0, 3))
	const threads = 0x50f00 // of the runtime: CLONE_VM, FS, FILES, SIGHAND, SYSVSEM, THREAD
	const foreign = 0xdead
	tests := []struct {
		name            string
		call            uint32
		args            []uint32
		daemon, command uint32
		load, unload    uint32
		write, waiting  uint32
	}{
		{"load", unix.SYS_FINIT_MODULE, []uint32{3}, allowed, denied, allowed, denied, denied, allowed},
		{"load of another file", unix.SYS_FINIT_MODULE, []uint32{4}, allowed, denied, denied, denied, denied, denied},
		{"load without a file", unix.SYS_INIT_MODULE, nil, denied, denied, denied, denied, denied, denied},
		{"unload", unix.SYS_DELETE_MODULE, nil, allowed, denied, denied, allowed, denied, allowed},
		{"start a program", unix.SYS_EXECVE, nil, allowed, denied, denied, denied, denied, denied},
		{"answer", unix.SYS_WRITE, []uint32{1}, allowed, allowed, allowed, allowed, allowed, allowed},
		{"crash", unix.SYS_WRITE, []uint32{2}, allowed, allowed, allowed, allowed, allowed, allowed},
		{"write the file", unix.SYS_WRITE, []uint32{3}, allowed, allowed, denied, denied, allowed, denied},
		{"write another file", unix.SYS_WRITE, []uint32{5}, allowed, allowed, denied, denied, denied, denied},
		{"write at a place of the file", unix.SYS_PWRITE64, []uint32{3}, allowed, allowed, denied, denied, denied, denied},
		{"read the file", unix.SYS_READ, []uint32{3}, allowed, allowed, denied, denied, denied, denied},
		{"open", unix.SYS_OPENAT, nil, allowed, allowed, denied, denied, denied, denied},
		{"socket", unix.SYS_SOCKET, nil, allowed, allowed, denied, denied, denied, denied},
		{"thread", unix.SYS_CLONE, []uint32{threads}, allowed, allowed, allowed, allowed, allowed, allowed},
		{"process", unix.SYS_CLONE, []uint32{unix.CLONE_VFORK | uint32(unix.SIGCHLD)}, allowed, allowed, denied, denied, denied, denied},
		{"namespace", unix.SYS_CLONE, []uint32{unix.CLONE_NEWUSER}, denied, denied, denied, denied, denied, denied},
		{"thread in a namespace", unix.SYS_CLONE, []uint32{threads | unix.CLONE_NEWNET}, denied, denied, denied, denied, denied, denied},
		{"clone3", unix.SYS_CLONE3, nil, missing, missing, missing, missing, missing, missing},
		{"memory", unix.SYS_MMAP, []uint32{0, 0, unix.PROT_READ | unix.PROT_WRITE}, allowed, allowed, allowed, allowed, allowed, allowed},
		{"code", unix.SYS_MMAP, []uint32{0, 0, unix.PROT_READ | unix.PROT_EXEC}, allowed, allowed, denied, denied, denied, denied},
		{"memory turned into code", unix.SYS_MPROTECT, []uint32{0, 0, unix.PROT_READ | unix.PROT_EXEC}, allowed, allowed, denied, denied, denied, denied},
		{"read a keyring", unix.SYS_KEYCTL, []uint32{unix.KEYCTL_READ}, allowed, allowed, denied, denied, denied, denied},
		{"change a key", unix.SYS_KEYCTL, []uint32{unix.KEYCTL_UPDATE}, denied, denied, denied, denied, denied, denied},
		{"add a key", unix.SYS_ADD_KEY, nil, denied, denied, denied, denied, denied, denied},
		{"mount", unix.SYS_MOUNT, nil, denied, denied, denied, denied, denied, denied},
		{"enter a namespace", unix.SYS_SETNS, nil, denied, denied, denied, denied, denied, denied},
		{"trace", unix.SYS_PTRACE, nil, denied, denied, denied, denied, denied, denied},
		{"bpf", unix.SYS_BPF, nil, denied, denied, denied, denied, denied, denied},
		{"io_uring", unix.SYS_IO_URING_SETUP, nil, denied, denied, denied, denied, denied, denied},
		{"another kernel", unix.SYS_KEXEC_FILE_LOAD, nil, denied, denied, denied, denied, denied, denied},
		{"file by handle", unix.SYS_OPEN_BY_HANDLE_AT, nil, denied, denied, denied, denied, denied, denied},
		{"the kernel's log", unix.SYS_SYSLOG, nil, allowed, allowed, denied, denied, denied, denied},
		{"another interface", x32Bit | unix.SYS_WRITE, []uint32{1}, denied, denied, denied, denied, denied, denied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.daemon, verdict(t, daemon, architecture, tt.call, tt.args...), "daemon")
			assert.Equal(t, tt.command, verdict(t, command, architecture, tt.call, tt.args...), "command")
			assert.Equal(t, tt.load, verdict(t, load, architecture, tt.call, tt.args...), "load")
			assert.Equal(t, tt.unload, verdict(t, unload, architecture, tt.call, tt.args...), "unload")
			assert.Equal(t, tt.write, verdict(t, write, architecture, tt.call, tt.args...), "write")
			assert.Equal(t, tt.waiting, verdict(t, waiting, architecture, tt.call, tt.args...), "waiting")
			assert.Equal(t, denied, verdict(t, daemon, foreign, tt.call, tt.args...), "of another architecture")
		})
	}
	for _, call := range refused() {
		assert.Equal(t, denied, verdict(t, daemon, architecture, call), "%d", call)
	}
}

// TestConditions: a rule that does not match goes on behind itself, with the number of the call.
func TestConditions(t *testing.T) {
	program := only([]rule{
		{10, []condition{{0, bpf.JumpEqual, 1}, {1, bpf.JumpEqual, 2}, {2, bpf.JumpEqual, 3}}},
		{10, []condition{{0, bpf.JumpEqual, 7}}},
		{call: 11},
	})
	for _, tt := range []struct {
		call uint32
		args []uint32
		want uint32
	}{
		{10, []uint32{1, 2, 3}, allowed}, {10, []uint32{1, 2, 4}, denied}, {10, []uint32{1, 3, 3}, denied}, {10, []uint32{2, 2, 3}, denied},
		{10, []uint32{7}, allowed}, {11, []uint32{9}, allowed}, {12, []uint32{1, 2, 3}, denied},
	} {
		assert.Equal(t, tt.want, verdict(t, program, architecture, tt.call, tt.args...), "%d %v", tt.call, tt.args)
	}
}
