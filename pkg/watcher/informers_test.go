// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// TestAccountEvents: only ServiceAccounts that a Module pulls with concern the nodes.
func TestAccountEvents(t *testing.T) {
	w := idle(fake.NewClientset(), nil)
	defer w.queue.ShutDown()
	require.NoError(t, w.modules.GetStore().Add(module("a", "1")))
	require.NoError(t, w.modules.GetStore().Add(module("b", "1", func(m *v1beta1.Module) { m.Spec.ModuleLoader.ServiceAccountName = "puller" })))
	require.NoError(t, w.modules.GetStore().Add(module("plugin", "1", withPlugin, func(m *v1beta1.Module) { m.Namespace, m.Spec.ModuleLoader = "plugins", nil })))
	account := func(namespace, name string) *corev1.ServiceAccount {
		return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	events := w.accountEvents()
	for _, tt := range []struct {
		account *corev1.ServiceAccount
		fans    bool
	}{
		{account("ns", "default"), true}, {account("ns", "puller"), true}, {account("ns", "builder"), false},
		{account("other", "default"), false}, {account("other", "puller"), false}, {account("plugins", "default"), false},
	} {
		with := tt.account.DeepCopy()
		with.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "s"}}
		for what, happens := range map[string]func(){
			"added":                 func() { events.OnAdd(tt.account, false) },
			"changed":               func() { events.OnUpdate(tt.account, with) },
			"deleted":               func() { events.OnDelete(tt.account) },
			"deleted some time ago": func() { events.OnDelete(cache.DeletedFinalStateUnknown{Obj: tt.account}) },
		} {
			happens()
			assert.Equal(t, tt.fans, fans(w), "%s/%s is %s", tt.account.Namespace, tt.account.Name, what)
		}
		events.OnUpdate(tt.account, tt.account)
		assert.False(t, fans(w))
	}
}

// fans reports whether all nodes are to be looked at.
func fans(w *Watcher) bool {
	select {
	case <-w.fanned:
		return true
	default:
		return false
	}
}

// TestNodeEvents: what this program writes onto a node does not change what images are made for it.
func TestNodeEvents(t *testing.T) {
	other := v1beta1.LabelPrefix + "ns.other.ready"
	onTop := fromDockerfile("ontop")
	onTop.Spec.Selector = map[string]string{"w": "", other: ""}
	for _, tt := range []struct {
		name    string
		modules []*v1beta1.Module
		change  func(n *corev1.Node)
		looks   int // at images
	}{
		{"labels of ours", []*v1beta1.Module{fromDockerfile("a")}, func(n *corev1.Node) { n.Labels[isReady], n.Labels[other] = "", "" }, 0},
		{"one of ours that a Module selects by", []*v1beta1.Module{onTop}, func(n *corev1.Node) { n.Labels[other] = "" }, 1},
		{"one of ours that none selects by", []*v1beta1.Module{onTop}, func(n *corev1.Node) { n.Labels[isReady] = "" }, 0},
		{"what version it is to run", []*v1beta1.Module{fromDockerfile("a")}, func(n *corev1.Node) { n.Labels[asked] = "v1" }, 1},
		{"another label", []*v1beta1.Module{fromDockerfile("a"), fromDockerfile("b")}, func(n *corev1.Node) { delete(n.Labels, "w") }, 2},
		{"another kernel", []*v1beta1.Module{fromDockerfile("a")}, func(n *corev1.Node) { n.Status.NodeInfo.KernelVersion = "6.9" }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := idle(fake.NewClientset(), nil)
				defer w.queue.ShutDown()
				wants := wanted(tt.modules...)
				w.wants.Store(&wants)
				before, after := labelled(), labelled()
				tt.change(after)
				w.nodeEvents().OnUpdate(before, after)
				time.Sleep(2 * together) // of the test's clock
				synctest.Wait()
				assert.Equal(t, tt.looks, w.queue.registry.Len())
				assert.Equal(t, 1, w.queue.cluster.Len(), "the node itself is looked at")
			})
		})
	}
}

// TestBlind: a Watcher that may not read is not at work, and says of what it knows nothing.
func TestBlind(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`))
	}))
	defer server.Close()
	cfg := &rest.Config{Host: server.URL}
	api, err := client.New(cfg)
	require.NoError(t, err)
	registry := prometheus.NewRegistry()
	w, err := New(Config{Kube: kubernetes.NewForConfigOrDie(cfg), API: api, Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(registry, "v1")})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	assert.Eventually(t, func() bool {
		said := figures(t, registry)
		return strings.Contains(said, `read_errors_total{resource="modules"}`) && strings.Contains(said, `read_errors_total{resource="nodes"}`)
	}, time.Minute, 10*time.Millisecond)
	assert.Contains(t, figures(t, registry), "leader 0\n")
	assert.False(t, w.Ready())

	w.unreadable("NodeModulesConfig", "", "n1", errors.New("no time"))
	assert.Contains(t, figures(t, registry), `unreadable_statuses_total{kind="NodeModulesConfig"} 1`)
	stop()
	require.NoError(t, <-done)
}

// TestReadFailed: a watch that ends is no failure.
func TestReadFailed(t *testing.T) {
	registry := prometheus.NewRegistry()
	w := &Watcher{cfg: Config{Metrics: NewMetrics(registry, "v1")}}
	r := cache.NewReflector(&cache.ListWatch{}, nil, nil, 0)
	for _, err := range []error{io.EOF, io.ErrUnexpectedEOF, apierrors.NewResourceExpired("too old"), apierrors.NewInternalError(errors.New("no time"))} {
		w.readFailed("nodes")(t.Context(), r, err)
	}
	assert.Contains(t, figures(t, registry), `read_errors_total{resource="nodes"} 1`)
}
