// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	rbacv1ac "k8s.io/client-go/applyconfigurations/rbac/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

const (
	// PullSecretRoleName is the name of the Role and of the RoleBinding that let
	// the agents read the pull secrets of a namespace.
	PullSecretRoleName = "kmmd-pull-secrets"

	managedByLabel = "app.kubernetes.io/managed-by"
	managedBy      = "kmm-watcher"

	// defaultServiceAccount is the one that a pod without has.
	defaultServiceAccount = "default"
)

// PullSecretNames are the Secrets of the Module's namespace that a node may try,
// in this order, to pull the Module's image: imageRepoSecret, then the
// imagePullSecrets of the loader's ServiceAccount. sa finds a ServiceAccount; one
// that is not there adds nothing. A Module without moduleLoader has no image that
// a node pulls, and no names.
func PullSecretNames(m *v1beta1.Module, sa func(namespace, name string) (*corev1.ServiceAccount, bool)) []string {
	if m.Spec.ModuleLoader == nil {
		return nil
	}
	var names []string
	add := func(name string) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if m.Spec.ImageRepoSecret != nil {
		add(m.Spec.ImageRepoSecret.Name)
	}
	if found, ok := sa(m.Namespace, pullAccount(m)); ok && found != nil {
		for _, s := range found.ImagePullSecrets {
			add(s.Name)
		}
	}
	return names
}

// pullAccount is the ServiceAccount whose imagePullSecrets count for a Module; "" when
// it has no image to pull.
func pullAccount(m *v1beta1.Module) string {
	switch l := m.Spec.ModuleLoader; {
	case l == nil:
		return ""
	case l.ServiceAccountName == "":
		return defaultServiceAccount
	default:
		return l.ServiceAccountName
	}
}

// PullSecretRole lets the agents get exactly the named Secrets of a namespace,
// and nothing else. Without names both are nil and must not exist: in a Role, no
// names would mean every Secret.
func PullSecretRole(namespace string, names []string, agents []rbacv1.Subject) (*rbacv1ac.RoleApplyConfiguration, *rbacv1ac.RoleBindingApplyConfiguration) {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "" })
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return nil, nil
	}
	labels := map[string]string{managedByLabel: managedBy}
	role := rbacv1ac.Role(PullSecretRoleName, namespace).WithLabels(labels).WithRules(rbacv1ac.PolicyRule().
		WithAPIGroups(corev1.GroupName).WithResources("secrets").WithVerbs("get").WithResourceNames(names...))
	binding := rbacv1ac.RoleBinding(PullSecretRoleName, namespace).WithLabels(labels).WithRoleRef(rbacv1ac.RoleRef().
		WithAPIGroup(rbacv1.GroupName).WithKind("Role").WithName(PullSecretRoleName))
	for _, a := range agents {
		binding.WithSubjects(subject(a))
	}
	return role, binding
}

func subject(a rbacv1.Subject) *rbacv1ac.SubjectApplyConfiguration {
	s := rbacv1ac.Subject().WithKind(a.Kind).WithName(a.Name)
	if a.APIGroup != "" {
		s.WithAPIGroup(a.APIGroup)
	}
	if a.Namespace != "" {
		s.WithNamespace(a.Namespace)
	}
	return s
}
