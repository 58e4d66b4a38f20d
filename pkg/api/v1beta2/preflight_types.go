// SPDX-License-Identifier: Apache-2.0

package v1beta2

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PreflightValidation asks whether the Modules of the cluster are ready for a
// kernel that no node need run yet.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=pfv
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:printcolumn:name=Kernel,type=string,JSONPath=.spec.kernelVersion
// +kubebuilder:printcolumn:name=Verified,type=string,JSONPath=.status.conditions[?(@.type=="Verified")].status
// +kubebuilder:printcolumn:name=Message,type=string,JSONPath=.status.conditions[?(@.type=="Verified")].message
// +kubebuilder:printcolumn:name=Push,type=boolean,JSONPath=.spec.pushBuiltImage,priority=1
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=.metadata.creationTimestamp
type PreflightValidation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the kernel to come.
	Spec PreflightValidationSpec `json:"spec"`
	// Status is what has been found so far. kmm-watcher writes it.
	// +optional
	Status PreflightValidationStatus `json:"status,omitempty"`
}

// PreflightValidationList is what a list request returns.
//
// +kubebuilder:object:root=true
type PreflightValidationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []PreflightValidation `json:"items"`
}

// PreflightValidationSpec is the kernel to come.
type PreflightValidationSpec struct {
	// KernelVersion is the kernel's release, as uname -r will print it there:
	// "6.1.0-56-amd64".
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[^-., /]+[-.,][^-., /]*[-.,][^ /]*$')`,message=`kernelVersion is a release as uname -r prints it, such as 6.1.0-56-amd64`
	KernelVersion string `json:"kernelVersion"`

	// PushBuiltImage has images that are built or signed for this validation
	// pushed to where the Module wants them, so that they are there when the
	// kernel comes. Without it they are built, signed, looked at, and thrown away.
	// +optional
	PushBuiltImage bool `json:"pushBuiltImage,omitempty"`
}

// PreflightValidationStatus is what has been found so far.
type PreflightValidationStatus struct {
	// ObservedGeneration is the metadata.generation that this status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Verified is True when every Module is ready for the kernel,
	// False when all have been looked at and some are not, Unknown until then.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Modules has an entry for each Module of the cluster that loads a kernel
	// module and is not being deleted.
	// +optional
	// +listType=map
	// +listMapKey=namespace
	// +listMapKey=name
	Modules []PreflightValidationModuleStatus `json:"modules,omitempty"`
}

// PreflightValidationModuleStatus is what was found out about one Module.
type PreflightValidationModuleStatus struct {
	// Name of the Module.
	Name string `json:"name"`
	// Namespace of the Module.
	Namespace string `json:"namespace"`

	CRBaseStatus `json:",inline"`

	// Image as containerImage gives it for the kernel.
	// +optional
	Image string `json:"image,omitempty"`
	// Digest of the image that was looked into. It is empty for one that was built
	// and not pushed.
	// +optional
	Digest string `json:"digest,omitempty"`
	// Revision stands for what was validated: the kernel, what the Module says of it
	// and what goes into the image. When it is another one, all is done again.
	// +optional
	Revision string `json:"revision,omitempty"`
}

// CRBaseStatus is how far the validation of one Module is.
type CRBaseStatus struct {
	// VerificationStatus is the result, or InProgress.
	// +kubebuilder:validation:Enum=Success;Failure;InProgress
	VerificationStatus string `json:"verificationStatus"`

	// StatusReason is for people: why, what was found, what is being done.
	// +optional
	StatusReason string `json:"statusReason,omitempty"`

	// VerificationStage is Image while the image is looked for, built or signed,
	// Content while it is looked into, and Done when there is a result.
	// +kubebuilder:validation:Enum=Image;Content;Done
	VerificationStage string `json:"verificationStage"`

	// LastTransitionTime is when verificationStatus changed the last time.
	LastTransitionTime metav1.Time `json:"lastTransitionTime"`
}

// The values of verificationStatus.
const (
	// VerificationSuccess: the Module is ready for the kernel.
	VerificationSuccess = "Success"
	// VerificationFailure: it is not; statusReason says why. It is looked at again by
	// itself.
	VerificationFailure = "Failure"
	// VerificationInProgress: it is not known yet.
	VerificationInProgress = "InProgress"
)

// The values of verificationStage. Content is not of the operator's API, whose
// readers see a status that is InProgress then.
const (
	// VerificationStageImage: the image is looked for, built or signed.
	VerificationStageImage = "Image"
	// VerificationStageContent: a Job looks into the image.
	VerificationStageContent = "Content"
	// VerificationStageDone: there is a result.
	VerificationStageDone = "Done"
)

// The condition of a PreflightValidation.
const (
	// ConditionVerified is True when every Module is ready for the kernel, False when
	// all have been looked at and some are not, Unknown until then.
	ConditionVerified = "Verified"
)
