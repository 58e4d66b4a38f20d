// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"

	"github.com/kmm-node/kmmd/pkg/images"
)

// offline finds what is in the store and asks no registry, whatever the documents
// say of pulling. Where they say that it has to be asked, the tree is Stale.
type offline struct{ store *images.Store }

// Ensure implements agent.Images.
func (o offline) Ensure(ctx context.Context, r images.Request) (*images.Tree, error) {
	asks, err := r.AsksAlways()
	if err != nil {
		return nil, err
	}
	r.PullPolicy = images.PullNever
	t, err := o.store.Ensure(ctx, r)
	if err == nil {
		t.Stale = asks
	}
	return t, err
}

// Verified implements agent.Images.
func (o offline) Verified(path string) (*os.File, func(), bool) { return o.store.Verified(path) }
