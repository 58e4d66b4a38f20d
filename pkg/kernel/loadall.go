// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"strings"
	"time"
)

// maxTogether is how many files LoadAll has on their way to the child; the kernel lets a process without
// CAP_SYS_RESOURCE send as many as it may have open (net/core/scm.c, too_many_unix_fds).
const maxTogether = 32

// Loaded is what became of one request of LoadAll.
type Loaded struct {
	Err  error         // as of Load
	Took time.Duration // from the end of the one before
}

// LoadAll loads modules one after the other, as Load does, and stops at the first that fails. There is no way back to this
// process between two of them, which takes longer than most loads. The results are of the first requests, one each; only the
// last may have an error, and what has no result was not tried: because one before it failed, because there are more than it
// takes at once, or because they can not be given to one child. So the results may be none, and Load is for the rest. The
// child that Prepare starts is used; without one, it is started here, and waits until Close.
//
// The kernel's words for a failure may include some that name no module and are about one before it; those that it has for
// a module that loads are about firmware. Needs what Load needs. The caller closes the files.
func (h *Host) LoadAll(ctx context.Context, requests []LoadRequest) []Loaded {
	requests = requests[:min(len(requests), maxTogether)]
	for i := range requests {
		r := &requests[i]
		if r.File == nil || strings.ContainsRune(r.Parameters+r.Name, 0) || h.keeps(r.File) {
			requests = requests[:i]
			break
		}
	}
	if ctx.Err() != nil || len(requests) < 2 {
		return nil
	}
	if h.Prepare() != nil {
		return nil // Load will say why
	}
	w := h.takeWaiting()
	if w == nil {
		return nil
	}
	log := h.openKmsg()
	defer log.close()
	begin := time.Now()
	sent, heard := w.sendAll(requests)
	alive := true
	var done []Loaded
	for len(done) < sent {
		r := &requests[len(done)]
		timeout := r.patience()
		var err error
		if _, alive, err = w.answer(begin.Add(timeout)); err != nil {
			err = h.failed(opLoad, r.Name, r.File, err, timeout, log)
		}
		done = append(done, Loaded{err, time.Since(begin)})
		begin = time.Now()
		if err != nil {
			break
		}
	}
	// It says of each of the others that it did not try.
	for n := len(done); alive && n < sent; n++ {
		_, alive, _ = w.answer(time.Now().Add(DefaultTimeout))
	}
	if alive && heard {
		h.keepWaiting(w)
	} else {
		w.close()
	}
	return done
}

// sendAll gives the child all orders; it may be at the first of them already.
func (w *waiting) sendAll(requests []LoadRequest) (sent int, alive bool) {
	for i := range requests {
		r := &requests[i]
		ok, alive, err := w.send(r.call(), childName(opLoad, r.Name), i > 0, time.Now().Add(r.patience()))
		if !ok || err != nil {
			return i, alive
		}
	}
	return len(requests), true
}

// patience is how long the kernel may take.
func (r *LoadRequest) patience() time.Duration {
	if r.Timeout <= 0 {
		return DefaultTimeout
	}
	return r.Timeout
}
