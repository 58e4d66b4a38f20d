// SPDX-License-Identifier: Apache-2.0

package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	// ImageRebuildTriggerGeneration is that of the spec for which all images were made.
	// +optional
	ImageRebuildTriggerGeneration *int `json:"imageRebuildTriggerGeneration,omitempty"`
	// Images are those that the cluster builds or signs, one per kernel of a node
	// that takes part.
	// +optional
	// +listType=map
	// +listMapKey=kernel
	// +kubebuilder:validation:MaxItems=512
	Images []ModuleImage `json:"images,omitempty"`
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
	// NodesMatchingSelectorNumber are nodes whose labels fit the selector.
	// +optional
	NodesMatchingSelectorNumber int32 `json:"nodesMatchingSelectorNumber"`
	// DesiredNumber are those of them that should run it: taints, kernel and version
	// let them.
	// +optional
	DesiredNumber int32 `json:"desiredNumber"`
	// AvailableNumber are nodes that run it and have the label that says so; of a
	// plugin, nodes where its pod is ready.
	// +optional
	AvailableNumber int32 `json:"availableNumber"`
}

// The conditions of a Module.
const (
	// ConditionReady: every node that should run the module does.
	ConditionReady = "Ready"
	// ConditionProgressing: nodes are changing, or will; or an image is being made.
	ConditionProgressing = "Progressing"
	// ConditionDegraded: something failed; the message names nodes and reasons.
	ConditionDegraded = "Degraded"
)
