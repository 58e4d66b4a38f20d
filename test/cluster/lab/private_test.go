// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/play"
)

func TestAPIServerComesBack(t *testing.T) {
	c := lab.New(t, lab.Options{})
	player := play.Start(t, c.Config())
	require.NoError(t, player.AddNodes(t.Context(), play.Node{Name: "stays"}))
	nodes := newClient(t, c.Config()).CoreV1().Nodes()
	before, err := nodes.Get(t.Context(), "stays", metav1.GetOptions{})
	require.NoError(t, err)
	assert.Empty(t, before.Spec.Taints)

	port, pid := c.Port(), c.PID("kube-apiserver")
	for _, stop := range []func(){c.StopAPIServer, c.KillAPIServer} {
		stop()
		assert.Zero(t, c.PID("kube-apiserver"))
		assert.NotZero(t, c.PID("etcd"))
		_, err = nodes.Get(t.Context(), "stays", metav1.GetOptions{})
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.NoError(t, c.StartAPIServer(t.Context()))
		after, err := nodes.Get(t.Context(), "stays", metav1.GetOptions{})
		require.NoError(t, err)
		assert.Equal(t, before.UID, after.UID)
	}
	assert.Equal(t, port, c.Port())
	assert.NotEqual(t, pid, c.PID("kube-apiserver"))
}
