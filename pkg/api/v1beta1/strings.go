// SPDX-License-Identifier: Apache-2.0

package v1beta1

// ImageTemplate is a reference to an image, in which variables of the kernel and
// the Module may stand, as pkg/spec expands them.
//
// Which of the variables exist is left to the node: the rules accept what has a
// tag by any reading. Their expressions know the tokens of a template ("$$", $X,
// ${…}, all else), those that may bring no "/", and those that may bring a tag.
//
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:XValidation:rule=`self.matches(r'^([^$]|\$\$|\$[\pL\p{Nd}_]+|\$\{[^}\r\n]*\}|\$[^$\pL\p{Nd}_{]|\$$)*$')`,message=`a variable lacks its closing "}"`
// +kubebuilder:validation:XValidation:rule=`!self.matches(r'^([^$]|\$\$|\$[\pL\p{Nd}_]+|\$\{[^}\r\n]*\}|\$[^$\pL\p{Nd}_{]|\$$)*$') || self.matches(r'^(([^$]|\$\$|\$[\pL\p{Nd}_]+|\$\{[^}\r\n]*\}|\$[^$\pL\p{Nd}_{]|\$$)*([:@]|\$[:@]|\$\{([\pL\p{Nd}_]+:?[-=+]|[^}\r\n\pL\p{Nd}_])[^}\r\n]*[:@][^}/\r\n]*\}|\$\{[:@][^}/\r\n]*\})([^$/]|\$\$|\$[\pL\p{Nd}_]+|\$\{[\pL\p{Nd}_][^}\r\n]*\}|\$\{[^}/\r\n]*\}|\$[^$/\pL\p{Nd}_{]|\$$)*|oci(-archive)?:/([^$]|\$\$|\$[\pL\p{Nd}_]+|\$\{[^}\r\n]*\}|\$[^$\pL\p{Nd}_{]|\$$)*)?$')`,message=`an image needs a tag (:TAG) or a digest (@sha256:…) after its last "/"`
type ImageTemplate = string

// ModuleName is the name of a kernel module as lsmod shows it; "-" and "_" mean
// the same.
//
// +kubebuilder:validation:MaxLength=128
// +kubebuilder:validation:XValidation:rule=`self.matches('^[A-Za-z0-9_-]{0,55}$')`,message=`this is not the name of a kernel module: give it as lsmod shows it, without directory and .ko, at most 55 characters`
type ModuleName = string
