// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/firmware"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/spec"
)

func TestHTTP(t *testing.T) {
	dir := t.TempDir()
	fw, err := firmware.Open(filepath.Join(dir, "firmware"), filepath.Join(dir, "firmware.json"))
	require.NoError(t, err)
	registry := prometheus.NewRegistry()
	a := agent.New(agent.Config{
		Kernel: kerneltest.New("6.1"), Firmware: fw, ModulesDir: dir, RunDir: dir, FirmwareDir: dir, Version: "v1",
		Log: slog.New(slog.DiscardHandler), Metrics: agent.NewMetrics(registry),
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- serve(ctx, l, a, registry) }()
	ask := func(method, path string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Addr().String()+path, nil)
		require.NoError(t, err)
		answer, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return answer.StatusCode, string(body)
	}
	for _, tt := range []struct {
		when, method, path string
		code               int
		body               string
	}{
		{"before", "GET", "/readyz", 503, "the first look at the node is not finished"},
		{"before", "GET", "/livez", 200, "ok\n"},
		{"after", "GET", "/readyz", 200, "ok\n"},
		{"after", "HEAD", "/readyz", 200, ""},
		{"after", "GET", "/livez", 200, "ok\n"},
		{"after", "GET", "/metrics", 200, `kmmd_info{kernel="6.1",version="v1"} 1`},
		{"after", "POST", "/metrics", 405, ""},
		{"after", "GET", "/", 404, ""},
		{"after", "GET", "/debug/pprof/", 404, ""},
	} {
		if tt.when == "after" && !a.Ready() {
			a.SetDesired(spec.Node{})
			_, err := a.Reconcile(t.Context())
			require.NoError(t, err)
		}
		t.Run(tt.when+" "+tt.method+" "+tt.path, func(t *testing.T) {
			code, body := ask(tt.method, tt.path)
			assert.Equal(t, tt.code, code)
			assert.Contains(t, body, tt.body)
		})
	}
	cancel()
	require.NoError(t, <-done)
}

// TestAddressIsTaken: every user of the node can be there before us. It is told once, and tried until the address is free.
func TestAddressIsTaken(t *testing.T) {
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		other, err := net.Listen("tcp", "127.0.77.1:0")
		require.NoError(t, err)
		start := time.Now()
		time.AfterFunc(3*listenAgain-time.Second, func() { assert.NoError(t, other.Close()) })
		l := listen(t.Context(), other.Addr().String(), slog.New(slog.NewTextHandler(&log, nil)))
		require.NotNil(t, l)
		require.NoError(t, l.Close())
		assert.Equal(t, 3*listenAgain, time.Since(start))
	})
	assert.Equal(t, 1, strings.Count(log.String(), "level=ERROR"), "%s", log.String())

	other, err := net.Listen("tcp", "127.0.77.1:0")
	require.NoError(t, err)
	defer other.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := &node{config: config{Listen: other.Addr().String()}, log: slog.New(slog.DiscardHandler)}
	assert.NoError(t, n.serve(ctx, prometheus.NewRegistry()), "no reason to end")
}
