// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	resourcev1ac "k8s.io/client-go/applyconfigurations/resource/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// syncDeviceClasses asks the API server what there is: only Modules that have or
// had some do that, at each change of theirs.
func (w *Watcher) syncDeviceClasses(ctx context.Context, m *v1beta1.Module) error {
	id := key(m.Namespace, m.Name)
	classes, err := DeviceClasses(m)
	if err != nil {
		return err
	}
	hash := hashOf(classes)
	if w.applied.is("dc/"+id, hash) || len(classes) == 0 && !w.applied.known("dc/"+id) && !w.mayHaveClasses(m) {
		return nil
	}
	api := w.cfg.Kube.ResourceV1().DeviceClasses()
	wanted := map[string]bool{}
	var errs []error
	for _, c := range classes {
		wanted[*c.Name] = true
		errs = append(errs, w.applyDeviceClass(ctx, m, c))
	}
	list, err := api.List(ctx, metav1.ListOptions{LabelSelector: labels.Set{
		v1beta1.ModuleNameLabel: m.Name, v1beta1.ModuleNamespaceLabel: m.Namespace,
	}.String()})
	if apierrors.IsNotFound(err) {
		return errors.Join(errs...) // a cluster without them
	}
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list DeviceClasses of Module %s: %w", id, err))...)
	}
	for i := range list.Items {
		if wanted[list.Items[i].Name] {
			continue
		}
		err := api.Delete(ctx, list.Items[i].Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete DeviceClass %s: %w", list.Items[i].Name, err))
			continue
		}
		w.cfg.Metrics.wrote("deviceclasses")
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	w.applied.note("dc/"+id, hash, &metav1.ObjectMeta{})
	return nil
}

// mayHaveClasses: a Module that was changed or is going may have had some before
// this Watcher began.
func (w *Watcher) mayHaveClasses(m *v1beta1.Module) bool { return m.Generation > 1 }

// applyDeviceClass takes no stranger's object over.
func (w *Watcher) applyDeviceClass(ctx context.Context, m *v1beta1.Module, c *resourcev1ac.DeviceClassApplyConfiguration) error {
	api := w.cfg.Kube.ResourceV1().DeviceClasses()
	have, err := api.Get(ctx, *c.Name, metav1.GetOptions{})
	if err == nil {
		if namespace, name, ok := ModuleOf(have); !ok || namespace != m.Namespace || name != m.Name {
			err = errForeign
		}
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("apply DeviceClass %s: %w", *c.Name, err)
	}
	if _, err := api.Apply(ctx, c, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return fmt.Errorf("apply DeviceClass %s: %w", *c.Name, err)
	}
	w.cfg.Metrics.wrote("deviceclasses")
	return nil
}
