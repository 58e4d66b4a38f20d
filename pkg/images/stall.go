// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"io"
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
