// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/spec"
)

// swallower is a way to an API server that swallows answers: the first list, and
// whatever comes in a watch.
type swallower struct{ lists, watches int }

func (s *swallower) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Request: r}
	if r.URL.Query().Get("watch") != "" {
		if s.watches++; s.watches == 1 {
			<-r.Context().Done() // no answer at all
			return nil, r.Context().Err()
		}
		body, silent := io.Pipe()
		context.AfterFunc(r.Context(), func() { _ = silent.CloseWithError(r.Context().Err()) })
		answer.Body = body
		return answer, nil
	}
	if s.lists++; s.lists == 1 {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	answer.Body = io.NopCloser(strings.NewReader(`{"kind":"NodeModulesConfigList","apiVersion":"kmm.sigs.x-k8s.io/v1beta1","metadata":{"resourceVersion":"1"},"items":[]}`))
	return answer, nil
}

// TestAnswersAreSwallowed: nothing is waited for without end, though the
// connection stays.
func TestAnswersAreSwallowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		way := &swallower{}
		s, err := New(Config{Node: "n", Log: slog.New(slog.DiscardHandler), Connect: func() (*rest.Config, error) {
			return &rest.Config{Host: "http://api.example", Transport: way, QPS: -1}, nil
		}})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done, heard := make(chan error, 1), time.Time{}
		start := time.Now()
		go func() { done <- s.Watch(ctx, func(spec.Node) { heard = time.Now() }) }()

		<-time.After(time.Minute)
		synctest.Wait()
		assert.WithinRange(t, heard, start.Add(askTimeout), start.Add(askTimeout+2*firstAsk), "the list is asked for again")
		assert.Equal(t, 1, way.watches)
		<-time.After(time.Minute)
		synctest.Wait()
		assert.Equal(t, 2, way.watches, "so is the watch")
		<-time.After(11 * time.Minute) // it was asked for for at most 10
		synctest.Wait()
		assert.Equal(t, 3, way.watches, "and one in which nothing comes")
		cancel()
		require.NoError(t, <-done)
	})
}
