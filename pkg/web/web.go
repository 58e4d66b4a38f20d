// SPDX-License-Identifier: Apache-2.0

// Package web serves what a monitor asks a daemon: /metrics, /livez, /readyz, and
// pages beside them; to everybody, or to those whom somebody says may read.
// It knows nothing of the daemon.
package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Checks answer /livez and /readyz: nil is well, an error is told with status
// 503. They are called by several goroutines and must not block.
type Checks struct {
	Live, Ready func() error
}

// Site is what is served.
type Site struct {
	Metrics prometheus.Gatherer
	Checks  Checks
	// Pages have a path each, which they serve with all that is below it.
	Pages map[string]http.Handler
	// Access says who may read metrics and pages; nil is everybody. Checks are for
	// everybody.
	Access Access
	// TLS serves HTTPS only; nil is HTTP.
	TLS *tls.Config
}

// Serve answers with metrics and checks until ctx is done, and closes l. It blocks.
func Serve(ctx context.Context, l net.Listener, metrics prometheus.Gatherer, c Checks) error {
	return Site{Metrics: metrics, Checks: c}.Serve(ctx, l)
}

// Serve answers until ctx is done, and closes l. It blocks.
func (s Site) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10,
	}
	if s.TLS != nil {
		l = tls.NewListener(l, s.TLS)
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		err := server.Shutdown(grace)
		if errors.Is(err, context.DeadlineExceeded) { // somebody is connected and asks nothing: no fault of ours
			err = server.Close()
		}
		stopped <- err
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return <-stopped
}

func (s Site) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", guard(s.Access, promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{})))
	for path, page := range s.Pages {
		mux.Handle(path, guard(s.Access, page))
		mux.Handle(path+"/", guard(s.Access, page))
	}
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.Checks.Live()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.Checks.Ready()) })
	return mux
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}
