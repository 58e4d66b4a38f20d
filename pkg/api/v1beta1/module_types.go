// SPDX-License-Identifier: Apache-2.0

package v1beta1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Module says which out-of-tree kernel module runs on which nodes, and what
// comes with it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced
// +kubebuilder:subresource:status
type Module struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec ModuleSpec `json:"spec,omitempty"`
	// +optional
	Status ModuleStatus `json:"status,omitempty"`
}

// ModuleList is what a list request returns.
//
// +kubebuilder:object:root=true
type ModuleList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Module `json:"items"`
}

// ModuleSpec is the wish.
type ModuleSpec struct {
	// ModuleLoader says which module runs on which kernel. Without it only the
	// plugin runs, on every selected node.
	// +optional
	ModuleLoader *ModuleLoaderSpec `json:"moduleLoader,omitempty"`

	// DevicePlugin runs on the nodes where the module is ready.
	// +optional
	DevicePlugin *DevicePluginSpec `json:"devicePlugin,omitempty"`

	// DRA runs a DRA driver on the nodes where the module is ready.
	// +optional
	DRA *DRASpec `json:"dra,omitempty"`

	// ImageRepoSecret names a Secret of type kubernetes.io/dockerconfigjson in the
	// Module's namespace: it pulls the module and plugin images, and pushes what
	// build and sign make.
	// +optional
	ImageRepoSecret *corev1.LocalObjectReference `json:"imageRepoSecret,omitempty"`

	// Selector is labels that a node must all have.
	// +optional
	Selector map[string]string `json:"selector,omitempty"`

	// Tolerations let tainted nodes take part. Cordoned nodes, and those that are
	// not ready or short of something, take part in any case.
	// +optional
	// +listType=atomic
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// ImageRebuildTriggerGeneration has all images of this Module built again when
	// it changes.
	// +optional
	ImageRebuildTriggerGeneration *int `json:"imageRebuildTriggerGeneration,omitempty"`

	// Rollout limits how many nodes change at a time. Without it all do.
	// +optional
	Rollout *Rollout `json:"rollout,omitempty"`
}

// Rollout is how a change reaches the nodes.
type Rollout struct {
	// MaxUnavailable is how many nodes may be changing at a time: a number, or a
	// percentage of the nodes that take part, rounded up. Without it all may.
	// +optional
	// +kubebuilder:validation:XIntOrString
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`

	// PauseOnFailures stops the change when it has failed on so many nodes, until
	// the Module is changed or they are well again. Default 1.
	// +optional
	// +kubebuilder:validation:Minimum=1
	PauseOnFailures *int32 `json:"pauseOnFailures,omitempty"`
}

// ModuleLoaderSpec says which module runs on which kernel.
type ModuleLoaderSpec struct {
	Container ModuleLoaderContainerSpec `json:"container"`

	// ServiceAccountName is the account whose imagePullSecrets count too, and under
	// which build and sign Jobs run.
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`
}

// ModuleLoaderContainerSpec holds the defaults that a kernel mapping may
// override.
type ModuleLoaderContainerSpec struct {
	// ContainerImage is the image that has the module, with a tag or a digest.
	// +optional
	ContainerImage string `json:"containerImage,omitempty"`

	// ImagePullPolicy is Always, IfNotPresent or Never.
	// +optional
	// +kubebuilder:validation:Enum=Always;IfNotPresent;Never
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`

	// Version makes upgrades ordered: a node changes when its label
	// kmm.node.kubernetes.io/version-module.NAMESPACE.NAME does.
	// +optional
	Version string `json:"version,omitempty"`

	// Modprobe says what is loaded out of the image and how.
	Modprobe ModprobeSpec `json:"modprobe"`

	// KernelMappings tie kernels to images; the first that matches wins.
	// +kubebuilder:validation:MinItems=1
	// +listType=atomic
	KernelMappings []KernelMapping `json:"kernelMappings"`

	// InTreeModuleToRemove is deprecated: use inTreeModulesToRemove.
	// +optional
	InTreeModuleToRemove string `json:"inTreeModuleToRemove,omitempty"`

	// InTreeModulesToRemove are unloaded before the module is loaded.
	// +optional
	// +listType=atomic
	InTreeModulesToRemove []string `json:"inTreeModulesToRemove,omitzero"`

	// RegistryTLS relaxes how the image's registry is spoken to.
	// +optional
	RegistryTLS *TLSOptions `json:"registryTLS,omitempty"`

	// Build has the image built in the cluster when it is missing.
	// +optional
	Build *Build `json:"build,omitempty"`

	// Sign has the image's modules signed in the cluster.
	// +optional
	Sign *Sign `json:"sign,omitempty"`

	// AllowInUse names uses of the old driver that do not stop a replacement:
	// network.
	// +optional
	// +listType=set
	// +kubebuilder:validation:items:Enum=network
	AllowInUse []string `json:"allowInUse,omitempty"`

	// BeforeUnload is done before the old driver is unloaded: unbind, sriov-reset.
	// +optional
	// +listType=set
	// +kubebuilder:validation:items:Enum=unbind;sriov-reset
	BeforeUnload []string `json:"beforeUnload,omitempty"`
}

// ModprobeSpec says what is loaded out of the image and how. The name is that
// of the operator's field; no modprobe runs.
type ModprobeSpec struct {
	// ModuleName as lsmod shows it; may only be missing beside rawArgs.
	// +optional
	ModuleName string `json:"moduleName,omitempty"`

	// DirName is the directory of the image that has lib/modules below it.
	// +optional
	// +kubebuilder:default=/opt
	DirName string `json:"dirName,omitempty"`

	// Parameters of the module, NAME=VALUE.
	// +optional
	// +listType=atomic
	Parameters []string `json:"parameters,omitempty"`

	// FirmwarePath is the directory of the image whose content goes to the host's
	// firmware directory.
	// +optional
	FirmwarePath string `json:"firmwarePath,omitempty"`

	// ModulesLoadingOrder [A, B, C] loads C, B, A and unloads A, B, C; A is
	// moduleName.
	// +optional
	// +listType=atomic
	ModulesLoadingOrder []string `json:"modulesLoadingOrder,omitempty"`

	// Args are words of modprobe's command line, before the module's name.
	// +optional
	Args *ModprobeArgs `json:"args,omitempty"`

	// RawArgs are the whole command line, in place of all other fields.
	// +optional
	RawArgs *ModprobeArgs `json:"rawArgs,omitempty"`
}

// ModprobeArgs are words of modprobe's command line.
type ModprobeArgs struct {
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +listType=atomic
	Load []string `json:"load,omitempty"`
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +listType=atomic
	Unload []string `json:"unload,omitempty"`
}

// KernelMapping ties kernel releases to an image.
type KernelMapping struct {
	// Literal is a whole kernel release.
	// +optional
	Literal string `json:"literal,omitempty"`

	// Regexp is an RE2 expression, not anchored.
	// +optional
	Regexp string `json:"regexp,omitempty"`

	// ContainerImage replaces the container's.
	// +optional
	ContainerImage string `json:"containerImage,omitempty"`

	// InTreeModuleToRemove is deprecated: use inTreeModulesToRemove.
	// +optional
	InTreeModuleToRemove string `json:"inTreeModuleToRemove,omitempty"`

	// InTreeModulesToRemove replaces the container's list; an empty one switches
	// removal off for these kernels.
	// +optional
	// +listType=atomic
	InTreeModulesToRemove []string `json:"inTreeModulesToRemove,omitzero"`

	// RegistryTLS replaces the container's.
	// +optional
	RegistryTLS *TLSOptions `json:"registryTLS,omitempty"`

	// Build is merged with the container's.
	// +optional
	Build *Build `json:"build,omitempty"`

	// Sign is merged with the container's.
	// +optional
	Sign *Sign `json:"sign,omitempty"`
}

// TLSOptions relax how a registry is spoken to.
type TLSOptions struct {
	// Insecure allows plain HTTP.
	// +optional
	Insecure bool `json:"insecure,omitempty"`

	// InsecureSkipTLSVerify takes any certificate.
	// +optional
	InsecureSkipTLSVerify bool `json:"insecureSkipTLSVerify,omitempty"`
}

// Build is how an image is built in the cluster.
type Build struct {
	// BuildArgs are arguments of the Dockerfile.
	// +optional
	// +listType=atomic
	BuildArgs []BuildArg `json:"buildArgs,omitempty"`

	// DockerfileConfigMap has the Dockerfile under the key dockerfile.
	// +optional
	DockerfileConfigMap *corev1.LocalObjectReference `json:"dockerfileConfigMap,omitempty"`

	// BaseImageRegistryTLS is for the registries of the images the Dockerfile names.
	// +optional
	BaseImageRegistryTLS TLSOptions `json:"baseImageRegistryTLS,omitempty"`

	// Secrets are there during the build, in /run/secrets/NAME.
	// +optional
	// +listType=atomic
	Secrets []corev1.LocalObjectReference `json:"secrets,omitempty"`

	// KanikoParams are for kaniko.
	// +optional
	KanikoParams *KanikoParams `json:"kanikoParams,omitempty"`

	// Selector is labels of the nodes that may build.
	// +optional
	Selector map[string]string `json:"selector,omitempty"`
}

// BuildArg is one argument of a Dockerfile.
type BuildArg struct {
	Name string `json:"name"`
	// +optional
	Value string `json:"value,omitempty"`
}

// KanikoParams are for kaniko.
type KanikoParams struct {
	// Tag of kaniko's image.
	// +optional
	Tag string `json:"tag,omitempty"`
}

// Sign is how the modules of an image are signed in the cluster.
type Sign struct {
	// UnsignedImage is the image to sign; needed where nothing is built.
	// +optional
	UnsignedImage string `json:"unsignedImage,omitempty"`

	// UnsignedImageRegistryTLS is for the registry of unsignedImage.
	// +optional
	UnsignedImageRegistryTLS TLSOptions `json:"unsignedImageRegistryTLS,omitempty"`

	// KeySecret has the private key under the key key.
	// +optional
	KeySecret *corev1.LocalObjectReference `json:"keySecret,omitempty"`

	// CertSecret has the certificate under the key cert.
	// +optional
	CertSecret *corev1.LocalObjectReference `json:"certSecret,omitempty"`

	// FilesToSign are paths in the image, or globs.
	// +optional
	// +listType=atomic
	FilesToSign []string `json:"filesToSign,omitempty"`
}

// ModuleStatus is what became of the wish.
type ModuleStatus struct {
	// ModuleLoader counts nodes: that the selector matches, that should run the
	// module, that do.
	// +optional
	ModuleLoader DaemonSetStatus `json:"moduleLoader,omitempty"`
	// DevicePlugin counts the nodes of the device plugin.
	// +optional
	DevicePlugin DaemonSetStatus `json:"devicePlugin,omitempty"`
	// DRA counts the nodes of the DRA driver.
	// +optional
	DRA DaemonSetStatus `json:"dra,omitempty"`
	// ImageRebuildTriggerGeneration is the last one that was obeyed.
	// +optional
	ImageRebuildTriggerGeneration *int `json:"imageRebuildTriggerGeneration,omitempty"`
	// ObservedGeneration is the metadata.generation this status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions are Ready, Progressing and Degraded.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// DaemonSetStatus counts nodes.
type DaemonSetStatus struct {
	// +optional
	NodesMatchingSelectorNumber int32 `json:"nodesMatchingSelectorNumber,omitempty"`
	// +optional
	DesiredNumber int32 `json:"desiredNumber,omitempty"`
	// +optional
	AvailableNumber int32 `json:"availableNumber,omitempty"`
}

// The conditions of a Module.
const (
	// ConditionReady: every node that should run the module does.
	ConditionReady = "Ready"
	// ConditionProgressing: nodes are changing, or will.
	ConditionProgressing = "Progressing"
	// ConditionDegraded: something failed; the message names nodes and reasons.
	ConditionDegraded = "Degraded"
)
