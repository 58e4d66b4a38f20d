// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
)

// constraints are what of SecurityContextConstraints matters for our pods.
type constraints struct {
	AllowPrivilegeEscalation *bool
	AllowHostDirVolumePlugin bool
	AllowHostNetwork         bool
	AllowHostPorts           bool
	ReadOnlyRootFilesystem   bool
	RequiredDropCapabilities []corev1.Capability
	AllowedCapabilities      []corev1.Capability
	SeccompProfiles          []string
	RunAsUser                struct{ Type string }
	SELinuxContext           struct {
		Type           string
		SELinuxOptions corev1.SELinuxOptions
	}
	Volumes []string
}

// OpenShift's own, as its release has them.
const (
	restrictedV2 = `
allowPrivilegeEscalation: false
requiredDropCapabilities: [ALL]
allowedCapabilities: [NET_BIND_SERVICE]
seccompProfiles: [runtime/default]
runAsUser: {type: MustRunAsRange}
seLinuxContext: {type: MustRunAs}
volumes: [configMap, csi, downwardAPI, emptyDir, ephemeral, persistentVolumeClaim, projected, secret]
`
	nonrootV2 = `
allowPrivilegeEscalation: false
requiredDropCapabilities: [ALL]
allowedCapabilities: [NET_BIND_SERVICE]
seccompProfiles: [runtime/default]
runAsUser: {type: MustRunAsNonRoot}
seLinuxContext: {type: MustRunAs}
volumes: [configMap, csi, downwardAPI, emptyDir, ephemeral, persistentVolumeClaim, projected, secret]
`
)

// What OpenShift notes at a namespace: users of its pods, and their SELinux level.
const (
	firstUser, users = 1000650000, 10000
	level            = "s0:c26,c5"
)

// refuses says what of a pod is beyond the constraints, by the rules of OpenShift's
// admission (github.com/openshift/apiserver-library-go) as we read them. What a pod
// leaves open is filled in there, and is no reason.
func (c *constraints) refuses(pod *corev1.PodSpec) (why []string) {
	no := func(format string, a ...any) { why = append(why, fmt.Sprintf(format, a...)) }
	if pod.HostNetwork && !c.AllowHostNetwork {
		no("hostNetwork")
	}
	for _, v := range pod.Volumes {
		data, _ := json.Marshal(v.VolumeSource)
		kind, _, _ := strings.Cut(strings.TrimPrefix(string(data), `{"`), `"`)
		if !slices.Contains(c.Volumes, kind) || kind == "hostPath" && !c.AllowHostDirVolumePlugin {
			no("volume %s: %s", v.Name, kind)
		}
	}
	of := cmp.Or(pod.SecurityContext, &corev1.PodSecurityContext{})
	for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
		s := cmp.Or(container.SecurityContext, &corev1.SecurityContext{})
		if user := cmp.Or(s.RunAsUser, of.RunAsUser); user != nil {
			switch {
			case c.RunAsUser.Type == "MustRunAsRange" && (*user < firstUser || *user >= firstUser+users):
				no("runAsUser %d: beyond the namespace's", *user)
			case c.RunAsUser.Type == "MustRunAsNonRoot" && *user == 0:
				no("runAsUser 0")
			}
		}
		if options := cmp.Or(s.SELinuxOptions, of.SELinuxOptions); options != nil && c.SELinuxContext.Type == "MustRunAs" {
			want := c.SELinuxContext.SELinuxOptions
			want.Level = cmp.Or(want.Level, level)
			if *options != want {
				no("seLinuxOptions %+v: not %+v", *options, want)
			}
		}
		if profile := cmp.Or(s.SeccompProfile, of.SeccompProfile); profile != nil &&
			(profile.Type != corev1.SeccompProfileTypeRuntimeDefault || !slices.Contains(c.SeccompProfiles, "runtime/default")) {
			no("seccompProfile %s", profile.Type)
		}
		// What has to be dropped is dropped for a container that says nothing.
		capabilities := cmp.Or(s.Capabilities, &corev1.Capabilities{})
		for _, added := range capabilities.Add {
			if !slices.Contains(c.AllowedCapabilities, added) {
				no("capability %s", added)
			}
		}
		if s.Privileged != nil && *s.Privileged {
			no("privileged")
		}
		if s.AllowPrivilegeEscalation != nil && *s.AllowPrivilegeEscalation && !*c.AllowPrivilegeEscalation {
			no("allowPrivilegeEscalation")
		}
		if c.ReadOnlyRootFilesystem && s.ReadOnlyRootFilesystem != nil && !*s.ReadOnlyRootFilesystem {
			no("a root file system that can be written")
		}
		for _, port := range container.Ports {
			if (port.HostPort != 0 || pod.HostNetwork) && !c.AllowHostPorts {
				no("port %d of the host", port.ContainerPort)
			}
		}
	}
	return why
}

func constraintsOf(t *testing.T, document any) *constraints {
	t.Helper()
	require.NotNil(t, document)
	data, err := json.Marshal(document)
	require.NoError(t, err)
	c := &constraints{}
	require.NoError(t, json.Unmarshal(data, c))
	return c
}

func released(t *testing.T, text string) *constraints {
	t.Helper()
	var document map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(text), &document))
	return constraintsOf(t, document)
}

// TestOpenShift: constraints let our pods be as we say them. It is not OpenShift
// that is asked.
func TestOpenShift(t *testing.T) {
	restricted := released(t, restrictedV2)
	charted := func(values ...string) map[string]map[string]any {
		out, err := chart(t, "kmm-system", append(values, "openshift=true")...)
		require.NoError(t, err)
		return documents(t, out)
	}
	for name, all := range map[string]map[string]map[string]any{
		"kustomize": documents(t, overlay{"deploy/openshift", nil}.kustomize(t)), "chart": charted(),
		"chart with hostNetwork": charted("agent.hostNetwork=true"),
	} {
		agent, watcher := template(t, all["DaemonSet kmmd"]), template(t, all["Deployment kmm-watcher"])
		ours := constraintsOf(t, all["SecurityContextConstraints kmmd"])
		assert.Empty(t, ours.refuses(&agent.Spec), name)
		assert.Empty(t, restricted.refuses(&watcher.Spec), name)
		assert.True(t, *watcher.Spec.SecurityContext.RunAsNonRoot)
		assert.NotEmpty(t, restricted.refuses(&agent.Spec), name)
		ours.SELinuxContext.Type = "MustRunAs"
		ours.SELinuxContext.SELinuxOptions.Type = "spc_t"
		assert.Len(t, ours.refuses(&agent.Spec), 1, "the level is compared")
	}
	watcher := template(t, documents(t, overlay{"deploy/kubernetes", nil}.kustomize(t))["Deployment kmm-watcher"])
	assert.Equal(t, []string{"runAsUser 65532: beyond the namespace's"}, restricted.refuses(&watcher.Spec))
}

// TestOpenShiftJobs: docs/install.md says which constraints the pods of image Jobs
// need.
func TestOpenShiftJobs(t *testing.T) {
	nonroot := released(t, nonrootV2)
	anyUser := *nonroot
	anyUser.RunAsUser.Type = "RunAsAny"
	for name, level := range weakest {
		text, err := os.ReadFile("../../pkg/build/testdata/" + name + ".golden.yaml")
		require.NoError(t, err)
		for _, job := range documents(t, string(text)) {
			pod := template(t, job)
			assert.Equal(t, level == "restricted", nonroot.refuses(&pod.Spec) == nil, name)
			assert.Equal(t, level != "privileged", anyUser.refuses(&pod.Spec) == nil, "%s: %s", name, anyUser.refuses(&pod.Spec))
		}
	}
}
