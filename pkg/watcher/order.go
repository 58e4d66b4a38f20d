// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
)

// order is in which order the queue is worked off: what has happened to one node
// or Module comes before a look at all of them. When a Module changes on thousands
// of nodes, each node that has answered gets its label back at once, and does not
// wait until all the others have been told.
//
// Push, Touch, Len and Pop are called by the queue, under its lock.
type order struct {
	first, later []string
	waits        map[string]bool // in later and not yet moved to first
	popped       int

	mu      sync.Mutex      // guards patient
	patient map[string]bool // about to be added, and not in a hurry
}

// fair: of so many items one is of those that can wait, if there is any, however
// much happens.
const fair = 16

func newOrder() *order { return &order{waits: map[string]bool{}, patient: map[string]bool{}} }

// newQueue is a queue that is worked off in that order.
func newQueue(o *order) workqueue.TypedRateLimitingInterface[string] {
	return workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, time.Minute),
		workqueue.TypedRateLimitingQueueConfig[string]{
			DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[string]{
				Queue: workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[string]{Queue: o}),
			}),
		})
}

// queues carry the names of what is to be looked at. What may ask a registry has a
// queue and workers of its own: one that hangs keeps images waiting, and no node.
type queues struct {
	cluster  workqueue.TypedRateLimitingInterface[string] // nodes and Modules
	registry workqueue.TypedRateLimitingInterface[string] // images and PreflightValidations
}

// newQueues are worked off in that order, as far as the registry has no part in it.
func newQueues(o *order) *queues { return &queues{newQueue(o), newQueue(newOrder())} }

// of is the queue for an item.
func (q *queues) of(item string) workqueue.TypedRateLimitingInterface[string] {
	if strings.HasPrefix(item, imageWork) || strings.HasPrefix(item, preflightWork) {
		return q.registry
	}
	return q.cluster
}

// Add has an item looked at.
func (q *queues) Add(item string) { q.of(item).Add(item) }

// AddAfter has an item looked at in some time.
func (q *queues) AddAfter(item string, d time.Duration) { q.of(item).AddAfter(item, d) }

// AddRateLimited has an item looked at again that has failed.
func (q *queues) AddRateLimited(item string) { q.of(item).AddRateLimited(item) }

// Forget that an item has failed.
func (q *queues) Forget(item string) { q.of(item).Forget(item) }

// Done says that the look at an item has ended.
func (q *queues) Done(item string) { q.of(item).Done(item) }

// Len is how many items wait.
func (q *queues) Len() int { return q.cluster.Len() + q.registry.Len() }

// ShutDown ends those who wait for items.
func (q *queues) ShutDown() {
	q.cluster.ShutDown()
	q.registry.ShutDown()
}

// later adds a node or Module that can wait.
func (w *Watcher) later(item string) {
	w.order.mark(item)
	w.queue.Add(item)
}

func (o *order) mark(item string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.patient[item] = true
}

// canWait reports, once, whether an item was marked.
func (o *order) canWait(item string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	can := o.patient[item]
	delete(o.patient, item)
	return can
}

// Push adds an item that is not there.
func (o *order) Push(item string) {
	if o.canWait(item) {
		o.later = append(o.later, item)
		o.waits[item] = true
		return
	}
	o.first = append(o.first, item)
}

// Touch is called for an item that is there and is added again.
func (o *order) Touch(item string) {
	if o.canWait(item) || !o.waits[item] {
		return
	}
	delete(o.waits, item) // its place in later is skipped
	o.first = append(o.first, item)
}

// Len is how many items there are.
func (o *order) Len() int { return len(o.first) + len(o.waits) }

// Pop takes an item; there is one.
func (o *order) Pop() string {
	o.popped++
	if len(o.first) > 0 && (len(o.waits) == 0 || o.popped%fair != 0) {
		item := o.first[0]
		o.first = o.first[1:]
		return item
	}
	for {
		item := o.later[0]
		o.later = o.later[1:]
		if o.waits[item] {
			delete(o.waits, item)
			return item
		}
	}
}

var _ workqueue.Queue[string] = (*order)(nil)
