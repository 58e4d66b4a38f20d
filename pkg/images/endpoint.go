// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/kmm-node/kmmd/pkg/images/credentials"
	"github.com/kmm-node/kmmd/pkg/images/registries"
)

// endpoint is one place to ask for an image, with the credentials there are for
// it: each is tried, and the first that is taken is kept. Nobody's is the last.
type endpoint struct {
	registries.Endpoint
	found credentials.Found
	l     limits

	mu       sync.Mutex // guards what follows
	base     *http.Transport
	attempts []*attempt
	current  int  // index of the attempt that worked
	answered bool // it is there and speaks this protocol
}

// attempt is asking with one credential.
type attempt struct {
	auth   *authorizer
	client *http.Client
}

// name is how the repository is called there, for scopes and credentials.
func (e *endpoint) name() string {
	p := strings.Trim(e.URL.Path, "/")
	if p == "v2" {
		return e.Repository
	}
	p = strings.TrimSuffix(strings.TrimPrefix(p, "v2/"), "/v2")
	return strings.TrimPrefix(p+"/"+e.Repository, "/")
}

// connect makes the transports, once.
func (e *endpoint) connect() ([]*attempt, int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.base != nil {
		return e.attempts, e.current, nil
	}
	base, err := newBase(&e.Endpoint)
	if err != nil {
		return nil, 0, onDisk(err)
	}
	e.base = base
	rt := GuardScheme(&stallGuard{base, e.l.stallWindow}, e.PlainHTTP)
	rt = transport.NewUserAgent(&retrier{next: rt, delay: e.l.retryDelay}, "kmmd")
	for _, cred := range append(e.found.Credentials, credentials.Credential{}) {
		a := &authorizer{
			next: rt, origin: e.URL, scope: "repository:" + e.name() + ":pull", cred: cred,
			header: e.Header, values: map[string]string{},
		}
		e.attempts = append(e.attempts, &attempt{a, &http.Client{Transport: a, CheckRedirect: checkRedirect}})
	}
	return e.attempts, 0, nil
}

// works says which attempt is to be made from now on.
func (e *endpoint) works(attempt int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.current = attempt
}

func (e *endpoint) answers() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answered = true
}

func (e *endpoint) hasAnswered() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.answered
}

// close lets go of the connections.
func (e *endpoint) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.base != nil {
		e.base.CloseIdleConnections()
	}
}

// get asks for <repository>/<what>. Any status but those of ok is an error.
func (e *endpoint) get(ctx context.Context, what string, header http.Header, ok ...int) (*http.Response, error) {
	attempts, current, err := e.connect()
	if err != nil {
		return nil, err
	}
	var first, missing error
	for i := current; i < len(attempts); i++ {
		resp, err := e.try(ctx, attempts[i], what, header, ok)
		if err == nil {
			e.works(i)
			return resp, nil
		}
		switch known := i < len(e.found.Credentials); {
		case known && notFound(err):
			missing = err // to this one; others may see more
		case !known && first != nil && notFound(err):
		case !refused(err):
			return nil, err
		}
		if first == nil {
			first = err
		}
	}
	if missing != nil {
		return nil, missing
	}
	if !refused(first) {
		return nil, first
	}
	return nil, &accessError{err: first, host: e.URL.Host, tried: e.found.Credentials, notes: e.found.Notes}
}

// try asks with one credential. There are registries that do not ask who we are
// but say that nothing is there; they do ask at the root of the API.
func (e *endpoint) try(ctx context.Context, a *attempt, what string, header http.Header, ok []int) (*http.Response, error) {
	resp, err := e.request(ctx, a, e.Repository+"/"+what, header, ok)
	if err == nil || !silent(err) || a.auth.cred == (credentials.Credential{}) || a.auth.known() {
		return resp, err
	}
	root, rootErr := e.request(ctx, a, "", nil, []int{http.StatusOK})
	if rootErr == nil {
		_ = root.Body.Close()
	}
	switch {
	case refused(rootErr):
		return nil, rootErr
	case !a.auth.known():
		return nil, err
	}
	return e.request(ctx, a, e.Repository+"/"+what, header, ok)
}

// silent is an answer that may be due to who asks and does not say so.
func silent(err error) bool {
	var answer *transport.Error
	var token *tokenError
	return errors.As(err, &answer) && !errors.As(err, &token) &&
		(answer.StatusCode == http.StatusForbidden || answer.StatusCode == http.StatusNotFound)
}

func (e *endpoint) request(ctx context.Context, a *attempt, path string, header http.Header, ok []int) (*http.Response, error) {
	u := e.URL
	path, query, _ := strings.Cut(path, "?")
	u.Path += "/" + path
	u.RawQuery = query
	if e.Namespace != "" {
		u.RawQuery = strings.TrimPrefix(query+"&"+url.Values{"ns": {e.Namespace}}.Encode(), "&")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, a.auth.told(err)
	}
	if err := transport.CheckError(resp, ok...); err != nil {
		_ = resp.Body.Close()
		err = a.auth.told(err)
		if wait := retryAfter(resp, time.Now()); wait > 0 {
			err = fmt.Errorf("%w (it asks to come back in %s)", err, wait.Round(time.Second))
		}
		return nil, err
	}
	return resp, nil
}

func notFound(err error) bool {
	var answer *transport.Error
	return errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound
}

// unanswered is an endpoint that gave no answer in HTTP, or not in TLS.
func unanswered(err error) bool {
	var answer *transport.Error
	var token *tokenError
	if errors.As(err, &answer) || errors.As(err, &token) {
		return false
	}
	for _, known := range []error{ErrDigest, ErrLimit, ErrPlainHTTP, errRedirect} {
		if errors.Is(err, known) {
			return false
		}
	}
	return true
}

// failure is an endpoint that could not serve.
type failure struct {
	e   *endpoint
	at  int // its place in the order of the configuration
	err error
}

// endpointsError is that none of the endpoints could serve. It counts as what
// the last of them, the registry itself, said.
type endpointsError struct{ failures []failure }

// unansweredAt says whether the endpoint at this place gave no answer.
func (e *endpointsError) unansweredAt(at int) bool {
	for _, f := range e.failures {
		if f.at == at {
			return unanswered(f.err)
		}
	}
	return false
}

func (e *endpointsError) last() failure {
	last := e.failures[0]
	for _, f := range e.failures {
		// That plain http does not work either says nothing.
		if f.at > last.at && (!f.e.Fallback || !unanswered(f.err)) {
			last = f
		}
	}
	return last
}

func (e *endpointsError) Error() string {
	if len(e.failures) == 1 && e.failures[0].e.Origin == "" {
		return short(e.failures[0].err)
	}
	var s []string
	for _, f := range e.failures {
		where := f.e.String()
		if f.e.Origin != "" {
			where += " (" + f.e.Origin + ")"
		}
		s = append(s, where+": "+short(f.err))
	}
	return strings.Join(s, "; ")
}

func (e *endpointsError) Unwrap() error { return e.last().err }

// short keeps what a registry answers on one line; accessError does so itself.
func short(err error) string {
	var access *accessError
	if errors.As(err, &access) {
		return err.Error()
	}
	return (&answerError{err}).Error()
}
