// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/pkg/systemd"
)

// listener is a manager that remembers.
type listener struct {
	watchdog time.Duration
	start    time.Time
	heard    []string // "3s READY=1"
}

func (l *listener) Tell(states ...systemd.State) error {
	for _, s := range states {
		l.heard = append(l.heard, time.Since(l.start).String()+" "+string(s))
	}
	return nil
}

func (l *listener) Watchdog() time.Duration { return l.watchdog }

func TestNotify(t *testing.T) {
	const never = time.Hour
	for _, row := range []struct {
		name              string
		ready, stuck, end time.Duration
		watchdog          time.Duration
		want              []string
	}{
		{
			name: "ready after the first look", ready: 3 * time.Second, stuck: never, end: 10 * time.Second,
			want: []string{"0s EXTEND_TIMEOUT_USEC=90000000", "3s READY=1", "10s STOPPING=1"},
		},
		{
			name: "not for ever", ready: never, stuck: never, end: 70 * time.Second,
			want: []string{
				"0s EXTEND_TIMEOUT_USEC=90000000", "1m0s READY=1",
				"1m0s STATUS=the first look at the node takes longer than start_wait", "1m10s STOPPING=1",
			},
		},
		{
			name: "ended before", ready: never, stuck: never, end: time.Second,
			want: []string{"0s EXTEND_TIMEOUT_USEC=90000000", "1s STOPPING=1"},
		},
		{
			name: "silent when stuck", ready: time.Second, stuck: 25 * time.Second, end: 40 * time.Second, watchdog: 30 * time.Second,
			want: []string{
				"0s EXTEND_TIMEOUT_USEC=90000000", "1s READY=1", "1s WATCHDOG=1", "11s WATCHDOG=1", "21s WATCHDOG=1", "40s STOPPING=1",
			},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				l := &listener{watchdog: row.watchdog, start: start}
				n := notifier{
					manager: l, wait: time.Minute, log: slog.New(slog.DiscardHandler),
					ready: func() bool { return time.Since(start) >= row.ready },
					live: func() error {
						if time.Since(start) > row.stuck {
							return errors.New("stuck")
						}
						return nil
					},
				}
				ctx, cancel := context.WithTimeout(t.Context(), row.end)
				defer cancel()
				assert.NoError(t, n.run(ctx))
				assert.Equal(t, row.want, l.heard)
			})
		})
	}
}

func TestSummary(t *testing.T) {
	module := func(name string, state spec.State, reason spec.Reason) spec.ModuleStatus {
		return spec.ModuleStatus{Namespace: "default", Name: name, State: state, Reason: reason}
	}
	fine := []spec.ModuleStatus{module("nic", spec.StateLoaded, "")}
	for _, row := range []struct {
		name   string
		status spec.Status
		want   string
	}{
		{"nothing asked for", spec.Status{}, "0 of 0 Modules loaded"},
		{"all well", spec.Status{Modules: fine}, "1 of 1 Modules loaded"},
		{
			"some not", spec.Status{
				Modules: slices.Concat(fine, []spec.ModuleStatus{module("disk", spec.StateFailed, spec.ReasonInUse), module("gpu", spec.StatePending, "")}),
				Leaving: []spec.ModuleStatus{module("old", spec.StatePending, "")}, Invalid: []string{"a.yaml: line 3"},
			},
			"1 of 3 Modules loaded; not as wanted: default/disk (InUse), default/gpu (Pending), default/old (leaving), documents that can not be used",
		},
		{
			"many", spec.Status{Modules: slices.Repeat([]spec.ModuleStatus{module("a", spec.StateFailed, spec.ReasonNoMapping)}, 7)},
			"0 of 7 Modules loaded; not as wanted: " + strings.Repeat("default/a (NoMapping), ", 5) + "2 more",
		},
	} {
		assert.Equal(t, row.want, summary(row.status), row.name)
	}
}
