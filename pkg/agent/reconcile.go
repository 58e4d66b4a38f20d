// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kmm-node/kmmd/pkg/spec"
)

var errNoDesire = errors.New("reconcile: SetDesired has not been called")

// maxRounds is how often one reconcile looks again at what it has done. Two
// are enough when nobody else changes modules meanwhile.
const maxRounds = 4

// Reconcile brings the node to what SetDesired last asked for, as far as it
// can, and returns the status. It waits for all images; those that are there are
// not kept waiting by others. The error is about kmmd itself (proc and sys
// unreadable); what goes wrong with a Module is in its status. Needs
// CAP_SYS_MODULE, CAP_SYSLOG, and write access to the host's firmware
// directory, /run and /sys/module/firmware_class.
func (a *Agent) Reconcile(ctx context.Context) (spec.Status, error) {
	defer a.pinning.Wait()
	defer a.pulling.Wait()
	for {
		status, err := a.look(ctx)
		if err != nil || !a.pullsOn() {
			return status, err
		}
		a.awaitHint(ctx)
	}
}

// awaitHint waits for a hint, such as the end of a pull.
func (a *Agent) awaitHint(ctx context.Context) {
	select {
	case <-a.trigger:
	case <-ctx.Done():
	}
}

// look is Reconcile with what images there are within pullGrace; the end of a
// pull is a hint to look again.
func (a *Agent) look(ctx context.Context) (spec.Status, error) {
	start := time.Now()
	a.began = start
	a.busy.Store(start.UnixNano())
	defer a.busy.Store(0)
	desired := a.snapshot()
	if desired == nil {
		return a.status, errNoDesire
	}
	a.drift, a.seen = nil, nil
	a.ledger.tidy()
	a.resolveAll(ctx, desired)
	if err := a.change(ctx, desired); err != nil {
		return a.status, err
	}
	status, err := a.report(ctx, desired)
	if err == nil {
		a.keepImages(desired, status)
	}
	if !a.pullsOn() {
		a.done.Store(true)
	}
	a.cfg.Metrics.reconciled(time.Since(start), status.OK())
	return status, err
}

// change applies what is desired until nothing is to be done any more. Pins are written when that is over, however it
// ends.
func (a *Agent) change(ctx context.Context, desired *spec.Node) error {
	defer a.writePins()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("reconcile: %w", err) // a pull that was cut short is no finding
	}
	for range maxRounds {
		if changed, err := a.apply(ctx, desired); err != nil || !changed {
			return err
		}
	}
	return nil
}
