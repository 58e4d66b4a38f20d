// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/kubernetes/fake"
)

func TestOrder(t *testing.T) {
	w := &Watcher{order: newOrder()}
	w.queue = newQueues(w.order)
	defer w.queue.ShutDown()
	next := func() string {
		item, _ := w.queue.cluster.Get()
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
	item, _ := w.queue.cluster.Get()
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

// TestQueues: what may ask a registry has a queue of its own.
func TestQueues(t *testing.T) {
	q := newQueues(newOrder())
	for _, item := range []string{nodeWork + "n", moduleWork + "ns/a", imageWork + "ns/a", preflightWork + "p"} {
		q.Add(item)
	}
	q.Add(imageWork + "ns/a")
	assert.Equal(t, 2, q.cluster.Len())
	assert.Equal(t, 2, q.registry.Len())
	assert.Equal(t, 4, q.Len())
	item, _ := q.registry.Get()
	assert.Equal(t, imageWork+"ns/a", item)
	q.Add(item) // while it is being looked at
	q.Done(item)
	assert.Equal(t, 4, q.Len())
	q.ShutDown()
	for q.Len() > 0 {
		for _, one := range []interface{ Get() (string, bool) }{q.cluster, q.registry} {
			item, quit := one.Get()
			assert.Equal(t, item == "", quit)
			q.Done(item)
		}
	}
}

// TestRegistryHangs: while a registry does not answer, nodes and Modules are looked at.
func TestRegistryHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := make(chan struct{})
		w := idle(fake.NewClientset(dockerfile("FROM x")), func(context.Context, ImageRequest) (string, error) {
			<-answers
			return "", errors.New("no answer")
		})
		w.cfg.Workers = 4
		require.NoError(t, w.nodes.GetStore().Add(labelled()))
		var modules []any
		for i := range 8 {
			m := fromDockerfile(fmt.Sprint("m", i))
			modules = append(modules, m)
			require.NoError(t, w.modules.GetStore().Add(m))
			w.queue.Add(imageWork + "ns/" + m.Name)
		}
		var running sync.WaitGroup
		w.startWorkers(t.Context(), func(f func()) { running.Go(f) })
		synctest.Wait()
		assert.Equal(t, 6, w.queue.Len(), "two have asked, and wait")
		w.queue.Add(nodeWork + "gone")
		w.queue.Add(moduleWork + "ns/gone")
		synctest.Wait()
		assert.Equal(t, 6, w.queue.Len(), "nobody else does")
		for _, m := range modules {
			require.NoError(t, w.modules.GetStore().Delete(m))
		}
		close(answers)
		synctest.Wait()
		assert.Zero(t, w.queue.Len())
		w.queue.ShutDown()
		running.Wait()
	})
}
