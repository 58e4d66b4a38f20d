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
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/kmm-node/kmmd/pkg/images/cosign"
)

// bundleArtifact is the type of an artifact that is one bundle.
const bundleArtifact = cosign.TypeBundle + ".v0.3+json"

// referrers implements source: what the referrers API lists (distribution-spec
// 1.1, "Listing Referrers"), or, where there is none, the index with the tag
// that the pushing tool keeps instead. Of a list in parts, only the first is
// read.
func (c *client) referrers(ctx context.Context, digest string) ([]v1.Descriptor, error) {
	raw, err := c.referrersAPI(ctx, digest)
	if err == nil && raw == nil {
		raw, _, err = c.manifest(ctx, strings.Replace(digest, ":", "-", 1))
		if isMissing(err) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list what refers to the image: %w", err)
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%w: parse the list of what refers to the image: %w", ErrUnsafe, err)
	}
	return index.Manifests, nil
}

// referrersAPI returns nothing when the registry does not have the API: the
// answer is then 404 by the standard, and anything else in practice. A mirror
// that knows of nothing is not the last to be asked.
func (c *client) referrersAPI(ctx context.Context, digest string) (raw []byte, err error) {
	query := url.Values{"artifactType": {bundleArtifact}}
	what := "referrers/" + digest + "?" + query.Encode()
	err = c.each(ctx, 0, func(e *endpoint) bool { return e.Resolve }, func(e *endpoint) error {
		list, err := e.referrers(ctx, what)
		if len(list) > 0 {
			raw = list
		}
		if err == nil && !listsAny(list) {
			return errNoReferrers // as good as 404
		}
		return err
	})
	if err == nil || errors.Is(err, errNoReferrers) {
		return raw, nil
	}
	var answer *transport.Error
	if errors.As(err, &answer) && answer.StatusCode < 500 && answer.StatusCode != http.StatusUnauthorized &&
		answer.StatusCode != http.StatusForbidden && answer.StatusCode != http.StatusTooManyRequests {
		return nil, nil
	}
	return nil, err
}

var errNoReferrers = fmt.Errorf("nothing refers to the image: %w", &transport.Error{StatusCode: http.StatusNotFound})

func listsAny(raw []byte) bool {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	return len(raw) > 0 && (err != nil || len(index.Manifests) > 0)
}

func (e *endpoint) referrers(ctx context.Context, what string) ([]byte, error) {
	resp, err := e.get(ctx, what, nil, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/") {
		return nil, nil // a page for people
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err == nil && len(b) > maxManifest {
		err = fmt.Errorf("%w: a list of more than %d bytes", ErrLimit, maxManifest)
	}
	return b, err
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
// one image.
const maxReferrers = 1024
