// SPDX-License-Identifier: Apache-2.0

package watcher_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/watcher"
)

func TestPlugins(t *testing.T) {
	for name, m := range modules(t) {
		t.Run(name, func(t *testing.T) {
			before := m.DeepCopy()
			sets, err := watcher.DaemonSets(m)
			require.NoError(t, err)
			classes, err := watcher.DeviceClasses(m)
			require.NoError(t, err)
			var all []any
			for _, s := range sets {
				all = append(all, s)
			}
			for _, c := range classes {
				all = append(all, c)
			}
			golden(t, filepath.Join("testdata/plugins", name+".golden.yaml"), all...)
			assert.Equal(t, before, m, "the Module is only read")
		})
	}
}

func TestNoPlugin(t *testing.T) {
	m := &v1beta1.Module{Spec: v1beta1.ModuleSpec{ModuleLoader: &v1beta1.ModuleLoaderSpec{}}}
	sets, err := watcher.DaemonSets(m)
	require.NoError(t, err)
	assert.Empty(t, sets)
	classes, err := watcher.DeviceClasses(m)
	require.NoError(t, err)
	assert.Empty(t, classes)
}

// What an author wrote arrives as it was written, also what the JSON of a typed
// object would leave out.
func TestAuthorsFieldsSurvive(t *testing.T) {
	m := modules(t)["whole-pod"]
	ds := typed(t, m)
	pod, want := ds.Spec.Template.Spec, m.Spec.DevicePlugin
	c := pod.Containers[0]
	assert.Equal(t, want.Container.Env, c.Env)
	assert.Equal(t, want.Container.Args, c.Args)
	assert.Equal(t, want.Container.Command, c.Command)
	assert.True(t, want.Container.Resources.Requests.Cpu().Equal(*c.Resources.Requests.Cpu()))
	assert.True(t, want.Container.Resources.Limits.Memory().Equal(*c.Resources.Limits.Memory()))
	assert.Equal(t, want.Container.VolumeMounts, c.VolumeMounts[1:])
	assert.Equal(t, want.Volumes[:3], pod.Volumes[1:4])
	assert.Equal(t, want.AutomountServiceAccountToken, pod.AutomountServiceAccountToken)
	assert.Equal(t, m.Spec.Tolerations, pod.Tolerations)
	assert.Equal(t, int64(0), *pod.Tolerations[1].TolerationSeconds)
}

func TestDaemonSetNames(t *testing.T) {
	longest := strings.Repeat("m", v1beta1.MaxNameLength-1)
	for _, tt := range []struct{ name, module, version, want string }{
		{"plain", "m", "", "m-device-plugin"},
		{"version", "m", "1", "m-device-plugin-6b86b273"},
		{"other version", "m", "2", "m-device-plugin-d4735e3a"},
		{"dots", "a.b", "1.0", "a.b-device-plugin-d0ff5974"},
		{"longest that the API allows", longest, "1", longest + "-device-plugin-6b86b273"},
		{"longer", longest + "m", "1", longest[:31] + "-f45be713-device-plugin-6b86b273"},
		{"longer, cut at a dot", strings.Repeat("m", 30) + ".mmmmmmmmmmmmm", "1", longest[:30] + "-4c135569-device-plugin-6b86b273"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ds := typed(t, pluginModule(tt.module, tt.version))
			assert.Equal(t, tt.want, ds.Name)
			assert.LessOrEqual(t, len(ds.Name), 63)
			assert.Empty(t, validation.IsDNS1123Subdomain(ds.Name))
			assert.Empty(t, validation.IsDNS1123Subdomain(podBase(ds.Name)+"abcde"), "the pods' names")
		})
	}
}

// A selector can not be changed, so nothing in a Module may change it, and no
// two DaemonSets may select the same pods.
func TestSelectorsNeverChange(t *testing.T) {
	m := pluginModule("m", "1")
	first := typed(t, m)
	changed := m.DeepCopy()
	changed.Spec.Selector = map[string]string{"other": "x"}
	changed.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	changed.Spec.DevicePlugin.Container.Image = "other"
	changed.Labels = map[string]string{"x": "y"}
	second := typed(t, changed)
	assert.Equal(t, first.Name, second.Name)
	assert.Equal(t, first.Spec.Selector, second.Spec.Selector)

	plain, dra := pluginModule("m", ""), pluginModule("m", "1")
	dra.Spec.DRA, dra.Spec.DevicePlugin = &v1beta1.DRASpec{}, nil
	for _, other := range []*v1beta1.Module{plain, dra, pluginModule("m", "2")} {
		ds := typed(t, other)
		assert.NotEqual(t, first.Name, ds.Name)
		selector, err := metav1.LabelSelectorAsSelector(first.Spec.Selector)
		require.NoError(t, err)
		assert.False(t, selector.Matches(labels.Set(ds.Spec.Template.Labels)))
		selector, err = metav1.LabelSelectorAsSelector(ds.Spec.Selector)
		require.NoError(t, err)
		assert.True(t, selector.Matches(labels.Set(ds.Spec.Template.Labels)))
		assert.False(t, selector.Matches(labels.Set(first.Spec.Template.Labels)))
	}
}

func TestHealthProbe(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  []corev1.EnvVar
		port int32 // 0 is no probe
	}{
		{"by itself", nil, 51515},
		{"moved", []corev1.EnvVar{{Name: "HEALTHCHECK_PORT", Value: "8080"}}, 8080},
		{"switched off", []corev1.EnvVar{{Name: "HEALTHCHECK_PORT", Value: "-1"}}, 0},
		{"any port", []corev1.EnvVar{{Name: "HEALTHCHECK_PORT", Value: "0"}}, 0},
		{"no port", []corev1.EnvVar{{Name: "HEALTHCHECK_PORT", Value: "65536"}}, 0},
		{"not known here", []corev1.EnvVar{{Name: "HEALTHCHECK_PORT", ValueFrom: &corev1.EnvVarSource{}}}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &v1beta1.Module{Spec: v1beta1.ModuleSpec{DRA: &v1beta1.DRASpec{}}}
			m.Spec.DRA.Container.Env = tt.env
			probe := typed(t, m).Spec.Template.Spec.Containers[0].LivenessProbe
			if tt.port == 0 {
				assert.Nil(t, probe)
				return
			}
			require.NotNil(t, probe)
			assert.Equal(t, tt.port, probe.GRPC.Port)
		})
	}
}

func TestRecognition(t *testing.T) {
	m := pluginModule("m", "1")
	m.Namespace, m.UID = "ns", "uid"
	ds := typed(t, m)
	assert.True(t, watcher.OwnedBy(ds, m))
	assert.Equal(t, "1", watcher.DaemonSetVersion(ds.Labels))
	assert.Equal(t, v1beta1.RoleDevicePlugin, watcher.Role(ds.Labels))
	assert.Empty(t, watcher.Role(map[string]string{v1beta1.RoleLabel: "module-loader"}))

	again := m.DeepCopy()
	again.UID = "another"
	assert.False(t, watcher.OwnedBy(ds, again), "a Module that was made anew owns nothing of the old one")

	name := map[string]string{v1beta1.ModuleNameLabel: "m"}
	both := map[string]string{v1beta1.ModuleNameLabel: "m", v1beta1.ModuleNamespaceLabel: "ns"}
	for _, tt := range []struct {
		name string
		meta metav1.ObjectMeta
		want string
	}{
		{"ours", metav1.ObjectMeta{Namespace: "ns", Labels: both}, "ns/m"},
		{"of the cluster", metav1.ObjectMeta{Labels: both}, "ns/m"},
		{"of the operator", metav1.ObjectMeta{Namespace: "ns", Labels: name}, "ns/m"},
		{"points into another namespace", metav1.ObjectMeta{Namespace: "evil", Labels: both}, ""},
		{"of the cluster, no namespace", metav1.ObjectMeta{Labels: name}, ""},
		{"not ours", metav1.ObjectMeta{Namespace: "ns"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			namespace, name, ok := watcher.ModuleOf(&tt.meta)
			assert.Equal(t, tt.want != "", ok)
			if ok {
				assert.Equal(t, tt.want, namespace+"/"+name)
			}
		})
	}
}

func pluginModule(name, version string) *v1beta1.Module {
	m := &v1beta1.Module{ObjectMeta: metav1.ObjectMeta{Name: name}}
	m.Spec.ModuleLoader = &v1beta1.ModuleLoaderSpec{}
	m.Spec.ModuleLoader.Container.Version = version
	m.Spec.DevicePlugin = &v1beta1.DevicePluginSpec{}
	return m
}

// typed is the one DaemonSet of a Module as a server would read it.
func typed(t *testing.T, m *v1beta1.Module) *appsv1.DaemonSet {
	t.Helper()
	sets, err := watcher.DaemonSets(m)
	require.NoError(t, err)
	require.Len(t, sets, 1)
	text, err := json.Marshal(sets[0])
	require.NoError(t, err)
	ds := &appsv1.DaemonSet{}
	require.NoError(t, json.Unmarshal(text, ds))
	return ds
}

// podBase is what the API server keeps of a generateName
// (k8s.io/apiserver/pkg/storage/names).
func podBase(daemonSet string) string {
	base := daemonSet + "-"
	return base[:min(len(base), 58)]
}
