// SPDX-License-Identifier: Apache-2.0

package web_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/web"
)

// serve gives the address of a site, which ends with the test.
func serve(t *testing.T, s web.Site) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.Metrics = prometheus.NewRegistry()
	s.Checks = web.Checks{Live: func() error { return nil }, Ready: func() error { return errors.New("not yet") }}
	s.Pages = map[string]http.Handler{"/page": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "page ", r.URL.Path) })}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); assert.NoError(t, <-done) })
	return l.Addr().String()
}

func get(t *testing.T, url string, set func(*http.Request)) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	if set != nil {
		set(req)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	res, err := client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b), res.Header
}

func TestSite(t *testing.T) {
	at := "http://" + serve(t, web.Site{})
	for path, want := range map[string]int{"/metrics": 200, "/livez": 200, "/readyz": 503, "/page": 200, "/page/x": 200, "/": 404, "/pager": 404} {
		code, _, _ := get(t, at+path, nil)
		assert.Equal(t, want, code, path)
	}
}

func TestAccess(t *testing.T) {
	config, err := web.Certificate("", "")
	require.NoError(t, err)
	asked := ""
	at := "https://" + serve(t, web.Site{TLS: config, Access: func(_ context.Context, token, path string) error {
		asked = path
		switch token {
		case "good":
			return nil
		case "other":
			return fmt.Errorf("%w by other", web.ErrForbidden)
		case "down":
			return errors.New("secret-host: connection refused")
		}
		return web.ErrUnknown
	}})
	bearer := func(token string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
	}
	for _, tt := range []struct {
		name string
		set  func(*http.Request)
		code int
		says string
	}{
		{"nobody", nil, 401, "token"},
		{"good", bearer("good"), 200, ""},
		{"good as a password", func(r *http.Request) { r.SetBasicAuth("me", "good") }, 200, ""},
		{"unknown", bearer("x"), 401, "token"},
		{"another scheme", func(r *http.Request) { r.Header.Set("Authorization", "Digest good") }, 401, "token"},
		{"other", bearer("other"), 403, "by other"},
		{"API server down", bearer("down"), 503, "can not be found out"},
	} {
		for _, path := range []string{"/metrics", "/page", "/page/x"} {
			code, text, header := get(t, at+path, tt.set)
			assert.Equal(t, tt.code, code, "%s %s", tt.name, path)
			assert.Contains(t, text, tt.says)
			assert.NotContains(t, text, "secret-host")
			if code == 401 {
				assert.Len(t, header.Values("WWW-Authenticate"), 2)
			}
		}
	}
	assert.Equal(t, "/page/x", asked)
	code, _, _ := get(t, at+"/livez", nil)
	assert.Equal(t, 200, code, "a kubelet has no token")
}

// TestEndsWithSomebodyConnected: a connection on which nothing is asked, such as a load balancer's probe, keeps nobody from
// ending, and is no reason to end with an error.
func TestEndsWithSomebodyConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pipes{make(chan net.Conn), make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- web.Serve(ctx, l, prometheus.NewRegistry(), web.Checks{}) }()
		client, server := net.Pipe()
		l.conns <- server
		synctest.Wait()
		start := time.Now()
		cancel()
		require.NoError(t, <-done)
		assert.Less(t, time.Since(start), 5*time.Second)
		_, err := client.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF, "the connection is closed")
	})
}

// pipes is a net.Listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestTakesNoOrders: what is served is read; nothing can be told, and there is nothing else.
func TestTakesNoOrders(t *testing.T) {
	at := "http://" + serve(t, web.Site{})
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		for _, path := range []string{"/metrics", "/livez", "/readyz"} {
			req, err := http.NewRequestWithContext(t.Context(), method, at+path, nil)
			require.NoError(t, err)
			res, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			assert.Equal(t, http.StatusMethodNotAllowed, res.StatusCode, method+" "+path)
		}
	}
	for _, path := range []string{"/debug/pprof/", "/debug/vars", "/config", "/metrics/../etc/passwd", "/page/../../etc/passwd"} {
		code, body, _ := get(t, at+path, nil)
		assert.NotContains(t, body, "root:", path)
		assert.NotEqual(t, 500, code, path)
		if path[:6] == "/debug" {
			assert.Equal(t, http.StatusNotFound, code, path)
		}
	}
}
