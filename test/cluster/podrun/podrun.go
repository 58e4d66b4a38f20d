// SPDX-License-Identifier: Apache-2.0

// Package podrun plays the kubelet for pods of image Jobs, and runs their
// containers for real on this machine: each under crun, with namespaces, mounts, a
// root file system, capabilities and a seccomp filter of its own. Only the network
// is the machine's, so that a registry on the loopback interface is reached. It
// needs root and Debian's crun; see test/vm/setup. Tests only.
package podrun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// Label is on the pods that are run; see play.Player.Leave.
const Label = "kmm.node.kubernetes.io/image-job"

// Options say which pods are run, and what their images are.
type Options struct {
	// Nodes are those whose pods are run; their objects exist.
	Nodes []string
	// Images by what the pods call them. Any other can not be pulled.
	Images map[string]Image
	// Hosts are names, besides localhost, that containers find an address for.
	Hosts map[string]string
}

// Runner runs pods. It may be used by several goroutines.
type Runner struct {
	options Options
	client  kubernetes.Interface
	dir     string          // of this runner
	ctx     context.Context // until the runner ends
	running sync.WaitGroup

	mu   sync.Mutex // guards pods
	pods map[types.UID]*pod
}

// Start makes a Runner with an administrator's access that runs until the test has
// ended. Containers that run then are killed; their pods stay as they are.
func Start(t testing.TB, access *rest.Config, o Options) *Runner {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("run containers of image Jobs: crun and buildah need root")
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	r, err := start(ctx, access, o)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		r.running.Wait()
		if err := os.RemoveAll(r.dir); err != nil {
			t.Error(err)
		}
	})
	return r
}

func start(ctx context.Context, access *rest.Config, o Options) (*Runner, error) {
	access = rest.CopyConfig(access)
	access.QPS, access.UserAgent = -1, "kmmd-lab-podrun"
	client, err := kubernetes.NewForConfig(access)
	if err != nil {
		return nil, fmt.Errorf("make pod runner: %w", err)
	}
	dir, err := os.MkdirTemp("", "kmmd-pods.")
	if err != nil {
		return nil, fmt.Errorf("make pod runner: %w", err)
	}
	r := &Runner{options: o, client: client, dir: dir, ctx: ctx, pods: map[types.UID]*pod{}}
	if err := r.begin(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start pod runner: %w", err), os.RemoveAll(dir))
	}
	return r, nil
}

// begin starts to serve logs, and to watch pods.
func (r *Runner) begin(ctx context.Context) error {
	port, err := r.serve(ctx)
	if err != nil {
		return err
	}
	for _, name := range r.options.Nodes {
		if err := r.announce(ctx, name, port); err != nil {
			return err
		}
	}
	pods := cache.NewSharedIndexInformer(labelled(r.client), &corev1.Pod{}, 0, nil)
	_, err = pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: r.see, UpdateFunc: func(_, object any) { r.see(object) }, DeleteFunc: r.gone,
	})
	if err != nil {
		return err
	}
	r.running.Go(func() { pods.RunWithContext(ctx) })
	return nil
}

// see is told of a pod that is new, or has changed.
func (r *Runner) see(object any) {
	seen, ok := object.(*corev1.Pod)
	if !ok || r.ctx.Err() != nil || !slices.Contains(r.options.Nodes, seen.Spec.NodeName) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pods[seen.UID]
	if p == nil {
		p = r.newPod(seen)
		r.pods[seen.UID] = p
		r.running.Go(p.live)
	}
	if seen.DeletionTimestamp != nil {
		p.end()
	}
}

// gone is told of a pod that is no more.
func (r *Runner) gone(object any) {
	if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = last.Obj
	}
	gone, ok := object.(*corev1.Pod)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.pods[gone.UID]; p != nil {
		p.end()
		delete(r.pods, gone.UID)
	}
}
