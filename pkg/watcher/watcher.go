// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// Config is what a Watcher works with. All but Metrics is required.
type Config struct {
	Kube kubernetes.Interface
	API  *client.Client
	// Agents are who may read the pull secrets that Modules name: the
	// ServiceAccount of kmmd, and where kubelets' identities are used, the group
	// system:nodes.
	Agents []rbacv1.Subject
	Log    *slog.Logger
	// Images is how images are made.
	Images ImageConfig
	// Metrics may be nil.
	Metrics *Metrics
	// Workers is how many nodes and Modules are looked at side by side, and beside them
	// half as many images and PreflightValidations; 0 is 8.
	Workers int
}

// Timing of what is done for many nodes at once.
const (
	// quiet is how long no Module must have changed before nodes are told:
	// several documents applied together are one change to a node.
	quiet = 300 * time.Millisecond
	// noLonger is how long that is put off at most.
	noLonger = 2 * time.Second
	// together is how long a Module is not looked at after a node has changed, in
	// case others do too.
	together = 100 * time.Millisecond
	// resync is how often everything is looked at without an event.
	resync = 10 * time.Minute
	// firstGrant and lastGrant are how soon it is tried again to grant pull secrets.
	// Each time everything is looked at.
	firstGrant = 5 * time.Second
	lastGrant  = 5 * time.Minute
)

// Watcher makes the cluster what the Modules say. One may be at work in a
// cluster at a time: whoever starts it holds a lease.
type Watcher struct {
	cfg   Config
	queue *queues
	order *order // of nodes and Modules
	informers
	compact    configs
	makings    makings
	preflights preflights
	versions   versions
	expect     expectations
	tally      *tally
	fanned     chan struct{}           // something that concerns all nodes has changed
	wants      atomic.Pointer[[]*want] // sorted by key; what nodes are told
	round      sync.Mutex              // held while wants and what the tally knows of them have to agree

	grantWait time.Duration // how long the last try of grantSecrets was waited for
	grantAt   *time.Timer   // the next one

	events   tellings
	applied  appliedSets
	statuses statusPace
	synced   atomic.Bool
	failing  sync.Map // what has been logged last of each item on the queue
	garbled  sync.Map // what has been logged last of each object whose status can not be read
}

// New makes a Watcher; nothing is read yet.
func New(cfg Config) (*Watcher, error) {
	if cfg.Workers == 0 {
		cfg.Workers = 8
	}
	if cfg.Images.Retry == 0 {
		cfg.Images.Retry = time.Minute
	}
	w := &Watcher{cfg: cfg, tally: newTally(), fanned: make(chan struct{}, 1), order: newOrder()}
	w.queue = newQueues(w.order)
	w.wants.Store(&[]*want{})
	if err := w.newInformers(); err != nil {
		return nil, fmt.Errorf("make informers: %w", err)
	}
	cfg.API.Unreadable(w.unreadable)
	cfg.Metrics.queue(w.queue.Len)
	return w, nil
}

// Run works until ctx is done, and returns when everything it started has
// ended. It blocks. The identity of Config.Kube needs the rules of
// deploy/base/watcher-access.yaml.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.cfg.Metrics.end()
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer w.queue.ShutDown()
	if err := w.runInformers(ctx, func(f func()) { running.Go(f) }); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	w.cfg.Metrics.begin()
	wants, _ := w.rebuild()
	w.grantSecrets(ctx, wants)
	w.takeStock(wants)
	w.wants.Store(&wants) // nothing has changed: nobody is to be told before it is said how a Module stands
	w.adoptPreflights()
	w.synced.Store(true)
	w.cfg.Log.Info("the cluster is known", "nodes", len(w.nodes.GetStore().ListKeys()), "modules", len(wants))
	w.startWorkers(ctx, func(f func()) { running.Go(f) })
	w.fan()
	w.fanOut(ctx)
	return nil
}

// Ready reports whether the whole cluster has been read.
func (w *Watcher) Ready() bool { return w.synced.Load() }

// takeStock counts how everything stands before anything is changed: a rollout
// that an earlier Watcher began goes on within its limits, and nodes take their
// turns by name. Modules that stand otherwise now are looked at, also those that are
// gone: what is left of them is dropped then.
func (w *Watcher) takeStock(wants []*want) {
	for _, m := range wants {
		w.tally.setLimit(m.key, limitOf(m.module.Spec.Rollout))
	}
	for _, name := range w.nodes.GetStore().ListKeys() {
		if v, ok := w.view(name, wants); ok {
			changed, _ := w.tally.set(name, render(v, func(k string) bool { return w.tally.hasBegun(k, name) }).standings)
			for _, k := range changed {
				w.queue.Add(moduleWork + k) // the next look at the node finds it as it is here
			}
		}
	}
}

// fan has everything looked at, soon.
func (w *Watcher) fan() {
	select {
	case w.fanned <- struct{}{}:
	default:
	}
}

// fanOut waits for changes that concern all nodes, and for a pause in them.
func (w *Watcher) fanOut(ctx context.Context) {
	every := time.NewTicker(resync)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		case <-w.fanned:
			w.pause(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		w.tellAll(ctx)
	}
}

// pause returns when nothing has changed for a moment.
func (w *Watcher) pause(ctx context.Context) {
	last := time.NewTimer(noLonger)
	defer last.Stop()
	for {
		moment := time.NewTimer(quiet)
		select {
		case <-w.fanned:
			moment.Stop()
		case <-moment.C:
			return
		case <-last.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// tellAll brings roles up to date, so that a node may read the secrets it is
// about to be told of, and then has every node looked at. Until then a look at a
// node goes by what the Modules said before.
func (w *Watcher) tellAll(ctx context.Context) {
	wants, changed := w.rebuild()
	w.grantSecrets(ctx, wants)
	w.takeStock(wants)
	nodes := w.nodes.GetStore().ListKeys()
	w.publish(wants, changed, nodes)
	for _, m := range wants {
		w.queue.Add(moduleWork + m.key)
		if makesImages(m.module) {
			w.queue.Add(imageWork + m.key)
		}
	}
	w.preflightsChanged()
	for _, k := range nodes {
		w.later(nodeWork + k)
	}
	for _, k := range w.tally.but(nodes) {
		w.queue.Add(nodeWork + k) // it went while stock was taken
	}
	w.compact.collect()
}

// grantSecrets brings roles up to date. What can not be done is tried again, less
// and less often: the API server may refuse it for good.
func (w *Watcher) grantSecrets(ctx context.Context, wants []*want) {
	err := w.syncRoles(ctx, wants)
	if w.grantAt != nil {
		w.grantAt.Stop()
	}
	if err == nil || ctx.Err() != nil {
		w.grantWait = 0
		return
	}
	w.grantWait = min(max(2*w.grantWait, firstGrant), lastGrant)
	w.cfg.Log.Error("pull secrets can not be granted; tried again", "in", w.grantWait, "err", err)
	w.grantAt = time.AfterFunc(w.grantWait, w.fan)
}

// publish has nodes told something from now on.
func (w *Watcher) publish(wants []*want, changed, nodes []string) {
	w.round.Lock()
	defer w.round.Unlock()
	w.wants.Store(&wants)
	w.tally.tell(changed, nodes)
}

// rebuild reads what the Modules say, and returns which say something new.
func (w *Watcher) rebuild() (wants []*want, changed []string) {
	before := map[string]*want{}
	for _, m := range *w.wants.Load() {
		before[m.key] = m
	}
	for _, obj := range w.modules.GetStore().List() {
		m, ok := obj.(*v1beta1.Module)
		if !ok {
			continue
		}
		old := before[key(m.Namespace, m.Name)]
		now := w.wantOf(m, old)
		if old == nil || !old.says(now) {
			changed = append(changed, now.key)
		}
		wants = append(wants, now)
	}
	sortWants(wants)
	w.cfg.Metrics.modules(len(wants))
	return wants, changed
}

// startWorkers has both queues worked off until they are shut down.
func (w *Watcher) startWorkers(ctx context.Context, start func(func())) {
	for range w.cfg.Workers {
		start(func() { w.work(ctx, w.queue.cluster) })
	}
	for range max(1, w.cfg.Workers/2) {
		start(func() { w.work(ctx, w.queue.registry) })
	}
}

func (w *Watcher) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string]) {
	for {
		item, quit := queue.Get()
		if quit {
			return
		}
		w.one(ctx, item)
		queue.Done(item)
	}
}

func (w *Watcher) one(ctx context.Context, item string) {
	start := time.Now()
	err := w.sync(ctx, item)
	w.cfg.Metrics.synced(item, time.Since(start), err)
	switch {
	case err == nil || ctx.Err() != nil:
		w.queue.Forget(item)
		w.failing.Delete(item)
		return
	case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
		// Somebody was faster; what he wrote is on its way to us.
	default:
		if before, _ := w.failing.Swap(item, err.Error()); before != err.Error() {
			w.cfg.Log.Error("not done; tried again", "what", item, "err", err)
		}
	}
	w.queue.AddRateLimited(item)
}

func (w *Watcher) sync(ctx context.Context, item string) error {
	if n, ok := strings.CutPrefix(item, nodeWork); ok {
		return w.syncNode(ctx, n)
	}
	if k, ok := strings.CutPrefix(item, moduleWork); ok {
		return w.syncModule(ctx, k)
	}
	if k, ok := strings.CutPrefix(item, imageWork); ok {
		return w.syncImages(ctx, k)
	}
	if n, ok := strings.CutPrefix(item, preflightWork); ok {
		return w.syncPreflight(ctx, n)
	}
	return errors.New("nothing known of that name")
}
