// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// budget is what all layers of one image may still unpack and list.
type budget struct {
	bytes   atomic.Int64
	entries atomic.Int64
}

func newBudget(l limits) *budget {
	b := &budget{}
	b.bytes.Store(l.unpacked)
	b.entries.Store(int64(l.entries))
	return b
}

// budgetReader stops at the budget and when ctx is done: an unpacked stream
// may be endless.
type budgetReader struct {
	ctx context.Context
	r   io.Reader
	b   *budget
}

func (b *budgetReader) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := b.r.Read(p)
	if b.b.bytes.Add(-int64(n)) < 0 {
		return 0, fmt.Errorf("%w: the layers unpack to too many bytes", ErrLimit)
	}
	return n, err
}

// visitor is told each entry of a layer in order. h is its header, nil when the
// layer is no tar. content is what a regular file holds, and good until the
// visitor returns; it need not be read.
type visitor func(e entry, h *tar.Header, content io.Reader) error

// readLayer unpacks the layer that comes out of r and shows its entries to
// visit. The compression is told by the first bytes: media types are often
// wrong. It stops where the archive ends, which may be before r does.
func readLayer(ctx context.Context, r io.Reader, b *budget, visit visitor) error {
	plain, done, err := decompress(bufio.NewReaderSize(r, readChunk))
	if err != nil {
		return layerError(err)
	}
	defer done()
	return scanTar(tar.NewReader(&budgetReader{ctx: ctx, r: plain, b: b}), b, visit)
}

func decompress(r *bufio.Reader) (io.Reader, func(), error) {
	head, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}): // RFC 1952
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { _ = z.Close() }, nil
	case isZstd(head):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return r, func() {}, nil
}

// isZstd knows the first bytes of a frame (RFC 8878, 3.1), also of a skippable one, with which some compressors begin:
// its last four bits may be anything.
func isZstd(head []byte) bool {
	return bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18})
}

func scanTar(t *tar.Reader, b *budget, visit visitor) error {
	for ordinal := 0; ; ordinal++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return layerError(err)
		}
		if b.entries.Add(-1) < 0 {
			return fmt.Errorf("%w: the layers have too many entries", ErrLimit)
		}
		k, ok := kindOf(h.Typeflag)
		if !ok {
			continue
		}
		if len(h.Name) > maxPathLength || len(h.Linkname) > maxPathLength {
			return fmt.Errorf("%w: entry %.80q… has a name longer than %d bytes", ErrLimit, h.Name, maxPathLength)
		}
		e := entry{name: h.Name, kind: k, ordinal: ordinal, size: h.Size}
		if k == kindSymlink || k == kindHardlink {
			e.link = h.Linkname
		}
		if err := visit(e, h, t); err != nil {
			return layerError(err)
		}
	}
}

// layerError keeps the errors that are about limits, time and our own disk apart
// from those about the content.
func layerError(err error) error {
	var local *localError
	if errors.Is(err, ErrLimit) || errors.Is(err, ErrUnsafe) || errors.As(err, &local) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return fmt.Errorf("%w: %w", ErrLimit, err)
	}
	return fmt.Errorf("%w: read layer: %w", ErrUnsafe, err)
}
