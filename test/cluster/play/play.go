// SPDX-License-Identifier: Apache-2.0

// Package play stands in for kubelets: it makes Node objects, says that pods which
// the scheduler bound to them run, and lets deleted pods go. No container is run.
// One Player plays thousands of nodes.
package play

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// workers is how many requests are under way at once.
const workers = 32

// Player plays the nodes that it was given. It may be used by several goroutines.
type Player struct {
	client   kubernetes.Interface
	pods     cache.SharedIndexInformer
	queue    workqueue.TypedRateLimitingInterface[string]
	mu       sync.Mutex
	nodes    map[string]bool // under mu; false: paused
	notReady map[string]bool // under mu; namespace/name of pods
	left     []string        // under mu; labels of pods
}

// New makes a Player with an administrator's access. It does nothing to pods until
// Run.
func New(config *rest.Config) (*Player, error) {
	config = rest.CopyConfig(config)
	config.ContentType, config.QPS, config.UserAgent = runtime.ContentTypeProtobuf, -1, "kmmd-lab-player"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make player: %w", err)
	}
	bound := fields.OneTermNotEqualSelector("spec.nodeName", "")
	p := &Player{
		client: client,
		pods: cache.NewSharedIndexInformer(
			cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "pods", "", bound),
			&corev1.Pod{}, 0, cache.Indexers{"node": nodeOf}),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 5*time.Second)),
		nodes:    map[string]bool{},
		notReady: map[string]bool{},
	}
	enqueue := func(object any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
			p.queue.Add(key)
		}
	}
	_, err = p.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: enqueue, UpdateFunc: func(_, object any) { enqueue(object) }, DeleteFunc: enqueue,
	})
	if err != nil {
		return nil, fmt.Errorf("make player: %w", err)
	}
	return p, nil
}

// Start makes a Player that runs until the test has ended.
func Start(t testing.TB, config *rest.Config) *Player {
	t.Helper()
	p, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

// Run plays pods until ctx ends.
func (p *Player) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { p.pods.RunWithContext(ctx) })
	for range workers {
		all.Go(func() {
			for p.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	p.queue.ShutDown()
	all.Wait()
}

// next plays one pod; false is the end.
func (p *Player) next(ctx context.Context) bool {
	key, end := p.queue.Get()
	if end {
		return false
	}
	defer p.queue.Done(key)
	if err := p.play(ctx, key); err != nil {
		p.queue.AddRateLimited(key)
	} else {
		p.queue.Forget(key)
	}
	return true
}

// Pause makes nodes do nothing to their pods, as if the kubelet hung: a new pod
// does not start, a deleted one stays.
func (p *Player) Pause(nodes ...string) { p.set(false, nodes) }

// Resume ends Pause.
func (p *Player) Resume(nodes ...string) { p.set(true, nodes) }

func (p *Player) set(playing bool, nodes []string) {
	p.mu.Lock()
	for _, name := range nodes {
		p.nodes[name] = playing
	}
	p.mu.Unlock()
	for _, name := range nodes {
		p.enqueueNode(name)
	}
}

// Leave makes pods with a label, whatever its value, somebody else's.
func (p *Player) Leave(label string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = append(p.left, label)
}

// SetPodReady says whether the containers of a pod are ready; they are unless this
// was called.
func (p *Player) SetPodReady(namespace, name string, ready bool) {
	key := namespace + "/" + name
	p.mu.Lock()
	if ready {
		delete(p.notReady, key)
	} else {
		p.notReady[key] = true
	}
	p.mu.Unlock()
	p.queue.Add(key)
}

// enqueueNode looks at all pods of a node.
func (p *Player) enqueueNode(name string) {
	keys, err := p.pods.GetIndexer().IndexKeys("node", name)
	if err != nil {
		return // there is such an index
	}
	for _, key := range keys {
		p.queue.Add(key)
	}
}

func nodeOf(object any) ([]string, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return nil, errors.New("not a pod")
	}
	return []string{pod.Spec.NodeName}, nil
}
