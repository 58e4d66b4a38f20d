// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestManifests: all of them are valid, the workloads too, which the lab does not
// install.
func TestManifests(t *testing.T) {
	tests := []struct {
		dir       string
		has, lack []string
	}{
		{"deploy/base", []string{"deployment.apps/kmm-watcher", "daemonset.apps/kmmd"}, []string{"kmmd-kubelets"}},
		{"deploy/kubelet-identity", []string{"deployment.apps/kmm-watcher", "kmmd-kubelets"}, []string{"daemonset.apps/kmmd"}},
	}
	for _, tt := range tests {
		t.Run(tt.dir, func(t *testing.T) {
			out := cluster.Kubectl(t, "apply", "--dry-run=server", "--server-side", "--force-conflicts", "-k", tt.dir)
			for _, word := range tt.has {
				assert.Contains(t, out, word)
			}
			for _, word := range tt.lack {
				assert.NotContains(t, out, word)
			}
			for _, line := range strings.Split(cluster.Kubectl(t, "kustomize", tt.dir), "\n") {
				if image, ok := strings.CutPrefix(strings.TrimSpace(line), "image: "); ok {
					assert.NotContains(t, image, "/", "overlays say where images are")
				}
			}
		})
	}
}
