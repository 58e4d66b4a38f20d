// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var cluster *Cluster

func TestMain(m *testing.M) {
	os.Exit(Main(m, Options{ControllerManager: true, Scheduler: true, Install: []string{"deploy/crd"}}, &cluster))
}

func TestKubectl(t *testing.T) {
	assert.Contains(t, cluster.Kubectl(t, "version"), "Server Version: v1.37.2")
	assert.Contains(t, cluster.Kubectl(t, "get", "crd"), "modules.kmm.sigs.x-k8s.io")
	out, err := cluster.Run(t.Context(), "", "get", "nodes", "nobody")
	require.ErrorContains(t, err, `"nobody" not found`)
	assert.Empty(t, out)
}

func TestNewAlone(t *testing.T) {
	c := New(t, Options{})
	assert.Contains(t, c.Kubectl(t, "get", "namespaces"), "kube-system")
}
