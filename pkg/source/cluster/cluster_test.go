// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/source/cluster"
	"github.com/kmm-node/kmmd/pkg/source/cluster/clustertest"
	"github.com/kmm-node/kmmd/pkg/spec"
)

const patience = time.Minute

func TestContract(t *testing.T) {
	f := clustertest.NewFake(t)
	clustertest.Test(t, clustertest.Server{Admin: f.Config(), Stop: f.Stop, Start: f.Start})
}

// watch runs a source until the test ends, and gives what it wants.
func watch(t *testing.T, s *cluster.Source) <-chan spec.Node {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	got, done := make(chan spec.Node, 100), make(chan error, 1)
	go func() { done <- s.Watch(ctx, func(n spec.Node) { got <- n }) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	return got
}

func next(t *testing.T, got <-chan spec.Node) spec.Node {
	t.Helper()
	select {
	case n := <-got:
		return n
	case <-time.After(patience):
		require.Fail(t, "nothing is wanted")
		panic("not reached")
	}
}

const savedState = `{"node":"worker-1","uid":"u","generation":4,"modules":[{"namespace":"ns","name":"nic","revision":"r4","moduleLoader":{"container":{
"modprobe":{"moduleName":"dummy"},"kernelMappings":[{"regexp":"^6","containerImage":"r/x:1","inTreeModulesToRemove":[]}],"inTreeModulesToRemove":["dummy"]}}}]}`

func TestSavedState(t *testing.T) {
	for _, tt := range []struct {
		name, state, node string
		ok                bool
		log               string
	}{
		{"ours", savedState, "worker-1", true, ""},
		{"another node's", savedState, "worker-2", false, "another node's"},
		{"damaged", savedState[:50], "worker-1", false, "not readable"},
		{"none", "", "worker-1", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cluster.json")
			if tt.state != "" {
				require.NoError(t, os.WriteFile(path, []byte(tt.state), 0o600))
			}
			var log strings.Builder
			nowhere := errors.New("nowhere")
			var asked atomic.Int64
			s, err := cluster.New(cluster.Config{
				Node: tt.node, StateFile: path, Log: slog.New(slog.NewTextHandler(io.MultiWriter(&log, t.Output()), nil)),
				Connect: func() (*rest.Config, error) { asked.Add(1); return nil, nowhere },
			})
			require.NoError(t, err)
			assert.Contains(t, log.String(), tt.log)
			n, ok := s.Saved()
			assert.Equal(t, tt.ok, ok)
			got := watch(t, s)
			require.Eventually(t, func() bool { return asked.Load() > 1 }, patience, 10*time.Millisecond, "it goes on trying")
			if !tt.ok {
				assert.Empty(t, got, "nobody knows what is wanted")
				return
			}
			assert.Equal(t, n, next(t, got))
			assert.Empty(t, got)
			require.Len(t, n.Modules, 1)
			choice, err := n.Modules[0].For("6.1.0")
			require.NoError(t, err)
			assert.Empty(t, choice.RemoveInTree, "the explicit [] is in the file too")
			assert.EqualValues(t, 4, n.Generation)
			secrets := s.Secrets(t.Context(), "ns", []string{"a"})
			assert.ErrorIs(t, secrets[0].Err, nowhere)
		})
	}
}

func TestMetrics(t *testing.T) {
	f := clustertest.NewFake(t)
	admin, err := client.New(f.Config())
	require.NoError(t, err)
	_, err = admin.NodeModulesConfigs().Create(t.Context(), &v1beta1.NodeModulesConfig{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	r := prometheus.NewRegistry()
	m := cluster.NewMetrics(r)
	s, err := cluster.New(cluster.Config{Node: "a", Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Metrics: m,
		Connect: func() (*rest.Config, error) { return f.Config(), nil }})
	require.NoError(t, err)
	got := watch(t, s)
	next(t, got)
	for _, release := range []string{"one", "two"} {
		require.NoError(t, s.Report(t.Context(), spec.Status{ObservedGeneration: 1, KernelRelease: release}))
		require.Eventually(t, func() bool {
			o, err := admin.NodeModulesConfigs().Get(t.Context(), "a", metav1.GetOptions{})
			return err == nil && o.Status.KernelRelease == release
		}, patience, 10*time.Millisecond)
	}
	want := map[string]float64{"kmmd_cluster_connected": 1, "kmmd_cluster_status_writes_total failed": 0, "kmmd_cluster_status_writes_total ok": 2}
	// The server has a write before its writer knows.
	require.Eventually(t, func() bool { return assert.ObjectsAreEqual(want, figures(t, r)) }, patience, 10*time.Millisecond)
}

// figures are values by name and labels.
func figures(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

func TestAccess(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	const kubeconfig = `{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: "https://api.example:6443", certificate-authority: ca.crt}}],
contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {USER}}]}`
	with := func(user string) string { return strings.Replace(kubeconfig, "USER", user, 1) }
	write("ca.crt", "x")
	cert := write("client.pem", "x")
	cfg, err := cluster.Access(write("kubelet.conf", with("client-certificate: client.pem, client-key: client.pem")), "kmmd/1")()
	require.NoError(t, err)
	assert.Equal(t, "https://api.example:6443", cfg.Host)
	assert.Equal(t, cert, cfg.CertFile, "by its name, so that it is read again")
	assert.Equal(t, "kmmd/1", cfg.UserAgent)
	_, err = cluster.Access(write("exec.conf", with("exec: {apiVersion: client.authentication.k8s.io/v1, command: aws, interactiveMode: Never}")), "")()
	assert.ErrorContains(t, err, "names a program to be run")
	_, err = cluster.Access(filepath.Join(dir, "none"), "")()
	assert.ErrorIs(t, err, os.ErrNotExist)
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	_, err = cluster.Access("", "")()
	assert.ErrorContains(t, err, "this is no pod")
}

func TestNoName(t *testing.T) {
	_, err := cluster.New(cluster.Config{})
	assert.ErrorContains(t, err, "no name")
}
