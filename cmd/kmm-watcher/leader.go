// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/watcher"
)

// leader runs the watcher while it holds the lease.
type leader struct {
	options
	log     *slog.Logger
	kube    kubernetes.Interface
	watcher *watcher.Watcher
	health  *leaderelection.HealthzAdaptor
	leading atomic.Bool
}

func newLeader(o options, log *slog.Logger, registry *prometheus.Registry) (*leader, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	cfg.UserAgent = "kmm-watcher/" + version()
	cfg.QPS = -1 // the API server has its own idea of fairness
	subjects, err := agents(o)
	if err != nil {
		return nil, err
	}
	proto := rest.CopyConfig(cfg)
	proto.ContentType, proto.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	kube, err := kubernetes.NewForConfig(proto)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	own, err := client.New(cfg)
	if err != nil {
		return nil, err
	}
	w, err := watcher.New(watcher.Config{
		Kube: kube, API: own, Agents: subjects, Log: log, Metrics: watcher.NewMetrics(registry), Workers: o.workers,
	})
	if err != nil {
		return nil, err
	}
	return &leader{options: o, log: log, kube: kube, watcher: w, health: leaderelection.NewLeaderHealthzAdaptor(20 * time.Second)}, nil
}

// agents are who may read the pull secrets.
func agents(o options) ([]rbacv1.Subject, error) {
	namespace, name, ok := strings.Cut(o.account, "/")
	if !ok || namespace == "" || name == "" {
		return nil, fmt.Errorf("--agent-service-account %q: NAMESPACE/NAME is needed", o.account)
	}
	out := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}}
	if o.group != "" {
		out = append(out, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: o.group})
	}
	return out, nil
}

// run returns when ctx is done, or with an error when the lease was lost: what
// another one may do by now must not be done here too.
func (l *leader) run(ctx context.Context) error {
	if !l.leaderElect {
		l.leading.Store(true)
		return l.watcher.Run(ctx)
	}
	var failed error // of the watcher itself; written before elector.Run returns
	done := make(chan struct{})
	electing, cancel := context.WithCancel(ctx)
	defer cancel()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: "kmm-watcher"}, Client: l.kube.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: l.identity},
		},
		LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
		ReleaseOnCancel: true, Name: "kmm-watcher", WatchDog: l.health,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				defer close(done)
				l.log.Info("holds the lease")
				l.leading.Store(true)
				failed = l.watcher.Run(ctx)
				cancel()
			},
			OnStoppedLeading: func() {},
			OnNewLeader:      func(identity string) { l.log.Info("the lease is held", "by", identity) },
		},
	})
	if err != nil {
		return fmt.Errorf("set up leader election: %w", err)
	}
	elector.Run(electing)
	if l.leading.Load() {
		<-done
	}
	switch {
	case failed != nil:
		return failed
	case ctx.Err() == nil:
		return errors.New("lost the lease: another one may be at work")
	}
	return nil
}

func (l *leader) live() error { return l.health.Check(&http.Request{}) }

// ready: one that waits for the lease is ready to take over.
func (l *leader) ready() error {
	if l.leading.Load() && !l.watcher.Ready() {
		return errors.New("the cluster has not been read yet")
	}
	return nil
}
