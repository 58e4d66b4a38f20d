// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/spec"
)

// swallower is a way to an API server that swallows the first answers of each
// kind, and all that comes in a watch. Connections stay.
type swallower struct {
	swallow int
	asked   int
	sent    chan string
	ends    time.Duration // not 0: a watch ends after that, as if all had been said
}

func (s *swallower) RoundTrip(r *http.Request) (*http.Response, error) {
	watching := r.URL.Query().Get("watch") != ""
	if s.asked++; s.asked <= s.swallow {
		s.sent <- "swallowed"
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	answer := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Request: r}
	if !watching {
		s.sent <- "list"
		answer.Body = io.NopCloser(strings.NewReader(`{"kind":"NodeModulesConfigList","apiVersion":"kmm.sigs.x-k8s.io/v1beta1","metadata":{"resourceVersion":"1"},"items":[]}`))
		return answer, nil
	}
	s.sent <- "watch"
	body, silent := io.Pipe()
	context.AfterFunc(r.Context(), func() { _ = silent.CloseWithError(errors.New("cancelled")) })
	answer.Body = body
	if s.ends != 0 {
		time.AfterFunc(s.ends, func() { _ = silent.Close() })
	}
	return answer, nil
}

func impatient(t *testing.T, way *swallower) *Source {
	t.Helper()
	s, err := New(Config{Node: "n", Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Connect: func() (*rest.Config, error) {
		return &rest.Config{Host: "http://api.example", Transport: way, QPS: -1}, nil
	}})
	require.NoError(t, err)
	s.patience = 20 * time.Millisecond
	return s
}

// TestAnswersAreSwallowed: it is asked again, though the connections stay.
func TestAnswersAreSwallowed(t *testing.T) {
	way := &swallower{swallow: 2, sent: make(chan string, 10)}
	s := impatient(t, way)
	ctx, cancel := context.WithCancel(t.Context())
	heard, done := make(chan spec.Node, 1), make(chan error, 1)
	go func() { done <- s.Watch(ctx, func(n spec.Node) { heard <- n }) }()
	<-heard
	require.Equal(t, "swallowed", <-way.sent)
	require.Equal(t, "swallowed", <-way.sent)
	require.Equal(t, "list", <-way.sent)
	require.Equal(t, "watch", <-way.sent)
	cancel()
	require.NoError(t, <-done)
}

// TestSilentWatch: a watch that outlives the time it was asked for has an end, and
// so has one that is not answered.
func TestSilentWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		way := &swallower{swallow: 1, sent: make(chan string, 10)}
		s := impatient(t, way)
		seconds := int64(0)
		_, err := s.watch(t.Context(), metav1.ListOptions{Watch: true, TimeoutSeconds: &seconds})
		require.ErrorIs(t, err, context.Canceled)
		w, err := s.watch(t.Context(), metav1.ListOptions{Watch: true, TimeoutSeconds: &seconds})
		require.NoError(t, err)
		defer w.Stop()
		for range w.ResultChan() { // until it is closed
		}
	})
}

// TestShortWatches: when watches end early and without a word, what they would have
// told is asked for. The reflector alone watches again and again from where it was.
func TestShortWatches(t *testing.T) {
	for _, c := range []struct {
		name string
		ends time.Duration
		want []string
	}{
		{"early", 1100 * time.Millisecond, []string{"list", "watch", "watch", "watch", "list", "watch", "watch", "watch", "list"}},
		{"in time", time.Minute, []string{"list", "watch", "watch", "watch", "watch", "watch", "watch", "watch", "watch"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				way := &swallower{sent: make(chan string, 1000), ends: c.ends}
				s := impatient(t, way)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- s.Watch(ctx, func(spec.Node) {}) }()
				for n, want := range c.want {
					require.Equal(t, want, <-way.sent, n)
				}
				cancel()
				require.NoError(t, <-done)
			})
		})
	}
}
