// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// documents reads manifests by kind and name.
func documents(t *testing.T, manifests string) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for in := yaml.NewDecoder(strings.NewReader(manifests)); ; {
		var d map[string]any
		err := in.Decode(&d)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		metadata, _ := d["metadata"].(map[string]any)
		if d != nil {
			all[fmt.Sprint(d["kind"], " ", metadata["name"])] = d
		}
	}
}

// template is the pod template of a workload.
func template(t *testing.T, document map[string]any) corev1.PodTemplateSpec {
	t.Helper()
	require.NotNil(t, document)
	data, err := json.Marshal(document)
	require.NoError(t, err)
	var workload struct {
		Spec struct{ Template corev1.PodTemplateSpec }
	}
	require.NoError(t, json.Unmarshal(data, &workload))
	return workload.Spec.Template
}

// TestPodSecurity asks the API server's own admission which levels the pods are
// within, and what is beyond.
func TestPodSecurity(t *testing.T) {
	for _, level := range []string{"restricted", "baseline", "privileged"} {
		// They stay: there is nobody who would end a namespace.
		cluster.KubectlInput(t, fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: within-%s, labels: {pod-security.kubernetes.io/enforce: %s}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: within-%s}
`, level, level, level), "apply", "-f", "-")
	}
	kubernetes := overlay{"deploy/kubernetes", nil}
	tests := []struct {
		name, workload, level string
		overlay
		beyond []string // of the level; nil: allowed
	}{
		{"kmm-watcher", "Deployment kmm-watcher", "restricted", kubernetes, nil},
		{"kmm-watcher beside systemd units", "Deployment kmm-watcher", "restricted", overlay{"deploy/kubelet-identity", nil}, nil},
		{"kmm-watcher on OpenShift", "Deployment kmm-watcher", "restricted", overlay{"deploy/openshift", nil}, nil},
		{"kmmd", "DaemonSet kmmd", "baseline", kubernetes, []string{"forbidden AppArmor profile", "non-default capabilities", "hostPath volumes", "seLinuxOptions"}},
		{"kmmd with hostNetwork", "DaemonSet kmmd", "baseline", overlay{"deploy/kubernetes", []string{"host-network"}},
			[]string{"forbidden AppArmor profile", "host namespaces (hostNetwork=true)", "non-default capabilities", "hostPath volumes", "hostPort", "seLinuxOptions"}},
		{"kmmd where it may", "DaemonSet kmmd", "privileged", kubernetes, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := template(t, documents(t, tt.kustomize(t))[tt.workload])
			pod.Spec.ServiceAccountName, pod.Spec.PriorityClassName = "default", ""
			pod.Name = "p"
			data, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "p"}, "spec": pod.Spec})
			require.NoError(t, err)
			_, err = cluster.Run(t.Context(), string(data), "create", "--dry-run=server", "-n", "within-"+tt.level, "-f", "-")
			if tt.beyond == nil {
				require.NoError(t, err)
				return
			}
			require.Error(t, err)
			_, said, _ := strings.Cut(err.Error(), `violates PodSecurity "baseline:latest": `)
			for _, word := range tt.beyond {
				assert.Contains(t, said, word)
			}
			assert.Len(t, violations(said), len(tt.beyond), "nothing else: %s", said)
		})
	}
}

// TestNetworkPolicies: both programs reach name servers, also where those listen
// on a port of their own behind the Service, and registries at any port.
func TestNetworkPolicies(t *testing.T) {
	all := documents(t, overlay{"deploy/kubernetes", nil}.kustomize(t))
	for _, name := range []string{"kmmd", "kmm-watcher"} {
		data, err := json.Marshal(all["NetworkPolicy "+name])
		require.NoError(t, err)
		var policy networkingv1.NetworkPolicy
		require.NoError(t, json.Unmarshal(data, &policy))
		var ports []string
		for _, rule := range policy.Spec.Egress {
			assert.Empty(t, rule.To, "anywhere")
			for _, p := range rule.Ports {
				last := p.Port.IntVal
				if p.EndPort != nil {
					last = *p.EndPort
				}
				ports = append(ports, fmt.Sprintf("%s %d-%d", *p.Protocol, p.Port.IntVal, last))
			}
		}
		assert.Equal(t, []string{"UDP 53-53", "UDP 5353-5353", "TCP 1-65535"}, ports, name)
	}
}

// violations are the parts of a refusal: "hostPath volumes (volumes "a", "b"), hostPort (…)".
func violations(said string) []string {
	depth := 0
	return slices.DeleteFunc(strings.FieldsFunc(said, func(r rune) bool {
		switch r {
		case '(':
			depth++
		case ')':
			depth--
		}
		return r == ',' && depth == 0
	}), func(s string) bool { return strings.TrimSpace(s) == "" })
}

// TestAgentPod: what must never slip in, and that each capability and mount says why it is there.
func TestAgentPod(t *testing.T) {
	pod := template(t, documents(t, overlay{"deploy/kubernetes", nil}.kustomize(t))["DaemonSet kmmd"])
	assert.False(t, pod.Spec.HostPID || pod.Spec.HostIPC || pod.Spec.HostNetwork)
	assert.Equal(t, "system-node-critical", pod.Spec.PriorityClassName)
	require.Len(t, pod.Spec.Containers, 1)
	security := pod.Spec.Containers[0].SecurityContext
	assert.False(t, *security.Privileged || *security.AllowPrivilegeEscalation)
	assert.True(t, *security.ReadOnlyRootFilesystem)
	assert.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, pod.Spec.SecurityContext.SeccompProfile.Type)
	assert.Equal(t, []corev1.Capability{"ALL"}, security.Capabilities.Drop)
	assert.NotContains(t, security.Capabilities.Add, corev1.Capability("SYS_ADMIN"))
	var writable []string
	for _, m := range pod.Spec.Containers[0].VolumeMounts {
		if !m.ReadOnly {
			writable = append(writable, m.MountPath)
		}
	}
	assert.ElementsMatch(t, []string{"/host/sys", "/host/run/modprobe.d", "/var/lib/kmmd", "/run/kmmd", "/var/lib/firmware", "/tmp"}, writable)
	constraints := documents(t, overlay{"deploy/openshift", nil}.kustomize(t))["SecurityContextConstraints kmmd"]
	var allowed []corev1.Capability
	for _, c := range constraints["allowedCapabilities"].([]any) {
		allowed = append(allowed, corev1.Capability(c.(string)))
	}
	assert.ElementsMatch(t, security.Capabilities.Add, allowed, "OpenShift allows just that")
}
