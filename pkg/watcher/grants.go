// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"errors"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const managedBySelector = managedByLabel + "=" + managedBy

// syncRoles lets the agents read exactly the pull secrets that Modules name, in
// one Role per namespace.
func (w *Watcher) syncRoles(ctx context.Context, wants []*want) error {
	secrets := map[string][]string{} // by namespace
	for _, m := range wants {
		if m.entry != nil && m.module.DeletionTimestamp == nil {
			secrets[m.module.Namespace] = append(secrets[m.module.Namespace], m.entry.PullSecrets...)
		}
	}
	var errs []error
	for namespace, names := range secrets {
		errs = append(errs, w.grant(ctx, namespace, names))
	}
	for namespace := range w.granted() {
		if _, wanted := secrets[namespace]; !wanted {
			errs = append(errs, w.revoke(ctx, namespace))
		}
	}
	return errors.Join(errs...)
}

// granted are the namespaces that have a Role or a RoleBinding of ours.
func (w *Watcher) granted() map[string]bool {
	out := map[string]bool{}
	for _, obj := range slices.Concat(w.roles.GetStore().List(), w.bindings.GetStore().List()) {
		if o, ok := obj.(metav1.Object); ok && o.GetName() == PullSecretRoleName {
			out[o.GetNamespace()] = true
		}
	}
	return out
}

// grant applies what is not there, not as it should be, or was changed by somebody else.
func (w *Watcher) grant(ctx context.Context, namespace string, names []string) error {
	role, binding := PullSecretRole(namespace, names, w.cfg.Agents)
	id := key(namespace, PullSecretRoleName)
	haveRole, isRole := get[*rbacv1.Role](w.roles, id)
	haveBinding, isBinding := get[*rbacv1.RoleBinding](w.bindings, id)
	if role == nil {
		if isRole || isBinding {
			return w.revoke(ctx, namespace)
		}
		return nil
	}
	rbac, options := w.cfg.Kube.RbacV1(), metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
	if hash := hashOf(role); !isRole || !w.applied.current("role/"+id, hash, haveRole) {
		out, err := rbac.Roles(namespace).Apply(ctx, role, options)
		if ending(err) {
			return nil
		} else if err != nil {
			return fmt.Errorf("apply Role %s: %w", id, err)
		}
		w.cfg.Metrics.wrote("roles")
		w.applied.note("role/"+id, hash, out)
	}
	if hash := hashOf(binding); !isBinding || !w.applied.current("rolebinding/"+id, hash, haveBinding) {
		out, err := rbac.RoleBindings(namespace).Apply(ctx, binding, options)
		if apierrors.IsInvalid(err) {
			if removed, fault := w.unbind(ctx, namespace); fault != nil {
				err = fault
			} else if removed {
				out, err = rbac.RoleBindings(namespace).Apply(ctx, binding, options)
			}
		}
		if ending(err) {
			return nil
		} else if err != nil {
			return fmt.Errorf("apply RoleBinding %s: %w", id, err)
		}
		w.cfg.Metrics.wrote("roles")
		w.applied.note("rolebinding/"+id, hash, out)
	}
	return nil
}

// unbind removes a RoleBinding of our name that binds to something else: what it binds
// to can not be changed.
func (w *Watcher) unbind(ctx context.Context, namespace string) (removed bool, err error) {
	api := w.cfg.Kube.RbacV1().RoleBindings(namespace)
	have, err := api.Get(ctx, PullSecretRoleName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return true, nil
	case err != nil:
		return false, err
	case have.RoleRef == (rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: PullSecretRoleName}):
		return false, nil
	}
	err = api.Delete(ctx, PullSecretRoleName, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &have.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("remove the one that binds to %s %s: %w", have.RoleRef.Kind, have.RoleRef.Name, err)
	}
	w.cfg.Metrics.wrote("roles")
	w.cfg.Log.Info("removed a RoleBinding that bound to something else", "namespace", namespace, "name", PullSecretRoleName,
		"kind", have.RoleRef.Kind, "role", have.RoleRef.Name)
	return true, nil
}

func (w *Watcher) revoke(ctx context.Context, namespace string) error {
	rbac := w.cfg.Kube.RbacV1()
	for _, remove := range []func(context.Context, string, metav1.DeleteOptions) error{
		rbac.RoleBindings(namespace).Delete, rbac.Roles(namespace).Delete,
	} {
		if err := remove(ctx, PullSecretRoleName, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("take back %s/%s: %w", namespace, PullSecretRoleName, err)
		}
	}
	w.cfg.Metrics.wrote("roles")
	return nil
}
