// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
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
	"k8s.io/client-go/util/retry"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/version"
	"github.com/kmm-node/kmmd/pkg/watcher"
)

// leader runs the watcher while it holds the lease.
type leader struct {
	options
	log     *slog.Logger
	kube    kubernetes.Interface
	config  watcher.Config
	health  *leaderelection.HealthzAdaptor
	watcher atomic.Pointer[watcher.Watcher] // the one at work, nil without the lease
	holder  atomic.Pointer[string]          // who holds the lease, nil when that is not known
	over    atomic.Pointer[time.Time]       // since when the work is to have ended, nil while it may go on
}

// toEnd is how long the work may take to end when the lease is lost.
const toEnd = 20 * time.Second

func newLeader(o options, log *slog.Logger, registry *prometheus.Registry) (*leader, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	cfg.UserAgent = "kmm-watcher/" + version.String()
	cfg.QPS = -1 // the API server has its own idea of fairness
	subjects, err := agents(o)
	if err != nil {
		return nil, err
	}
	making, err := o.images.config(o.namespace)
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
	return &leader{
		options: o, log: log, kube: kube, health: leaderelection.NewLeaderHealthzAdaptor(toEnd),
		config: watcher.Config{
			Kube: kube, API: own, Agents: subjects, Log: log, Metrics: watcher.NewMetrics(registry, version.String()), Workers: o.workers,
			Images: making,
		},
	}, nil
}

// agents are who may read the pull secrets.
func agents(o options) ([]rbacv1.Subject, error) {
	namespace, name, ok := strings.Cut(o.account, "/")
	if !ok || namespace == "" || name == "" {
		return nil, usageError{fmt.Errorf("--agent-service-account %q: NAMESPACE/NAME is needed", o.account)}
	}
	out := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}}
	if o.group != "" {
		out = append(out, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: o.group})
	}
	return out, nil
}

// run works whenever it holds the lease, until ctx is done. One that has lost it,
// for which a minute without the API server is enough, begins anew: what another
// one has done meanwhile is read again.
func (l *leader) run(ctx context.Context) error {
	if !l.leaderElect {
		return l.watch(ctx)
	}
	for ctx.Err() == nil {
		if err := l.term(ctx, l.watch); err != nil {
			return err
		}
	}
	return nil
}

// Timing of the lease. Who can not renew it ends its work after renewDeadline, and
// another one begins after leaseDuration.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
)

// term waits for the lease and works until it is lost. It returns when the work
// has ended; only then the lease is given back, if it is still there: the elector
// would have the work go on as long as the API server takes for that.
func (l *leader) term(ctx context.Context, work func(context.Context) error) error {
	var failed error // of the watcher itself
	var working sync.WaitGroup
	electing, cancel := context.WithCancel(ctx)
	defer cancel()
	working.Add(1)
	var began atomic.Bool
	lock := &resourcelock.LeaseLock{
		LeaseMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: "kmm-watcher"}, Client: l.kube.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: l.identity},
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:          lock,
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: 2 * time.Second,
		Name: "kmm-watcher",
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				began.Store(true)
				defer working.Done()
				failed = work(ctx)
				cancel()
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(identity string) {
				l.holder.Store(&identity)
				l.log.Info("the lease is held", "by", identity)
			},
		},
	})
	if err != nil {
		return fmt.Errorf("set up leader election: %w", err)
	}
	l.health.SetLeaderElection(elector)
	elector.Run(electing)
	if ctx.Err() != nil && !began.Load() {
		return nil // it never had the lease
	}
	now := time.Now()
	l.over.Store(&now)
	working.Wait()
	l.over.Store(nil)
	if err := l.release(context.WithoutCancel(ctx), lock); err != nil {
		l.log.Info("the lease is not given back: it runs out", "err", err)
	}
	return failed
}

// release gives the lease back, so that another one need not wait until it runs out.
func (l *leader) release(ctx context.Context, lock *resourcelock.LeaseLock) error {
	ctx, cancel := context.WithTimeout(ctx, renewDeadline)
	defer cancel()
	// A renewal that was broken off may be on its way.
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		record, _, err := lock.Get(ctx)
		if err != nil || record.HolderIdentity != l.identity {
			return err
		}
		now := metav1.Now()
		return lock.Update(ctx, resourcelock.LeaderElectionRecord{
			LeaderTransitions: record.LeaderTransitions, LeaseDurationSeconds: 1, RenewTime: now, AcquireTime: now,
		})
	})
}

// watch is the work itself.
func (l *leader) watch(ctx context.Context) error {
	w, err := watcher.New(l.config)
	if err != nil {
		return err
	}
	l.log.Info("at work")
	l.watcher.Store(w)
	defer l.watcher.Store(nil)
	return w.Run(ctx)
}

// live: one whose work does not end when the lease is lost can not wait for it again. Of that the elector knows only as
// long as it takes the lease for its own.
func (l *leader) live() error {
	if at := l.over.Load(); at != nil && time.Since(*at) > toEnd {
		return fmt.Errorf("the lease was lost at %s, and the work has not ended", at.UTC().Format(time.RFC3339))
	}
	return l.health.Check(&http.Request{})
}

// ready: one that waits for the lease is ready to take over.
func (l *leader) ready() error {
	if w := l.watcher.Load(); w != nil && !w.Ready() {
		return errors.New("the cluster has not been read yet")
	}
	return nil
}
