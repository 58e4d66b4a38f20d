// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmm-node/kmmd/pkg/web"
)

// lockedError is returned while another kmmd changes this node.
type lockedError struct{ path, pid string }

func (e *lockedError) Error() string {
	return fmt.Sprintf("lock %s: another kmmd (pid %s) looks after this node: stop it first, or put the document into its directory", e.path, e.pid)
}

// handover is how often a kmmd that waits looks whether the other one has ended.
const handover = 200 * time.Millisecond

// takeOver waits for this node's turn.
func takeOver(ctx context.Context, o *options) error {
	c, err := readConfig(o.configFile)
	if err != nil {
		return err
	}
	return await(ctx, c, newLog())
}

// await returns when no other kmmd looks after this node, or ctx is done. Meanwhile it answers probes: a DaemonSet takes the old
// pod away when the new one is ready, and ready is who has its image, its configuration, and only waits for its turn.
func await(ctx context.Context, c config, log *slog.Logger) error {
	if other, err := busy(c.RunDir); !other {
		return err
	}
	log.Info("another kmmd looks after this node; ready to take over")
	waiting, end := context.WithCancel(ctx)
	served := make(chan struct{})
	go func() {
		defer close(served)
		answerMeanwhile(waiting, c.Listen, log)
	}()
	defer func() {
		end()
		<-served
	}()
	tick := time.NewTicker(handover)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if other, err := busy(c.RunDir); !other {
				return err
			}
		}
	}
}

// answerMeanwhile serves until ctx is done. Where the other one has the address, in the same network, nobody is answered.
func answerMeanwhile(ctx context.Context, address string, log *slog.Logger) {
	if address == "" {
		return
	}
	well := func() error { return nil }
	l, err := net.Listen("tcp", address)
	if err == nil {
		err = web.Serve(ctx, l, prometheus.NewRegistry(), web.Checks{Live: well, Ready: well})
	}
	if err != nil {
		log.Info("no answers while waiting", "err", err)
	}
}

// busy tells whether another one has the lock. A free one is left so.
func busy(dir string) (bool, error) {
	l, err := lock(dir)
	var locked *lockedError
	if errors.As(err, &locked) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, l.Close()
}
