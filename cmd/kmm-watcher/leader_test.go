// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/leaderelection"
)

// TestLive: one that has lost the lease and does not end is not alive. One that only
// waits for it is.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube, refuse := fake.NewClientset(), atomic.Bool{}
		kube.PrependReactor("update", "leases", func(k8stesting.Action) (bool, runtime.Object, error) {
			return refuse.Load(), nil, errors.New("refused")
		})
		l := &leader{
			options: options{namespace: "kmm-system", identity: "me"}, kube: kube, log: slog.New(slog.DiscardHandler),
			health: leaderelection.NewLeaderHealthzAdaptor(20 * time.Second),
		}
		require.NoError(t, l.live())
		stuck, ended, cancelled := make(chan struct{}), make(chan error), atomic.Bool{}
		go func() {
			ended <- l.term(t.Context(), func(ctx context.Context) error {
				<-ctx.Done()
				cancelled.Store(true)
				<-stuck
				return nil
			})
		}()
		time.Sleep(10 * time.Minute) // of the test's clock
		require.NoError(t, l.live(), "it renews the lease")
		refuse.Store(true)
		time.Sleep(15 * time.Second)
		assert.True(t, cancelled.Load(), "it is to stop working before another one begins")
		require.NoError(t, l.live())
		time.Sleep(25 * time.Second)
		require.Error(t, l.live(), "and does not")
		close(stuck)
		require.NoError(t, <-ended)

		refuse.Store(false)
		ctx, cancel := context.WithCancel(t.Context())
		other := &leader{options: options{namespace: "kmm-system", identity: "other"}, kube: kube, log: l.log, health: leaderelection.NewLeaderHealthzAdaptor(20 * time.Second)}
		idle := func(ctx context.Context) error { <-ctx.Done(); return nil }
		go func() { ended <- other.term(ctx, idle) }()
		time.Sleep(time.Minute)
		waiting, stop := context.WithCancel(t.Context())
		go func() { ended <- l.term(waiting, idle) }()
		time.Sleep(10 * time.Minute)
		require.NoError(t, l.live(), "the lease is another's")
		stop()
		require.NoError(t, <-ended)
		cancel()
		require.NoError(t, <-ended)
	})
}

// TestNotAlive: nor is one that does not end, and whose lease is another's by now.
func TestNotAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube, taken := fake.NewClientset(), atomic.Bool{}
		kube.PrependReactor("update", "leases", func(k8stesting.Action) (bool, runtime.Object, error) {
			return taken.Load(), nil, errors.New("it has been modified")
		})
		l := &leader{
			options: options{namespace: "kmm-system", identity: "me"}, kube: kube, log: slog.New(slog.DiscardHandler),
			health: leaderelection.NewLeaderHealthzAdaptor(toEnd),
		}
		stuck, ended := make(chan struct{}), make(chan error)
		go func() {
			ended <- l.term(t.Context(), func(ctx context.Context) error {
				<-ctx.Done()
				<-stuck
				return nil
			})
		}()
		time.Sleep(time.Minute) // of the test's clock
		leases := kube.CoordinationV1().Leases("kmm-system")
		lease, err := leases.Get(t.Context(), "kmm-watcher", metav1.GetOptions{})
		require.NoError(t, err)
		other, now := "other", metav1.NowMicro()
		lease.Spec.HolderIdentity, lease.Spec.RenewTime = &other, &now
		_, err = leases.Update(t.Context(), lease, metav1.UpdateOptions{})
		require.NoError(t, err)
		taken.Store(true)
		time.Sleep(15 * time.Second)
		require.NoError(t, l.live(), "it may be about to end")
		time.Sleep(toEnd)
		require.Error(t, l.live())
		taken.Store(false)
		close(stuck)
		require.NoError(t, <-ended)
		require.NoError(t, l.live(), "it waits again")
	})
}

// leaseServer is an API server with one Lease. While hang is set, no request is answered.
type leaseServer struct {
	hang    atomic.Bool
	lease   coordinationv1.Lease
	renewed time.Time
}

func (s *leaseServer) RoundTrip(r *http.Request) (*http.Response, error) {
	if s.hang.Load() {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	answer, code := any(&s.lease), http.StatusOK
	switch {
	case r.Method != http.MethodGet:
		s.lease = coordinationv1.Lease{}
		if err := json.NewDecoder(r.Body).Decode(&s.lease); err != nil {
			return nil, err
		}
		s.lease.TypeMeta, s.renewed = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}, time.Now()
	case s.renewed.IsZero():
		answer, code = &apierrors.NewNotFound(schema.GroupResource{Resource: "leases"}, "kmm-watcher").ErrStatus, http.StatusNotFound
	}
	b, err := json.Marshal(answer)
	return &http.Response{
		StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(b)), Request: r,
	}, err
}

// TestEndsBeforeAnotherBegins: when requests hang, the work has ended before another one may begin. The lease is not
// given back before it has.
func TestEndsBeforeAnotherBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &leaseServer{}
		kube, err := kubernetes.NewForConfig(&rest.Config{
			Host: "http://api.example", Transport: server, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: runtime.ContentTypeJSON},
		})
		require.NoError(t, err)
		l := &leader{
			options: options{namespace: "kmm-system", identity: "me"}, kube: kube, log: slog.New(slog.DiscardHandler),
			health: leaderelection.NewLeaderHealthzAdaptor(toEnd),
		}
		cancelled, end, ended := make(chan time.Time, 1), make(chan struct{}), make(chan error)
		term := func(ctx context.Context) {
			ended <- l.term(ctx, func(ctx context.Context) error {
				<-ctx.Done()
				cancelled <- time.Now()
				<-end
				return nil
			})
		}
		go term(t.Context())
		time.Sleep(time.Minute) // of the test's clock
		server.hang.Store(true)
		at := <-cancelled
		assert.Less(t, at.Sub(server.renewed), 15*time.Second)
		end <- struct{}{}
		require.NoError(t, <-ended)
		assert.Equal(t, "me", *server.lease.Spec.HolderIdentity, "it runs out")

		server.hang.Store(false)
		ctx, stop := context.WithCancel(t.Context())
		go term(ctx)
		time.Sleep(time.Minute)
		stop()
		<-cancelled
		time.Sleep(time.Second)
		assert.Equal(t, "me", *server.lease.Spec.HolderIdentity, "it has not ended")
		end <- struct{}{}
		require.NoError(t, <-ended)
		assert.Empty(t, *server.lease.Spec.HolderIdentity)
	})
}
