// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/kmm-node/kmmd/pkg/images/registries"
)

// ErrPlainHTTP is plain http where it was not allowed.
var ErrPlainHTTP = errors.New("plain http is not allowed for this registry")

var (
	errNoEndpoint = errors.New("nowhere to ask")
	errRedirect   = errors.New("redirect refused")
	errMetadata   = errors.New("an address where clouds have their metadata service is not asked for images")
)

// newBase is the transport below everything: one endpoint in one pull has its
// own, so that what one is allowed never counts for another.
func newBase(e *registries.Endpoint) (*http.Transport, error) {
	c, err := e.TLS()
	if err != nil {
		return nil, err
	}
	dial := dialTimeout
	if e.DialTimeout > 0 {
		dial = min(dial, e.DialTimeout)
	}
	dialer := &net.Dialer{Timeout: dial, KeepAlive: 30 * time.Second}
	if e.Origin == "" { // not named by the node's own configuration
		dialer.Control = refuseMetadata
	}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: headerTimeout,
		MaxIdleConnsPerHost:   parallelLayers,
		DisableCompression:    true, // a digest is of the bytes as stored
		TLSClientConfig:       c,
	}, nil
}

// refuseMetadata keeps whoever names an image from having the node ask the metadata service of its cloud, which hands out
// credentials to whom it takes for the node: be it by a name, a redirect, or a token service. address is what the name
// stands for (net.Dialer.Control).
func refuseMetadata(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := to.Addr().Unmap().WithZone("")
	if ip.IsLinkLocalUnicast() || slices.Contains(metadataServices(), ip.String()) {
		return fmt.Errorf("%w: %s", errMetadata, ip)
	}
	return nil
}

// metadataServices are those that have no link-local address: of AWS by IPv6, of Alibaba, of Azure's host.
func metadataServices() []string {
	return []string{"fd00:ec2::254", "100.100.100.200", "168.63.129.16"}
}

// GuardScheme is next without plain http, unless that is allowed: ErrPlainHTTP.
func GuardScheme(next http.RoundTripper, insecure bool) http.RoundTripper {
	return &schemeGuard{next, insecure}
}

// schemeGuard refuses plain http, whoever asks for it: a redirect, a token
// service.
type schemeGuard struct {
	next     http.RoundTripper
	insecure bool
}

func (g *schemeGuard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !g.insecure {
		return nil, ErrPlainHTTP
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
			asked := retryAfter(resp, time.Now())
			if asked > maxRetryAfter {
				return resp, nil
			}
			wait = max(wait, asked)
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

// retryAfter reads "Retry-After: 5" or "Retry-After: Fri, 31 Dec 1999 23:59:59
// GMT" (RFC 9110, 10.2.3); 0 is nothing that can be read.
func retryAfter(resp *http.Response, now time.Time) time.Duration {
	value := resp.Header.Get("Retry-After")
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil {
		return max(0, time.Duration(seconds)*time.Second)
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
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
