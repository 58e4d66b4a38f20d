// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestOrder(t *testing.T) {
	w := &Watcher{order: newOrder()}
	w.queue = newQueue(w.order)
	defer w.queue.ShutDown()
	next := func() string {
		item, _ := w.queue.Get()
		w.queue.Done(item)
		return item
	}
	for _, item := range []string{"a", "b", "c", "d"} {
		w.later(item)
	}
	w.queue.Add("x")
	w.queue.Add("c") // something has happened to it
	w.queue.Add("x")
	w.later("x") // nothing that makes it wait
	assert.Equal(t, 5, w.queue.Len())
	var got []string
	for range 5 {
		got = append(got, next())
	}
	assert.Equal(t, []string{"x", "c", "a", "b", "d"}, got)
	assert.Zero(t, w.queue.Len())

	// While it is being worked on, all are to be looked at again.
	w.queue.Add("a")
	item, _ := w.queue.Get()
	w.later(item)
	w.queue.Add("b")
	w.queue.Done(item)
	assert.Equal(t, []string{"b", "a"}, []string{next(), next()})

	// What can wait does not wait for ever.
	w.later("patient")
	for i := range 2 * fair {
		w.queue.Add(fmt.Sprint(i))
	}
	n := 1
	for next() != "patient" {
		n++
	}
	assert.LessOrEqual(t, n, fair)
	assert.Equal(t, 2*fair-n+1, w.queue.Len())
}
