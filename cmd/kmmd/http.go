// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/web"
)

// stuck is how long one look may take before /livez says so. A hanging kernel is
// bounded by the timeouts, for each of a Module's files; images are pulled beside.
const stuck = 30 * time.Minute

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
