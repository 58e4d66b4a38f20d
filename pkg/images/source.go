// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// source is where the manifests and blobs of one image come from: a registry, or a
// layout on this machine.
// What it gives is not verified, but for the digest of a manifest.
type source interface {
	// manifest returns the manifest or index called identifier, a tag or a
	// digest, with its real digest, computed here. A digest asked for that is not the
	// content's is ErrDigest.
	manifest(ctx context.Context, identifier string) (raw []byte, digest string, err error)
	// blob opens a blob; its bytes start at from, which is offset, or 0 where
	// parts can not be asked for. The caller closes body. Canceling ctx ends it.
	blob(ctx context.Context, desc v1.Descriptor, offset int64) (body io.ReadCloser, from int64, err error)
	// referrers lists manifests that may say something about the image of that
	// digest: at least its sigstore bundles. None is no error.
	referrers(ctx context.Context, digest string) ([]v1.Descriptor, error)
	// distrust is told of a blob that was not what its digest says.
	distrust(desc v1.Descriptor)
	// elsewhere says whether there is another place to ask than those that were distrusted
	// since the last call.
	elsewhere() bool
	Close()
}
