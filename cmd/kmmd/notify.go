// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/pkg/systemd"
)

const (
	lookForReady = 200 * time.Millisecond
	// startGrace is what systemd allows on top of start_wait.
	startGrace = 30 * time.Second
)

// manager is systemd, or one in a test.
type manager interface {
	Tell(states ...systemd.State) error
	Watchdog() time.Duration
}

// notifier tells systemd how the daemon is doing.
type notifier struct {
	manager manager
	wait    time.Duration // for the first look at the node
	ready   func() bool
	live    func() error
	log     *slog.Logger
}

// run tells until ctx is done. What is ordered after kmmd, the kubelet above all,
// starts when the first look is finished: then the modules are loaded. It is not
// held up for longer than wait by one that takes long. The watchdog hears nothing
// any more when the daemon is stuck.
func (n notifier) run(ctx context.Context) error {
	n.tell(systemd.Starting(n.wait + startGrace))
	defer n.tell(systemd.Stopping)
	if !n.untilReady(ctx) {
		return nil
	}
	if n.manager.Watchdog() == 0 {
		<-ctx.Done()
		return nil
	}
	alive := time.NewTicker(n.manager.Watchdog() / 3)
	defer alive.Stop()
	stuck := false
	for {
		err := n.live()
		if err == nil {
			n.tell(systemd.Alive)
		} else if !stuck {
			n.log.Error("stuck: the watchdog is not told any more", "err", err)
		}
		stuck = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-alive.C:
		}
	}
}

// untilReady is false when ctx ended before.
func (n notifier) untilReady(ctx context.Context) bool {
	look := time.NewTicker(lookForReady)
	defer look.Stop()
	limit := time.NewTimer(n.wait)
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-limit.C:
			n.log.Warn("the first look at the node takes long: what waits for kmmd starts without it", "start_wait", n.wait)
			n.tell(systemd.Ready, systemd.Status("the first look at the node takes longer than start_wait"))
			return true
		case <-look.C:
			if n.ready() {
				n.tell(systemd.Ready)
				return true
			}
		}
	}
}

func (n notifier) tell(states ...systemd.State) {
	if err := n.manager.Tell(states...); err != nil {
		n.log.Warn("systemd is not reached", "err", err)
	}
}

// summary is a status in one line: "2 of 3 Modules loaded; not as wanted:
// default/nic (InUse)".
func summary(s spec.Status) string {
	var wrong []string
	loaded := 0
	add := func(list []spec.ModuleStatus, what string) {
		for i := range list {
			m := &list[i]
			if m.State == spec.StateLoaded {
				loaded++
				continue
			}
			why := what
			if m.Reason != "" {
				why = string(m.Reason)
			}
			wrong = append(wrong, fmt.Sprintf("%s (%s)", m.Key(), why))
		}
	}
	add(s.Modules, string(spec.StatePending))
	text := fmt.Sprintf("%d of %d Modules loaded", loaded, len(s.Modules))
	add(s.Leaving, "leaving")
	add(s.Refused, "refused")
	if len(s.Invalid) > 0 {
		wrong = append(wrong, "documents that can not be used")
	}
	if len(wrong) == 0 {
		return text
	}
	const most = 5
	if more := len(wrong) - most; more > 0 {
		wrong = append(wrong[:most], fmt.Sprintf("%d more", more))
	}
	return text + "; not as wanted: " + strings.Join(wrong, ", ")
}
