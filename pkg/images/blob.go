// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// spool fetches a blob into a new file at path and compares its size and
// digest; a caller that gets nil may read the file. A connection that breaks
// or stalls is taken up again where it ended.
func (c *client) spool(ctx context.Context, desc v1.Descriptor, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return onDisk(err)
	}
	err = c.copyBlob(ctx, desc, f)
	return errors.Join(err, onDisk(f.Close()))
}

func (c *client) copyBlob(ctx context.Context, desc v1.Descriptor, f io.Writer) error {
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
func (c *client) copyPart(ctx context.Context, desc v1.Descriptor, offset int64, w io.Writer) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := c.getBlob(ctx, desc, offset)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, stop := watch(resp.Body, c.l.stallWindow, cancel)
	defer stop()
	if offset > 0 && resp.StatusCode == http.StatusOK { // it does not do ranges
		if _, err := io.CopyN(io.Discard, body, offset); err != nil {
			return 0, cause(ctx, err)
		}
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

// getBlob asks for a closed range when offset is not 0: some registries answer
// 416 to an open one, and some hang if the first request has one.
func (c *client) getBlob(ctx context.Context, desc v1.Descriptor, offset int64) (*http.Response, error) {
	what := "blobs/" + desc.Digest.String()
	if offset == 0 {
		resp, err := c.get(ctx, what, nil, http.StatusOK)
		if err == nil && resp.ContentLength >= 0 && resp.ContentLength != desc.Size {
			_ = resp.Body.Close()
			return nil, fmt.Errorf("%w: layer %s has %d bytes, the manifest says %d", ErrDigest,
				desc.Digest, resp.ContentLength, desc.Size)
		}
		return resp, err
	}
	header := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", offset, desc.Size-1)}}
	resp, err := c.get(ctx, what, header, http.StatusOK, http.StatusPartialContent)
	if err != nil || resp.StatusCode == http.StatusOK {
		return resp, err
	}
	if got := resp.Header.Get("Content-Range"); !strings.HasPrefix(got, fmt.Sprintf("bytes %d-", offset)) {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%w: asked for layer %s from byte %d, got %q", ErrDigest, desc.Digest, offset, got)
	}
	return resp, nil
}

// diskWriter marks its errors as local ones.
type diskWriter struct{ w io.Writer }

func (d diskWriter) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	return n, onDisk(err)
}

// isCertificate says whether TLS failed because of the certificate.
func isCertificate(err error) bool {
	var c *tls.CertificateVerificationError
	return errors.As(err, &c)
}
