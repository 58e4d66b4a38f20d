// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// fetcher opens the blobs of one image.
type fetcher struct {
	source
	l       limits
	bytes   atomic.Int64 // received, for the one who watches
	resumes atomic.Int64 // connections taken up again
}

// blob reads one blob in order while it arrives; the request is on its way, and
// up to prefetch bytes are taken in, before hurry is called, and up to readAhead
// bytes from then on. A connection that
// breaks or stalls is taken up again where it ended. Read returns io.EOF only
// after size and digest of all that came before have been found right: what
// was read until then is not to be believed.
type blob struct {
	desc   v1.Descriptor
	full   chan []byte // received, in order; closed at the end
	free   chan []byte // buffers to receive in; nil is one yet to be made
	err    error       // why it ended, nil when it is whole; to be read once full is closed
	cancel context.CancelFunc
	rest   []byte // of the buffer that is being read …
	buffer []byte // … which is this one
}

// open starts to fetch a blob. The caller closes it.
func (c *fetcher) open(ctx context.Context, desc v1.Descriptor) *blob {
	ctx, cancel := context.WithCancel(ctx)
	b := &blob{desc: desc, cancel: cancel}
	b.full, b.free = make(chan []byte, readAhead/readChunk), make(chan []byte, readAhead/readChunk)
	for range prefetch / readChunk {
		b.free <- nil
	}
	go func() {
		defer close(b.full)
		if b.err = c.receive(ctx, b); errors.Is(b.err, ErrDigest) {
			c.distrust(desc)
		}
	}()
	return b
}

// hurry lets as much arrive as there is room for. It is called once, before the
// first Read.
func (b *blob) hurry() {
	for range cap(b.free) - prefetch/readChunk {
		b.free <- nil
	}
}

// Close ends the transfer and waits for that.
func (b *blob) Close() {
	b.cancel()
	for range b.full { // until it is closed
	}
}

// Read implements io.Reader.
func (b *blob) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		if b.buffer != nil {
			b.free <- b.buffer[:cap(b.buffer)]
			b.buffer = nil
		}
		next, ok := <-b.full
		if !ok {
			if b.err != nil {
				return 0, b.err
			}
			return 0, io.EOF
		}
		b.buffer, b.rest = next, next
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// verify reads what is left of the blob, so that nil means that all of it was
// what its digest says.
func (b *blob) verify() error {
	_, err := io.Copy(io.Discard, onlyReader{b})
	return err
}

// onlyReader hides the other methods of what it holds.
type onlyReader struct{ io.Reader }

// receive fills b, over as many connections as it takes and is reasonable.
func (c *fetcher) receive(ctx context.Context, b *blob) error {
	h := sha256.New()
	var have int64
	for attempt := 1; ; attempt++ {
		n, err := c.connection(ctx, b, have, h)
		have += n
		if err == nil {
			break
		}
		if n >= resumeProgress {
			attempt = 1
		}
		if attempt == resumeAttempts || !resumable(ctx, err) {
			return fmt.Errorf("fetch layer %s: after %d of %d bytes: %w", b.desc.Digest, have, b.desc.Size, err)
		}
		c.resumes.Add(1)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != b.desc.Digest.Hex {
		return fmt.Errorf("%w: layer %s arrived as sha256:%s", ErrDigest, b.desc.Digest, got)
	}
	return nil
}

// resumable is true for connections that broke on the way.
func resumable(ctx context.Context, err error) bool {
	var answer *transport.Error
	var local *localError
	return ctx.Err() == nil && !errors.As(err, &answer) && !errors.As(err, &local) && !errors.Is(err, ErrDigest)
}

// connection receives the blob from offset on and returns how much it got.
func (c *fetcher) connection(ctx context.Context, b *blob, offset int64, h hash.Hash) (int64, error) {
	body, from, err := c.blob(ctx, b.desc, offset)
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }()
	if _, err := io.CopyN(io.Discard, body, offset-from); err != nil {
		return 0, err
	}
	want := b.desc.Size - offset
	n, err := c.copyTo(ctx, b, io.LimitReader(body, want), h)
	if err != nil {
		return n, err
	}
	if n < want {
		return n, fmt.Errorf("%w: layer %s ends after %d of %d bytes", ErrDigest, b.desc.Digest, offset+n, b.desc.Size)
	}
	if more, _ := io.CopyN(io.Discard, body, 1); more > 0 {
		return n, fmt.Errorf("%w: layer %s has more than its %d bytes", ErrDigest, b.desc.Digest, b.desc.Size)
	}
	return n, nil
}

// copyTo hands r to the reader of b until r ends. It waits for a free buffer
// without reading from r: a blob nobody reads yet is a little ahead and no more.
func (c *fetcher) copyTo(ctx context.Context, b *blob, r io.Reader, h hash.Hash) (int64, error) {
	var have int64
	for {
		var buffer []byte
		select {
		case buffer = <-b.free:
		case <-ctx.Done():
			return have, ctx.Err()
		}
		if buffer == nil {
			buffer = make([]byte, readChunk)
		}
		n, err := io.ReadAtLeast(r, buffer, 1)
		if n == 0 {
			b.free <- buffer
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return have, err
		}
		_, _ = h.Write(buffer[:n]) // a hash returns no error
		have += int64(n)
		c.bytes.Add(int64(n))
		b.full <- buffer[:n]
		if err != nil {
			return have, err
		}
	}
}

// diskWriter marks its errors as local ones.
type diskWriter struct{ w io.Writer }

func (d diskWriter) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	return n, onDisk(err)
}
