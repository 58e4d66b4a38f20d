// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
)

// Lookup asks the registry itself what a reference stands for now, and returns
// the digest of its manifest or index, "sha256:…". Of the request only Ref,
// PullSecrets and what is about TLS count; there is no store, and nothing of the
// node's own configuration is read. ErrNotFound is a registry without such an
// image; ErrUnauthorized and ErrUnreachable are no answer to the question.
func Lookup(ctx context.Context, r Request) (digest string, err error) {
	q := &query{Request: r}
	if err := q.parseRef(); err != nil {
		return "", err
	}
	if _, ok := q.ref.(localRef); ok {
		return "", fmt.Errorf("%w: %s is in no registry", ErrInvalidRef, r.Ref)
	}
	c, err := dial(ctx, q, defaultLimits(), Options{})
	if err != nil {
		return "", q.explain(ctx, err)
	}
	defer c.Close()
	identifier := q.digest
	if identifier == "" {
		identifier = q.ref.Identifier()
	}
	if _, digest, err = c.manifest(ctx, identifier); err != nil {
		return "", q.explain(ctx, err)
	}
	return digest, nil
}
