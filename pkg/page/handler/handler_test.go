// SPDX-License-Identifier: Apache-2.0

package handler_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/page"
	"github.com/kmm-node/kmmd/pkg/page/handler"
)

func one() (page.Cluster, error) {
	return page.Cluster{Nodes: 1, Modules: []page.Module{{
		Namespace: "ns", Name: "m", Nodes: []page.Node{{Name: "n1", State: page.Failed, Reason: "InUse", Message: "held"}, {Name: "n2", State: page.Loaded}},
	}}}, nil
}

func ask(h http.Handler, method, target string) *http.Response {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b := new(strings.Builder)
	require.NoError(t, r.Write(b))
	return b.String()
}

func TestAnswers(t *testing.T) {
	h := handler.New(one)
	for _, tt := range []struct {
		name, method, target string
		code                 int
		has                  string
	}{
		{"first", "GET", "/status", 200, "ns/m"},
		{"refresh", "GET", "/status?refresh=10", 200, `content="10"`},
		{"refresh too fast", "GET", "/status?refresh=1", 200, `content="5"`},
		{"refresh of nonsense", "GET", "/status?refresh=<x", 200, "every 10 seconds"},
		{"module", "GET", "/status/module?namespace=ns&name=m", 200, "held"},
		{"some nodes", "GET", "/status/module?namespace=ns&name=m&state=Loaded", 200, "n2"},
		{"no such Module", "GET", "/status/module?namespace=ns&name=%3Cb%3E", 404, "ns/&lt;b&gt;"},
		{"no such page", "GET", "/status/x/../y", 307, ""},
		{"no such page", "GET", "/status/y", 404, "nothing at this address"},
		{"long", "GET", "/status?" + strings.Repeat("x", 5000), 414, "too long"},
		{"written", "POST", "/status", 405, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := ask(h, tt.method, tt.target)
			assert.Equal(t, tt.code, r.StatusCode)
			assert.Contains(t, body(t, r), tt.has)
			assert.Equal(t, "nosniff", r.Header.Get("X-Content-Type-Options"))
			assert.Contains(t, r.Header.Get("Content-Security-Policy"), "default-src 'none'")
		})
	}
	assert.NotContains(t, body(t, ask(h, "GET", "/status/module?namespace=ns&name=m&state=Loaded")), "n1</th>")
}

// TestPolicy: the hash in the policy is that of what is sent.
func TestPolicy(t *testing.T) {
	r := ask(handler.New(one), "GET", "/status")
	policy := r.Header.Get("Content-Security-Policy")
	_, rest, _ := strings.Cut(body(t, r), "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(style))
	assert.Contains(t, policy, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	assert.NotContains(t, policy, "unsafe")
	assert.NotContains(t, policy, "script-src", "nothing is allowed beyond the default")
}

// TestLinks: all are relative, so that the page works behind a proxy, and lead
// somewhere.
func TestLinks(t *testing.T) {
	h := handler.New(one)
	for _, from := range []string{"/status", "/status/module?namespace=ns&name=m&state=Failed"} {
		base, err := url.Parse("http://x" + from)
		require.NoError(t, err)
		parts := strings.Split(body(t, ask(h, "GET", from)), `href="`)
		require.Greater(t, len(parts), 3)
		for _, p := range parts[1:] {
			link, _, _ := strings.Cut(p, `"`)
			link = strings.ReplaceAll(link, "&amp;", "&")
			if link == "data:," {
				continue
			}
			assert.False(t, strings.HasPrefix(link, "/"), link)
			to, err := base.Parse(link)
			require.NoError(t, err)
			assert.Equal(t, 200, ask(h, "GET", to.RequestURI()).StatusCode, link)
		}
	}
}

// TestKept: many who look cost as much as one.
func TestKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		var problem error
		h := handler.New(func() (page.Cluster, error) { asked++; return page.Cluster{Nodes: asked}, problem })
		for range 10 {
			assert.Contains(t, body(t, ask(h, "GET", "/status")), "1 node.")
		}
		assert.Equal(t, 1, asked)
		time.Sleep(3 * time.Second)
		assert.Contains(t, body(t, ask(h, "GET", "/status")), "2 nodes.")
		time.Sleep(3 * time.Second)
		problem = errors.New("another one has the lease")
		r := ask(h, "GET", "/status")
		assert.Equal(t, 503, r.StatusCode)
		assert.Equal(t, "5", r.Header.Get("Retry-After"))
		assert.Contains(t, body(t, r), "another one has the lease")
		problem = nil
		assert.Equal(t, 200, ask(h, "GET", "/status").StatusCode, "an error is not kept")
	})
}
