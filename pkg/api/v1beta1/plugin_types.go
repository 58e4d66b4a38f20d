// SPDX-License-Identifier: Apache-2.0

package v1beta1

import (
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
)

// CommonContainerSpec is a container of a plugin's pod.
type CommonContainerSpec struct {
	// Image of the container.
	Image string `json:"image"`

	// Command in place of the image's entrypoint.
	// +optional
	// +listType=atomic
	Command []string `json:"command,omitempty"`
	// Args of the command.
	// +optional
	// +listType=atomic
	Args []string `json:"args,omitempty"`
	// Env are variables of the environment, added to the plugin's own.
	// +optional
	// +listType=atomic
	Env []corev1.EnvVar `json:"env,omitempty"`
	// ImagePullPolicy of the container; empty is the cluster's default.
	// +optional
	// +kubebuilder:validation:Enum=Always;IfNotPresent;Never;""
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`
	// Resources of the container.
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`
	// VolumeMounts are added to the plugin's own.
	// +optional
	// +listType=atomic
	VolumeMounts []corev1.VolumeMount `json:"volumeMounts,omitempty"`
}

// PluginPodSpec is what the pods of device plugins and of DRA drivers have in
// common.
type PluginPodSpec struct {
	// Container of the plugin or driver; it is privileged.
	Container CommonContainerSpec `json:"container"`

	// InitContainer runs before the container.
	// +optional
	InitContainer *CommonContainerSpec `json:"initContainer,omitempty"`

	// ServiceAccountName of the pod.
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`

	// AutomountServiceAccountToken of the pod.
	// +optional
	AutomountServiceAccountToken *bool `json:"automountServiceAccountToken,omitempty"`

	// Volumes are added to the plugin's own.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:items:XValidation:rule=`!has(self.hostPath) || self.hostPath.path.matches(r'^/+(\./+)*(dev|sys|var|opt|run)(/|$)') && !self.hostPath.path.matches(r'(^|/)\.\.(/|$)')`,message=`a hostPath may be /dev, /sys, /var, /opt or /run, or below one of them, without ".."`,fieldPath=".hostPath.path",reason="FieldValueForbidden"
	Volumes []corev1.Volume `json:"volumes,omitempty"`
}

// DevicePluginSpec is a device plugin of the kubelet.
type DevicePluginSpec struct {
	PluginPodSpec `json:",inline"`
}

// DRASpec is a DRA driver and its DeviceClasses.
type DRASpec struct {
	PluginPodSpec `json:",inline"`

	// DriverName is the name the driver registers with the kubelet.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	DriverName string `json:"driverName"`

	// DeviceClasses are made and kept.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	DeviceClasses []DeviceClassSpec `json:"deviceClasses,omitempty"`
}

// DeviceClassSpec is one DeviceClass.
type DeviceClassSpec struct {
	// Name of the DeviceClass, which is cluster-scoped.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	Name string `json:"name"`

	// Selectors of devices, all of which must fit.
	// +optional
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	Selectors []resourcev1.DeviceSelector `json:"selectors,omitempty"`

	// Config is handed to the driver.
	// +optional
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	Config []resourcev1.DeviceClassConfiguration `json:"config,omitempty"`
}
