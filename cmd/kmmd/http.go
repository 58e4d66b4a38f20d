// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/web"
)

// stuck is how long one look may take before /livez says so. A hanging kernel is
// bounded by the timeouts, for each of a Module's files; images are pulled beside.
const stuck = 30 * time.Minute

// listenAgain is how often an address is tried that somebody else has.
const listenAgain = 10 * time.Second

// listen returns nil when ctx is done. Every user of the node can have taken the address while no kmmd had it: that is no reason
// to leave the node without its modules, so it is tried again.
func listen(ctx context.Context, address string, log *slog.Logger) net.Listener {
	for told := false; ; told = true {
		l, err := net.Listen("tcp", address)
		if err == nil {
			log.Info("serving", "address", l.Addr().String())
			return l
		}
		if !told {
			log.Error("/metrics and probes are not answered: the address can not be had, and is tried again", "address", address, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenAgain):
		}
	}
}

// serve answers at the address of the configuration until ctx is done.
func (n *node) serve(ctx context.Context, registry *prometheus.Registry) error {
	l := listen(ctx, n.config.Listen, n.log)
	if l == nil {
		return nil
	}
	return serve(ctx, l, n.agent, registry)
}

// serve answers /metrics, /livez and /readyz until ctx is done.
func serve(ctx context.Context, l net.Listener, a *agent.Agent, registry *prometheus.Registry) error {
	return web.Serve(ctx, l, registry, web.Checks{
		Live: func() error { return a.Live(stuck) },
		Ready: func() error {
			if !a.Ready() {
				return errors.New("the first look at the node is not finished")
			}
			return nil
		},
	})
}
