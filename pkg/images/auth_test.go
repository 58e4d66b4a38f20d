// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/credentials"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/images/registries"
)

// https serves h with TLS and returns the "127.0.0.1:port" it is at, and a file
// with its CA.
func https(t *testing.T, h http.Handler) (host, ca string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.crt")
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	require.NoError(t, os.WriteFile(ca, b, 0o600))
	return s.Listener.Addr().String(), ca
}

// nodeStore is a store on a node with these files.
func nodeStore(t *testing.T, files map[string]string) *Store {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		name = filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
	}
	s := openStore(t)
	s.o.Registries, _ = registries.Load(registries.Options{Root: root})
	s.o.Keyring, _ = credentials.Load(credentials.Options{Root: root})
	return s
}

// trust is the node's file that makes it know the CA of host.
func trust(t *testing.T, host, ca string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(ca)
	require.NoError(t, err)
	return map[string]string{"etc/docker/certs.d/" + host + "/ca.crt": string(b)}
}

// secret is a dockerconfigjson with pairs of user and password, by key.
func secret(key, user, password string) []byte {
	return fmt.Appendf(nil, `{"auths": {%q: {"username": %q, "password": %q}}}`, key, user, password)
}

// secretsOf are image pull secrets with that content.
func secretsOf(data ...[]byte) func(context.Context) []PullSecret {
	return func(context.Context) []PullSecret {
		var out []PullSecret
		for i, b := range data {
			out = append(out, PullSecret{Name: fmt.Sprintf("image pull secret %d", i+1), Data: b})
		}
		return out
	}
}

// guarded is a registry that wants tokens, and the service that gives them.
type guarded struct {
	host, ca string
	auth     string // host of the service
	content  *imagestest.Registry
	users    map[string]string // password by name
	denied   map[string]int    // what the registry says to a user it knows, if not 200

	mu      sync.Mutex
	tokens  map[string]int // how often a token may still be used
	uses    int            // of a token
	granted []string       // "user scope" of each token
	refused []string       // user of each refusal of the service
	leaks   []string       // Authorization of another kind than a host is to see
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{content: imagestest.NewRegistry(t), tokens: map[string]int{}, uses: 1000, users: map[string]string{}, denied: map[string]int{}}
	// One certificate: httptest has only one.
	service, _ := https(t, http.HandlerFunc(g.grant))
	g.auth = service
	g.host, g.ca = https(t, http.HandlerFunc(g.serve))
	imagestest.Push(t, g.content.Host+"/team/kmod:v1", imagestest.Layer(t, testModules()))
	return g
}

func (g *guarded) grant(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	user, password, ok := r.BasicAuth()
	if r.Method == http.MethodPost {
		user, password, ok = r.FormValue("refresh_token"), "", r.FormValue("grant_type") == "refresh_token"
	}
	if want, known := g.users[user]; ok && (!known || want != password) {
		g.refused = append(g.refused, user)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	scope := r.FormValue("scope")
	g.granted = append(g.granted, strings.TrimSpace(user+" "+scope))
	token := fmt.Sprintf("%s-%d", user, len(g.granted))
	g.tokens[token] = g.uses
	_, _ = fmt.Fprintf(w, `{"token": %q}`, token)
}

func (g *guarded) serve(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	header := r.Header.Get("Authorization")
	token, bearer := strings.CutPrefix(header, "Bearer ")
	if header != "" && !bearer {
		g.leaks = append(g.leaks, header)
	}
	left := g.tokens[token]
	g.tokens[token]--
	g.mu.Unlock()
	user, _, _ := strings.Cut(token, "-")
	if _, known := g.users[user]; left <= 0 || !known {
		w.Header().Add("WWW-Authenticate", "Negotiate")
		w.Header().Add("WWW-Authenticate", fmt.Sprintf(`Bearer realm="https://%s/token",service="reg, of \"us\"",scope="repository:team/kmod:pull"`, g.auth))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if status := g.denied[user]; status != 0 {
		w.WriteHeader(status)
		return
	}
	g.content.ServeHTTP(w, r)
}

func (g *guarded) request() Request {
	r := request(g.host + "/team/kmod:v1")
	r.Insecure = false
	return r
}

func TestTokenForCredentials(t *testing.T) {
	g := newGuarded(t)
	g.users["joe"] = "right"
	s := nodeStore(t, trust(t, g.host, g.ca))
	r := g.request()
	r.PullSecrets = secretsOf(secret(g.host+"/team", "joe", "right"))
	_, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, []string{"joe repository:team/kmod:pull"}, g.granted, "one token for all requests")
	assert.Empty(t, g.leaks, "the password is for the token service only")
}

func TestTokenExpiresDuringThePull(t *testing.T) {
	g := newGuarded(t)
	g.users["joe"], g.uses = "right", 1
	s := nodeStore(t, trust(t, g.host, g.ca))
	r := g.request()
	r.PullSecrets = secretsOf(secret(g.host, "joe", "right"))
	_, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Len(t, g.granted, 2, "manifest and layer")
}

func TestEachCredentialIsTried(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			g := newGuarded(t)
			g.users["known"], g.users["joe"] = "known", "right"
			g.denied["known"] = status
			files := trust(t, g.host, g.ca)
			files["var/lib/kubelet/config.json"] = string(secret("127.0.0.*:"+g.host[10:], "joe", "right"))
			s := nodeStore(t, files)
			r := g.request()
			r.PullSecrets = secretsOf(
				[]byte("no JSON"), secret("other.example", "other", "x"),
				secret(g.host, "stale", "stale"), secret(g.host, "known", "known"),
			)
			_, err := s.Ensure(t.Context(), r)
			require.NoError(t, err)
			assert.Equal(t, []string{"stale"}, g.refused, "what worked is kept")
			assert.Equal(t, "joe repository:team/kmod:pull", g.granted[len(g.granted)-1])
		})
	}
}

func TestNobodyMayPull(t *testing.T) {
	g := newGuarded(t)
	g.users["known"] = "pass-word"
	g.denied["known"] = http.StatusForbidden
	files := trust(t, g.host, g.ca)
	files["var/lib/kubelet/config.json"] = `{"auths": {}, "credHelpers": {"` + g.host + `": "ecr-login"}}`
	s := nodeStore(t, files)
	r := g.request()
	_, err := s.Ensure(t.Context(), r)
	require.ErrorIs(t, err, ErrUnauthorized)
	assert.ErrorContains(t, err, "no credentials for "+g.host)
	assert.ErrorContains(t, err, `credHelpers has "ecr-login" for `+g.host+`, which kmmd does not run`)
	assert.ErrorContains(t, err, "image pull secret")

	r.PullSecrets = secretsOf(secret(g.host, "stale", "pass-word"), secret(g.host, "known", "pass-word"), []byte("{"))
	_, err = s.Ensure(t.Context(), r)
	require.ErrorIs(t, err, ErrUnauthorized)
	assert.ErrorContains(t, err, "tried the credentials of image pull secret 1 ("+g.host+"), image pull secret 2 ("+g.host+")")
	assert.ErrorContains(t, err, "image pull secret 3:1: no JSON")
	assert.NotContains(t, err.Error(), "pass-word")
	assert.NotContains(t, err.Error(), base64.StdEncoding.EncodeToString([]byte("known:pass-word")))
}

func TestPullSecretsThatCanNotBeHad(t *testing.T) {
	missing := func(context.Context) []PullSecret {
		return []PullSecret{{Name: "pull secret drivers/reg", Err: errors.New("not found: create it")}}
	}
	for _, status := range []int{http.StatusUnauthorized, http.StatusNotFound} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			reg := imagestest.NewRegistry(t)
			reg.Handle(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(status) })
			r := request(reg.Host + "/kmod:v1")
			r.PullSecrets = missing
			_, err := openStore(t).Ensure(t.Context(), r)
			assert.ErrorContains(t, err, "; pull secret drivers/reg: not found: create it")
		})
	}
	t.Run("the node's credentials do", func(t *testing.T) {
		g := newGuarded(t)
		g.users["joe"] = "right"
		files := trust(t, g.host, g.ca)
		files["var/lib/kubelet/config.json"] = string(secret(g.host, "joe", "right"))
		r := g.request()
		r.PullSecrets = missing
		_, err := nodeStore(t, files).Ensure(t.Context(), r)
		assert.NoError(t, err)
	})
}

func TestPullSecretsAreAskedForLate(t *testing.T) {
	g := newGuarded(t)
	g.users["joe"] = "first"
	s := nodeStore(t, trust(t, g.host, g.ca))
	asked := 0
	r := g.request()
	r.PullSecrets = func(context.Context) []PullSecret {
		asked++
		return []PullSecret{{Name: "a", Data: secret(g.host, "joe", g.users["joe"])}}
	}
	never := r
	never.PullPolicy = PullNever
	_, err := s.Ensure(t.Context(), never)
	require.ErrorIs(t, err, ErrNotCached)
	assert.Zero(t, asked, "nobody asks a registry")
	_, err = s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, 1, asked)
	_, err = s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, 1, asked, "the image is in the store")
	g.users["joe"] = "second"
	r.PullPolicy = PullAlways
	_, err = s.Ensure(t.Context(), r)
	require.NoError(t, err, "rotated")
	assert.Equal(t, 2, asked)
}

func TestPublicImageWithStaleCredentials(t *testing.T) {
	g := newGuarded(t)
	g.users[""] = ""
	s := nodeStore(t, trust(t, g.host, g.ca))
	r := g.request()
	r.PullSecrets = secretsOf(secret(g.host, "stale", "x"))
	_, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
}

func TestIdentityToken(t *testing.T) {
	g := newGuarded(t)
	g.users["refresh"] = ""
	s := nodeStore(t, trust(t, g.host, g.ca))
	r := g.request()
	r.PullSecrets = secretsOf([]byte(`{"auths": {"` + g.host + `": {"username": "0000", "identitytoken": "refresh"}}}`))
	_, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, []string{"refresh repository:team/kmod:pull"}, g.granted)
}

func TestTokenServiceWithoutTLSIsRefused(t *testing.T) {
	asked := false
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	t.Cleanup(plain.Close)
	host, ca := https(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+plain.URL+`/token"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	s := nodeStore(t, trust(t, host, ca))
	r := request(host + "/kmod:v1")
	for _, r.Insecure = range []bool{false, true} { // it does speak TLS
		r.PullSecrets = secretsOf(secret(host, "joe", "x"))
		_, err := s.Ensure(t.Context(), r)
		require.ErrorContains(t, err, "get a token")
		assert.NotContains(t, err.Error(), "http://"+host)
		assert.False(t, asked)
	}
}

// TestCredentialsStayWithTheirHost has a registry whose layers are elsewhere.
func TestCredentialsStayWithTheirHost(t *testing.T) {
	content := imagestest.NewRegistry(t)
	imagestest.Push(t, content.Host+"/kmod:v1", imagestest.Layer(t, testModules()))
	var seen []string
	elsewhere, _ := https(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization")+r.Header.Get("X-Team"))
		if r.Header.Get("Authorization") == "" && len(seen) == 1 { // also if it asks for them
			w.Header().Set("WWW-Authenticate", `Basic realm="give me"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		content.ServeHTTP(w, r)
	}))
	host, _ := https(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case user != "joe" || password != "right":
			w.Header().Set("WWW-Authenticate", `Basic realm="us"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.Header.Get("X-Team") != "drivers":
			w.WriteHeader(http.StatusTeapot)
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, "https://localhost"+elsewhere[len("127.0.0.1"):]+r.URL.Path, http.StatusTemporaryRedirect)
		default:
			content.ServeHTTP(w, r)
		}
	}))
	s := nodeStore(t, map[string]string{
		"etc/containerd/certs.d/" + host + "/hosts.toml": "skip_verify = true\n[header]\nx-team = \"drivers\"\n",
	})
	r := request(host + "/kmod:v1")
	r.Insecure, r.PullSecrets = false, secretsOf(secret(host, "joe", "right"))
	_, err := s.Ensure(t.Context(), r)
	require.ErrorIs(t, err, ErrUnauthorized)
	_, err = s.Ensure(t.Context(), r)
	require.NoError(t, err)
	for _, header := range seen {
		assert.Empty(t, header)
	}
}

// TestIdentityTokenAfterRedirect has a token service that redirects, and keeps the form that it was sent.
func TestIdentityTokenAfterRedirect(t *testing.T) {
	for _, code := range []int{http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		for at, stays := range map[string]bool{"localhost": false, "127.0.0.1": true} {
			var told []string
			answer := func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				told = append(told, string(b)+r.Header.Get("Authorization"))
				_, _ = io.WriteString(w, `{"token": "x"}`)
			}
			mux := http.NewServeMux()
			service, _ := https(t, mux)
			mux.HandleFunc("/there", answer)
			mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://"+at+service[len("127.0.0.1"):]+"/there", code)
			})
			host, _ := https(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+service+`/token",service="reg"`)
				w.WriteHeader(http.StatusUnauthorized)
			}))
			s := nodeStore(t, map[string]string{"etc/containerd/certs.d/" + host + "/hosts.toml": "skip_verify = true\n"})
			r := request(host + "/kmod:v1")
			r.Insecure = false
			r.PullSecrets = secretsOf([]byte(`{"auths": {"` + host + `": {"username": "0000", "identitytoken": "refresh-secret"}}}`))
			_, err := s.Ensure(t.Context(), r)
			require.Error(t, err)
			kept := code != http.StatusFound // which makes it a GET
			assert.Equal(t, kept && stays, strings.Contains(strings.Join(told, " "), "refresh-secret"), "%d to %s", code, at)
			if kept && !stays {
				assert.ErrorIs(t, err, errRedirect)
			}
		}
	}
}

// TestRegistryThatDoesNotAsk answers 404 to those it does not know, and asks who
// they are at its root only.
func TestRegistryThatDoesNotAsk(t *testing.T) {
	reg := imagestest.NewRegistry(t)
	imagestest.Push(t, reg.Host+"/kmod:v1", imagestest.Layer(t, testModules()))
	reg.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		user, password, _ := r.BasicAuth()
		switch {
		case user == "joe" && password == "right":
			next.ServeHTTP(w, r)
		case r.URL.Path == "/v2/":
			w.Header().Set("WWW-Authenticate", `Basic realm="us"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	s := openStore(t)
	r := request(reg.Host + "/kmod:v1")
	r.PullSecrets = secretsOf(secret(reg.Host, "joe", "right"))
	_, err := s.Ensure(t.Context(), r)
	assert.NoError(t, err)
	r = request(reg.Host + "/kmod:v2")
	r.PullSecrets = secretsOf(secret(reg.Host, "joe", "wrong"))
	_, err = s.Ensure(t.Context(), r)
	assert.ErrorIs(t, err, ErrUnauthorized)
}

func TestChallenges(t *testing.T) {
	type params = map[string]string
	tests := []struct {
		name   string
		values []string
		want   []transport.Challenge
	}{
		{"none", nil, nil},
		{"basic", []string{`Basic realm="a b, c"`}, []transport.Challenge{{Scheme: "basic", Parameters: params{"realm": "a b, c"}}}},
		{"bearer before basic", []string{`Basic realm="a"`, `BEARER Realm="https://x/y?a=b" , service=z`}, []transport.Challenge{
			{Scheme: "bearer", Parameters: params{"realm": "https://x/y?a=b", "service": "z"}}, {Scheme: "basic", Parameters: params{"realm": "a"}}}},
		{"two in one", []string{`Negotiate, Basic realm="a\"b"`}, []transport.Challenge{
			{Scheme: "negotiate", Parameters: params{}}, {Scheme: "basic", Parameters: params{"realm": `a"b`}}}},
		{"spaces", []string{`Bearer realm = "a"`}, []transport.Challenge{{Scheme: "bearer", Parameters: params{"realm": "a"}}}},
		{"no end", []string{`Bearer realm="a`}, []transport.Challenge{{Scheme: "bearer", Parameters: params{"realm": "a"}}}},
		{"nonsense", []string{`="`, `a=b`, `,,`}, nil},
	}
	for _, tt := range tests {
		assert.Equal(t, tt.want, challenges(http.Header{"Www-Authenticate": tt.values}), tt.name)
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(`Negotiate, Bearer realm="https://x/y",service=z, Basic realm="a\"b"`)
	f.Add(`Basic abc==, a = "`)
	f.Fuzz(func(t *testing.T, s string) {
		asked := parseChallenges(s)
		var again strings.Builder
		for _, c := range asked {
			assert.NotEmpty(t, c.Scheme)
			again.WriteString(c.Scheme + " ")
			for name, value := range c.Parameters {
				again.WriteString(name + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `", `)
			}
			again.WriteString(", ")
		}
		same := parseChallenges(again.String())
		assert.True(t, slices.EqualFunc(asked, same, func(a, b transport.Challenge) bool {
			return a.Scheme == b.Scheme && maps.Equal(a.Parameters, b.Parameters)
		}),
			"%v, and again: %v", asked, same)
	})
}

// TestSite: a port that need not be said makes no other site.
func TestSite(t *testing.T) {
	for _, same := range [][2]string{
		{"https://a.example/x", "https://A.example:443/y?z"}, {"http://a.example", "http://a.example:80/"}, {"https://[::1]/", "https://[::1]:443/"},
	} {
		assert.Equal(t, site(parseURL(t, same[0])), site(parseURL(t, same[1])))
	}
	for _, other := range [][2]string{
		{"https://a.example", "https://a.example:80"}, {"http://a.example", "https://a.example"}, {"https://a.example:5000", "https://a.example"},
		{"https://a.example", "https://b.example"}, {"http://a.example:443", "https://a.example"},
	} {
		assert.NotEqual(t, site(parseURL(t, other[0])), site(parseURL(t, other[1])))
	}
}

func parseURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	require.NoError(t, err)
	return u
}
