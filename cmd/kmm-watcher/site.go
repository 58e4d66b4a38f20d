// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/access"
	"github.com/kmm-node/kmmd/pkg/page"
	"github.com/kmm-node/kmmd/pkg/page/handler"
	"github.com/kmm-node/kmmd/pkg/web"
)

// siteFlags are what is served to whom.
type siteFlags struct {
	page      bool
	access    bool
	cert, key string
}

func (o *siteFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.page, "status-page", false, "serve a page for people at /status, beside /metrics")
	f.BoolVar(&o.access, "require-access", false, "serve HTTPS, and /metrics and /status only to those whom the cluster's RBAC lets get them")
	f.StringVar(&o.cert, "tls-cert-file", "", "certificate for HTTPS, PEM; without it --require-access makes one that nobody has signed")
	f.StringVar(&o.key, "tls-key-file", "", "its key, PEM")
}

// site is what the flags say.
func (o *siteFlags) site(l *leader, metrics prometheus.Gatherer) (web.Site, error) {
	s := web.Site{Metrics: metrics, Checks: web.Checks{Live: l.live, Ready: l.ready}}
	if (o.cert == "") != (o.key == "") {
		return s, usageError{errors.New("--tls-cert-file and --tls-key-file: both or none")}
	}
	if o.access || o.cert != "" {
		config, err := web.Certificate(o.cert, o.key)
		if err != nil {
			return s, err
		}
		s.TLS = config
	}
	if o.access {
		reviewer := access.New(l.kube)
		s.Access = func(ctx context.Context, token, path string) error {
			err := reviewer.Review(ctx, token, path)
			if err != nil && !errors.Is(err, web.ErrUnknown) && !errors.Is(err, web.ErrForbidden) {
				l.log.Error("it can not be found out who may read", "path", path, "err", err)
			}
			return err
		}
	}
	if o.page {
		s.Pages = map[string]http.Handler{handler.Path: handler.New(l.snapshot)}
	}
	return s, nil
}

// snapshot is what the page shows. A replica that waits for the lease knows
// nothing.
func (l *leader) snapshot() (page.Cluster, error) {
	w := l.watcher.Load()
	switch holder := l.holder.Load(); {
	case w != nil && w.Ready():
		return w.Snapshot(), nil
	case w != nil:
		return page.Cluster{}, errors.New("the cluster has not been read yet: try again in a moment")
	case holder != nil && *holder != "" && *holder != l.identity:
		return page.Cluster{}, fmt.Errorf("this kmm-watcher, %s, waits for the lease and knows nothing; the one at work is %s: ask that one, "+
			"for instance through kubectl port-forward -n %s pod/%s 9809", l.identity, *holder, l.namespace, *holder)
	}
	return page.Cluster{}, fmt.Errorf("this kmm-watcher, %s, waits for the lease and knows nothing; who holds it is not known yet", l.identity)
}
