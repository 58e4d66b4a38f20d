// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// ErrPrivilege says that the process could not give up what it is to do without.
var ErrPrivilege = errors.New("privileges can not be given up")

// daemonKeeps is the table of docs/install.md, which says what each is for.
func daemonKeeps() []cap.Value {
	return []cap.Value{cap.SYS_MODULE, cap.SYSLOG, cap.SYS_RAWIO, cap.SYS_PTRACE, cap.DAC_READ_SEARCH, cap.NET_ADMIN}
}

// commandKeeps is what commands look at the node with, and what root needs to write files that are another user's.
func commandKeeps() []cap.Value {
	return []cap.Value{cap.SYSLOG, cap.SYS_RAWIO, cap.SYS_PTRACE, cap.DAC_READ_SEARCH, cap.DAC_OVERRIDE, cap.CHOWN, cap.FOWNER}
}

// limit leaves of the capabilities that the process has those of keep, in all its sets, and of these those of idle only
// permitted. It then sets no_new_privs. Without CAP_SETPCAP the bounding set stays as it is: with no_new_privs nothing
// comes out of it (security/commoncap.c, cap_bprm_creds_from_file).
func limit(keep []cap.Value, idle ...cap.Value) error {
	now := cap.GetProc()
	var permitted, effective []cap.Value
	for _, v := range keep {
		if has, err := now.GetFlag(cap.Permitted, v); err != nil || !has {
			continue
		}
		permitted = append(permitted, v)
		if !slices.Contains(idle, v) {
			effective = append(effective, v)
		}
	}
	if err := dropBounding(now, keep); err != nil {
		return fmt.Errorf("%w: bounding set: %w", ErrPrivilege, err)
	}
	next := cap.NewSet() // nothing inheritable: the ambient set is emptied with it
	err := errors.Join(next.SetFlag(cap.Permitted, true, permitted...), next.SetFlag(cap.Effective, true, effective...))
	if err == nil {
		err = next.SetProc()
	}
	// A service manager may have forbidden the call, and left us no more than we keep.
	if err != nil && !within(now, permitted) {
		return fmt.Errorf("%w: capset: %w", ErrPrivilege, err)
	}
	if set, err := cap.Prctl(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && set == 1 {
		return nil
	}
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("%w: no_new_privs: %w", ErrPrivilege, err)
	}
	return nil
}

// dropBounding takes from the bounding set what is not of keep, if the process may.
func dropBounding(now *cap.Set, keep []cap.Value) error {
	if may, err := now.GetFlag(cap.Effective, cap.SETPCAP); err != nil || !may {
		return nil
	}
	var drop []cap.Value
	for v := range cap.MaxBits() {
		if has, err := cap.GetBound(v); err == nil && has && !slices.Contains(keep, v) {
			drop = append(drop, v)
		}
	}
	if len(drop) == 0 {
		return nil
	}
	return cap.DropBound(drop...)
}

// within reports whether a process has no capability but these.
func within(now *cap.Set, these []cap.Value) bool {
	for v := range cap.MaxBits() {
		for _, f := range []cap.Flag{cap.Permitted, cap.Inheritable} {
			if has, err := now.GetFlag(f, v); err != nil || has && !slices.Contains(these, v) {
				return false
			}
		}
	}
	return true
}
