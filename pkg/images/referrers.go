// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/kmm-node/kmmd/pkg/images/cosign"
)

// bundleArtifact is the type of an artifact that is one bundle.
const bundleArtifact = cosign.TypeBundle + ".v0.3+json"

// referrers implements source: what the referrers API lists (distribution-spec
// 1.1, "Listing Referrers"), or, where there is none, the index with the tag
// that the pushing tool keeps instead.
func (c *client) referrers(ctx context.Context, digest string) (out []v1.Descriptor, err error) {
	parts, err := c.referrersAPI(ctx, digest)
	if err == nil && parts == nil {
		var raw []byte
		raw, _, err = c.manifest(ctx, strings.Replace(digest, ":", "-", 1))
		if isMissing(err) {
			return nil, nil
		}
		parts = [][]byte{raw}
	}
	if err != nil {
		return nil, fmt.Errorf("list what refers to the image: %w", err)
	}
	for _, raw := range parts {
		index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
		if err != nil {
			return nil, fmt.Errorf("%w: parse the list of what refers to the image: %w", ErrUnsafe, err)
		}
		out = append(out, index.Manifests...)
	}
	return out, nil
}

// referrersAPI returns nothing when the registry does not have the API: the
// answer is then 404 by the standard, and anything else in practice. A mirror
// that knows of nothing is not the last to be asked.
func (c *client) referrersAPI(ctx context.Context, digest string) (parts [][]byte, err error) {
	err = c.each(ctx, 0, func(e *endpoint) bool { return e.Resolve }, func(e *endpoint) error {
		list, err := e.referrers(ctx, digest)
		if len(list) > 0 {
			parts = list
		}
		if err == nil && !listsAny(list) {
			return errNoReferrers // as good as 404
		}
		return err
	})
	if err == nil || errors.Is(err, errNoReferrers) {
		return parts, nil
	}
	var answer *transport.Error
	if errors.As(err, &answer) && answer.StatusCode < 500 && answer.StatusCode != http.StatusUnauthorized &&
		answer.StatusCode != http.StatusForbidden && answer.StatusCode != http.StatusTooManyRequests {
		return parts, nil
	}
	return nil, err
}

var errNoReferrers = fmt.Errorf("nothing refers to the image: %w", &transport.Error{StatusCode: http.StatusNotFound})

func listsAny(parts [][]byte) bool {
	return slices.ContainsFunc(parts, func(raw []byte) bool { return entries(raw) != 0 })
}

// entries are how many a list has, -1 if it is none.
func entries(raw []byte) int {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return -1
	}
	return len(index.Manifests)
}

// referrers reads a list in as many parts as there are, up to a limit. What is
// beyond it, or where it can not be, is left out.
func (e *endpoint) referrers(ctx context.Context, digest string) (parts [][]byte, err error) {
	query, size, total := url.Values{"artifactType": {bundleArtifact}}.Encode(), 0, 0
	for range maxReferrersParts {
		raw, next, err := e.referrersPart(ctx, "referrers/"+digest, query)
		if err != nil || len(raw) == 0 {
			return parts, err
		}
		parts = append(parts, raw)
		n := entries(raw)
		size, total = size+len(raw), total+n
		if n < 0 || next == "" || next == query || size > maxManifest || total >= maxReferrers {
			break
		}
		query = next
	}
	return parts, nil
}

// referrersPart also returns the query that gets the next part, "" if there is none.
func (e *endpoint) referrersPart(ctx context.Context, what, query string) (raw []byte, next string, err error) {
	resp, err := e.get(ctx, what+"?"+query, nil, http.StatusOK)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/") {
		return nil, "", nil // a page for people
	}
	raw, err = io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err == nil && len(raw) > maxManifest {
		err = fmt.Errorf("%w: a list of more than %d bytes", ErrLimit, maxManifest)
	}
	if u := nextLink(resp); u != nil && u.Host == e.URL.Host && u.Path == e.URL.Path+"/"+e.Repository+"/"+what {
		values := u.Query()
		if e.Namespace != "" {
			values.Del("ns") // each request has it
		}
		next = values.Encode()
	}
	return raw, next, err
}

// nextLink is where an answer says that it goes on (RFC 8288), nil if nowhere:
//
//	Link: </v2/kmod/referrers/sha256:1f2e…?n=50&last=…>; rel="next"
func nextLink(resp *http.Response) *url.URL {
	for links := strings.Join(resp.Header.Values("Link"), ","); links != ""; {
		target, rest, _ := strings.Cut(links, ">")
		params, others, _ := strings.Cut(rest, ",")
		links = others
		plain := strings.NewReplacer(" ", "", `"`, "").Replace(params)
		u, err := resp.Request.URL.Parse(strings.TrimLeft(target, " <"))
		if err == nil && slices.Contains(strings.Split(plain, ";"), "rel=next") {
			return u
		}
	}
	return nil
}

// referrers implements source: manifests in index.json that have the image as
// their subject, and those that `cosign save` puts beside it.
func (l *layout) referrers(ctx context.Context, digest string) ([]v1.Descriptor, error) {
	var out []v1.Descriptor
	looked := 0
	for _, desc := range l.index.Manifests {
		if desc.Annotations[annotationKind] == kindSignatures {
			desc.ArtifactType = "" // some tools put the type of the config here
			out = append(out, desc)
			continue
		}
		if desc.MediaType.IsIndex() || !mayBeSignature(desc) {
			continue
		}
		if looked++; looked > maxReferrers {
			return nil, fmt.Errorf("%w: index.json of %s has more than %d entries to look at for signatures",
				ErrLimit, l.ref.path, maxReferrers)
		}
		raw, _, err := l.manifest(ctx, desc.Digest.String())
		if isMissing(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		m, err := v1.ParseManifest(bytes.NewReader(raw))
		if err == nil && m.Subject != nil && m.Subject.Digest.String() == digest {
			out = append(out, desc)
		}
	}
	return out, nil
}

// maxReferrers is how many manifests of a layout are read to find those about
// one image. Of the list of a registry, no part is asked for after so many, nor
// after maxReferrersParts.
const (
	maxReferrers      = 1024
	maxReferrersParts = 64
)
