// SPDX-License-Identifier: Apache-2.0

package v1beta2

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is kmm.sigs.x-k8s.io/v1beta2.
var GroupVersion = schema.GroupVersion{Group: "kmm.sigs.x-k8s.io", Version: "v1beta2"}

// AddToScheme makes the types of this package known to a scheme. It never
// fails; the error is the signature that runtime.SchemeBuilder wants.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &PreflightValidation{}, &PreflightValidationList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
