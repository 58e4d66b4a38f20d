// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// TestGrantBoundElsewhere: a RoleBinding of our name that binds to something else is made anew; one that is refused
// for another reason is not touched.
func TestGrantBoundElsewhere(t *testing.T) {
	ours := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: PullSecretRoleName}
	for _, tt := range []struct {
		name    string
		bound   rbacv1.RoleRef
		refused bool
	}{
		{"to another Role", rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "other"}, false},
		{"to a ClusterRole", rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: PullSecretRoleName}, false},
		{"as it should be", ours, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			there := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: PullSecretRoleName, UID: "before"}, RoleRef: tt.bound}
			kube := fake.NewClientset(there)
			kube.PrependReactor("patch", "rolebindings", func(k8stesting.Action) (bool, runtime.Object, error) {
				o, err := kube.Tracker().Get(schema.GroupVersionResource{Group: rbacv1.GroupName, Version: "v1", Resource: "rolebindings"}, "ns", PullSecretRoleName)
				have, ok := o.(*rbacv1.RoleBinding)
				if err == nil && ok && (have.RoleRef != ours || tt.refused) {
					return true, nil, apierrors.NewInvalid(schema.GroupKind{Kind: "RoleBinding"}, PullSecretRoleName, nil)
				}
				return false, nil, nil
			})
			w := idle(kube, nil)
			defer w.queue.ShutDown()
			w.roles, w.bindings = storeOf(&rbacv1.Role{}, nil), storeOf(&rbacv1.RoleBinding{}, nil)
			w.cfg.Agents = []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "kmm-system", Name: "kmmd"}}
			err := w.grant(t.Context(), "ns", []string{"pull"})
			got, fault := kube.RbacV1().RoleBindings("ns").Get(t.Context(), PullSecretRoleName, metav1.GetOptions{})
			require.NoError(t, fault)
			if tt.refused {
				assert.True(t, apierrors.IsInvalid(err), "%v", err)
				assert.Equal(t, there.UID, got.UID)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, ours, got.RoleRef)
			assert.NotEqual(t, there.UID, got.UID)
			assert.Equal(t, w.cfg.Agents, got.Subjects)
		})
	}
}

// TestGrantsThatAreRefused: each try is a look at the whole cluster, so they become fewer, until one works.
func TestGrantsThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuse := true
		kube := fake.NewClientset()
		kube.PrependReactor("patch", "roles", func(k8stesting.Action) (bool, runtime.Object, error) {
			if refuse {
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "roles"}, PullSecretRoleName, nil)
			}
			return false, nil, nil
		})
		w := idle(kube, nil)
		defer w.queue.ShutDown()
		w.roles, w.bindings = storeOf(&rbacv1.Role{}, nil), storeOf(&rbacv1.RoleBinding{}, nil)
		w.cfg.Agents = []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "kmm-system", Name: "kmmd"}}
		wants := []*want{wantWith(module("a", "1"), []string{"pull"})}
		again := func() time.Duration {
			start := time.Now()
			w.grantSecrets(t.Context(), wants)
			select {
			case <-w.fanned:
				return time.Since(start)
			case <-time.After(time.Hour):
				return 0
			}
		}
		for want := firstGrant; want < lastGrant; want *= 2 {
			assert.Equal(t, want, again())
		}
		assert.Equal(t, lastGrant, again())
		w.grantSecrets(t.Context(), wants)
		assert.Equal(t, lastGrant, again(), "something else had it tried meanwhile: there is one next time only")
		refuse = false
		assert.Zero(t, again())
		refuse = true
		wants[0] = wantWith(module("a", "1"), []string{"pull", "another"})
		assert.Equal(t, firstGrant, again())
	})
}
