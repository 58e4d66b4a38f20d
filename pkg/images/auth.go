// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/kmm-node/kmmd/pkg/images/credentials"
)

// authorizer answers a registry that wants to know who asks. Nothing is sent
// until it says so. What it was told works is kept for the next request, and
// got anew when the registry does not take it any more: tokens expire during a
// long pull.
//
// A credential goes to the host it is for, or to the token service that this
// host names, and to no host that one of them redirects us to: that one gets at
// most a token for anybody.
type authorizer struct {
	next   http.RoundTripper
	origin url.URL                // scheme and host the credential is for
	scope  string                 // to ask for when the registry does not say
	cred   credentials.Credential // the zero value is nobody
	header http.Header            // sent to origin only

	mu     sync.Mutex        // guards values
	values map[string]string // of Authorization, by scheme and host
}

func (a *authorizer) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := a.send(r)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || r.Body != nil {
		return resp, err
	}
	ok, err := a.authorize(r, challenges(resp.Header))
	if err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	if !ok {
		return resp, nil
	}
	_ = resp.Body.Close()
	return a.send(r)
}

// site is who answers at a URL: scheme, host and port, which may be the scheme's own and not be said.
func site(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

func (a *authorizer) send(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if site(r.URL) == site(&a.origin) {
		for k, v := range a.header {
			r.Header[http.CanonicalHeaderKey(k)] = v
		}
	}
	a.mu.Lock()
	value := a.values[site(r.URL)]
	a.mu.Unlock()
	if value != "" {
		r.Header.Set("Authorization", value)
	}
	return a.next.RoundTrip(r)
}

// known says whether the registry has been told who asks.
func (a *authorizer) known() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.values[site(&a.origin)] != ""
}

// authorize finds what to send to the host of r; ok is false if there is nothing.
func (a *authorizer) authorize(r *http.Request, asked []transport.Challenge) (ok bool, err error) {
	cred := a.cred
	if site(r.URL) != site(&a.origin) {
		cred = credentials.Credential{}
	}
	var value string
	for _, c := range asked {
		c.Insecure = r.URL.Scheme == "http"
		switch c.Scheme {
		case "bearer":
			token := cred.RegistryToken
			if token == "" {
				token, err = a.token(r.Context(), r.URL.Host, cred, &c)
			}
			if err != nil {
				return false, err
			}
			value = "Bearer " + token
		case "basic":
			if cred.Username != "" {
				value = "Basic " + base64.StdEncoding.EncodeToString([]byte(cred.Username+":"+cred.Password))
			}
		}
		if value != "" {
			break
		}
	}
	if value == "" {
		return false, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.values[site(r.URL)] = value
	return true, nil
}

// token gets a token from the service that host names.
func (a *authorizer) token(ctx context.Context, host string, cred credentials.Credential, c *transport.Challenge) (string, error) {
	// The library takes a service on a private address for an attack unless it
	// is the registry's own host and port; a service on another port is usual.
	realm, err := url.Parse(c.Parameters["realm"])
	if err != nil {
		return "", &tokenError{fmt.Errorf("parse the address of the token service: %w", err)}
	}
	if asked := (&url.URL{Host: host}).Hostname(); realm.Hostname() == asked {
		host = realm.Host
	}
	reg, err := name.NewRegistry(host)
	if err != nil {
		return "", err
	}
	scope := c.Parameters["scope"]
	if scope == "" {
		scope = a.scope
	}
	auth := authn.Anonymous
	if cred != (credentials.Credential{}) {
		auth = authn.FromConfig(authn.AuthConfig{
			Username: cred.Username, Password: cred.Password, IdentityToken: cred.IdentityToken,
		})
	}
	t, err := transport.Exchange(ctx, reg, auth, &bodyGuard{a.next, site(realm)}, []string{scope}, c)
	if err != nil {
		return "", &tokenError{err}
	}
	if t.Token == "" {
		t.Token = t.AccessToken
	}
	return t.Token, nil
}

// bodyGuard sends what has a body to one site only. The body is a form with an identity token in it, and a redirect
// with 307 or 308 would have it sent to wherever that leads; headers with credentials net/http drops by itself.
type bodyGuard struct {
	next http.RoundTripper
	site string
}

func (g *bodyGuard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && site(r.URL) != g.site {
		_ = r.Body.Close()
		return nil, fmt.Errorf("%w: credentials are not sent on to %s", errRedirect, r.URL.Host)
	}
	return g.next.RoundTrip(r)
}

// tokenError is an answer of the token service.
type tokenError struct{ err error }

func (e *tokenError) Error() string { return "get a token: " + e.err.Error() }
func (e *tokenError) Unwrap() error { return e.err }

// refused says whether the answer was about who asks. A registry says 401 or
// 403; some token services say 400 for a wrong password.
func refused(err error) bool {
	var answer *transport.Error
	var token *tokenError
	if !errors.As(err, &answer) {
		return false
	}
	code := answer.StatusCode
	return code == http.StatusUnauthorized || code == http.StatusForbidden ||
		code == http.StatusBadRequest && errors.As(err, &token)
}

// challenges reads WWW-Authenticate (RFC 9110, 11.6.1), as in
//
//	Bearer realm="https://auth.example/token",service="registry",scope="repository:a:pull"
//	Negotiate, Basic realm="who, me?"
//
// Those with a token service come first: they are what the registry prefers.
func challenges(h http.Header) []transport.Challenge {
	var bearer, other []transport.Challenge
	for _, value := range h.Values("WWW-Authenticate") {
		for _, c := range parseChallenges(value) {
			if c.Scheme == "bearer" {
				bearer = append(bearer, c)
			} else {
				other = append(other, c)
			}
		}
	}
	return append(bearer, other...)
}

func parseChallenges(s string) []transport.Challenge {
	var out []transport.Challenge
	for {
		s = strings.TrimLeft(s, " \t,")
		word, rest := cutWord(s)
		if word == "" {
			return out
		}
		value, after, isParameter := cutValue(strings.TrimLeft(rest, " \t"))
		switch {
		case !isParameter:
			out = append(out, transport.Challenge{Scheme: strings.ToLower(word), Parameters: map[string]string{}})
			s = rest
		case len(out) == 0:
			return nil
		default:
			out[len(out)-1].Parameters[strings.ToLower(word)] = value
			s = after
		}
	}
}

// cutWord takes a token off the front of s.
func cutWord(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t,=\"")
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}

// cutValue takes "=value" off the front of s, where value may be quoted.
func cutValue(s string) (value, rest string, ok bool) {
	if s, ok = strings.CutPrefix(s, "="); !ok {
		return "", "", false
	}
	s = strings.TrimLeft(s, " \t")
	if !strings.HasPrefix(s, `"`) {
		value, rest = cutWord(s)
		return value, strings.TrimLeft(rest, "=\""), true
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), "", true
}

// accessError is a registry that took none of the credentials there are.
type accessError struct {
	err   error
	host  string
	tried []credentials.Credential
	notes []string
}

func (e *accessError) Error() string {
	s := "no credentials for " + e.host
	if len(e.tried) > 0 {
		var origins []string
		for _, c := range e.tried {
			origins = append(origins, c.Origin)
		}
		s = "tried the credentials of " + strings.Join(origins, ", ")
	}
	for _, n := range e.notes {
		s += "; " + n
	}
	return fmt.Sprintf("%s (%s)", &answerError{e.err}, s)
}

func (e *accessError) Unwrap() error { return e.err }
