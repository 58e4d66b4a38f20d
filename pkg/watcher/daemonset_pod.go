// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"maps"
	"path"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// Names, paths and numbers below are those of the KMM operator: images of
// plugins rely on them.
const (
	devicePluginsDir = "/var/lib/kubelet/device-plugins"
	pluginsDir       = "/var/lib/kubelet/plugins/"
	registryDir      = "/var/lib/kubelet/plugins_registry/"
	cdiDir           = "/var/run/cdi"

	healthPortEnv    = "HEALTHCHECK_PORT"
	healthPort       = 51515
	healthService    = "liveness"
	pluginPriority   = "system-node-critical"
	initSuffix       = "-init"
	nodeNameField    = "spec.nodeName"
	podUIDField      = "metadata.uid"
	healthDelay      = 30
	healthPeriod     = 10
	healthTimeout    = 5
	healthMaxFailure = 3
)

// plugin is what a Module's device plugin or DRA driver brings besides what its
// author says about the pod.
type plugin struct {
	role        string
	pod         v1beta1.PluginPodSpec
	dirs        []hostDir
	env         []corev1.EnvVar
	probe       *corev1.Probe
	hostNetwork bool
}

// hostDir is a directory of the host, seen at the same path in the container.
type hostDir struct {
	volume string
	path   string
	kind   corev1.HostPathType
}

func plugins(m *v1beta1.Module) []plugin {
	var all []plugin
	if d := m.Spec.DevicePlugin; d != nil {
		all = append(all, plugin{
			role: v1beta1.RoleDevicePlugin,
			pod:  d.PluginPodSpec,
			dirs: []hostDir{{"kubelet-device-plugins", devicePluginsDir, corev1.HostPathDirectory}},
		})
	}
	if d := m.Spec.DRA; d != nil {
		all = append(all, plugin{
			role: v1beta1.RoleDRA,
			pod:  d.PluginPodSpec,
			dirs: []hostDir{
				{"kubelet-plugins", pluginsDir, corev1.HostPathDirectoryOrCreate},
				{"kubelet-plugins-registry", registryDir, corev1.HostPathDirectory},
				{"cdi", cdiDir, corev1.HostPathDirectoryOrCreate},
			},
			env:         draEnv(),
			probe:       draProbe(d.Container.Env),
			hostNetwork: true,
		})
	}
	return all
}

func draEnv() []corev1.EnvVar {
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	return []corev1.EnvVar{
		{Name: "NODE_NAME", ValueFrom: field(nodeNameField)},
		{Name: "POD_UID", ValueFrom: field(podUIDField)},
		{Name: "CDI_ROOT", Value: cdiDir},
		{Name: "KUBELET_REGISTRAR_DIRECTORY_PATH", Value: registryDir},
		{Name: "KUBELET_PLUGINS_DIRECTORY_PATH", Value: pluginsDir},
		{Name: healthPortEnv, Value: strconv.Itoa(healthPort)},
	}
}

// draProbe asks the driver for its health at the port that it is told. An
// author who sets the variable moves the port, which two drivers on the
// network of one node need; a value that is no port, such as -1, says that the
// driver answers no such question.
func draProbe(author []corev1.EnvVar) *corev1.Probe {
	port := uint64(healthPort)
	if i := slices.IndexFunc(author, func(e corev1.EnvVar) bool { return e.Name == healthPortEnv }); i >= 0 {
		var err error
		if port, err = strconv.ParseUint(author[i].Value, 10, 16); err != nil || port == 0 {
			return nil
		}
	}
	service := healthService
	return &corev1.Probe{
		ProbeHandler:        corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port), Service: &service}},
		InitialDelaySeconds: healthDelay,
		PeriodSeconds:       healthPeriod,
		TimeoutSeconds:      healthTimeout,
		FailureThreshold:    healthMaxFailure,
	}
}

func podTemplate(m *v1beta1.Module, p plugin, labels map[string]string) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec(m, p)}
	choosesNodes(m, &t.Spec)
	return t
}

// podSpec is the pod of a plugin. Where its author and the plugin's own needs
// name the same thing, the author wins, because two of a name make an invalid
// pod: a volume with the name of one of ours is the one that our mount shows (a
// kubelet may have its directory elsewhere), a mount at the path of one of ours
// replaces it, and so does a variable. A directory that nobody mounts is left
// out.
func podSpec(m *v1beta1.Module, p plugin) corev1.PodSpec {
	s := corev1.PodSpec{
		Containers:                   []corev1.Container{container(p.role, p.pod.Container)},
		PriorityClassName:            pluginPriority,
		HostNetwork:                  p.hostNetwork,
		ServiceAccountName:           p.pod.ServiceAccountName,
		AutomountServiceAccountToken: p.pod.AutomountServiceAccountToken,
		Tolerations:                  m.Spec.Tolerations,
	}
	main := &s.Containers[0]
	main.Env = addEnv(p.env, main.Env)
	main.VolumeMounts = addMounts(p.dirs, main.VolumeMounts)
	main.LivenessProbe = p.probe
	if p.pod.InitContainer != nil {
		s.InitContainers = []corev1.Container{container(p.role+initSuffix, *p.pod.InitContainer)}
	}
	s.Volumes = addVolumes(p.dirs, p.pod.Volumes, slices.Concat(s.Containers, s.InitContainers))
	if secret := m.Spec.ImageRepoSecret; secret != nil && secret.Name != "" {
		s.ImagePullSecrets = []corev1.LocalObjectReference{*secret}
	}
	return s
}

// choosesNodes has the pod run where the Module is ready. The version that runs
// has a label of its own beside the one for ready, so a Module without a version
// asks for its absence: while a Module is given its first version, or loses its
// last, both kinds of nodes exist.
func choosesNodes(m *v1beta1.Module, s *corev1.PodSpec) {
	versionReady := v1beta1.VersionReadyLabel(m.Namespace, m.Name)
	switch version := moduleVersion(m); {
	case m.Spec.ModuleLoader == nil:
		s.NodeSelector = maps.Clone(m.Spec.Selector)
	case version != "":
		s.NodeSelector = map[string]string{versionReady: version}
	default:
		s.NodeSelector = map[string]string{v1beta1.ReadyLabel(m.Namespace, m.Name): ""}
		s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: versionReady, Operator: corev1.NodeSelectorOpDoesNotExist}},
				}},
			},
		}}
	}
}

func container(name string, c v1beta1.CommonContainerSpec) corev1.Container {
	privileged := true
	return corev1.Container{
		Name:            name,
		Image:           c.Image,
		ImagePullPolicy: c.ImagePullPolicy,
		Command:         c.Command,
		Args:            c.Args,
		Env:             c.Env,
		Resources:       c.Resources,
		VolumeMounts:    c.VolumeMounts,
		SecurityContext: &corev1.SecurityContext{Privileged: &privileged},
	}
}

// addEnv puts ours first, so that the author's may refer to them.
func addEnv(ours, author []corev1.EnvVar) []corev1.EnvVar {
	var all []corev1.EnvVar
	for _, e := range ours {
		if !slices.ContainsFunc(author, func(a corev1.EnvVar) bool { return a.Name == e.Name }) {
			all = append(all, e)
		}
	}
	return append(all, author...)
}

func addMounts(dirs []hostDir, author []corev1.VolumeMount) []corev1.VolumeMount {
	var all []corev1.VolumeMount
	for _, d := range dirs {
		same := func(a corev1.VolumeMount) bool { return path.Clean(a.MountPath) == path.Clean(d.path) }
		if !slices.ContainsFunc(author, same) {
			all = append(all, corev1.VolumeMount{Name: d.volume, MountPath: d.path})
		}
	}
	return append(all, author...)
}

func addVolumes(dirs []hostDir, author []corev1.Volume, containers []corev1.Container) []corev1.Volume {
	mounted := func(volume string) bool {
		return slices.ContainsFunc(containers, func(c corev1.Container) bool {
			return slices.ContainsFunc(c.VolumeMounts, func(v corev1.VolumeMount) bool { return v.Name == volume })
		})
	}
	var all []corev1.Volume
	for _, d := range dirs {
		taken := slices.ContainsFunc(author, func(a corev1.Volume) bool { return a.Name == d.volume })
		if taken || !mounted(d.volume) {
			continue
		}
		all = append(all, corev1.Volume{Name: d.volume, VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: d.path, Type: &d.kind},
		}})
	}
	return append(all, author...)
}
