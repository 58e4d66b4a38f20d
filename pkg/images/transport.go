// SPDX-License-Identifier: Apache-2.0

package images

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"syscall"
	"time"
)

var (
	errPlainHTTP = errors.New("plain http is not allowed for this registry")
	errRedirect  = errors.New("redirect refused")
)

// newBase is the transport below everything: one pull has its own, so that
// what one registry is allowed never counts for another.
func newBase(q *query) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: headerTimeout,
		MaxIdleConnsPerHost:   parallelLayers,
		DisableCompression:    true, // a digest is of the bytes as stored
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: q.InsecureSkipTLSVerify},
	}
}

// schemeGuard refuses plain http. Without it go-containerregistry (v0.22,
// name.Registry.Scheme) falls back to http by itself for localhost, *.local and
// private IPv4 addresses.
type schemeGuard struct {
	next     http.RoundTripper
	insecure bool
}

func (g *schemeGuard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !g.insecure {
		return nil, errPlainHTTP
	}
	return g.next.RoundTrip(r)
}

// retrier repeats requests the registry asks to repeat (429, 5xx) or that lost
// their connection before an answer. A refused connection is final: the
// caller has a cache to fall back to, and comes back later.
type retrier struct {
	next  http.RoundTripper
	delay time.Duration
}

func (t *retrier) RoundTrip(r *http.Request) (*http.Response, error) {
	delay := t.delay
	for attempt := 1; ; attempt++ {
		resp, err := t.next.RoundTrip(r)
		if attempt == retryAttempts || r.Body != nil || !worthRetry(resp, err) {
			return resp, err
		}
		wait := delay
		if resp != nil {
			wait = max(wait, retryAfter(resp))
			_ = resp.Body.Close()
		}
		delay *= 2
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-r.Context().Done():
			timer.Stop()
			return nil, r.Context().Err()
		}
	}
}

func worthRetry(resp *http.Response, err error) bool {
	if err != nil {
		return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// retryAfter reads "Retry-After: 5"; the form with a date is not used by
// registries.
func retryAfter(resp *http.Response) time.Duration {
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}

// checkRedirect lets a registry send us to its blob storage, but not from
// another host to this machine itself or to a link-local address, where cloud
// metadata services are.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("%w: more than %d in a row", errRedirect, maxRedirects)
	}
	host := r.URL.Hostname()
	if host == via[0].URL.Hostname() {
		return nil
	}
	ip, err := netip.ParseAddr(host)
	if err == nil && (ip.Unmap().IsLoopback() || ip.Unmap().IsLinkLocalUnicast() || ip.IsUnspecified()) {
		return fmt.Errorf("%w: from %s to %s", errRedirect, via[0].URL.Host, host)
	}
	return nil
}
