// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// client talks to the repository of one reference. It is a source.
type client struct {
	repo   name.Repository
	http   *http.Client
	base   *http.Transport
	scheme string
	l      limits
}

// dial finds out how the registry wants to be talked to and gets a token for
// anonymous pulls if it wants one. The caller closes the client.
func dial(ctx context.Context, q *query, l limits) (*client, error) {
	base := newBase(q)
	var rt http.RoundTripper = &schemeGuard{next: base, insecure: q.Insecure}
	rt = transport.NewUserAgent(&retrier{next: rt, delay: l.retryDelay}, "kmmd")
	repo := q.ref.Context()
	authed, err := transport.NewWithContext(ctx, repo.Registry, authn.Anonymous, rt,
		[]string{repo.Scope(transport.PullScope)})
	if err != nil {
		base.CloseIdleConnections()
		return nil, err
	}
	return &client{
		repo: repo, base: base, scheme: "https", l: l,
		http: &http.Client{Transport: authed, CheckRedirect: checkRedirect},
	}, nil
}

// Close lets go of the connections.
func (c *client) Close() { c.base.CloseIdleConnections() }

// get asks for /v2/<repository>/<what>; the transport puts in the scheme it
// found to work. Any status but those of ok is an error.
func (c *client) get(ctx context.Context, what string, header http.Header, ok ...int) (*http.Response, error) {
	url := fmt.Sprintf("%s://%s/v2/%s/%s", c.scheme, c.repo.RegistryStr(), c.repo.RepositoryStr(), what)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, ok...); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// manifest fetches the manifest or index called identifier, a tag or a digest,
// and returns it with its real digest; what the registry says the digest is
// does not count.
func (c *client) manifest(ctx context.Context, identifier string) ([]byte, string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	accept := []string{
		string(types.OCIManifestSchema1), string(types.OCIImageIndex),
		string(types.DockerManifestSchema2), string(types.DockerManifestList),
	}
	resp, err := c.get(ctx, "manifests/"+identifier, http.Header{"Accept": {strings.Join(accept, ", ")}}, http.StatusOK)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body := watch(resp.Body, c.l.stallWindow, cancel)
	var b bytes.Buffer
	_, err = io.Copy(&b, io.LimitReader(body, maxManifest+1))
	if err != nil {
		return nil, "", fmt.Errorf("read manifest: %w", cause(ctx, err))
	}
	if b.Len() > maxManifest {
		return nil, "", fmt.Errorf("%w: manifest of more than %d bytes", ErrLimit, maxManifest)
	}
	sum := sha256.Sum256(b.Bytes())
	digest := "sha256:" + hex.EncodeToString(sum[:])
	if isDigest(identifier) && digest != identifier {
		return nil, "", fmt.Errorf("%w: the registry answered %s with content that is %s", ErrDigest, identifier, digest)
	}
	return b.Bytes(), digest, nil
}

// blob asks for a closed range when offset is not 0: some registries answer
// 416 to an open one, and some hang if the first request has one.
func (c *client) blob(ctx context.Context, desc v1.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	what := "blobs/" + desc.Digest.String()
	if offset == 0 {
		resp, err := c.get(ctx, what, nil, http.StatusOK)
		if err != nil {
			return nil, 0, err
		}
		if resp.ContentLength >= 0 && resp.ContentLength != desc.Size {
			_ = resp.Body.Close()
			return nil, 0, fmt.Errorf("%w: layer %s has %d bytes, the manifest says %d", ErrDigest,
				desc.Digest, resp.ContentLength, desc.Size)
		}
		return resp.Body, 0, nil
	}
	header := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", offset, desc.Size-1)}}
	resp, err := c.get(ctx, what, header, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, 0, nil
	}
	if got := resp.Header.Get("Content-Range"); !strings.HasPrefix(got, fmt.Sprintf("bytes %d-", offset)) {
		_ = resp.Body.Close()
		return nil, 0, fmt.Errorf("%w: asked for layer %s from byte %d, got %q", ErrDigest, desc.Digest, offset, got)
	}
	return resp.Body, offset, nil
}

// cause replaces the bare "context canceled" of a read by why it was canceled.
func cause(ctx context.Context, err error) error {
	if why := context.Cause(ctx); why != nil && errors.Is(err, context.Canceled) {
		return why
	}
	return err
}

// explain turns what went wrong between us and the registry into one of this
// package's errors, once, and adds what to do.
func (q *query) explain(ctx context.Context, err error) error {
	if _, ok := q.ref.(localRef); ok {
		return fmt.Errorf("pull %s: %w", q.Ref, err)
	}
	for _, known := range []error{ErrDigest, ErrLimit, ErrUnsafe, ErrNoModules, ErrNoFirmware, ErrPolicy, ErrNotFound, ErrNotCached} {
		if errors.Is(err, known) {
			return fmt.Errorf("pull %s: %w", q.Ref, err)
		}
	}
	var local *localError
	if errors.Is(ctx.Err(), context.Canceled) || errors.As(err, &local) {
		return fmt.Errorf("pull %s: %w", q.Ref, err)
	}
	advice, sentinel := q.diagnose(err)
	return fmt.Errorf("pull %s: %w: %w: %s", q.Ref, sentinel, &answerError{err}, advice)
}

// diagnose says what a person can do about a failure, and which kind it is.
func (q *query) diagnose(err error) (advice string, sentinel error) {
	registry := q.ref.Context().RegistryStr()
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch code := answer.StatusCode; code {
		case http.StatusUnauthorized, http.StatusForbidden:
			return "only public images are pulled: make it public, and check its name", ErrUnauthorized
		case http.StatusNotFound:
			return "check the name and the tag, and that the image was pushed for this kernel", ErrNotFound
		default:
			return "the registry answers, but can not serve: look at " + registry, ErrUnreachable
		}
	}
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return registry + " speaks plain http: set registryTLS.insecure to allow that, or give it a certificate", ErrUnreachable
	case isCertificate(err):
		return "give " + registry + " a certificate this machine knows, or set registryTLS.insecureSkipTLSVerify", ErrUnreachable
	}
	return "check the network, the proxy and that " + registry + " is up", ErrUnreachable
}

// isCertificate says whether TLS failed because of the certificate.
func isCertificate(err error) bool {
	var c *tls.CertificateVerificationError
	return errors.As(err, &c)
}

// answerError keeps what a registry answers short and on one line: it may be a
// whole page.
type answerError struct{ err error }

const maxAnswer = 400 // bytes

func (e *answerError) Error() string {
	s := strings.Join(strings.Fields(e.err.Error()), " ")
	if len(s) > maxAnswer {
		s = s[:maxAnswer] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

func (e *answerError) Unwrap() error { return e.err }

// localError marks what is the fault of this machine's disk, not of the
// registry.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

func onDisk(err error) error {
	if err == nil {
		return nil
	}
	return &localError{err}
}
