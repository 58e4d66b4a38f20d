// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Internet is what programs find behind a proxy that they are told of by their
// environment: hosts such as registry.example, by TLS, and no other.
type Internet struct {
	Env []string // for those programs

	site  *httptest.Server // all hosts
	mu    sync.Mutex
	hosts map[string]http.Handler // under mu
}

// NewInternet makes one with these hosts, until the test ends.
func NewInternet(t *testing.T, hosts map[string]http.Handler) *Internet {
	t.Helper()
	n := &Internet{hosts: hosts}
	certificate := n.certificate(t)
	n.site = httptest.NewUnstartedServer(http.HandlerFunc(n.serve))
	n.site.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	n.site.StartTLS()
	t.Cleanup(n.site.Close)
	proxy := httptest.NewServer(http.HandlerFunc(n.connect))
	t.Cleanup(proxy.Close)
	authority := filepath.Join(t.TempDir(), "authority.pem")
	require.NoError(t, os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}), 0o644))
	n.Env = []string{"HTTPS_PROXY=" + proxy.URL, "SSL_CERT_FILE=" + authority}
	return n
}

// Cut takes a host away.
func (n *Internet) Cut(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.hosts, host)
}

// Host is what answers for a name; nil is nobody.
func (n *Internet) Host(name string) http.Handler {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hosts[name]
}

func (n *Internet) serve(w http.ResponseWriter, r *http.Request) {
	if h := n.Host(r.Host); h != nil {
		h.ServeHTTP(w, r)
		return
	}
	http.Error(w, "no such host", http.StatusBadGateway)
}

// connect is what a proxy does when it is asked for a host by TLS.
func (n *Internet) connect(w http.ResponseWriter, r *http.Request) {
	name, port, err := net.SplitHostPort(r.Host)
	if err != nil || r.Method != http.MethodConnect || port != "443" || n.Host(name) == nil {
		http.Error(w, "no such host", http.StatusBadGateway)
		return
	}
	there, err := net.Dial("tcp", n.site.Listener.Addr().String())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer there.Close()
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer here.Close()
	if _, err := io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	pipe(here, buffered.Reader, there)
}

// pipe copies both ways, until one side has ended.
func pipe(here net.Conn, from *bufio.Reader, there net.Conn) {
	done := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(there, from); done <- struct{}{} }()
	go func() { _, _ = io.Copy(here, there); done <- struct{}{} }()
	<-done
	here.Close()
	there.Close()
	<-done
}

// certificate is one that hosts have who are there now, and its own authority.
func (n *Internet) certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kmmd lab"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	for name := range n.hosts {
		template.DNSNames = append(template.DNSNames, name)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Behind is a host that another server, by plain HTTP, answers for.
func Behind(address string) http.Handler {
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: address})
		r.SetXForwarded()
		r.Out.Host = r.In.Host // a registry names itself in its answers
	}}
}
