// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// fetcher reads blobs to their end, and verifies them.
type fetcher struct {
	source
	l limits
}

// spool fetches a blob into a new file at path and compares its size and
// digest; a caller that gets nil may read the file. A connection that breaks
// or stalls is taken up again where it ended.
func (c *fetcher) spool(ctx context.Context, desc v1.Descriptor, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return onDisk(err)
	}
	err = c.copyBlob(ctx, desc, f)
	return errors.Join(err, onDisk(f.Close()))
}

func (c *fetcher) copyBlob(ctx context.Context, desc v1.Descriptor, f io.Writer) error {
	h := sha256.New()
	var have int64
	for attempt := 1; have < desc.Size; attempt++ {
		n, err := c.copyPart(ctx, desc, have, io.MultiWriter(diskWriter{f}, h))
		have += n
		if err != nil && (attempt == resumeAttempts || !resumable(ctx, err)) {
			return fmt.Errorf("fetch layer %s: after %d of %d bytes: %w", desc.Digest, have, desc.Size, err)
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != desc.Digest.Hex {
		return fmt.Errorf("%w: layer %s arrived as sha256:%s", ErrDigest, desc.Digest, got)
	}
	return nil
}

// resumable is true for connections that broke on the way.
func resumable(ctx context.Context, err error) bool {
	var answer *transport.Error
	var local *localError
	return ctx.Err() == nil && !errors.As(err, &answer) && !errors.As(err, &local) && !errors.Is(err, ErrDigest)
}

// copyPart writes the blob from offset on and returns how much it wrote.
func (c *fetcher) copyPart(ctx context.Context, desc v1.Descriptor, offset int64, w io.Writer) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, from, err := c.blob(ctx, desc, offset)
	if err != nil {
		return 0, err
	}
	defer func() { _ = stream.Close() }()
	body, stop := watch(stream, c.l.stallWindow, cancel)
	defer stop()
	if _, err := io.CopyN(io.Discard, body, offset-from); err != nil {
		return 0, cause(ctx, err)
	}
	want := desc.Size - offset
	n, err := io.Copy(w, io.LimitReader(body, want))
	if err != nil {
		return n, cause(ctx, err)
	}
	if n < want {
		return n, fmt.Errorf("%w: layer %s ends after %d of %d bytes", ErrDigest, desc.Digest, offset+n, desc.Size)
	}
	if more, _ := io.CopyN(io.Discard, body, 1); more > 0 {
		return n, fmt.Errorf("%w: layer %s has more than its %d bytes", ErrDigest, desc.Digest, desc.Size)
	}
	return n, nil
}

// diskWriter marks its errors as local ones.
type diskWriter struct{ w io.Writer }

func (d diskWriter) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	return n, onDisk(err)
}
