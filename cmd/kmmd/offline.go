// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"

	"github.com/kmm-node/kmmd/pkg/images"
)

// offline finds what is in the store and asks no registry, whatever the documents
// say of pulling.
type offline struct{ store *images.Store }

// Ensure implements agent.Images.
func (o offline) Ensure(ctx context.Context, r images.Request) (*images.Tree, error) {
	r.PullPolicy = images.PullNever
	return o.store.Ensure(ctx, r)
}

// Verified implements agent.Images.
func (o offline) Verified(path string) (*os.File, func(), bool) { return o.store.Verified(path) }
