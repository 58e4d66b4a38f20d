// SPDX-License-Identifier: Apache-2.0

// Package v1beta2 is kmm.sigs.x-k8s.io/v1beta2 of the cluster's API:
// PreflightValidation, with every field of the Kernel Module Management
// operator's. It owns the type and its validation rules; it decides nothing.
//
// +kubebuilder:object:generate=true
// +groupName=kmm.sigs.x-k8s.io
package v1beta2

//go:generate go tool -modfile=../../../tools/crds/go.mod controller-gen object:headerFile=../boilerplate.go.txt paths=.
