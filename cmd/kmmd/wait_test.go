// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// free is an address nobody listens at.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.77.1:0") // connections and other tests take their ports of 127.0.0.1
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

// TestAwait: who waits is ready, and goes on when the other one ends.
func TestAwait(t *testing.T) {
	var log bytes.Buffer
	c := config{RunDir: t.TempDir(), Listen: free(t)}
	require.NoError(t, await(t.Context(), c, slog.New(slog.NewTextHandler(&log, nil))), "nobody is there")
	assert.Empty(t, log.String())

	other, err := lock(c.RunDir)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- await(t.Context(), c, slog.New(slog.NewTextHandler(&log, nil))) }()
	assert.Eventually(t, func() bool {
		r, err := http.Get("http://" + c.Listen + "/readyz")
		if err != nil {
			return false
		}
		return r.Body.Close() == nil && r.StatusCode == http.StatusOK
	}, time.Minute, 10*time.Millisecond)
	select {
	case err := <-done:
		require.FailNow(t, "it did not wait", "%v", err)
	default:
	}
	require.NoError(t, other.Close())
	require.NoError(t, <-done)
	assert.Contains(t, log.String(), "another kmmd looks after this node")
	l, err := net.Listen("tcp", c.Listen)
	require.NoError(t, err, "the address is free for the work itself")
	require.NoError(t, l.Close())
}

// TestAwaitSameNetwork: the other one has the address.
func TestAwaitSameNetwork(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c := config{RunDir: t.TempDir(), Listen: l.Addr().String()}
	other, err := lock(c.RunDir)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- await(t.Context(), c, slog.New(slog.DiscardHandler)) }()
	require.NoError(t, other.Close())
	require.NoError(t, <-done)
}
