// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/credentials"
)

// How long things may take, and how often they are tried.
const (
	dialTimeout   = 10 * time.Second
	headerTimeout = 5 * time.Minute // from the end of a request to the answer: a registry checks a large layer first
	attempts      = 4               // of a request that failed in a way that may pass
	retryDelay    = time.Second     // before the first repetition …
	retryFactor   = 2               // … and so many times as long before each further one
	uploads       = 4               // at the same time
)

// registry is a tag of a registry to push to.
type registry struct {
	tag  name.Tag
	to   Place
	from name.Reference // to mount blobs from
}

// parseRegistry takes the references that images.OpenImage takes, but a digest: what
// is pushed has the one it gets.
func parseRegistry(p Place) (*registry, error) {
	last := p.Ref[strings.LastIndex(p.Ref, "/")+1:]
	if strings.Contains(last, "@") || !strings.Contains(last, ":") {
		return nil, fmt.Errorf("%w: %q is no place to push to: write IMAGE:TAG", images.ErrInvalidRef, p.Ref)
	}
	tag, err := name.NewTag(p.Ref, p.options()...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", images.ErrInvalidRef, err)
	}
	return &registry{tag: tag, to: p}, nil
}

func (p Place) options() []name.Option {
	if p.Insecure {
		return []name.Option{name.Insecure}
	}
	return nil
}

func (r *registry) is(p Place) bool {
	ref, err := name.ParseReference(p.Ref, p.options()...)
	return err == nil && ref.Name() == r.tag.Name()
}

// write pushes m: blobs first, then the manifests, and the one that the tag stands
// for last. Each credential there is gets its turn as long as the registry refuses.
func (r *registry) write(ctx context.Context, o *Options, m *manifest) error {
	if ref, err := name.ParseReference(o.From.Ref, o.From.options()...); err == nil && ref.Context().RegistryStr() == r.tag.RegistryStr() {
		if _, _, local, _ := images.Layout(o.From.Ref); !local {
			r.from = ref
		}
	}
	found := o.Keyring.Lookup(r.tag.RegistryStr(), r.tag.RepositoryStr())
	base := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: headerTimeout,
		MaxIdleConnsPerHost:   uploads,
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: r.to.SkipTLSVerify},
	}
	defer base.CloseIdleConnections()
	creds := found.Credentials
	if len(creds) == 0 {
		creds = []credentials.Credential{{}} // nobody's
	}
	var err error
	for _, cred := range creds {
		if err = r.push(ctx, o, base, cred, m); !refused(err) {
			break
		}
	}
	return r.explain(ctx, err, found)
}

// push pushes with one credential.
func (r *registry) push(ctx context.Context, o *Options, base http.RoundTripper, cred credentials.Credential, m *manifest) error {
	opts := []remote.Option{
		remote.WithContext(ctx), remote.WithUserAgent("kmmd"), remote.WithJobs(uploads),
		remote.WithTransport(images.GuardScheme(base, r.to.Insecure)), remote.WithAuth(authOf(cred)),
		remote.WithRetryBackoff(remote.Backoff{Duration: cmp.Or(o.retryDelay, retryDelay), Factor: retryFactor, Steps: attempts}),
		remote.WithRetryPredicate(passing),
	}
	// The tag may be right already, from an earlier time.
	if desc, err := remote.Head(r.tag, opts...); err == nil && desc.Digest == m.digest() {
		return nil
	}
	p, err := remote.NewPusher(opts...)
	if err != nil {
		return err
	}
	return r.put(ctx, p, r.tag, m)
}

// put pushes m and all below it.
func (r *registry) put(ctx context.Context, p *remote.Pusher, ref name.Reference, m *manifest) error {
	for _, child := range m.children {
		if err := r.put(ctx, p, r.tag.Digest(child.digest().String()), child); err != nil {
			return err
		}
	}
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	for _, b := range m.blobs {
		g.Go(func() error { return p.Upload(within, r.tag.Repository, r.mountable(b)) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return p.Put(ctx, ref, m)
}

// mountable says of a blob of the source that the registry has it already, if it is
// the one the source is in.
func (r *registry) mountable(b v1.Layer) v1.Layer {
	if _, ours := b.(*blob); !ours || r.from == nil {
		return b
	}
	return &remote.MountableLayer{Layer: b, Reference: r.from}
}

func authOf(c credentials.Credential) authn.Authenticator {
	if c == (credentials.Credential{}) {
		return authn.Anonymous
	}
	return authn.FromConfig(authn.AuthConfig{
		Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
	})
}

// passing says of an error whether it may be gone in a moment. That the source can
// not be read is no such thing: that has been tried again already.
func passing(err error) bool {
	var ours *sourceError
	var answer *transport.Error
	var network net.Error
	switch {
	case err == nil, errors.As(err, &ours), errors.Is(err, images.ErrPlainHTTP),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	case errors.As(err, &answer):
		return answer.Temporary()
	case errors.As(err, &network) && network.Timeout():
		return true
	}
	for _, known := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET, syscall.ECONNREFUSED} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// refused is a registry that wants to know better who pushes.
func refused(err error) bool {
	var answer *transport.Error
	return errors.As(err, &answer) &&
		(answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden)
}
