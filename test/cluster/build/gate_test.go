// SPDX-License-Identifier: Apache-2.0

package build

import (
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// Passwords of the gate. No test may find that which pushes where it does not
// belong.
const (
	pushPassword = "marker-push-e5c1"
	pullPassword = "marker-pull-77ad"
)

// gate is the way to the registry: it asks for a password, remembers what was
// pushed and who came, and can be shut.
type gate struct {
	host   string // what references begin with
	server *httptest.Server
	proxy  *httputil.ReverseProxy

	mu       sync.Mutex // guards what follows
	shut     map[string]func(*http.Request) bool
	pushed   []push
	requests []string // "HOST METHOD PATH"
}

// push is a manifest that the registry has taken.
type push struct{ repository, reference, digest string }

func newGate(port string) *gate {
	target := &url.URL{Scheme: "http", Host: "127.0.0.1:" + port}
	g := &gate{shut: map[string]func(*http.Request) bool{}}
	g.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // the registry answers with addresses of the gate
			r.Out.Header.Del("Authorization")
		},
		ModifyResponse: g.note,
		ErrorLog:       log.New(io.Discard, "", 0),
	}
	g.server = httptest.NewServer(g)
	g.host = strings.TrimPrefix(g.server.URL, "http://")
	return g
}

// port is where it listens on the loopback interface.
func (g *gate) port() string { return g.host[strings.LastIndexByte(g.host, ':')+1:] }

// note remembers what was pushed.
func (g *gate) note(r *http.Response) error {
	repository, reference, ok := strings.Cut(strings.TrimPrefix(r.Request.URL.Path, "/v2/"), "/manifests/")
	if ok && r.Request.Method == http.MethodPut && r.StatusCode == http.StatusCreated {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.pushed = append(g.pushed, push{repository, reference, r.Header.Get("Docker-Content-Digest")})
	}
	return nil
}

func (g *gate) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	repository, _, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v2/"), "/")
	g.mu.Lock()
	shut := g.shut[repository]
	g.requests = append(g.requests, req.Host+" "+req.Method+" "+req.URL.Path)
	g.mu.Unlock()
	if shut != nil && shut(req) {
		panic(http.ErrAbortHandler) // the connection ends, as when a server dies
	}
	_, password, _ := req.BasicAuth()
	if password != pushPassword && (password != pullPassword || !reads(req)) {
		w.Header().Set("WWW-Authenticate", `Basic realm="gate"`)
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	g.proxy.ServeHTTP(w, req)
}

func reads(req *http.Request) bool {
	return req.Method == http.MethodGet || req.Method == http.MethodHead
}

// setShut has the connections break of requests about a repository that are such.
// nil opens it again.
func (g *gate) setShut(repository string, shut func(*http.Request) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut[repository] = shut
}

// digests are what a tag stood for, one after the other.
func (g *gate) digests(repository, tag string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []string
	for _, p := range g.pushed {
		if p.repository == repository && p.reference == tag {
			out = append(out, p.digest)
		}
	}
	return slices.Compact(out)
}

// asked are the requests, "METHOD PATH", of those who know the gate under another
// host.
func (g *gate) asked(host string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []string
	for _, r := range g.requests {
		if rest, ok := strings.CutPrefix(r, host+" "); ok {
			out = append(out, rest)
		}
	}
	return out
}

// close ends it.
func (g *gate) close() { g.server.Close() }

// login is the content of a kubernetes.io/dockerconfigjson secret for hosts.
func login(password string, hosts ...string) string {
	var all []string
	for _, host := range hosts {
		all = append(all, fmt.Sprintf(`%q:{"auth":%q}`, host, auth(password)))
	}
	return `{"auths":{` + strings.Join(all, ",") + `}}`
}

// auth is how a password looks there.
func auth(password string) string {
	return base64.StdEncoding.EncodeToString([]byte("user:" + password))
}
