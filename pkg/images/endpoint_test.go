// SPDX-License-Identifier: Apache-2.0

package images

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// mirrored is a registry and two mirrors of it, which all have kmod:v1 until
// the test says otherwise.
type mirrored struct {
	first, second, reg *imagestest.Registry
	digest             string
	layer              string // path of it
}

func newMirrored(t *testing.T) *mirrored {
	t.Helper()
	m := &mirrored{first: imagestest.NewRegistry(t), second: imagestest.NewRegistry(t), reg: imagestest.NewRegistry(t)}
	layer := imagestest.Layer(t, testModules())
	for _, r := range []*imagestest.Registry{m.first, m.second, m.reg} {
		m.digest = imagestest.Push(t, r.Host+"/kmod:v1", layer)
	}
	digest, err := layer.Digest()
	require.NoError(t, err)
	m.layer = "/v2/kmod/blobs/" + digest.String()
	m.requests()
	return m
}

// requests are those since the last call to each.
func (m *mirrored) requests() (first, second, reg []string) {
	return m.first.Requests(), m.second.Requests(), m.reg.Requests()
}

// node has the mirrors in its hosts.toml; more is added to that of the first.
func (m *mirrored) node(t *testing.T, more string) *Store {
	t.Helper()
	return nodeStore(t, map[string]string{"etc/containerd/certs.d/" + m.reg.Host + "/hosts.toml": fmt.Sprintf(
		"server = \"http://%s\"\n[host.\"http://%s\"]\n%s\n[host.\"http://%s\"]\n", m.reg.Host, m.first.Host, more, m.second.Host)})
}

func (m *mirrored) ref() Request {
	r := request(m.reg.Host + "/kmod:v1")
	r.Insecure = false
	return r
}

// breakOff ends a good answer after its first byte.
func breakOff(w http.ResponseWriter) {
	_, _ = w.Write([]byte{0x1f})
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// status answers all requests with it.
func status(code int) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(code) }
}

// hang answers with a body that begins and does not end.
func hang(code int) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.WriteHeader(code)
		_, _ = w.Write([]byte("{"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

func TestMirrorServes(t *testing.T) {
	m := newMirrored(t)
	var parameters, headers []string
	m.first.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		parameters, headers = append(parameters, r.URL.RawQuery), append(headers, r.Header.Get("X-Team"))
		next.ServeHTTP(w, r)
	})
	_, err := m.node(t, "header = {\"x-team\" = \"drivers\"}").Ensure(t.Context(), m.ref())
	require.NoError(t, err)
	_, second, reg := m.requests()
	assert.Empty(t, second)
	assert.Empty(t, reg)
	ns := "ns=" + strings.ReplaceAll(m.reg.Host, ":", "%3A")
	assert.Equal(t, []string{ns, ns}, parameters)
	assert.Equal(t, []string{"drivers", "drivers"}, headers)
}

func TestMirrorsThatCanNotServe(t *testing.T) {
	tests := []struct {
		name   string
		handle func(m *mirrored) func(http.ResponseWriter, *http.Request, http.Handler)
		asked  int // requests to the first mirror
	}{
		{"down", nil, 0},
		{"has nothing", func(*mirrored) func(http.ResponseWriter, *http.Request, http.Handler) { return status(404) }, 2},
		{"wants credentials", func(*mirrored) func(http.ResponseWriter, *http.Request, http.Handler) { return status(401) }, 1},
		{"is broken", func(*mirrored) func(http.ResponseWriter, *http.Request, http.Handler) { return status(500) }, 1},
		{"is asked too often", func(*mirrored) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(http.StatusTooManyRequests)
			}
		}, 1},
		{"never sends all of an error", func(*mirrored) func(http.ResponseWriter, *http.Request, http.Handler) { return hang(500) }, 1},
		{"never sends all of a redirect", func(*mirrored) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Path == "/elsewhere" {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				w.Header().Set("Location", "/elsewhere")
				hang(302)(w, r, next)
			}
		}, -1},
		{"never gives all of a token", func(m *mirrored) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Path == "/token" {
					hang(200)(w, r, next)
					return
				}
				w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=\"http://%s/token\"", m.first.Host))
				w.WriteHeader(http.StatusUnauthorized)
			}
		}, 2},
		{"has no layer", func(m *mirrored) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Path == m.layer {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				next.ServeHTTP(w, r)
			}
		}, 2},
		{"has a damaged layer", func(m *mirrored) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Path != m.layer {
					next.ServeHTTP(w, r)
					return
				}
				good := httptest.NewRecorder()
				next.ServeHTTP(good, r)
				damaged := good.Body.Bytes()
				damaged[len(damaged)/2] ^= 1
				_, _ = w.Write(damaged)
			}
		}, 2},
		{"has another layer", func(m *mirrored) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Path == m.layer {
					_, _ = w.Write([]byte("another"))
					return
				}
				next.ServeHTTP(w, r)
			}
		}, 2},
		{"never sends all of the layer", func(m *mirrored) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Path == m.layer {
					breakOff(w)
				}
				next.ServeHTTP(w, r)
			}
		}, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMirrored(t)
			if tt.handle == nil {
				m.first.Close()
			} else {
				m.first.Handle(tt.handle(m))
			}
			s := m.node(t, "")
			if strings.HasPrefix(tt.name, "never") {
				s.l.stallWindow = 500 * time.Millisecond
			}
			_, err := s.Ensure(t.Context(), m.ref())
			require.NoError(t, err)
			first, second, reg := m.requests()
			if tt.asked >= 0 {
				assert.Len(t, first, tt.asked)
			}
			assert.NotEmpty(t, second)
			assert.Empty(t, reg)
		})
	}
}

func TestLayerThatBreaksOffEverywhereButAtTheRegistry(t *testing.T) {
	m := newMirrored(t)
	half := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path != m.layer {
			next.ServeHTTP(w, r)
			return
		}
		breakOff(w)
	}
	m.first.Handle(half)
	m.second.Handle(half)
	_, err := m.node(t, "").Ensure(t.Context(), m.ref())
	assert.NoError(t, err)
}

// TestDamagedEverywhere: each is asked for the layer once.
func TestDamagedEverywhere(t *testing.T) {
	m := newMirrored(t)
	asked := 0
	for _, r := range []*imagestest.Registry{m.first, m.second, m.reg} {
		r.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.URL.Path != m.layer {
				next.ServeHTTP(w, r)
				return
			}
			asked++
			w.(http.Flusher).Flush() // its size is not told
			_, _ = w.Write([]byte("another"))
		})
	}
	s := m.node(t, "")
	_, err := s.Ensure(t.Context(), m.ref())
	require.ErrorIs(t, err, ErrDigest)
	assert.Equal(t, 3, asked)
	assert.Empty(t, names(t, s.path("tmp")))
}

// TestDamagedSignature: of a mirror that is asked first, it is asked for elsewhere, too.
func TestDamagedSignature(t *testing.T) {
	m, key := newMirrored(t), imagestest.NewSigner(t, "p256")
	bundle := key.Bundle(t, m.digest, imagestest.PredicateSign)
	asked := 0
	damage := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.Contains(r.URL.Path, "/blobs/") || r.URL.Path == m.layer {
			next.ServeHTTP(w, r)
			return
		}
		asked++
		good := httptest.NewRecorder()
		next.ServeHTTP(good, r)
		damaged := good.Body.Bytes()
		damaged[len(damaged)/2] ^= 1
		_, _ = w.Write(damaged)
	}
	for _, r := range []*imagestest.Registry{m.first, m.second, m.reg} {
		imagestest.PushBundle(t, r.Host+"/kmod:v1", bundle, imagestest.PredicateSign)
	}
	ensure := func() error {
		s := m.node(t, "")
		s.o.Policy = signerKeys(t, key)
		_, err := s.Ensure(t.Context(), m.ref())
		return err
	}
	m.first.Handle(damage)
	require.NoError(t, ensure())
	assert.Equal(t, 1, asked)
	m.second.Handle(damage)
	m.reg.Handle(damage)
	asked = 0
	require.ErrorIs(t, ensure(), ErrDigest)
	assert.Equal(t, 3, asked)
}

func TestMirrorLies(t *testing.T) {
	m := newMirrored(t)
	other := imagestest.NewRegistry(t)
	imagestest.Push(t, other.Host+"/kmod:other", imagestest.Layer(t, map[string]string{"opt/lib/modules/" + testRelease + "/evil.ko": "x"}))
	m.first.Handle(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		r.URL.Path = "/v2/kmod/manifests/other"
		other.ServeHTTP(w, r)
	})
	r := m.ref()
	r.Ref = m.reg.Host + "/kmod@" + m.digest
	tree, err := m.node(t, "").Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, m.digest, tree.Digest)
	m.second.Close()
	m.reg.Close()
	_, err = m.node(t, "").Ensure(t.Context(), r)
	require.ErrorIs(t, err, ErrUnreachable, "what the registry itself says counts")
	assert.ErrorContains(t, err, "digest mismatch")
}

func TestCapabilities(t *testing.T) {
	m := newMirrored(t)
	_, err := m.node(t, `capabilities = ["pull"]`).Ensure(t.Context(), m.ref())
	require.NoError(t, err)
	first, second, _ := m.requests()
	assert.Equal(t, []string{"GET " + m.layer}, first)
	assert.Equal(t, []string{"GET /v2/kmod/manifests/v1"}, second)

	r := m.ref()
	r.Ref = m.reg.Host + "/kmod@" + m.digest
	_, err = m.node(t, `capabilities = ["resolve"]`).Ensure(t.Context(), r)
	require.NoError(t, err)
	first, _, _ = m.requests()
	assert.Empty(t, first)

	s := nodeStore(t, map[string]string{"etc/containerd/certs.d/_default/hosts.toml": `capabilities = ["pull"]`})
	_, err = s.Ensure(t.Context(), m.ref())
	require.ErrorIs(t, err, ErrUnreachable)
	assert.ErrorContains(t, err, "_default/hosts.toml allows no endpoint")
}

func TestEveryEndpointIsNamed(t *testing.T) {
	m := newMirrored(t)
	m.first.Close()
	m.second.Handle(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(strings.Repeat("<p>\n", 9000)))
	})
	m.reg.Handle(status(404))
	_, err := m.node(t, "").Ensure(t.Context(), m.ref())
	require.ErrorIs(t, err, ErrNotFound)
	assert.NotErrorIs(t, err, ErrUnreachable)
	for _, words := range []string{
		"http://" + m.first.Host + "/v2 (", "connection refused",
		"http://" + m.second.Host + "/v2 (", "403 Forbidden", "no credentials for " + m.second.Host,
		"http://" + m.reg.Host + "/v2 (", "404 Not Found", "hosts.toml",
	} {
		assert.ErrorContains(t, err, words)
	}
	assert.Less(t, len(err.Error()), 2500)
}

func TestRegistriesConf(t *testing.T) {
	m := newMirrored(t)
	conf := func(s string) *Store {
		return nodeStore(t, map[string]string{"etc/containers/registries.conf": s})
	}
	r := request("reg.invalid/team/kmod:v1")
	r.Insecure = false
	s := conf(fmt.Sprintf("[[registry]]\nprefix = \"reg.invalid/team\"\nlocation = \"%s\"\ninsecure = true\n"+
		"[[registry.mirror]]\nlocation = \"%s\"\ninsecure = true\n", m.reg.Host, m.first.Host))
	m.first.Handle(status(404))
	_, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	first, _, reg := m.requests()
	assert.Equal(t, []string{"GET /v2/kmod/manifests/v1", "GET " + m.layer}, first)
	assert.Equal(t, first, reg)

	s = conf("[[registry]]\nlocation = \"reg.invalid\"\nblocked = true\n")
	_, err = s.Ensure(t.Context(), r)
	require.ErrorIs(t, err, ErrBlocked)
	assert.ErrorContains(t, err, "registries.conf")
	assert.NotErrorIs(t, err, ErrUnreachable)

	s = conf("[[registry]]\nlocation = 3\n")
	_, err = s.Ensure(t.Context(), r)
	assert.ErrorContains(t, err, "registries.conf:2:")
}

func TestNoPlainHTTPAfterAnAnswer(t *testing.T) {
	host, ca := https(t, http.NotFoundHandler())
	s := nodeStore(t, trust(t, host, ca))
	_, err := s.Ensure(t.Context(), request(host+"/kmod:v1"))
	require.ErrorIs(t, err, ErrNotFound)
	assert.NotContains(t, err.Error(), "http://")
}

func TestPrivateCAAndClientCertificate(t *testing.T) {
	reg := imagestest.NewRegistry(t)
	imagestest.Push(t, reg.Host+"/kmod:v1", imagestest.Layer(t, testModules()))
	server := httptest.NewUnstartedServer(reg)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	host := server.Listener.Addr().String()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	der, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	require.NoError(t, err)
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})

	dir := "etc/containers/certs.d/" + host + "/"
	files := map[string]string{}
	pull := func() error {
		r := request(host + "/kmod:v1")
		r.Insecure = false
		_, err := nodeStore(t, files).Ensure(t.Context(), r)
		return err
	}
	err = pull()
	require.ErrorIs(t, err, ErrUnreachable)
	assert.ErrorContains(t, err, "put its CA into")
	files[dir+"ca.crt"] = string(cert)
	err = pull()
	require.ErrorIs(t, err, ErrUnreachable)
	assert.ErrorContains(t, err, "certificate required")
	files[dir+"client.cert"], files[dir+"client.key"] = string(cert), string(key)
	require.NoError(t, pull())
	files[dir+"ca.crt"] = "no certificate"
	err = pull()
	assert.ErrorContains(t, err, filepath.Join(dir, "ca.crt")+": no PEM certificate")
	assert.NotErrorIs(t, err, ErrUnreachable)
}

func TestRetryAfterTooLong(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	reg.Handle(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Retry-After", "7200")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	_, err := s.Ensure(t.Context(), request(reg.Host+"/kmod:v1"))
	require.ErrorIs(t, err, ErrUnreachable)
	assert.ErrorContains(t, err, "come back in 2h0m0s")
	assert.ErrorContains(t, err, "limits how often")
	assert.Len(t, reg.Requests(), 1)
}

const proxyPull = "KMMD_TEST_PROXY_PULL" // what the child below is to pull

// TestProxy pulls in a child, since net/http reads the environment once in a
// process and uses no proxy for this machine itself.
func TestProxy(t *testing.T) {
	if ref := os.Getenv(proxyPull); ref != "" {
		s := openStore(t)
		r := request(ref)
		r.Insecure, r.InsecureSkipTLSVerify = false, true
		_, err := s.Ensure(t.Context(), r)
		require.NoError(t, err)
		return
	}
	reg := imagestest.NewRegistry(t)
	imagestest.Push(t, reg.Host+"/kmod:v1", imagestest.Layer(t, testModules()))
	host, _ := https(t, reg)
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.Host)
		there, err := net.Dial("tcp", host)
		if !assert.NoError(t, err) {
			return
		}
		defer there.Close()
		here, _, err := http.NewResponseController(w).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		defer here.Close()
		_, _ = here.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
		go func() { _, _ = io.Copy(there, here) }()
		_, _ = io.Copy(here, there)
	}))
	t.Cleanup(proxy.Close)
	pull := func(env ...string) error {
		cmd := exec.Command(os.Args[0], "-test.run=^TestProxy$")
		cmd.Env = append(os.Environ(), append(env, proxyPull+"=reg.invalid/kmod:v1", "HTTPS_PROXY="+proxy.URL)...)
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		return err
	}
	require.NoError(t, pull("NO_PROXY=other.invalid"))
	require.NotEmpty(t, asked)
	assert.Equal(t, "CONNECT reg.invalid:443", asked[0])
	asked = nil
	assert.Error(t, pull("NO_PROXY=.invalid"), "there is no such host")
	assert.Empty(t, asked)
}
