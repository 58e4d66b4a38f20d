// SPDX-License-Identifier: Apache-2.0

// Package source runs the contract test of pkg/source/cluster against a real API
// server, with the access that deploy/ gives to agents.
package source

import (
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/source/cluster/clustertest"
	"github.com/kmm-node/kmmd/test/cluster/lab"
)

var shared *lab.Cluster

func TestMain(m *testing.M) {
	os.Exit(lab.Main(m, lab.Options{Install: []string{"deploy/kubelet-identity"}}, &shared))
}

func TestServiceAccount(t *testing.T) {
	run(t, func(t *testing.T, node string) (*rest.Config, error) {
		return shared.ServiceAccount(t.Context(), "kmm-system", "kmmd", node)
	})
}

func TestKubelet(t *testing.T) {
	run(t, func(_ *testing.T, node string) (*rest.Config, error) { return shared.Kubelet(node) })
}

func run(t *testing.T, identity func(*testing.T, string) (*rest.Config, error)) {
	clients, err := kubernetes.NewForConfig(shared.Config())
	require.NoError(t, err)
	var mu sync.Mutex // guards made
	made := map[string]*rest.Config{}
	clustertest.Test(t, clustertest.Server{
		Admin: shared.Config(),
		// The second time the server may be down.
		Agent: func(t *testing.T, node string, secrets ...string) *rest.Config {
			mu.Lock()
			defer mu.Unlock()
			if made[node] == nil {
				prepare(t, clients, node, secrets)
				access, err := identity(t, node)
				require.NoError(t, err)
				made[node] = access
			}
			return rest.CopyConfig(made[node])
		},
		Stop:  func(testing.TB) { shared.KillAPIServer() },
		Start: func(t testing.TB) { require.NoError(t, shared.StartAPIServer(t.Context())) },
	})
}

// prepare makes the node, and lets agents read these Secrets, as kmm-watcher
// does.
func prepare(t *testing.T, c *kubernetes.Clientset, node string, secrets []string) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: node}
	_, err := c.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: meta}, metav1.CreateOptions{})
	require.NoError(t, err)
	if len(secrets) == 0 {
		return
	}
	_, err = c.RbacV1().Roles("default").Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}, ResourceNames: secrets,
	}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = c.RbacV1().RoleBindings("default").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: node},
		Subjects: []rbacv1.Subject{
			{Kind: "ServiceAccount", Namespace: "kmm-system", Name: "kmmd"}, {Kind: "Group", APIGroup: rbacv1.GroupName, Name: "system:nodes"},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
}
