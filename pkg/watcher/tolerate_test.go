// SPDX-License-Identifier: Apache-2.0

package watcher_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/watcher"
)

func TestSelector(t *testing.T) {
	node := map[string]string{"pool": "a", "worker": "", "zone": "1"}
	for _, tt := range []struct {
		name     string
		selector map[string]string
		want     bool
		why      string
	}{
		{"none", nil, true, ""},
		{"all there", map[string]string{"pool": "a", "worker": ""}, true, ""},
		{"other value", map[string]string{"pool": "b", "worker": ""}, false, `the node's label pool is "a", selected is "b"`},
		{"not there", map[string]string{"pool": "a", "gpu": ""}, false, `the node has no label gpu, selected is ""`},
	} {
		for _, already := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				m := &v1beta1.Module{Spec: v1beta1.ModuleSpec{Selector: tt.selector}}
				ok, why := watcher.TakesPart(m, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: node}}, already)
				assert.Equal(t, tt.want, ok)
				assert.Equal(t, tt.why, why)
			})
		}
	}
}

func TestTaints(t *testing.T) {
	const (
		soft  = corev1.TaintEffectPreferNoSchedule
		stays = corev1.TaintEffectNoSchedule
		off   = corev1.TaintEffectNoExecute
	)
	zero := int64(0)
	taint := func(effect corev1.TaintEffect) []corev1.Taint {
		return []corev1.Taint{{Key: "k", Value: "v", Effect: effect}}
	}
	for _, tt := range []struct {
		name        string
		taints      []corev1.Taint
		tolerations []corev1.Toleration
		comes       bool // a first load
		remains     bool // when it is there already
	}{
		{"none", nil, nil, true, true},
		{"soft", taint(soft), nil, true, true},
		{"NoSchedule", taint(stays), nil, false, true},
		{"NoExecute", taint(off), nil, false, false},
		{"both", append(taint(stays), taint(off)...), nil, false, false},
		{"both, one tolerated", append(taint(stays), taint(off)...), []corev1.Toleration{{Key: "k", Operator: "Exists", Effect: off}}, false, true},
		{"equal", taint(off), []corev1.Toleration{{Key: "k", Operator: "Equal", Value: "v", Effect: off}}, true, true},
		{"equal is the default", taint(off), []corev1.Toleration{{Key: "k", Value: "v", Effect: off}}, true, true},
		{"other value", taint(off), []corev1.Toleration{{Key: "k", Operator: "Equal", Value: "w", Effect: off}}, false, false},
		{"no value is not any value", taint(off), []corev1.Toleration{{Key: "k", Effect: off}}, false, false},
		{"exists", taint(off), []corev1.Toleration{{Key: "k", Operator: "Exists", Effect: off}}, true, true},
		{"other key", taint(off), []corev1.Toleration{{Key: "l", Operator: "Exists", Effect: off}}, false, false},
		{"other effect", taint(off), []corev1.Toleration{{Key: "k", Operator: "Exists", Effect: stays}}, false, false},
		{"no effect is any", taint(off), []corev1.Toleration{{Key: "k", Operator: "Exists"}}, true, true},
		{"no key is any", taint(off), []corev1.Toleration{{Operator: "Exists"}}, true, true},
		{"second of two", taint(off), []corev1.Toleration{{Key: "x", Operator: "Exists"}, {Operator: "Exists"}}, true, true},
		{"for a while counts", taint(off), []corev1.Toleration{{Key: "k", Operator: "Exists", Effect: off, TolerationSeconds: &zero}}, true, true},
		{"comparing numbers is no operator", []corev1.Taint{{Key: "k", Value: "5", Effect: off}}, []corev1.Toleration{{Key: "k", Operator: "Gt", Value: "1"}}, false, false},
		{"control plane", []corev1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: stays}}, nil, false, true},
		{"alike by name only", []corev1.Taint{{Key: "node.kubernetes.io/not-ready-at-all", Effect: off}}, nil, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &v1beta1.Module{Spec: v1beta1.ModuleSpec{Tolerations: tt.tolerations}}
			node := &corev1.Node{Spec: corev1.NodeSpec{Taints: tt.taints}}
			for already, want := range map[bool]bool{false: tt.comes, true: tt.remains} {
				ok, why := watcher.TakesPart(m, node, already)
				assert.Equal(t, want, ok, "already %v: %s", already, why)
				assert.Equal(t, want, why == "", "a reason goes with a refusal")
			}
		})
	}
}

func TestTaintsOfState(t *testing.T) {
	for _, key := range []string{
		"node.kubernetes.io/unschedulable",
		"node.kubernetes.io/not-ready",
		"node.kubernetes.io/unreachable",
		"node.kubernetes.io/memory-pressure",
		"node.kubernetes.io/disk-pressure",
		"node.kubernetes.io/pid-pressure",
		"node.kubernetes.io/network-unavailable",
		"node.kubernetes.io/out-of-service",
		"node.cloudprovider.kubernetes.io/uninitialized",
		"node.cloudprovider.kubernetes.io/shutdown",
	} {
		for _, effect := range []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute} {
			t.Run(key+" "+string(effect), func(t *testing.T) {
				node := &corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true, Taints: []corev1.Taint{{Key: key, Value: "x", Effect: effect}}}}
				for _, already := range []bool{false, true} {
					ok, why := watcher.TakesPart(&v1beta1.Module{}, node, already)
					assert.True(t, ok, why)
				}
			})
		}
	}
}

func TestWhyNames(t *testing.T) {
	node := &corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoExecute}}}}
	_, why := watcher.TakesPart(&v1beta1.Module{}, node, true)
	assert.Equal(t, "the node's taint k=v:NoExecute is not tolerated", why)
}
