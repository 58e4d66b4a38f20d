// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// askTimeout is how long the API server may take to answer. A list and the begin
// of a watch are a moment's work, and what stands between may swallow an answer
// and keep the connection.
const askTimeout = 30 * time.Second

// A watch is short when it was over within shortWatch. After shortWatches in a row
// it is time for a list: something on the way ends them, and may keep to itself
// what they had to tell. The reflector would watch again from where it was, for
// ever (client-go, tools/cache/reflector.go; it minds only those of less than a
// second).
const (
	shortWatch   = 10 * time.Second
	shortWatches = 3
)

func (s *Source) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	s.short = 0
	c, err := s.server()
	if err != nil {
		return nil, s.note(ctx, err)
	}
	asking, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	list, err := c.NodeModulesConfigs().List(asking, s.only(o))
	return list, s.note(ctx, err)
}

func (s *Source) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	if s.short >= shortWatches {
		return nil, apierrors.NewResourceExpired("watches end early")
	}
	c, err := s.server()
	if err != nil {
		return nil, s.note(ctx, err)
	}
	watching, cancel := context.WithCancel(ctx)
	slow := time.AfterFunc(s.patience, cancel)
	w, err := c.NodeModulesConfigs().Watch(watching, s.only(o))
	slow.Stop()
	if err != nil {
		cancel()
		return nil, s.note(ctx, err)
	}
	return s.bound(w, cancel, o.TimeoutSeconds), s.note(ctx, nil)
}

// bounded is a watch that ends also when the other side forgets to: it is asked
// for with the time after which the API server ends it.
type bounded struct {
	watch.Interface
	cancel context.CancelFunc
	late   *time.Timer
	over   func() // told of the end, once
}

func (s *Source) bound(w watch.Interface, cancel context.CancelFunc, seconds *int64) *bounded {
	began := time.Now()
	b := &bounded{Interface: w, cancel: cancel, over: sync.OnceFunc(func() { s.over(time.Since(began)) })}
	if seconds != nil {
		b.late = time.AfterFunc(time.Duration(*seconds)*time.Second+s.patience, cancel)
	}
	return b
}

// over counts a watch that has ended.
func (s *Source) over(after time.Duration) {
	if after < shortWatch {
		s.short++
	} else {
		s.short = 0
	}
}

// Stop implements watch.Interface.
func (b *bounded) Stop() {
	if b.late != nil {
		b.late.Stop()
	}
	b.Interface.Stop()
	b.cancel()
	b.over()
}
