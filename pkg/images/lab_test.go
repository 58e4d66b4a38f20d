// SPDX-License-Identifier: Apache-2.0

package images

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/test/debian"
)

// The user "joe" with the password "right", as htpasswd -B writes it.
const htpasswd = "joe:$2y$05$abcdefghijklmnopqrstuu8xaCxxL82bnl.UY74PMksDxIJShppPC\n"

// labRegistry is Debian's docker-registry, once to push to in the clear and as
// often as a test wants to pull from over TLS, all with the same content.
type labRegistry struct {
	dir, plain string
	key        *rsa.PrivateKey
	cert       []byte // DER; CA and server in one
}

// newLabRegistry skips the test without KMMD_LAB, which `make unit` sets once
// set-up has installed what the lab needs.
func newLabRegistry(t *testing.T) *labRegistry {
	t.Helper()
	debian.Dir(t)
	l := &labRegistry{dir: t.TempDir()}
	var err error
	l.key, err = rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kmmd lab"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	l.cert, err = x509.CreateCertificate(rand.Reader, template, template, &l.key.PublicKey, l.key)
	require.NoError(t, err)
	l.write(t, "tls.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.cert}))
	l.write(t, "tls.key", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(l.key)}))
	l.write(t, "htpasswd", []byte(htpasswd))
	l.plain = l.serve(t, "http: {addr: \"127.0.0.1:0\"}\n")
	imagestest.Push(t, l.plain+"/team/kmod:v1", imagestest.Layer(t, testModules()))
	return l
}

func (l *labRegistry) path(name string) string { return filepath.Join(l.dir, name) }

func (l *labRegistry) write(t *testing.T, name string, b []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(l.path(name), b, 0o600))
}

// secure serves with TLS and the given way to know who asks.
func (l *labRegistry) secure(t *testing.T, auth string) (host string) {
	t.Helper()
	return l.serve(t, fmt.Sprintf("http: {addr: \"127.0.0.1:0\", tls: {certificate: %s, key: %s}}\nauth: %s\n",
		l.path("tls.crt"), l.path("tls.key"), auth))
}

// serve runs the registry with more of a configuration.
func (l *labRegistry) serve(t *testing.T, more string) (host string) {
	t.Helper()
	return debian.Registry(t, l.path("storage"), more)
}

func (l *labRegistry) request(host string) Request {
	r := request(host + "/team/kmod:v1")
	r.Insecure = false
	return r
}

func TestLabPasswordOverTLS(t *testing.T) {
	l := newLabRegistry(t)
	host := l.secure(t, fmt.Sprintf("{htpasswd: {realm: lab, path: %s}}", l.path("htpasswd")))
	pull := func(files map[string]string, secrets ...[]byte) error {
		r := l.request(host)
		r.PullSecrets = secretsOf(secrets...)
		tree, err := nodeStore(t, files).Ensure(t.Context(), r)
		if err == nil {
			assert.NoError(t, tree.Verify())
		}
		return err
	}
	assert.ErrorIs(t, pull(nil, secret(host, "joe", "right")), ErrUnreachable, "the certificate is not known")
	files := trust(t, host, l.path("tls.crt"))
	assert.ErrorIs(t, pull(files), ErrUnauthorized)
	assert.ErrorIs(t, pull(files, secret(host, "joe", "wrong")), ErrUnauthorized)
	assert.NoError(t, pull(files, secret(host, "joe", "wrong"), secret(host+"/team", "joe", "right")))

	// As a node with CRI-O has it: a mirror, and the credentials in its own files.
	files["run/containers/0/auth.json"] = string(secret(host, "joe", "right"))
	files["etc/containers/registries.conf.d/mirror.conf"] = fmt.Sprintf(
		"[[registry]]\nlocation = \"reg.invalid/drivers\"\n[[registry.mirror]]\nlocation = \"%s/team\"\n", host)
	r := l.request(host)
	r.Ref = "reg.invalid/drivers/kmod:v1"
	_, err := nodeStore(t, files).Ensure(t.Context(), r)
	assert.NoError(t, err)

	// As a node with containerd has it.
	ca, err := os.ReadFile(l.path("tls.crt"))
	require.NoError(t, err)
	_, err = nodeStore(t, map[string]string{
		"var/lib/kubelet/config.json":                   string(secret(host, "joe", "right")),
		"etc/containerd/certs.d/reg.invalid/lab.crt":    string(ca),
		"etc/containerd/certs.d/reg.invalid/hosts.toml": fmt.Sprintf("[host.\"https://%s\"]\nca = \"lab.crt\"\n", host),
	}).Ensure(t.Context(), l.request("reg.invalid"))
	assert.NoError(t, err)
}

// TestLabTokens has the registry check each token, as it does for a cluster.
func TestLabTokens(t *testing.T) {
	l := newLabRegistry(t)
	var scopes []string
	service, _ := https(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "joe" || password != "right" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		scopes = append(scopes, r.URL.Query()["scope"]...)
		actions := []string{"pull"}
		if len(scopes) == 1 { // as if it had expired
			actions = nil
		}
		_, _ = fmt.Fprintf(w, `{"access_token": %q}`, l.token(t, r.URL.Query().Get("service"), actions))
	}))
	host := l.secure(t, fmt.Sprintf("{token: {realm: \"https://%s/token\", service: lab, issuer: lab, rootcertbundle: %s}}", service, l.path("tls.crt")))
	// Both have certificates of their own, for the same address.
	s := nodeStore(t, map[string]string{"etc/containerd/certs.d/" + host + "/hosts.toml": "skip_verify = true"})
	r := l.request(host)
	r.PullSecrets = secretsOf(secret(host, "joe", "right"))
	_, err := s.Ensure(t.Context(), r)
	require.ErrorIs(t, err, ErrUnauthorized)
	_, err = s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, []string{"repository:team/kmod:pull", "repository:team/kmod:pull"}, scopes)
}

// token is a JSON web token of the kind docker-registry knows (RS256, with the
// certificate in its head).
func (l *labRegistry) token(t *testing.T, audience string, actions []string) string {
	t.Helper()
	encode := func(v any) string {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	now := time.Now().Unix()
	signed := encode(map[string]any{"typ": "JWT", "alg": "RS256", "x5c": []string{base64.StdEncoding.EncodeToString(l.cert)}}) + "." +
		encode(map[string]any{
			"iss": "lab", "sub": "joe", "aud": audience, "exp": now + 60, "nbf": now - 60, "iat": now, "jti": "1",
			"access": []map[string]any{{"type": "repository", "name": "team/kmod", "actions": actions}},
		})
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, l.key, crypto.SHA256, sum[:])
	require.NoError(t, err)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}
