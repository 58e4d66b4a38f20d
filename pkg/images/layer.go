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
	"os"
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

// tarStream is the unpacked tar of a layer.
type tarStream struct {
	*tar.Reader
	close []func()
}

// openTar reads the layer stored in path, which has been verified before. The
// compression is told by the first bytes: media types are often wrong.
func openTar(ctx context.Context, path string, b *budget) (*tarStream, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	t := &tarStream{close: []func(){func() { _ = f.Close() }}}
	r, closer, err := decompress(bufio.NewReaderSize(f, 1<<16))
	if err != nil {
		t.Close()
		return nil, fmt.Errorf("%w: %w", ErrUnsafe, err)
	}
	t.close = append(t.close, closer)
	t.Reader = tar.NewReader(&budgetReader{ctx: ctx, r: r, b: b})
	return t, nil
}

// Close lets go of the file and the decoder.
func (t *tarStream) Close() {
	for i := len(t.close) - 1; i >= 0; i-- {
		t.close[i]()
	}
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
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return r, func() {}, nil
}

// scan lists what is in a layer.
func scan(ctx context.Context, path string, b *budget) ([]entry, error) {
	t, err := openTar(ctx, path, b)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	return scanTar(t.Reader, b)
}

func scanTar(t *tar.Reader, b *budget) ([]entry, error) {
	var out []entry
	for ordinal := 0; ; ordinal++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, tarError(err)
		}
		if b.entries.Add(-1) < 0 {
			return nil, fmt.Errorf("%w: the layers have too many entries", ErrLimit)
		}
		k, ok := kindOf(h.Typeflag)
		if !ok {
			continue
		}
		if len(h.Name) > maxPathLength || len(h.Linkname) > maxPathLength {
			return nil, fmt.Errorf("%w: entry %.80q… has a name longer than %d bytes", ErrLimit, h.Name, maxPathLength)
		}
		e := entry{name: h.Name, kind: k, ordinal: ordinal, size: h.Size}
		if k == kindSymlink || k == kindHardlink {
			e.link = h.Linkname
		}
		out = append(out, e)
	}
}

// tarError keeps the errors that are about limits and time apart from those
// about the content.
func tarError(err error) error {
	if errors.Is(err, ErrLimit) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return fmt.Errorf("%w: %w", ErrLimit, err)
	}
	return fmt.Errorf("%w: read layer: %w", ErrUnsafe, err)
}
