// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

var errStalled = errors.New("the transfer stalled")

// watchdog ends a transfer that does not get on. Only the time spent waiting
// for the other side counts, not what the reader needs between two reads.
type watchdog struct {
	r      io.Reader
	window time.Duration
	cancel context.CancelCauseFunc
	left   time.Duration // of this window
	bytes  int           // in this window
}

// watch returns r, and calls cancel when a window of waiting brought less than
// stallMinimum bytes; cancel has to end the Read that waits.
func watch(r io.Reader, window time.Duration, cancel context.CancelCauseFunc) *watchdog {
	return &watchdog{r: r, window: window, left: window, cancel: cancel}
}

// Read implements io.Reader.
func (w *watchdog) Read(p []byte) (int, error) {
	start := time.Now()
	timer := time.AfterFunc(w.left, w.bark)
	n, err := w.r.Read(p)
	timer.Stop()
	w.bytes += n
	w.left -= time.Since(start)
	switch {
	case w.bytes >= stallMinimum:
		w.left, w.bytes = w.window, 0
	case w.left <= 0:
		w.bark()
	}
	return n, err
}

func (w *watchdog) bark() {
	w.cancel(fmt.Errorf("%w: less than %d bytes in %s", errStalled, stallMinimum, w.window))
}

// stallGuard watches the body of each answer: also of an error, of a redirect and of a token, which others read.
type stallGuard struct {
	next   http.RoundTripper
	window time.Duration
}

func (g *stallGuard) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	resp, err := g.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp.Body = &watchedBody{ctx: ctx, body: resp.Body, watched: watch(resp.Body, g.window, cancel), cancel: cancel}
	return resp, nil
}

// watchedBody is the body of an answer; ctx is that of its request.
type watchedBody struct {
	ctx     context.Context
	body    io.Closer
	watched *watchdog
	cancel  context.CancelCauseFunc
}

// Read implements io.Reader. A bare "context canceled" becomes why it was canceled.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.watched.Read(p)
	if why := context.Cause(b.ctx); why != nil && errors.Is(err, context.Canceled) {
		err = why
	}
	return n, err
}

// Close implements io.Closer.
func (b *watchedBody) Close() error {
	defer b.cancel(nil)
	return b.body.Close()
}
