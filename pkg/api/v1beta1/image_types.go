// SPDX-License-Identifier: Apache-2.0

package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ModuleImage is an image that the cluster makes for one kernel.
type ModuleImage struct {
	// Kernel is the release, as uname -r gives it.
	Kernel string `json:"kernel"`
	// Image as containerImage gives it for that kernel.
	// +optional
	Image string `json:"image,omitempty"`
	// State is Building, Ready or Failed.
	State string `json:"state"`
	// Digest is the image that nodes are given: the last one that was made, or
	// found in the registry.
	// +optional
	Digest string `json:"digest,omitempty"`
	// Hash stands for everything that goes into the image: another one has it made
	// again.
	// +optional
	Hash string `json:"hash,omitempty"`
	// Stage is where it is, or has failed: Registry, Build, Sign or Push.
	// +optional
	Stage string `json:"stage,omitempty"`
	// Reason is a word, when it failed.
	// +optional
	Reason string `json:"reason,omitempty"`
	// Message is for people; of a Job that failed it has the last lines of the log.
	// +optional
	Message string `json:"message,omitempty"`
	// Attempts is how many Jobs were made for hash.
	// +optional
	Attempts int32 `json:"attempts,omitempty"`
	// Job is the last one, in the Module's namespace.
	// +optional
	Job string `json:"job,omitempty"`
	// Since when state and hash are what they are.
	// +optional
	Since metav1.Time `json:"since,omitempty"`
	// RetryAt is when the next attempt is made.
	// +optional
	RetryAt *metav1.Time `json:"retryAt,omitempty"`
}

// The states of an image that the cluster makes.
const (
	// ImageBuilding: it is looked for, built, signed or pushed; the stage says which.
	ImageBuilding = "Building"
	// ImageReady: it is there, and digest is what nodes are given.
	ImageReady = "Ready"
	// ImageFailed: it could not be made; reason and message say why, retryAt when it is
	// tried again.
	ImageFailed = "Failed"
)
