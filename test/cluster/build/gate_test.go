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
	"strings"
	"sync"
)

// pushPassword is that of every user of the gate; no test may find it where it
// does not belong.
const pushPassword = "marker-push-e5c1"

// gate is the way to the registry: it asks for the password, and can be shut.
type gate struct {
	host   string // what references begin with
	server *httptest.Server
	proxy  *httputil.ReverseProxy

	mu   sync.Mutex // guards shut
	shut func(*http.Request) bool
}

func newGate(port string) *gate {
	target := &url.URL{Scheme: "http", Host: "127.0.0.1:" + port}
	g := &gate{proxy: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // the registry answers with addresses of the gate
			r.Out.Header.Del("Authorization")
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}}
	g.server = httptest.NewServer(g)
	g.host = strings.TrimPrefix(g.server.URL, "http://")
	return g
}

func (g *gate) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil && shut(req) {
		panic(http.ErrAbortHandler) // the connection ends, as when a server dies
	}
	if _, password, _ := req.BasicAuth(); password != pushPassword {
		w.Header().Set("WWW-Authenticate", `Basic realm="gate"`)
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	g.proxy.ServeHTTP(w, req)
}

// close ends it.
func (g *gate) close() { g.server.Close() }

// login is the content of a kubernetes.io/dockerconfigjson secret for a host.
func login(host, password string) string {
	auth := base64.StdEncoding.EncodeToString([]byte("user:" + password))
	return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth)
}
