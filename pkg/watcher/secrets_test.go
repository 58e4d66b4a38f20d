// SPDX-License-Identifier: Apache-2.0

package watcher_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/watcher"
)

func TestPullSecretNames(t *testing.T) {
	accounts := map[string][]string{
		"ns/default": {"d"},
		"ns/loader":  {"b", "a", "repo", "b", ""},
		"other/gone": {"x"},
	}
	find := func(namespace, name string) (*corev1.ServiceAccount, bool) {
		names, ok := accounts[namespace+"/"+name]
		sa := &corev1.ServiceAccount{}
		for _, n := range names {
			sa.ImagePullSecrets = append(sa.ImagePullSecrets, corev1.LocalObjectReference{Name: n})
		}
		return sa, ok
	}
	for _, tt := range []struct {
		name     string
		repo     string
		account  string
		noLoader bool
		want     []string
	}{
		{name: "default account", want: []string{"d"}},
		{name: "repository first", repo: "z", want: []string{"z", "d"}},
		{name: "own account, each once, in its order", repo: "repo", account: "loader", want: []string{"repo", "b", "a"}},
		{name: "account is not there", repo: "z", account: "gone", want: []string{"z"}},
		{name: "nothing", account: "gone"},
		{name: "no image to pull", repo: "z", noLoader: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &v1beta1.Module{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m"}}
			if !tt.noLoader {
				m.Spec.ModuleLoader = &v1beta1.ModuleLoaderSpec{ServiceAccountName: tt.account}
			}
			m.Spec.ImageRepoSecret = &corev1.LocalObjectReference{Name: tt.repo}
			assert.Equal(t, tt.want, watcher.PullSecretNames(m, find))
		})
	}
}

func TestPullSecretRole(t *testing.T) {
	agents := []rbacv1.Subject{
		{Kind: rbacv1.ServiceAccountKind, Namespace: "kmm-system", Name: "kmmd"},
		{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:nodes"},
	}
	names := []string{"b", "a", "", "b"}
	role, binding := watcher.PullSecretRole("ns", names, agents)
	golden(t, "testdata/pull-secrets.golden.yaml", role, binding)
	assert.Equal(t, []string{"b", "a", "", "b"}, names, "names are only read")
}

// A rule without names is a rule for every Secret.
func TestPullSecretRoleWithoutNames(t *testing.T) {
	for _, names := range [][]string{nil, {}, {""}, {"", ""}} {
		role, binding := watcher.PullSecretRole("ns", names, []rbacv1.Subject{{Kind: "User", Name: "x"}})
		require.Nil(t, role)
		require.Nil(t, binding)
	}
}
