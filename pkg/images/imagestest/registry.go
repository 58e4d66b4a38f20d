// SPDX-License-Identifier: Apache-2.0

package imagestest

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// Registry is a registry in this process, plain http unless made by
// NewTLSRegistry.
type Registry struct {
	// Host is the "127.0.0.1:port" a reference starts with.
	Host string

	server   *httptest.Server
	mu       sync.Mutex // guards the fields below
	requests []string
	handle   func(http.ResponseWriter, *http.Request, http.Handler)
	inner    http.Handler
}

// NewRegistry starts an empty registry that ends with the test.
func NewRegistry(t testing.TB) *Registry {
	t.Helper()
	r := newRegistry()
	r.server = httptest.NewServer(r)
	r.Host = strings.TrimPrefix(r.server.URL, "http://")
	t.Cleanup(r.server.Close)
	return r
}

// NewTLSRegistry is NewRegistry with https and a certificate nobody knows.
func NewTLSRegistry(t testing.TB) *Registry {
	t.Helper()
	r := newRegistry()
	r.server = httptest.NewUnstartedServer(r)
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.server.StartTLS()
	r.Host = strings.TrimPrefix(r.server.URL, "https://")
	t.Cleanup(r.server.Close)
	return r
}

func newRegistry() *Registry {
	return &Registry{inner: emptyRegistry()}
}

func emptyRegistry() http.Handler {
	return registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
}

// Forget makes it empty again.
func (r *Registry) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inner = emptyRegistry()
}

// Close stops the registry before the test ends: from now on connections are
// refused.
func (r *Registry) Close() {
	r.server.CloseClientConnections()
	r.server.Close()
}

// Handle puts f in front of the registry; f may answer by itself or go on with
// next. nil takes it away.
func (r *Registry) Handle(f func(w http.ResponseWriter, req *http.Request, next http.Handler)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handle = f
}

// Requests returns what was asked since the last call, "GET /v2/…".
func (r *Registry) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.requests
	r.requests = nil
	return out
}

// ServeHTTP is for the server only.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, req.Method+" "+req.URL.Path)
	f, inner := r.handle, r.inner
	r.mu.Unlock()
	if f != nil {
		f(w, req, inner)
		return
	}
	inner.ServeHTTP(w, req)
}
