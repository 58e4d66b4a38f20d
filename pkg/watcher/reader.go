// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
	"github.com/kmm-node/kmmd/pkg/page"
)

// Reader sees what a Watcher does, from the objects in the API server alone, with
// the rights of whoever looks. It writes nothing.
//
// It needs list and watch of Nodes, Modules and NodeModulesConfigs. It does not
// read ServiceAccounts: that a Module's pull secrets have changed since a node was
// told is not seen. Whether a plugin's pod is ready is known by the label.
type Reader struct {
	namespace string

	nodes, configs, modules, validations cache.SharedIndexInformer
	compact                              configs

	changed chan struct{}
	failed  chan error  // the first failure of something that is needed
	without atomic.Bool // PreflightValidations can not be read
}

// NewReader makes a Reader of the Modules of one namespace; "" is all.
func NewReader(kube kubernetes.Interface, api *client.Client, namespace string) (*Reader, error) {
	r := &Reader{namespace: namespace, changed: make(chan struct{}, 1), failed: make(chan error, 1)}
	core, own := kube.CoreV1().RESTClient(), api.REST()
	note := func(any) { r.note() }
	var errs []error
	for _, i := range []struct {
		to        *cache.SharedIndexInformer
		client    rest.Interface
		resource  string
		namespace string
		object    runtime.Object
		transform cache.TransformFunc
		failure   cache.WatchErrorHandler
	}{
		{&r.nodes, core, "nodes", "", &corev1.Node{}, compactNode, r.failure("nodes")},
		{&r.configs, own, "nodemodulesconfigs", "", &v1beta1.NodeModulesConfig{}, r.compact.compact, r.failure("nodemodulesconfigs")},
		{&r.modules, own, "modules", namespace, &v1beta1.Module{}, dropManagedFields, r.failure("modules")},
		{&r.validations, api.V1beta2(), "preflightvalidations", "", &v1beta2.PreflightValidation{}, dropManagedFields, r.forgo},
	} {
		lw := cache.NewListWatchFromClient(i.client, i.resource, i.namespace, fields.Everything())
		informer := cache.NewSharedIndexInformer(lw, i.object, 0, cache.Indexers{})
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: note, UpdateFunc: func(_, _ any) { r.note() }, DeleteFunc: note})
		errs = append(errs, err, informer.SetTransform(i.transform), informer.SetWatchErrorHandler(i.failure))
		*i.to = informer
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("make informers: %w", err)
	}
	return r, nil
}

func (r *Reader) note() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// failure keeps the first one. Informers go on trying.
func (r *Reader) failure(resource string) cache.WatchErrorHandler {
	return func(_ *cache.Reflector, err error) {
		select {
		case r.failed <- fmt.Errorf("read %s: %w", resource, err):
		default:
		}
	}
}

// forgo does without what may not be read or is not known to the API server.
func (r *Reader) forgo(w *cache.Reflector, err error) {
	if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
		r.without.Store(true)
		return
	}
	r.failure("preflightvalidations")(w, err)
}

// Start returns when all has been read once, or an error that says what can not
// be. It goes on reading until ctx is done; wait then returns when that has ended.
func (r *Reader) Start(ctx context.Context) (wait func(), err error) {
	var running sync.WaitGroup
	for _, i := range []cache.SharedIndexInformer{r.nodes, r.configs, r.modules, r.validations} {
		running.Go(func() { i.RunWithContext(ctx) })
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if r.nodes.HasSynced() && r.configs.HasSynced() && r.modules.HasSynced() && (r.validations.HasSynced() || r.without.Load()) {
			return running.Wait, nil
		}
		select {
		case <-tick.C:
		case err := <-r.failed:
			return running.Wait, err
		case <-ctx.Done():
			return running.Wait, context.Cause(ctx)
		}
	}
}

// Changed has something whenever Snapshot may have become another one.
func (r *Reader) Changed() <-chan struct{} { return r.changed }

// Failed has something when the API server does not answer any more; it is asked
// on.
func (r *Reader) Failed() <-chan error { return r.failed }

// WithoutValidations reports whether PreflightValidations can not be read.
func (r *Reader) WithoutValidations() bool { return r.without.Load() }

// Snapshot is what is known now.
func (r *Reader) Snapshot() page.Cluster {
	s := scene{
		at: time.Now(), nodes: r.nodes.GetStore().List(), validations: r.validations.GetStore().List(),
		config: func(node string) *config { c, _ := get[*config](r.configs, node); return c },
		images: func(m *v1beta1.Module) []v1beta1.ModuleImage { return m.Status.Images },
	}
	var all []*config
	for _, obj := range r.configs.GetStore().List() {
		if c, ok := obj.(*config); ok {
			all = append(all, c)
		}
	}
	entries := entriesOf(all)
	for _, obj := range r.modules.GetStore().List() {
		if m, ok := obj.(*v1beta1.Module); ok {
			s.wants = append(s.wants, wantSeen(m, entries[key(m.Namespace, m.Name)]))
		}
	}
	sortWants(s.wants)
	s.standings = stand(s.wants, s.nodes, s.config)
	out := picture(s)
	if r.namespace != "" {
		out.Modules = slices.DeleteFunc(out.Modules, func(m page.Module) bool { return m.Namespace != r.namespace })
	}
	return out
}

// entriesOf are the different ones that nodes have, by Module.
func entriesOf(all []*config) map[string][]*entry {
	out := map[string][]*entry{}
	seen := map[*entry]bool{}
	for _, c := range all {
		for _, e := range c.entries {
			if !seen[e] {
				seen[e] = true
				out[e.key()] = append(out[e.key()], e)
			}
		}
	}
	return out
}

// wantSeen is a Module as its nodes see it, for somebody who does not know its
// pull secrets: they are taken to be those that some node was told.
func wantSeen(m *v1beta1.Module, had []*entry) *want {
	for _, e := range had {
		if w := wantWith(m, e.PullSecrets); w.knows(e) {
			return w
		}
	}
	if len(had) > 0 {
		return wantWith(m, had[0].PullSecrets)
	}
	return wantWith(m, PullSecretNames(m, func(string, string) (*corev1.ServiceAccount, bool) { return nil, false }))
}

// knows reports whether an entry is what the Module says now, on some kernel.
func (w *want) knows(e *entry) bool {
	if same(w.entry, e) {
		return true
	}
	for _, made := range w.made {
		if same(made, e) {
			return true
		}
	}
	return false
}

// wantWith is a Module with some pull secrets, and the images that its status has.
func wantWith(m *v1beta1.Module, secrets []string) *want {
	w := &want{
		key: key(m.Namespace, m.Name), module: m, entry: newEntry(m, secrets), role: roleOf(m),
		given: m.DeletionTimestamp == nil && slices.Contains(m.Finalizers, v1beta1.ModuleFinalizer),
	}
	if w.entry == nil || w.entry.Made == nil {
		return w
	}
	w.made = map[string]*entry{}
	for _, i := range m.Status.Images {
		w.made[i.Kernel] = w.entry
		if i.Digest != "" {
			w.made[i.Kernel] = w.entry.with(i.Image, i.Digest)
		}
	}
	return w
}

// stand works out how every Module stands on every node, as a Watcher would
// that has just begun.
func stand(wants []*want, nodes []any, config func(string) *config) map[string][]standingOn {
	out, limited := map[string][]standingOn{}, map[string]bool{}
	for _, w := range wants {
		limited[w.key] = limitOf(w.module.Spec.Rollout) != (limit{})
	}
	for _, obj := range nodes {
		n, ok := obj.(*corev1.Node)
		if !ok {
			continue
		}
		v := view{node: n, wants: wants, config: config(n.Name), plugins: pluginsByLabel(wants, n)}
		for _, s := range render(v, func(k string) bool { return !limited[k] }).standings {
			if s != (standing{key: s.key, version: s.version, current: s.current}) {
				out[s.key] = append(out[s.key], standingOn{n.Name, s})
			}
		}
	}
	return out
}

// pluginsByLabel are the plugins' pods that are ready on a node.
func pluginsByLabel(wants []*want, n *corev1.Node) []pluginPod {
	var out []pluginPod
	for _, w := range wants {
		label := v1beta1.DevicePluginReadyLabel(w.module.Namespace, w.module.Name)
		if w.role == v1beta1.RoleDRA {
			label = v1beta1.DRAReadyLabel(w.module.Namespace, w.module.Name)
		}
		if _, ok := n.Labels[label]; ok && w.role != "" {
			out = append(out, pluginPod{key: w.key, role: w.role, ready: true})
		}
	}
	return out
}
