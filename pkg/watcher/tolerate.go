// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// TakesPart says whether a node should have a Module, and if not, why, for
// people. The node's labels must have all of the Module's selector. Of its
// taints, as for a pod, NoSchedule keeps away a Module that is not there
// already, NoExecute takes it off as well, and PreferNoSchedule means nothing,
// unless the Module tolerates them; for how long it does is not looked at.
//
// Unlike for a pod, taints about the state of a node never matter, neither for
// a first load nor for an unload: see transient.
func TakesPart(m *v1beta1.Module, node *corev1.Node, already bool) (bool, string) {
	for _, key := range slices.Sorted(maps.Keys(m.Spec.Selector)) {
		want := m.Spec.Selector[key]
		if have, ok := node.Labels[key]; !ok {
			return false, fmt.Sprintf("the node has no label %s, selected is %q", key, want)
		} else if have != want {
			return false, fmt.Sprintf("the node's label %s is %q, selected is %q", key, have, want)
		}
	}
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		matters := taint.Effect == corev1.TaintEffectNoExecute || taint.Effect == corev1.TaintEffectNoSchedule && !already
		if matters && !transient(taint.Key) && !tolerated(m.Spec.Tolerations, taint) {
			return false, fmt.Sprintf("the node's taint %s is not tolerated", taint.ToString())
		}
	}
	return true, ""
}

// transient is a taint that Kubernetes sets for as long as a node is in some
// state. A driver has to be there in all of them: often it is what makes the
// node ready, and a node that is cordoned, short of something or not heard of
// goes on using it.
//
// out-of-service is set by hand on a node that is switched off, to have its
// pods deleted. Such a node can unload nothing, and would only load the Module
// at its next boot, unload it, and load it again when the taint goes.
func transient(key string) bool {
	switch key {
	case corev1.TaintNodeUnschedulable,
		corev1.TaintNodeNotReady,
		corev1.TaintNodeUnreachable,
		corev1.TaintNodeMemoryPressure,
		corev1.TaintNodeDiskPressure,
		corev1.TaintNodePIDPressure,
		corev1.TaintNodeNetworkUnavailable,
		corev1.TaintNodeOutOfService,
		// k8s.io/cloud-provider/api, TaintExternalCloudProvider and TaintNodeShutdown.
		"node.cloudprovider.kubernetes.io/uninitialized",
		"node.cloudprovider.kubernetes.io/shutdown":
		return true
	default:
		return false
	}
}

func tolerated(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	return slices.ContainsFunc(tolerations, func(t corev1.Toleration) bool {
		// Operators that compare numbers are behind a gate that is off in clusters.
		const compareNumbers = false
		return t.ToleratesTaint(klog.Logger{}, taint, compareNumbers)
	})
}
