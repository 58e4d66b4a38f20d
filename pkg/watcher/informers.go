// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
	"github.com/kmm-node/kmmd/pkg/build"
)

// informers are what is known of the cluster. Each remembers only what somebody
// here reads.
type informers struct {
	nodes, configs, modules, pods, accounts, daemonSets cache.SharedIndexInformer
	roles, bindings, jobs, jobPods, validations         cache.SharedIndexInformer
	classes                                             cache.SharedIndexInformer // there may be none in this cluster
}

const podsByNode = "node"

func (w *Watcher) newInformers() error {
	core, apps, rbac, own := w.cfg.Kube.CoreV1().RESTClient(), w.cfg.Kube.AppsV1().RESTClient(), w.cfg.Kube.RbacV1().RESTClient(), w.cfg.API.REST()
	batch := w.cfg.Kube.BatchV1().RESTClient()
	withPlugin := fmt.Sprintf("%s in (%s,%s)", v1beta1.RoleLabel, v1beta1.RoleDevicePlugin, v1beta1.RoleDRA)
	var errs []error
	for _, i := range []struct {
		to        *cache.SharedIndexInformer
		client    rest.Interface
		resource  string
		selector  string
		object    runtime.Object
		transform cache.TransformFunc
		indexers  cache.Indexers
		handler   cache.ResourceEventHandler
	}{
		{&w.nodes, core, "nodes", "", &corev1.Node{}, compactNode, nil, w.nodeEvents()},
		{&w.configs, own, "nodemodulesconfigs", "", &v1beta1.NodeModulesConfig{}, w.compact.compact, nil, w.configEvents()},
		{&w.modules, own, "modules", "", &v1beta1.Module{}, dropManagedFields, nil, w.moduleEvents()},
		{&w.pods, core, "pods", withPlugin, &corev1.Pod{}, compactPod, cache.Indexers{podsByNode: podNode}, w.podEvents()},
		{&w.accounts, core, "serviceaccounts", "", &corev1.ServiceAccount{}, compactAccount, nil, w.accountEvents()},
		{&w.daemonSets, apps, "daemonsets", withPlugin, &appsv1.DaemonSet{}, compactDaemonSet, nil, w.daemonSetEvents()},
		{&w.classes, w.cfg.Kube.ResourceV1().RESTClient(), "deviceclasses", v1beta1.ModuleNameLabel, &resourcev1.DeviceClass{}, compactClass, nil, w.classEvents()},
		{&w.roles, rbac, "roles", managedBySelector, &rbacv1.Role{}, dropManagedFields, nil, w.roleEvents()},
		{&w.bindings, rbac, "rolebindings", managedBySelector, &rbacv1.RoleBinding{}, dropManagedFields, nil, w.roleEvents()},
		{&w.jobs, batch, "jobs", build.HashLabel, &batchv1.Job{}, dropManagedFields, cache.Indexers{jobsByModule: moduleOfJob, jobsByOwner: ownerOfJob}, w.jobEvents()},
		{&w.jobPods, core, "pods", build.HashLabel, &corev1.Pod{}, compactJobPod, cache.Indexers{podsByJob: jobOfPod}, w.jobEvents()},
		{&w.validations, w.cfg.API.V1beta2(), "preflightvalidations", "", &v1beta2.PreflightValidation{}, dropManagedFields, nil, w.preflightEvents()},
	} {
		lw := cache.NewFilteredListWatchFromClient(i.client, i.resource, metav1.NamespaceAll, func(o *metav1.ListOptions) { o.LabelSelector = i.selector })
		informer := cache.NewSharedIndexInformerWithOptions(lw, i.object, cache.SharedIndexInformerOptions{Indexers: i.indexers})
		_, err := informer.AddEventHandler(i.handler)
		errs = append(errs, err, informer.SetTransform(i.transform), informer.SetWatchErrorHandlerWithContext(w.readFailed(i.resource)))
		*i.to = informer
	}
	return errors.Join(errs...)
}

// runInformers returns when all have seen everything once; they go on until ctx
// is done, and wait then waits for them.
func (w *Watcher) runInformers(ctx context.Context, start func(func())) error {
	var synced []cache.InformerSynced
	for _, i := range []cache.SharedIndexInformer{w.nodes, w.configs, w.modules, w.pods, w.accounts, w.daemonSets, w.roles, w.bindings, w.jobs, w.jobPods, w.validations} {
		start(func() { i.RunWithContext(ctx) })
		synced = append(synced, i.HasSynced)
	}
	start(func() {
		if w.servesClasses() { // else nobody waits for them
			w.classes.RunWithContext(ctx)
		}
	})
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return fmt.Errorf("read the cluster: %w", context.Cause(ctx))
	}
	return nil
}

// readFailed counts lists that fail, and requests to watch: whoever can not read does
// nothing wrong besides, and nothing at all. A watch that ends, or is too old to go on, is
// none. Nor does it hear of a watch where the connection is refused, or of too many
// requests: client-go asks for that again by itself (isWatchErrorRetriable in its
// tools/cache/reflector.go).
func (w *Watcher) readFailed(resource string) cache.WatchErrorHandlerWithContext {
	return func(ctx context.Context, r *cache.Reflector, err error) {
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			w.cfg.Metrics.notRead(resource)
		}
		cache.DefaultWatchErrorHandler(ctx, r, err)
	}
}

// unreadable says, once for each error, that a status counts as none.
func (w *Watcher) unreadable(kind, namespace, name string, err error) {
	w.cfg.Metrics.unreadable(kind)
	text := shorten(err.Error(), maxMessage)
	if before, _ := w.garbled.Swap(kind+"/"+key(namespace, name), text); before != text {
		w.cfg.Log.Error("a status can not be read, and counts as none", "kind", kind, "namespace", namespace, "name", name, "err", text)
	}
}

// compactNode keeps what decides whether a node takes part, and which boot of
// which kernel it runs.
func compactNode(obj any) (any, error) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Labels: n.Labels, DeletionTimestamp: n.DeletionTimestamp,
		},
		Spec: corev1.NodeSpec{Taints: n.Spec.Taints},
		Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{
			BootID: n.Status.NodeInfo.BootID, KernelVersion: n.Status.NodeInfo.KernelVersion,
		}},
	}, nil
}

// compactPod keeps whose pod it is, where, and whether it is ready.
func compactPod(obj any) (any, error) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	out := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: p.Name, Namespace: p.Namespace, UID: p.UID, ResourceVersion: p.ResourceVersion, DeletionTimestamp: p.DeletionTimestamp,
			Labels: map[string]string{
				v1beta1.ModuleNameLabel: p.Labels[v1beta1.ModuleNameLabel], v1beta1.RoleLabel: p.Labels[v1beta1.RoleLabel],
				moduleVersionLabel: p.Labels[moduleVersionLabel],
			},
		},
		Spec:   corev1.PodSpec{NodeName: p.Spec.NodeName},
		Status: corev1.PodStatus{Phase: p.Status.Phase},
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			out.Status.Conditions = []corev1.PodCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return out, nil
}

func podNode(obj any) ([]string, error) {
	if p, ok := obj.(*corev1.Pod); ok && p.Spec.NodeName != "" {
		return []string{p.Spec.NodeName}, nil
	}
	return nil, nil
}

// podModule is the key of the Module a plugin's pod is for.
func podModule(p *corev1.Pod) string { return key(p.Namespace, p.Labels[v1beta1.ModuleNameLabel]) }

func compactAccount(obj any) (any, error) {
	a, ok := obj.(*corev1.ServiceAccount)
	if !ok {
		return obj, nil
	}
	return &corev1.ServiceAccount{
		ObjectMeta:       metav1.ObjectMeta{Name: a.Name, Namespace: a.Namespace, ResourceVersion: a.ResourceVersion},
		ImagePullSecrets: a.ImagePullSecrets,
	}, nil
}

func compactDaemonSet(obj any) (any, error) {
	d, ok := obj.(*appsv1.DaemonSet)
	if !ok {
		return obj, nil
	}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: d.Name, Namespace: d.Namespace, UID: d.UID, ResourceVersion: d.ResourceVersion, Generation: d.Generation,
			Labels: d.Labels, OwnerReferences: d.OwnerReferences, DeletionTimestamp: d.DeletionTimestamp,
		},
	}, nil
}

func dropManagedFields(obj any) (any, error) {
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
	}
	return obj, nil
}

// get reads from an informer.
func get[T any](i cache.SharedIndexInformer, key string) (T, bool) {
	var none T
	obj, ok, err := i.GetStore().GetByKey(key)
	if err != nil || !ok {
		return none, false
	}
	t, ok := obj.(T)
	return t, ok
}

// sameForUs reports whether two versions of a node are the same to us.
func sameForUs(a, b *corev1.Node) bool {
	return a.UID == b.UID && a.Status.NodeInfo.BootID == b.Status.NodeInfo.BootID &&
		a.Status.NodeInfo.KernelVersion == b.Status.NodeInfo.KernelVersion && maps.Equal(a.Labels, b.Labels) &&
		slices.EqualFunc(a.Spec.Taints, b.Spec.Taints, func(x, y corev1.Taint) bool {
			return x.Key == y.Key && x.Value == y.Value && x.Effect == y.Effect
		})
}

// The names on the queue.
const (
	nodeWork   = "node/"
	moduleWork = "module/"
)

func (w *Watcher) nodeEvents() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			w.queue.Add(nodeWork + name(obj))
			w.kernelsChanged(anyModule)
		},
		UpdateFunc: func(old, obj any) {
			a, ok := old.(*corev1.Node)
			b, ok2 := obj.(*corev1.Node)
			switch {
			case !ok || !ok2 || a.Status.NodeInfo.KernelVersion != b.Status.NodeInfo.KernelVersion || len(a.Spec.Taints) != len(b.Spec.Taints):
				w.kernelsChanged(anyModule)
			case !maps.Equal(a.Labels, b.Labels):
				w.kernelsChanged(selectedBy(a.Labels, b.Labels))
			}
			if !ok || !ok2 || !sameForUs(a, b) || w.expect.pending(nodeWork, b.Name) {
				w.queue.Add(nodeWork + name(obj))
			}
		},
		DeleteFunc: func(obj any) { w.queue.Add(nodeWork + name(obj)) },
	}
}

func (w *Watcher) configEvents() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { w.queue.Add(nodeWork + name(obj)) },
		UpdateFunc: func(old, obj any) {
			w.noteUnloaded(old, obj)
			w.queue.Add(nodeWork + name(obj))
		},
		DeleteFunc: func(obj any) {
			w.compact.forget(name(obj))
			w.expect.forget(configWork, name(obj))
			w.queue.Add(nodeWork + name(obj))
		},
	}
}

func (w *Watcher) moduleEvents() cache.ResourceEventHandler {
	changed := func(obj any) {
		w.queue.Add(moduleWork + name(obj))
		w.queue.Add(imageWork + name(obj))
		w.fan()
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: changed,
		UpdateFunc: func(old, obj any) {
			a, ok := old.(*v1beta1.Module)
			b, ok2 := obj.(*v1beta1.Module)
			w.queue.Add(moduleWork + name(obj))
			if !ok || !ok2 || a.Generation != b.Generation || a.UID != b.UID || !slices.Equal(a.Finalizers, b.Finalizers) ||
				!maps.Equal(a.Annotations, b.Annotations) || (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) {
				w.queue.Add(imageWork + name(obj))
				w.fan()
			}
		},
		DeleteFunc: changed,
	}
}

func (w *Watcher) podEvents() cache.ResourceEventHandler {
	look := func(obj any) {
		if p, ok := last(obj).(*corev1.Pod); ok && p.Spec.NodeName != "" {
			w.queue.Add(nodeWork + p.Spec.NodeName)
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, obj any) { look(obj) }, DeleteFunc: look}
}

func anyModule(*v1beta1.Module) bool { return true }

// selectedBy tells for which Modules it may matter that a node has other labels. Ours
// change with each load, and only a Module that selects by one depends on it.
func selectedBy(before, after map[string]string) func(*v1beta1.Module) bool {
	var ours []string
	for _, one := range []struct{ these, others map[string]string }{{before, after}, {after, before}} {
		for k, v := range one.these {
			if other, ok := one.others[k]; ok && other == v {
				continue
			}
			if !ownLabel(k) {
				return anyModule
			}
			ours = append(ours, k)
		}
	}
	return func(m *v1beta1.Module) bool {
		return slices.ContainsFunc(ours, func(k string) bool { _, ok := m.Spec.Selector[k]; return ok })
	}
}

// pullsWith reports whether a Module pulls its image with the secrets of a ServiceAccount.
func (w *Watcher) pullsWith(obj any) bool {
	a, ok := last(obj).(*corev1.ServiceAccount)
	return !ok || slices.ContainsFunc(w.modules.GetStore().List(), func(obj any) bool {
		m, ok := obj.(*v1beta1.Module)
		return ok && m.Namespace == a.Namespace && pullAccount(m) == a.Name
	})
}

func (w *Watcher) accountEvents() cache.ResourceEventHandler {
	look := func(obj any) {
		if w.pullsWith(obj) {
			w.fan()
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: look,
		UpdateFunc: func(old, obj any) {
			a, ok := old.(*corev1.ServiceAccount)
			b, ok2 := obj.(*corev1.ServiceAccount)
			if !ok || !ok2 || !slices.Equal(a.ImagePullSecrets, b.ImagePullSecrets) {
				look(obj)
			}
		},
		DeleteFunc: look,
	}
}

func (w *Watcher) daemonSetEvents() cache.ResourceEventHandler {
	look := func(obj any) {
		if d, ok := last(obj).(*appsv1.DaemonSet); ok {
			w.queue.Add(moduleWork + key(d.Namespace, d.Labels[v1beta1.ModuleNameLabel]))
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: look, DeleteFunc: look,
		UpdateFunc: func(old, obj any) {
			a, ok := old.(*appsv1.DaemonSet)
			b, ok2 := obj.(*appsv1.DaemonSet)
			if !ok || !ok2 || a.UID != b.UID || a.Generation != b.Generation || !maps.Equal(a.Labels, b.Labels) {
				look(obj)
			}
		},
	}
}

// roleEvents: somebody else has changed or removed one.
func (w *Watcher) roleEvents() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, _ any) { w.fan() }, DeleteFunc: func(any) { w.fan() }}
}

// last is the object of an event, also of a deletion that was only found out
// later.
func last(obj any) any {
	if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return d.Obj
	}
	return obj
}

// name is "name" or "namespace/name".
func name(obj any) string {
	k, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		return "" // an object without metadata: there is none here
	}
	return strings.TrimPrefix(k, "/")
}
