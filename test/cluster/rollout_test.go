// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/play"
)

// TestRollout: applied for real, the DaemonSet has a pod on each node, whatever its
// taints, and is replaced without a node that has no agent, also when the new one
// does not come up.
func TestRollout(t *testing.T) {
	private := lab.New(t, lab.Options{ControllerManager: true, Scheduler: true})
	private.Kubectl(t, "apply", "--server-side", "-k", "deploy/kubernetes")
	patch := func(p string) {
		t.Helper()
		private.Kubectl(t, "patch", "daemonset", "kmmd", "-n", "kmm-system", "-p", p)
	}
	player := play.Start(t, private.Config())
	nodes := []string{"n1", "n2", "n3"}
	require.NoError(t, player.AddNodes(t.Context(), play.Node{Name: "n1"}, play.Node{Name: "n2"},
		play.Node{Name: "n3", Taints: []corev1.Taint{{Key: "driver", Value: "missing", Effect: corev1.TaintEffectNoExecute}}}))
	agents := func() []corev1.Pod {
		t.Helper()
		var list corev1.PodList
		require.NoError(t, json.Unmarshal([]byte(private.Kubectl(t, "get", "pods", "-n", "kmm-system", "-l", "app.kubernetes.io/name=kmmd", "-o", "json")), &list))
		return list.Items
	}
	lab.Wait(t, "each node has an agent", func() error { return have(agents(), nodes, "kmmd:latest") })

	patch(`{"spec":{"template":{"spec":{"containers":[{"name":"kmmd","image":"kmmd:next"}]}}}}`)
	lab.Wait(t, "each node has the new one", func() error {
		pods := agents()
		require.NoError(t, have(pods, nodes, ""), "never without")
		return have(pods, nodes, "kmmd:next")
	})
	lab.Wait(t, "the old ones are gone", func() error {
		if n := len(agents()); n != len(nodes) {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})

	player.Pause(nodes...)
	patch(`{"spec":{"template":{"spec":{"containers":[{"name":"kmmd","image":"kmmd:missing"}]}}}}`)
	lab.Wait(t, "one is tried", func() error {
		if len(agents()) == len(nodes) {
			return errors.New("not yet")
		}
		return nil
	})
	until := time.After(5 * time.Second)
	for tick := time.Tick(200 * time.Millisecond); ; {
		pods := agents()
		require.NoError(t, have(pods, nodes, "kmmd:next"), "the old ones stay")
		assert.LessOrEqual(t, len(pods), len(nodes)+1, "no other node is touched")
		select {
		case <-until:
			return
		case <-tick:
		}
	}
}

// have says which node has no pod of the image that is ready and stays.
func have(pods []corev1.Pod, nodes []string, image string) error {
	for _, node := range nodes {
		if !slices.ContainsFunc(pods, func(p corev1.Pod) bool {
			ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			})
			return p.Spec.NodeName == node && p.DeletionTimestamp == nil && ready && (image == "" || p.Spec.Containers[0].Image == image)
		}) {
			return fmt.Errorf("%s has none", node)
		}
	}
	return nil
}
