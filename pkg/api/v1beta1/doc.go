// SPDX-License-Identifier: Apache-2.0

// Package v1beta1 is the API of the cluster, group kmm.sigs.x-k8s.io/v1beta1:
// Module, with every field of the Kernel Module Management operator's, and
// NodeModulesConfig, the one object by which a node is told what it should run
// and tells what it does. It owns types, their validation rules (CEL, in the
// markers) and the names of labels; it decides nothing.
//
// +kubebuilder:object:generate=true
// +groupName=kmm.sigs.x-k8s.io
package v1beta1

//go:generate go tool -modfile=../../../tools/crds/go.mod controller-gen object:headerFile=../boilerplate.go.txt paths=.
//go:generate go -C ../../../tools/crds run .
