// SPDX-License-Identifier: Apache-2.0

package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeModulesConfig is what one node is asked to run (spec, written by
// kmm-watcher) and what it does (status, written by the kmmd of that node). It
// has the node's name, and goes with the Node object.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=nmc
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name=Kernel,type=string,JSONPath=.status.kernelRelease
// +kubebuilder:printcolumn:name=Summary,type=string,JSONPath=.status.summary
// +kubebuilder:printcolumn:name=SecureBoot,type=string,JSONPath=.status.secureBoot,priority=1
// +kubebuilder:printcolumn:name=Lockdown,type=string,JSONPath=.status.lockdown,priority=1
// +kubebuilder:printcolumn:name=Agent,type=string,JSONPath=.status.agentVersion,priority=1
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=.metadata.creationTimestamp
type NodeModulesConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the order. kmm-watcher writes it.
	// +optional
	Spec NodeModulesConfigSpec `json:"spec,omitempty"`
	// Status is the answer. kmmd of the node writes it.
	// +optional
	Status NodeModulesConfigStatus `json:"status,omitempty"`
}

// NodeModulesConfigList is what a list request returns.
//
// +kubebuilder:object:root=true
type NodeModulesConfigList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeModulesConfig `json:"items"`
}

// NodeModulesConfigSpec is the full set of what the node should run.
type NodeModulesConfigSpec struct {
	// Modules that the node takes part in. One that disappears is unloaded.
	// +optional
	// +listType=atomic
	Modules []NodeModule `json:"modules,omitempty"`
	// Held are Modules of which nothing is said yet, such as those whose turn in a
	// rollout has not come: of each, the node keeps what it was last asked for, also
	// by an object that was here before this one, and nothing if it was not.
	// +optional
	// +listType=atomic
	Held []HeldModule `json:"held,omitempty"`
}

// HeldModule names a Module.
type HeldModule struct {
	// Namespace of the Module.
	Namespace string `json:"namespace"`
	// Name of the Module.
	Name string `json:"name"`
}

// NodeModule is one Module as a node is given it: kernel mappings and all. The
// node matches the kernel that it really runs.
type NodeModule struct {
	// Namespace of the Module.
	Namespace string `json:"namespace"`
	// Name of the Module.
	Name string `json:"name"`
	// Revision stands for the content of this entry; the status repeats the one
	// it is about.
	Revision string `json:"revision"`
	// Annotations of the Module that a node reads.
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
	// PullSecrets are names of Secrets in the Module's namespace, in the order to
	// try them.
	// +optional
	// +listType=atomic
	PullSecrets []string `json:"pullSecrets,omitempty"`
	// ModuleLoader of the Module, without build and sign.
	ModuleLoader ModuleLoaderSpec `json:"moduleLoader"`
	// Made is there when images of the Module are built or signed in the cluster.
	// +optional
	Made *MadeImages `json:"made,omitempty"`
}

// MadeImages are the images that the cluster makes for a Module. A node whose
// kernel selects one of mappings waits until images has its image, and then
// pulls that digest and no other.
type MadeImages struct {
	// Mappings are indices in kernelMappings.
	// +listType=atomic
	Mappings []int32 `json:"mappings"`
	// Images that are there, of this node's kernel.
	// +optional
	// +listType=atomic
	Images []MadeImage `json:"images,omitempty"`
}

// MadeImage is one image that is there.
type MadeImage struct {
	// Image as containerImage gives it for the kernel.
	Image string `json:"image"`
	// Digest that it stands for, sha256:...
	Digest string `json:"digest"`
}

// NodeModulesConfigStatus is what the node runs and did.
type NodeModulesConfigStatus struct {
	// ObservedGeneration is the metadata.generation that this status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// BootID of the boot that all of this is about
	// (/proc/sys/kernel/random/boot_id).
	// +optional
	BootID string `json:"bootID,omitempty"`
	// KernelRelease as uname -r gives it.
	// +optional
	KernelRelease string `json:"kernelRelease,omitempty"`
	// SecureBoot is yes, no, or empty when that can not be read.
	// +optional
	SecureBoot string `json:"secureBoot,omitempty"`
	// Lockdown is none, integrity, confidentiality, or empty when there is none.
	// +optional
	Lockdown string `json:"lockdown,omitempty"`
	// SignatureEnforced says whether the kernel takes signed modules only: yes,
	// no, or empty when that can not be read.
	// +optional
	SignatureEnforced string `json:"signatureEnforced,omitempty"`
	// AgentVersion is kmmd's.
	// +optional
	AgentVersion string `json:"agentVersion,omitempty"`
	// Summary is one line for people, such as "2 loaded, 1 failed".
	// +optional
	Summary string `json:"summary,omitempty"`
	// Modules has an entry for each Module of the spec, for those whose modules
	// are still being unloaded, and for those of documents on the node.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1024
	Modules []NodeModuleStatus `json:"modules,omitempty"`
	// Invalid are documents on the node that could not be read.
	// +optional
	// +listType=atomic
	Invalid []string `json:"invalid,omitempty"`
}

// NodeModuleStatus is what the node did about one Module.
type NodeModuleStatus struct {
	// Namespace of the Module.
	// +kubebuilder:validation:MaxLength=253
	Namespace string `json:"namespace"`
	// Name of the Module.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Revision of the spec's entry that this is about; empty for a document on
	// the node.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Revision string `json:"revision,omitempty"`
	// State is Loaded, Pending, Building, Failed or Leaving.
	// +kubebuilder:validation:MaxLength=64
	State string `json:"state"`
	// Reason is a word of a closed list when the state is not Loaded.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z]*$`
	Reason string `json:"reason,omitempty"`
	// Message is for people and has the kernel's words.
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	Message string `json:"message,omitempty"`
	// RolledBack says that what ran before runs again.
	// +optional
	RolledBack bool `json:"rolledBack,omitempty"`
	// Image is the one that was loaded from, or tried.
	// +optional
	Image string `json:"image,omitempty"`
	// Digest of that image.
	// +optional
	Digest string `json:"digest,omitempty"`
	// Version of the Module.
	// +optional
	Version string `json:"version,omitempty"`
	// KernelModules are those in the kernel for this Module.
	// +optional
	// +listType=atomic
	KernelModules []KernelModule `json:"kernelModules,omitempty"`
	// Warnings do not stop the module from being loaded.
	// +optional
	// +listType=atomic
	Warnings []string `json:"warnings,omitempty"`
	// Since when state and reason are what they are.
	// +optional
	Since metav1.Time `json:"since,omitempty"`
	// RetryAt is when the node tries again by itself.
	// +optional
	RetryAt *metav1.Time `json:"retryAt,omitempty"`
}

// KernelModule is a module as the kernel has it.
type KernelModule struct {
	// Name as lsmod shows it.
	Name string `json:"name"`
	// BuildID is the GNU build-id of what runs, in hexadecimal.
	// +optional
	BuildID string `json:"buildID,omitempty"`
	// Parameters it was loaded with, NAME=VALUE.
	// +optional
	// +listType=atomic
	Parameters []string `json:"parameters,omitempty"`
}

// The states of a Module on a node, in a NodeModulesConfig.
const (
	// StateLoaded: the kernel runs the build that the Module asks for, by its build-id.
	StateLoaded = "Loaded"
	// StatePending: it is being worked on; mostly, its image is being got. What waits for
	// another try is Failed, with retryAt.
	StatePending = "Pending"
	// StateBuilding: waits for the cluster to make the image.
	StateBuilding = "Building"
	// StateFailed: it is not loaded; the reason says why, and retryAt when it is tried
	// again, if that is of use.
	StateFailed = "Failed"
	// StateLeaving: no longer asked for, and still in the kernel.
	StateLeaving = "Leaving"
)
