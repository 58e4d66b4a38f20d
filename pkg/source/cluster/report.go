// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/spec"
)

const (
	// between is what passes between two writes: what comes faster is one.
	between = time.Second
	// betweenWords is the same when only the words of a message differ, as those
	// of a failure that is tried again and again may.
	betweenWords = 5 * time.Minute

	patchTimeout = 15 * time.Second
	firstRetry   = time.Second
	lastRetry    = time.Minute
)

// Report has Watch write the status when the object's differs. It never blocks,
// and of several only the last one counts. The error is always nil.
func (s *Source) Report(_ context.Context, status spec.Status) error {
	w := s.writer
	w.mu.Lock()
	w.partial = status.Partial
	w.status = statusOf(status)
	w.told = true
	w.mu.Unlock()
	w.wake()
	return nil
}

// writer brings the object's status to what was reported. It is level-triggered:
// it compares the last report with the last that is known of the object, so that
// a status which somebody else changes or clears comes back.
type writer struct {
	s    *Source
	poke chan struct{}

	mu      sync.Mutex // guards what follows
	told    bool       // status was reported
	partial bool       // and says less than the whole
	status  v1beta1.NodeModulesConfigStatus
	object  *v1beta1.NodeModulesConfig // nil when there is none
	writing types.UID                  // of the object that was due last

	// What the API server made of the last write: it leaves out fields that it
	// does not know, and those are not written again and again.
	sent, stored *v1beta1.NodeModulesConfigStatus
	version      string // of stored; events before it are old

	last    time.Time // write
	failure string    // of the last write that failed; "" after one that did not
	wait    time.Duration
	next    time.Time // earliest try after a failure
}

func newWriter(s *Source) *writer { return &writer{s: s, poke: make(chan struct{}, 1)} }

func (w *writer) wake() {
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

// observe takes in what the object is.
func (w *writer) observe(nmc *v1beta1.NodeModulesConfig, listed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if nmc != nil && !listed && w.object != nil && w.object.UID == nmc.UID {
		if older(nmc, w.version) {
			// From before our last write: the order may be news, the status is not.
			nmc = nmc.DeepCopy()
			nmc.Status = w.object.Status
		}
	}
	w.object = nmc
	w.wake()
}

func older(nmc *v1beta1.NodeModulesConfig, version string) bool {
	order, err := resourceversion.CompareResourceVersion(nmc.ResourceVersion, version)
	return err == nil && order < 0
}

// run writes until ctx is done.
func (w *writer) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.poke:
		case <-timer.C:
		}
		timer.Reset(w.step(ctx))
	}
}

// step writes if something is to be written now, and tells when to look again
// without a hint.
func (w *writer) step(ctx context.Context) time.Duration {
	status, wait := w.due(time.Now())
	if status == nil {
		return wait
	}
	nmc, err := w.patch(ctx, status, w.writing)
	if ctx.Err() != nil && err != nil {
		return wait
	}
	w.s.cfg.Metrics.wrote(err)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.wrote(status, nmc)
	case apierrors.IsNotFound(err):
		if w.object != nil && w.object.UID == w.writing {
			w.object = nil // the watch will tell when there is another, or has told
		}
	case apierrors.IsInvalid(err) && (w.object == nil || w.object.UID != w.writing):
		// It is another object by now, as the watch has told.
	default:
		w.failed(err)
	}
	w.wake()
	return time.Hour
}

// due is the status to be written now, or how long to wait.
func (w *writer) due(now time.Time) (*v1beta1.NodeModulesConfigStatus, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	const never = time.Hour
	switch g := w.status.ObservedGeneration; {
	case !w.told || w.partial || w.object == nil:
		return nil, never
	case g == 0 || g > w.object.Generation:
		return nil, never // about the time before this object; one about it will come
	case same(w.status, w.object.Status, false):
		return nil, never
	case w.sent != nil && same(w.status, *w.sent, false) && same(*w.stored, w.object.Status, false):
		return nil, never
	}
	at := w.last.Add(between)
	if same(w.status, w.object.Status, true) {
		at = w.last.Add(betweenWords)
	}
	if w.next.After(at) {
		at = w.next
	}
	if wait := at.Sub(now); wait > 0 {
		return nil, wait
	}
	status := w.status
	w.writing = w.object.UID
	return &status, never
}

func (w *writer) wrote(status *v1beta1.NodeModulesConfigStatus, nmc *v1beta1.NodeModulesConfig) {
	w.sent, w.stored, w.version, w.last = status, &nmc.Status, nmc.ResourceVersion, time.Now()
	if w.failure != "" {
		w.s.cfg.Log.Info("the status is written again")
	}
	w.failure, w.wait, w.next = "", 0, time.Time{}
	if w.object == nil || w.object.UID != nmc.UID || older(nmc, w.object.ResourceVersion) {
		return
	}
	// The order comes by the watch; here it is only known that the status is there.
	w.object = w.object.DeepCopy()
	w.object.Status = nmc.Status
}

// failed puts the next try off, a little differently on each node.
func (w *writer) failed(err error) {
	w.wait = min(max(2*w.wait, firstRetry), lastRetry)
	w.next = time.Now().Add(w.wait + rand.N(w.wait/2))
	if w.failure != err.Error() {
		w.s.cfg.Log.Warn("the status is not written and will be tried again", "err", err)
	}
	w.failure = err.Error()
}

// patch writes the status of this very object: not that of another, made meanwhile under its name.
func (w *writer) patch(ctx context.Context, status *v1beta1.NodeModulesConfigStatus, uid types.UID) (*v1beta1.NodeModulesConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	data, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": uid},
		{"op": "add", "path": "/status", "value": status},
	})
	if err != nil {
		return nil, fmt.Errorf("write status: %w", err)
	}
	c, err := w.s.server()
	if err != nil {
		return nil, err
	}
	nmc, err := c.NodeModulesConfigs().Patch(ctx, w.s.cfg.Node, types.JSONPatchType, data, metav1.PatchOptions{}, "status")
	if err != nil {
		return nil, fmt.Errorf("write status: %w", err)
	}
	return nmc, nil
}
