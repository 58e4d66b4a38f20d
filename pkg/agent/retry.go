// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"errors"
	"syscall"
	"time"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/firmware"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// The first and the longest wait between two tries, and those when each try takes
// a driver that works away for a moment: a load was short of memory, which an init
// function may say for another reason, or a module was in use when others had
// gone already.
const (
	firstRetry       = 2 * time.Second
	lastRetry        = 2 * time.Minute
	firstCostlyRetry = lastRetry
	lastCostlyRetry  = time.Hour
)

// failure is why a Module is not as wanted, and when to try again.
type failure struct {
	reason     spec.Reason
	message    string
	left       string // what a rollback could not undo so far, to follow the message
	rolledBack bool
	// input is the want that failed; the same one is not tried again before
	// retryAt, and never when that is zero.
	input   string
	retryAt time.Time
	wait    time.Duration
	longest time.Duration // what wait may become; 0 is lastRetry
	tried   bool          // a transaction was begun and failed; else it was not even begun
}

func fail(err error) *failure {
	f := &failure{reason: ReasonOf(err), message: err.Error()}
	if retryable(err) {
		f.wait = firstRetry
		f.retryAt = time.Now().Add(f.wait)
		if noMemory(err) {
			f.seldom()
		}
	}
	return f
}

// seldom has a failure tried again not as often as others, as each try costs.
func (f *failure) seldom() {
	f.wait, f.longest = firstCostlyRetry, lastCostlyRetry
	f.retryAt = time.Now().Add(f.wait)
}

// follow makes the wait longer after another try that failed for the same
// reason. A look in between, for whatever event, is no try: the wait goes on, and
// what was tried is still known.
func (f *failure) follow(before *failure) {
	if before == nil || f.retryAt.IsZero() || before.retryAt.IsZero() || f.tried && !before.tried {
		return
	}
	if before.tried && !f.tried && !before.due() {
		f.wait, f.retryAt, f.longest, f.input, f.tried = before.wait, before.retryAt, before.longest, before.input, true
		return
	}
	if before.reason != f.reason {
		return
	}
	if !before.due() {
		f.wait, f.retryAt = before.wait, before.retryAt
		return
	}
	f.wait = max(f.wait, min(2*max(before.wait, firstRetry), cmp.Or(f.longest, lastRetry)))
	f.retryAt = time.Now().Add(f.wait)
}

// later has a failure tried again that nothing else would end.
func (f *failure) later() {
	if f.retryAt.IsZero() {
		f.wait = firstRetry
		f.retryAt = time.Now().Add(f.wait)
	}
}

// due reports whether the next try may be made now.
func (f *failure) due() bool { return !f.retryAt.IsZero() && !time.Now().Before(f.retryAt) }

// retryable is the one place that decides whether waiting can help. What the
// kernel says about a file (vermagic, symbols, signature, init) stays the same
// until there is other input.
func retryable(err error) bool {
	for _, transient := range []error{
		images.ErrUnreachable, images.ErrNotFound, images.ErrUnauthorized, images.ErrNotCached, images.ErrDigest, images.ErrManifest,
		images.ErrNoSpace, images.ErrPolicy,
		kernel.ErrBusy, kernel.ErrInUse, kernel.ErrNoChild, firmware.ErrConflict,
	} {
		if errors.Is(err, transient) {
			return true
		}
	}
	return noMemory(err) || kernel.CauseOf(err) == kernel.Busy || ReasonOf(err) == spec.ReasonInternal
}

// noMemory reports whether the kernel had not the memory for a load.
func noMemory(err error) bool {
	var refused *kernel.Error
	return errors.As(err, &refused) && errors.Is(refused.Err, syscall.ENOMEM)
}

// ReasonOf names the remedy that an error calls for; Internal when it is none of
// those known.
func ReasonOf(err error) spec.Reason {
	for _, m := range []struct {
		err    error
		reason spec.Reason
	}{
		{spec.ErrNoMapping, spec.ReasonNoMapping},
		{spec.ErrNoImage, spec.ReasonInvalid},
		{spec.ErrAwaited, spec.ReasonImageNotMade},
		{spec.ErrUnsupportedFlag, spec.ReasonInvalid},
		{images.ErrInvalidRef, spec.ReasonInvalid},
		{images.ErrNotFound, spec.ReasonImageNotFound},
		{images.ErrNotCached, spec.ReasonImageNotFound},
		{images.ErrUnauthorized, spec.ReasonImageUnauthorized},
		{images.ErrUnreachable, spec.ReasonImageUnreachable},
		{images.ErrDigest, spec.ReasonImageInvalid},
		{images.ErrUnsafe, spec.ReasonImageInvalid},
		{images.ErrLimit, spec.ReasonImageInvalid},
		{images.ErrPolicy, spec.ReasonPolicy},
		{images.ErrBlocked, spec.ReasonPolicy},
		{images.ErrNoSpace, spec.ReasonNoSpace},
		{images.ErrNoModules, spec.ReasonNoModules},
		{images.ErrNoFirmware, spec.ReasonFirmwareMissing},
		{firmware.ErrConflict, spec.ReasonFirmwareConflict},
		{errWrongKernel, spec.ReasonWrongKernel},
		{errPolicy, spec.ReasonPolicy},
		{errWrongBuild, spec.ReasonWrongBuild},
		{errNoWayBack, spec.ReasonNoWayBack},
		{devices.ErrMissing, spec.ReasonInterfaceLost},
		{devices.ErrNoCarrier, spec.ReasonInterfaceLost},
		{kmod.ErrBuiltin, spec.ReasonBuiltin},
		{kmod.ErrNotFound, spec.ReasonModuleNotFound},
		{kmod.ErrFormat, spec.ReasonImageInvalid},
		{kmod.ErrCycle, spec.ReasonImageInvalid},
		{kernel.ErrTimeout, spec.ReasonNeedsReboot},
	} {
		if errors.Is(err, m.err) {
			return m.reason
		}
	}
	var param *kmod.ParamError
	if errors.As(err, &param) {
		return spec.ReasonInvalidParameter
	}
	var refused *kernel.Error
	if errors.As(err, &refused) {
		return kernelReason(refused)
	}
	return spec.ReasonInternal
}

func kernelReason(err *kernel.Error) spec.Reason {
	switch kernel.CauseOf(err) {
	case kernel.UnknownSymbol:
		return spec.ReasonUnknownSymbol
	case kernel.SymbolVersion:
		return spec.ReasonSymbolVersion
	case kernel.Vermagic:
		return spec.ReasonWrongKernel
	case kernel.InvalidParameter:
		return spec.ReasonInvalidParameter
	case kernel.Signature, kernel.Lockdown:
		return spec.ReasonSignature
	case kernel.Blacklisted:
		return spec.ReasonBlacklisted
	case kernel.FirmwareMissing:
		return spec.ReasonFirmwareMissing
	case kernel.AlreadyLoaded:
		return spec.ReasonWrongBuild
	case kernel.Builtin:
		return spec.ReasonBuiltin
	case kernel.InUse:
		return spec.ReasonInUse
	case kernel.InitFailed:
		return spec.ReasonInitFailed
	}
	switch err.Op {
	case "unload":
		return spec.ReasonUnloadFailed
	case "load":
		return spec.ReasonLoadFailed
	}
	return spec.ReasonInternal // a device: it is tried again
}

// until is how long to wait for a time. One that had passed before the last look is of something that could not be tried
// then, and need not be sooner than anything else.
func (a *Agent) until(at time.Time) time.Duration {
	if at.Before(a.began) {
		return lastRetry
	}
	return max(time.Until(at), 10*time.Millisecond)
}

// undoing is when to try again what could not be rolled back. It has a wait of its own: the failure that it belongs to may be
// one that is not tried again.
type undoing struct {
	wait time.Duration // 0: nothing is left, or a rollback has got somewhere
	at   time.Time
	why  map[string]error // by owner

	missing map[string]bool // by owner: interfaces did not come back, and no driver has changed since
}

// nextUndo is how long to wait for that; there is something left.
func (u *undoing) nextUndo() time.Duration {
	if u.wait == 0 || !time.Now().Before(u.at) {
		u.wait = min(max(2*u.wait, firstRetry), lastRetry)
		u.at = time.Now().Add(u.wait)
	}
	return time.Until(u.at)
}

// nextLook is how long Run may sleep when nothing happens.
func (a *Agent) nextLook() time.Duration {
	wait := a.cfg.Resync
	look := func(f *failure) {
		if f != nil && !f.retryAt.IsZero() {
			wait = min(wait, a.until(f.retryAt))
		}
	}
	for _, r := range a.resolved {
		if !r.pending {
			look(r.fail)
		}
	}
	for _, f := range a.failures {
		look(f)
	}
	if len(a.ledger.Journal) > 0 {
		return min(wait, a.undoing.nextUndo())
	}
	a.undoing.wait = 0
	return wait
}
