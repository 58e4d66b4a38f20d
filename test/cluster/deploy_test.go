// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

const repository = "../.."

// An overlay is a directory of deploy, with components.
type overlay struct {
	dir        string
	components []string
}

// kustomize renders it.
func (o overlay) kustomize(t *testing.T) string {
	t.Helper()
	return cluster.Kubectl(t, "kustomize", o.directory(t))
}

// directory is where it can be applied from.
func (o overlay) directory(t *testing.T) string {
	t.Helper()
	if len(o.components) == 0 {
		return o.dir
	}
	var components []string
	for _, c := range o.components {
		components = append(components, "deploy/components/"+c)
	}
	return lab.Overlay(t, repository, o.dir, components...)
}

// TestManifests: all of them are valid, the workloads too, which the lab does not
// install.
func TestManifests(t *testing.T) {
	openShiftKinds(t, cluster)
	const watcher, agent = "deployment.apps/kmm-watcher", "daemonset.apps/kmmd"
	tests := []struct {
		overlay
		has, lack []string
	}{
		{overlay{"deploy/base", nil}, []string{watcher, agent, "poddisruptionbudget.policy/kmm-watcher"}, []string{"kmmd-kubelets"}},
		{overlay{"deploy/kubernetes", nil}, []string{watcher, agent, "networkpolicy.networking.k8s.io/kmmd"}, []string{"kmmd-kubelets"}},
		{overlay{"deploy/kubernetes", []string{"host-network", "node-credentials"}}, []string{watcher, agent}, nil},
		{overlay{"deploy/openshift", nil}, []string{watcher, agent, "securitycontextconstraints.security.openshift.io/kmmd"}, nil},
		{overlay{"deploy/kubelet-identity", nil}, []string{watcher, "kmmd-kubelets"}, []string{agent, "networkpolicy.networking.k8s.io/kmmd "}},
	}
	for _, tt := range tests {
		t.Run(strings.Join(append(tt.components, tt.dir), ","), func(t *testing.T) {
			out := cluster.Kubectl(t, "apply", "--dry-run=server", "--server-side", "--force-conflicts", "-k", tt.directory(t))
			for _, word := range tt.has {
				assert.Contains(t, out, word)
			}
			for _, word := range tt.lack {
				assert.NotContains(t, out, word)
			}
			patient(t, tt.kustomize(t))
			for _, line := range strings.Split(tt.kustomize(t), "\n") {
				if image, ok := strings.CutPrefix(strings.TrimSpace(line), "image: "); ok {
					assert.NotContains(t, image, "/", "overlays say where images are")
				}
			}
		})
	}
}

// patient requires that nothing is killed because a node that is short of CPU
// answers late: Kubernetes gives it a second.
func patient(t *testing.T, manifests string) {
	t.Helper()
	probes := 0
	for in := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096); ; {
		var workload appsv1.DaemonSet // of a Deployment the template is the same
		if err := in.Decode(&workload); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		if workload.Kind != "DaemonSet" && workload.Kind != "Deployment" {
			continue
		}
		for _, c := range workload.Spec.Template.Spec.Containers {
			require.NotNil(t, c.LivenessProbe, workload.Name)
			assert.GreaterOrEqual(t, c.LivenessProbe.TimeoutSeconds, int32(10), workload.Name)
			probes++
		}
	}
	assert.NotZero(t, probes)
}

// openShiftKinds makes the API server know SecurityContextConstraints, as
// OpenShift defines them; what admits pods by them it has not.
func openShiftKinds(t *testing.T, c *lab.Cluster) {
	t.Helper()
	file, err := filepath.Abs(repository + "/.lab/helm/openshift.yaml")
	require.NoError(t, err)
	require.FileExists(t, file, "run test/cluster/helm/setup (make setup-cluster)")
	c.Kubectl(t, "apply", "--server-side", "-f", file)
	t.Cleanup(func() { c.Kubectl(t, "delete", "-f", file) })
	require.NoError(t, c.Served(t.Context(), "securitycontextconstraints.security.openshift.io"))
}
