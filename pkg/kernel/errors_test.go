// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestError(t *testing.T) {
	tests := []struct {
		err  *Error
		want string
	}{
		{&Error{Op: opLoad, Module: "dummy", Err: unix.ENOEXEC, Log: []string{"dummy: version magic 'a' should be 'b'"}},
			`load dummy: finit_module: ENOEXEC (exec format error); kernel: "dummy: version magic 'a' should be 'b'"`},
		{&Error{Op: opLoad, Module: "x", Err: unix.EINVAL, Log: []string{"a", "b"}},
			`load x: finit_module: EINVAL (invalid argument); kernel: "a", "b"`},
		{&Error{Op: opUnload, Module: "dummy", Err: unix.EAGAIN},
			"unload dummy: delete_module: EAGAIN (resource temporarily unavailable)"},
		{&Error{Op: opLoad, Module: "x", Err: syscall.Errno(517)}, "load x: finit_module: EPROBE_DEFER (errno 517)"},
		{&Error{Op: opLoad, Module: "x", Err: fmt.Errorf("%w within 1s", ErrTimeout), Log: []string{"BUG: x"}},
			`load x: kernel did not answer within 1s; kernel: "BUG: x"`},
		{&Error{Op: opLoad, Module: "x", Err: unix.EIO, Log: []string{"1", "2", "3", "4", "5", "6", "7", "8"}},
			`load x: finit_module: EIO (input/output error); kernel: "1", "2", "3", "4", "5", "6" and 2 more lines`},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) { assert.EqualError(t, tt.err, tt.want) })
	}
}

func TestSentinels(t *testing.T) {
	all := []error{ErrNotLoaded, ErrLoaded, ErrInUse, ErrBusy, ErrPermission, ErrTimeout}
	tests := []struct {
		op    string
		errno syscall.Errno
		want  error
	}{
		{opLoad, unix.EEXIST, ErrLoaded},
		{opLoad, unix.EBUSY, ErrBusy},
		{opLoad, unix.EPERM, ErrPermission},
		{opLoad, unix.EACCES, ErrPermission},
		{opLoad, unix.ENOENT, nil},
		{opLoad, unix.EAGAIN, nil},
		{opUnload, unix.ENOENT, ErrNotLoaded},
		{opUnload, unix.EAGAIN, ErrInUse},
		{opUnload, unix.EBUSY, ErrBusy},
		{opUnload, unix.EPERM, ErrPermission},
		{opUnload, unix.EEXIST, nil},
	}
	for _, tt := range tests {
		t.Run(tt.op+" "+ErrnoName(tt.errno), func(t *testing.T) {
			err := fmt.Errorf("wrapped: %w", &Error{Op: tt.op, Module: "x", Err: tt.errno})
			assert.ErrorIs(t, err, tt.errno)
			for _, s := range all {
				if errors.Is(tt.want, s) {
					assert.ErrorIs(t, err, s)
				} else {
					assert.NotErrorIs(t, err, s)
				}
			}
		})
	}
}

// TestOfInit: an errno that is known to be an init function's means nothing else.
func TestOfInit(t *testing.T) {
	for errno, s := range map[syscall.Errno]error{unix.EEXIST: ErrLoaded, unix.EBUSY: ErrBusy} {
		before := &Error{Op: opLoad, Module: "x", Err: errno, Log: []string{"x: taken"}}
		err := OfInit(fmt.Errorf("wrapped: %w", before))
		require.ErrorIs(t, err, errno)
		require.NotErrorIs(t, err, s)
		require.ErrorIs(t, before, s)
		assert.Equal(t, InitFailed, CauseOf(err))
		assert.Contains(t, err.Error(), ErrnoName(errno))
		assert.Contains(t, err.Error(), `from its init function; kernel: "x: taken"`)
	}
	require.ErrorIs(t, OfInit(ErrTimeout), ErrTimeout)
	require.NoError(t, OfInit(nil))
}

func TestGaveUpWaiting(t *testing.T) {
	for log, want := range map[string]bool{
		"x: gave up waiting for init of module y.": true, "x: Unknown symbol s (err -16)": true, "x: no such hardware": false, "": false,
	} {
		err := fmt.Errorf("wrapped: %w", &Error{Op: opLoad, Module: "x", Err: unix.EBUSY, Log: []string{log}})
		assert.Equal(t, want, GaveUpWaiting(err), log)
	}
	assert.False(t, GaveUpWaiting(&Error{Op: opLoad, Err: unix.ENODEV, Log: []string{"x: gave up waiting for init of module y."}}))
	assert.False(t, GaveUpWaiting(nil))
}

// TestCauseOf: the lines are those the kernels of Debian 12 printed.
func TestCauseOf(t *testing.T) {
	tests := []struct {
		op    string
		errno syscall.Errno
		log   string
		want  Cause
	}{
		{opLoad, unix.EPERM, "", Permission},
		{opLoad, unix.EACCES, "", Permission},
		{opLoad, unix.EPERM, "Module x is blacklisted", Blacklisted},
		{opLoad, unix.EPERM, "Lockdown: exe: unsigned module loading is restricted; see man kernel_lockdown.7", Lockdown},
		{opLoad, unix.EKEYREJECTED, "Loading of unsigned module is rejected", Signature},
		{opLoad, unix.EKEYREJECTED, "", Signature},
		{opLoad, unix.EBADMSG, "module: PKCS#7 signature info has unexpected non-zero params", Signature},
		{opLoad, unix.ENOEXEC, `Invalid ELF header magic: != \x7fELF`, NotAModule},
		{opLoad, unix.ENOEXEC, "Invalid architecture in ELF header: 183", NotAModule},
		{opLoad, unix.ENOEXEC, "", NotAModule},
		{opLoad, unix.ENOEXEC, "x: version magic '6.1 SMP ' should be '6.1 SMP preempt '", Vermagic},
		{opLoad, unix.ENOEXEC, "x: disagrees about version of symbol module_layout", SymbolVersion},
		{opLoad, unix.ENOEXEC, "x: exports duplicate symbol s (owned by y)", Other},
		{opLoad, unix.ENOENT, "x: Unknown symbol s (err -2)", UnknownSymbol},
		{opLoad, unix.ENOENT, "x x: Direct firmware load for f failed with error -2", FirmwareMissing},
		{opLoad, unix.ENOENT, "", InitFailed},
		{opLoad, unix.EINVAL, "x: disagrees about version of symbol s\nx: Unknown symbol s (err -22)", SymbolVersion},
		{opLoad, unix.EINVAL, "x: module uses symbol s from namespace N, but does not import it.\nx: Unknown symbol s (err -22)", UnknownSymbol},
		{opLoad, unix.EINVAL, "x: `abc' invalid for parameter `level'", InvalidParameter},
		{opLoad, unix.ERANGE, "x: `256' invalid for parameter `octet'", InvalidParameter},
		{opLoad, unix.ENOSPC, "label: string parameter too long\nx: `aaa' too large for parameter `label'", InvalidParameter},
		{opLoad, unix.EINVAL, "x: module is already loaded", Builtin},
		{opLoad, unix.EINVAL, "not an xz compressed module", NotAModule},
		{opLoad, unix.EINVAL, "decompression failed with status 6", NotAModule},
		{opLoad, unix.EINVAL, "ZSTD-compressed data has too large a window size", NotAModule},
		{opLoad, unix.EINVAL, "", InitFailed},
		{opLoad, unix.ERANGE, "", InitFailed},
		{opLoad, unix.EEXIST, "", AlreadyLoaded},
		{opLoad, unix.EBUSY, "x: gave up waiting for init of module y.\nx: Unknown symbol s (err -16)", Busy},
		{opLoad, unix.ETXTBSY, "", Busy},
		{opLoad, unix.EOPNOTSUPP, "", Other},
		{opLoad, unix.ENODEV, "x: no such hardware", InitFailed},
		{opLoad, 517, "", InitFailed},
		{opUnload, unix.EAGAIN, "", InUse},
		{opUnload, unix.EBUSY, "", Busy},
		{opUnload, unix.EPERM, "", Permission},
		{opUnload, unix.ENOENT, "", Other},
	}
	for _, tt := range tests {
		t.Run(tt.op+" "+ErrnoName(tt.errno)+" "+tt.log, func(t *testing.T) {
			lines := appendAbout(nil, "x", []byte(records(tt.log)))
			err := fmt.Errorf("wrapped: %w", &Error{Op: tt.op, Module: "x", Err: tt.errno, Log: lines})
			assert.Equal(t, tt.want, CauseOf(err))
		})
	}
	assert.Equal(t, Cause(""), CauseOf(nil))
	assert.Equal(t, Other, CauseOf(errors.New("x")))
	assert.Equal(t, Other, CauseOf(ErrNotLoaded))
	assert.Equal(t, Timeout, CauseOf(&Error{Op: opLoad, Err: fmt.Errorf("%w within 1s", ErrTimeout)}))
}

// records makes lines look as /dev/kmsg gives them.
func records(lines string) string {
	var s string
	for _, l := range strings.Split(lines, "\n") {
		s += "3,1,1,-;" + l + "\n"
	}
	return s
}

func TestErrnoName(t *testing.T) {
	assert.Equal(t, "ENOEXEC", ErrnoName(fmt.Errorf("x: %w", unix.ENOEXEC)))
	assert.Equal(t, "EAGAIN", ErrnoName(unix.EAGAIN))
	assert.Equal(t, "EPROBE_DEFER", ErrnoName(syscall.Errno(517)))
	assert.Equal(t, "errno 999", ErrnoName(syscall.Errno(999)))
	assert.Empty(t, ErrnoName(ErrTimeout))
	assert.Empty(t, ErrnoName(nil))
}
