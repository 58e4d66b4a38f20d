// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"errors"
	"fmt"

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
		if m.entry != nil && m.given {
			secrets[m.module.Namespace] = append(secrets[m.module.Namespace], m.entry.PullSecrets...)
		}
	}
	var errs []error
	for namespace, names := range secrets {
		errs = append(errs, w.grant(ctx, namespace, names))
	}
	for _, obj := range w.roles.GetStore().List() {
		r, ok := obj.(*rbacv1.Role)
		if !ok || r.Name != PullSecretRoleName {
			continue
		}
		if _, wanted := secrets[r.Namespace]; !wanted {
			errs = append(errs, w.revoke(ctx, r.Namespace))
		}
	}
	return errors.Join(errs...)
}

func (w *Watcher) grant(ctx context.Context, namespace string, names []string) error {
	role, binding := PullSecretRole(namespace, names, w.cfg.Agents)
	have, exists := get[*rbacv1.Role](w.roles, key(namespace, PullSecretRoleName))
	if role == nil {
		if exists {
			return w.revoke(ctx, namespace)
		}
		return nil
	}
	id, hash := "role/"+namespace, hashOf(role)+hashOf(binding)
	if exists && w.applied.is(id, hash) && len(have.Rules) == 1 && len(have.Rules[0].ResourceNames) == len(role.Rules[0].ResourceNames) {
		return nil
	}
	rbac, options := w.cfg.Kube.RbacV1(), metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
	if _, err := rbac.Roles(namespace).Apply(ctx, role, options); ending(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("apply Role %s/%s: %w", namespace, PullSecretRoleName, err)
	}
	if _, err := rbac.RoleBindings(namespace).Apply(ctx, binding, options); err != nil {
		return fmt.Errorf("apply RoleBinding %s/%s: %w", namespace, PullSecretRoleName, err)
	}
	w.cfg.Metrics.wrote("roles")
	w.applied.note(id, hash, &metav1.ObjectMeta{})
	return nil
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
