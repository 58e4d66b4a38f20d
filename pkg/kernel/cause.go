// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Cause is why a load or unload did not succeed, as far as errno and the kernel's words tell.
type Cause string

// The causes. The set is closed.
const (
	UnknownSymbol    Cause = "UnknownSymbol"    // a symbol nobody exports, or only to GPL modules, or in a namespace not imported
	SymbolVersion    Cause = "SymbolVersion"    // the CRC of a symbol differs: built against another kernel
	Vermagic         Cause = "Vermagic"         // built for another kernel or configuration
	InvalidParameter Cause = "InvalidParameter" // a value the parameter does not take
	NotAModule       Cause = "NotAModule"       // no ELF, cut short, another machine's, or compressed as the kernel can not undo
	Signature        Cause = "Signature"        // none, of an unknown key, or broken
	Lockdown         Cause = "Lockdown"         // kernel_lockdown(7) wants a signature it trusts
	Blacklisted      Cause = "Blacklisted"      // module_blacklist= on the kernel command line
	FirmwareMissing  Cause = "FirmwareMissing"  // init wanted a firmware file that is not there
	AlreadyLoaded    Cause = "AlreadyLoaded"    // a module of that name is there, perhaps another build
	Builtin          Cause = "Builtin"          // the name is that of a built-in module
	InUse            Cause = "InUse"            // other modules or open files hold it
	Busy             Cause = "Busy"             // it, or a dependency, is coming or going, or can not be removed
	Permission       Cause = "Permission"       // no CAP_SYS_MODULE, modules_disabled, or a security module
	Timeout          Cause = "Timeout"          // no answer before the deadline
	InitFailed       Cause = "InitFailed"       // the module's own init function said no
	Other            Cause = "Other"
)

// rule gives the cause for one errno and a piece of a log line; "" matches always.
type rule struct {
	errno syscall.Errno
	text  string
	cause Cause
}

// loadRules says what an errno of finit_module means; the first that fits wins. Lines are those of kernel/module/*.c
// and kernel/params.c of Linux 6.1 and 6.12, produced there by provoking each.
//
// An init function may return any errno, one of these too, so the rows that can be an init function's and have no
// text are guesses; after AlreadyLoaded and Busy ask Host.Module, and OfInit says so.
func loadRules() []rule {
	return []rule{
		{unix.EPERM, "Lockdown: ", Lockdown},
		{unix.EPERM, " is blacklisted", Blacklisted},
		{unix.EPERM, "", Permission},
		{unix.EACCES, "", Permission},
		{unix.EKEYREJECTED, "", Signature},
		{unix.EKEYEXPIRED, "", Signature},
		{unix.EKEYREVOKED, "", Signature},
		{unix.ENOKEY, "", Signature},
		{unix.EBADMSG, "", Signature},
		{unix.ENOPKG, "", Signature},
		{unix.ENOEXEC, "version magic", Vermagic},
		{unix.ENOEXEC, "disagrees about version of symbol", SymbolVersion},
		{unix.ENOEXEC, "exports duplicate symbol", Other},
		{unix.ENOEXEC, "", NotAModule},
		{unix.ENOENT, "Unknown symbol", UnknownSymbol},
		{unix.ENOENT, "Direct firmware load for ", FirmwareMissing},
		{unix.ENOENT, "", InitFailed},
		{unix.EINVAL, "disagrees about version of symbol", SymbolVersion},
		{unix.EINVAL, "Unknown symbol", UnknownSymbol},
		{unix.EINVAL, "for parameter `", InvalidParameter},
		{unix.EINVAL, "string parameter too long", InvalidParameter},
		{unix.EINVAL, "is already loaded", Builtin},
		{unix.EINVAL, "compressed module", NotAModule},
		{unix.EINVAL, "decompression failed", NotAModule},
		{unix.EINVAL, "ZSTD-compressed data has ", NotAModule},
		{unix.EINVAL, "", InitFailed},
		{unix.ERANGE, "for parameter `", InvalidParameter},
		{unix.ENOSPC, "for parameter `", InvalidParameter},
		{unix.ENOSPC, "string parameter too long", InvalidParameter},
		{unix.EEXIST, "", AlreadyLoaded},
		{unix.EBUSY, "", Busy},
		{unix.ETXTBSY, "", Busy},
		{unix.EINTR, "", Busy},
		{unix.ENOMEM, "", Other},
		{unix.ENOSYS, "", Other},
		{unix.EBADF, "", Other},
		{unix.EFAULT, "", Other},
		{unix.EFBIG, "", Other},
		{unix.EOPNOTSUPP, "", Other},
	}
}

// unloadRules is the same for delete_module.
func unloadRules() []rule {
	return []rule{
		{unix.EAGAIN, "", InUse},
		{unix.EBUSY, "", Busy},
		{unix.EINTR, "", Busy},
		{unix.EPERM, "", Permission},
		{unix.EACCES, "", Permission},
	}
}

// CauseOf returns the cause of an error of Load or Unload, wrapped or not; Other for any other error, "" for nil.
// ErrNotLoaded is Other: the errno says it all. Of Write it knows the cause Timeout only.
func CauseOf(err error) Cause {
	if err == nil {
		return ""
	}
	if errors.Is(err, ErrTimeout) {
		return Timeout
	}
	var e *Error
	var errno syscall.Errno
	if !errors.As(err, &e) || !errors.As(e.Err, &errno) {
		return Other
	}
	if e.Init {
		return InitFailed
	}
	rules, rest := loadRules(), InitFailed
	switch e.Op {
	case opUnload:
		rules, rest = unloadRules(), Other
	case opWrite:
		rules, rest = nil, Other
	}
	for _, r := range rules {
		if r.errno == errno && logHas(e.Log, r.text) {
			return r.cause
		}
	}
	return rest
}

// GaveUpWaiting reports whether a load failed because a dependency was in its init function for longer than the kernel waits,
// half a minute (kernel/module/main.c, resolve_symbol_wait): another try would take as long.
func GaveUpWaiting(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Op == opLoad && errors.Is(e.Err, unix.EBUSY) &&
		(logHas(e.Log, "gave up waiting for init of module") || logHas(e.Log, "Unknown symbol") && logHas(e.Log, "(err -16)"))
}

func logHas(lines []string, text string) bool {
	if text == "" {
		return true
	}
	for _, l := range lines {
		if strings.Contains(l, text) {
			return true
		}
	}
	return false
}
