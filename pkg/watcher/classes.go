// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"errors"
	"fmt"
	"maps"

	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	resourcev1ac "k8s.io/client-go/applyconfigurations/resource/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// syncDeviceClasses applies those of a Module, and removes those it does not have any
// more. Where it is not known what there is, or the Module goes and must not leave any
// behind, it asks the API server: only for Modules that have or had some, and once for
// each change of theirs.
func (w *Watcher) syncDeviceClasses(ctx context.Context, m *v1beta1.Module) error {
	id := key(m.Namespace, m.Name)
	classes, err := DeviceClasses(m)
	if err != nil {
		return err
	}
	known, hash := w.classes.HasSynced() && m.DeletionTimestamp == nil, hashOf(classes)
	if !known && (w.applied.is("dc/"+id, hash) || len(classes) == 0 && !w.applied.known("dc/"+id) && !w.mayHaveClasses(m)) {
		return nil
	}
	wanted := map[string]bool{}
	var errs []error
	for _, c := range classes {
		wanted[*c.Name] = true
		one, hash := "class/"+*c.Name, hashOf(c)
		if have, ok := get[*resourcev1.DeviceClass](w.classes, *c.Name); known && ok && w.applied.current(one, hash, have) {
			continue
		}
		out, err := w.applyDeviceClass(ctx, m, c)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		w.applied.note(one, hash, out)
	}
	have, err := w.classesOf(ctx, m, known)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, c := range have {
		if wanted[c.Name] || c.DeletionTimestamp != nil {
			continue
		}
		err := w.cfg.Kube.ResourceV1().DeviceClasses().Delete(ctx, c.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &c.UID}})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete DeviceClass %s: %w", c.Name, err))
			continue
		}
		w.cfg.Metrics.wrote("deviceclasses")
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if !known || len(classes) > 0 { // what was applied a moment ago may not be known yet
		w.applied.note("dc/"+id, hash, &metav1.ObjectMeta{})
	}
	return nil
}

// classesOf are the DeviceClasses that have the labels of a Module; none in a cluster
// without such.
func (w *Watcher) classesOf(ctx context.Context, m *v1beta1.Module, known bool) ([]*resourcev1.DeviceClass, error) {
	var out []*resourcev1.DeviceClass
	if known {
		for _, obj := range w.classes.GetStore().List() {
			if c, ok := obj.(*resourcev1.DeviceClass); ok && moduleOfClass(c) == key(m.Namespace, m.Name) {
				out = append(out, c)
			}
		}
		return out, nil
	}
	list, err := w.cfg.Kube.ResourceV1().DeviceClasses().List(ctx, metav1.ListOptions{LabelSelector: labels.Set{
		v1beta1.ModuleNameLabel: m.Name, v1beta1.ModuleNamespaceLabel: m.Namespace,
	}.String()})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("list DeviceClasses of Module %s/%s: %w", m.Namespace, m.Name, err)
	}
	if err == nil {
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
	}
	return out, nil
}

// moduleOfClass is the key of the Module that a DeviceClass is for.
func moduleOfClass(c *resourcev1.DeviceClass) string {
	return key(c.Labels[v1beta1.ModuleNamespaceLabel], c.Labels[v1beta1.ModuleNameLabel])
}

// classEvents: somebody else has changed or removed one.
func (w *Watcher) classEvents() cache.ResourceEventHandler {
	look := func(obj any) {
		if c, ok := last(obj).(*resourcev1.DeviceClass); ok {
			w.queue.Add(moduleWork + moduleOfClass(c))
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: look, DeleteFunc: look,
		UpdateFunc: func(old, obj any) {
			a, ok := old.(*resourcev1.DeviceClass)
			b, ok2 := obj.(*resourcev1.DeviceClass)
			if !ok || !ok2 || a.UID != b.UID || a.Generation != b.Generation || !maps.Equal(a.Labels, b.Labels) {
				look(obj)
			}
		},
	}
}

// compactClass keeps what tells whether one is as it was applied.
func compactClass(obj any) (any, error) {
	c, ok := obj.(*resourcev1.DeviceClass)
	if !ok {
		return obj, nil
	}
	return &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{
		Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion, Generation: c.Generation,
		Labels: c.Labels, DeletionTimestamp: c.DeletionTimestamp,
	}}, nil
}

// servesClasses reports whether the cluster has DeviceClasses, as far as it answers.
func (w *Watcher) servesClasses() bool {
	_, err := w.cfg.Kube.Discovery().ServerResourcesForGroupVersion(resourcev1.SchemeGroupVersion.String())
	return !apierrors.IsNotFound(err)
}

// mayHaveClasses: a Module that was changed or is going may have had some before
// this Watcher began.
func (w *Watcher) mayHaveClasses(m *v1beta1.Module) bool { return m.Generation > 1 }

// applyDeviceClass takes no stranger's object over.
func (w *Watcher) applyDeviceClass(ctx context.Context, m *v1beta1.Module, c *resourcev1ac.DeviceClassApplyConfiguration) (*resourcev1.DeviceClass, error) {
	api := w.cfg.Kube.ResourceV1().DeviceClasses()
	have, err := api.Get(ctx, *c.Name, metav1.GetOptions{})
	if err == nil {
		if namespace, name, ok := ModuleOf(have); !ok || namespace != m.Namespace || name != m.Name {
			err = errForeign
		}
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("apply DeviceClass %s: %w", *c.Name, err)
	}
	out, err := api.Apply(ctx, c, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil {
		return nil, fmt.Errorf("apply DeviceClass %s: %w", *c.Name, err)
	}
	w.cfg.Metrics.wrote("deviceclasses")
	return out, nil
}
