// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kmm-node/kmmd/pkg/images/credentials"
	"github.com/kmm-node/kmmd/pkg/images/registries"
)

// client asks the endpoints there are for one reference, in their order. It is
// a source.
type client struct {
	endpoints []*endpoint
	l         limits

	mu      sync.Mutex     // guards what follows
	bad     map[int]bool   // endpoints that could not serve while another one could
	opened  map[string]int // how often a blob was asked for
	from    map[string]int // which endpoint has served it last
	wrong   map[int]bool   // endpoints that served what was not the blob
	suspect bool           // there is a new one of these
}

// dial finds out where to ask, and with which credentials; no registry is asked
// yet. The caller closes the client.
func dial(ctx context.Context, q *query, l limits, o Options) (*client, error) {
	repo := q.ref.Context()
	ref := registries.Reference{
		Host: repo.RegistryStr(), Repository: repo.RepositoryStr(), Digest: q.digest,
		Insecure: q.Insecure, SkipVerify: q.InsecureSkipTLSVerify,
	}
	if q.digest == "" {
		ref.Tag = q.ref.Identifier()
	}
	list, err := o.Registries.Endpoints(ref)
	if err != nil {
		return nil, onDisk(err)
	}
	keyring := credentials.Join(q.secrets(ctx), o.Keyring)
	c := &client{l: l, bad: map[int]bool{}, opened: map[string]int{}, from: map[string]int{}, wrong: map[int]bool{}}
	for _, e := range list {
		place := &endpoint{Endpoint: e, l: l}
		place.found = keyring.Lookup(e.URL.Host, place.name())
		c.endpoints = append(c.endpoints, place)
	}
	return c, nil
}

// secrets are the credentials of the pull secrets. Those that can not be had are
// noted in q.
func (q *query) secrets(ctx context.Context) *credentials.Keyring {
	if q.PullSecrets == nil {
		return nil
	}
	q.missing = nil
	var keyrings []*credentials.Keyring
	for _, s := range q.PullSecrets(ctx) {
		if s.Err != nil {
			q.missing = append(q.missing, fmt.Sprintf("%s: %v", s.Name, s.Err))
			continue
		}
		// What is wrong with it is told when it could have helped.
		k, _ := credentials.Parse(s.Name, s.Data)
		keyrings = append(keyrings, k)
	}
	return credentials.Join(keyrings...)
}

// Close lets go of the connections.
func (c *client) Close() {
	for _, e := range c.endpoints {
		e.close()
	}
}

// each calls f with one endpoint after the other until one serves. Those that
// could not, other than for not having what was asked for, come last from then
// on. shift has it begin so much later in the order.
func (c *client) each(ctx context.Context, shift int, able func(*endpoint) bool, f func(*endpoint) error) error {
	var failed endpointsError
	order := c.order()
	for i := range order {
		at := order[(shift+i)%len(order)]
		e := c.endpoints[at]
		if !able(e) || e.Fallback && !e.hasAnswered() && !failed.unansweredAt(at-1) {
			continue
		}
		err := f(e)
		if ctx.Err() != nil && err != nil {
			return err
		}
		if err == nil || !unanswered(err) {
			e.answers()
		}
		if err == nil {
			c.served(at, failed.failures)
			return nil
		}
		failed.failures = append(failed.failures, failure{e, at, err})
	}
	if len(failed.failures) == 0 {
		return fmt.Errorf("%w: %s allows no endpoint to be asked for this", errNoEndpoint, c.endpoints[0].Origin)
	}
	return &failed
}

// order has the indexes of all endpoints, those that could not serve last.
func (c *client) order() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var good, bad []int
	for i := range c.endpoints {
		if c.bad[i] {
			bad = append(bad, i)
		} else {
			good = append(good, i)
		}
	}
	return append(good, bad...)
}

func (c *client) served(at int, failures []failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.bad, at)
	for _, f := range failures {
		c.bad[f.at] = c.bad[f.at] || !notFound(f.err)
	}
}

// manifest fetches the manifest or index called identifier, a tag or a digest,
// and returns it with its real digest; what the registry says the digest is
// does not count.
func (c *client) manifest(ctx context.Context, identifier string) (raw []byte, digest string, err error) {
	able := func(e *endpoint) bool { return e.Resolve }
	if isDigest(identifier) {
		able = func(e *endpoint) bool { return e.Pull }
	}
	err = c.each(ctx, 0, able, func(e *endpoint) error {
		raw, digest, err = e.manifest(ctx, identifier)
		return err
	})
	return raw, digest, err
}

func (e *endpoint) manifest(ctx context.Context, identifier string) ([]byte, string, error) {
	accept := []string{
		string(types.OCIManifestSchema1), string(types.OCIImageIndex),
		string(types.DockerManifestSchema2), string(types.DockerManifestList),
	}
	resp, err := e.get(ctx, "manifests/"+identifier, http.Header{"Accept": {strings.Join(accept, ", ")}}, http.StatusOK)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	var b bytes.Buffer
	_, err = io.Copy(&b, io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return nil, "", fmt.Errorf("read manifest: %w", err)
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

// blob opens a blob. Who asks for the same one again and again gets it from
// another endpoint: the one before does not send all of it.
func (c *client) blob(ctx context.Context, desc v1.Descriptor, offset int64) (body io.ReadCloser, from int64, err error) {
	c.mu.Lock()
	shift := c.opened[desc.Digest.Hex] / opensPerEndpoint
	c.opened[desc.Digest.Hex]++
	c.mu.Unlock()
	err = c.each(ctx, shift, func(e *endpoint) bool { return e.Pull }, func(e *endpoint) error {
		if body, from, err = e.blob(ctx, desc, offset); err == nil {
			c.mu.Lock()
			c.from[desc.Digest.Hex] = slices.Index(c.endpoints, e)
			c.mu.Unlock()
		}
		return err
	})
	return body, from, err
}

// distrust has the endpoint that served the blob last come last from now on.
func (c *client) distrust(desc v1.Descriptor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.from[desc.Digest.Hex]
	if !ok || c.wrong[at] {
		return
	}
	c.wrong[at], c.bad[at], c.suspect = true, true, true
	c.opened[desc.Digest.Hex] = 0
}

// elsewhere implements source.
func (c *client) elsewhere() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	again := c.suspect
	c.suspect = false
	for i, e := range c.endpoints {
		if again && e.Pull && !e.Fallback && !c.wrong[i] {
			return true
		}
	}
	return false
}

// blob asks for a closed range when offset is not 0: some registries answer
// 416 to an open one, and some hang if the first request has one.
func (e *endpoint) blob(ctx context.Context, desc v1.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	what := "blobs/" + desc.Digest.String()
	if offset == 0 {
		resp, err := e.get(ctx, what, nil, http.StatusOK)
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
	resp, err := e.get(ctx, what, header, http.StatusOK, http.StatusPartialContent)
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
