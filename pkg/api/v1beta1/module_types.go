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
// +kubebuilder:printcolumn:name=Module,type=string,JSONPath=.spec.moduleLoader.container.modprobe.moduleName
// +kubebuilder:printcolumn:name=Version,type=string,JSONPath=.spec.moduleLoader.container.version,priority=1
// +kubebuilder:printcolumn:name=Matching,type=integer,JSONPath=.status.moduleLoader.nodesMatchingSelectorNumber
// +kubebuilder:printcolumn:name=Desired,type=integer,JSONPath=.status.moduleLoader.desiredNumber
// +kubebuilder:printcolumn:name=Available,type=integer,JSONPath=.status.moduleLoader.availableNumber
// +kubebuilder:printcolumn:name=Ready,type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name=Degraded,type=string,JSONPath=`.status.conditions[?(@.type=="Degraded")].reason`,priority=1
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=.metadata.creationTimestamp
// +kubebuilder:validation:XValidation:rule=`self.metadata.name.size() <= 40`,message=`metadata.name: name and namespace may have 41 characters together, so that they fit in the labels of nodes`
type Module struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the wish.
	// +optional
	Spec ModuleSpec `json:"spec,omitempty"`
	// Status is what became of it. kmm-watcher writes it.
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
//
// +kubebuilder:validation:XValidation:rule=`!(has(self.dra) && has(self.devicePlugin))`,message=`a Module has either devicePlugin or dra, not both`,fieldPath=".dra",reason="FieldValueForbidden"
type ModuleSpec struct {
	// ModuleLoader says which module runs on which kernel. Without it only the
	// plugin runs, on every selected node, and a document on a node asks for nothing.
	// +optional
	ModuleLoader *ModuleLoaderSpec `json:"moduleLoader,omitempty"`

	// DevicePlugin is a device plugin of the kubelet. It runs, as a DaemonSet, on the
	// nodes where the module is ready.
	// +optional
	DevicePlugin *DevicePluginSpec `json:"devicePlugin,omitempty"`

	// DRA is a driver of dynamic resource allocation and its DeviceClasses. It runs, as
	// a DaemonSet, on the nodes where the module is ready.
	// +optional
	DRA *DRASpec `json:"dra,omitempty"`

	// ImageRepoSecret names a Secret of type kubernetes.io/dockerconfigjson in the
	// Module's namespace: it pulls the module and plugin images, and pushes what
	// build and sign make.
	// +optional
	ImageRepoSecret *corev1.LocalObjectReference `json:"imageRepoSecret,omitempty"`

	// Selector is labels that a node must all have. It has to be there: an empty
	// one, {}, selects every node.
	// +required
	Selector map[string]string `json:"selector"`

	// Tolerations let tainted nodes take part. Cordoned nodes, and those that are
	// not ready or short of something, take part in any case.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:XValidation:rule=`!has(self.key) || self.key.matches(r'^(([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$') && self.key.indexOf('/') <= 253`,message=`key is not the key of a taint: PREFIX/NAME or NAME, of letters, digits, '-', '_' and '.'`,fieldPath=".key"
	// +kubebuilder:validation:items:XValidation:rule=`self.?operator.orValue("") in ["", 'Equal', 'Exists']`,message=`operator is Equal or Exists`,fieldPath=".operator"
	// +kubebuilder:validation:items:XValidation:rule=`self.?key.orValue("") != "" || self.?operator.orValue("") == 'Exists'`,message=`operator has to be Exists when there is no key`,fieldPath=".operator"
	// +kubebuilder:validation:items:XValidation:rule=`self.?operator.orValue("") != 'Exists' || self.?value.orValue("") == ""`,message=`value has to be empty when operator is Exists`,fieldPath=".value"
	// +kubebuilder:validation:items:XValidation:rule=`!has(self.value) || self.value.matches(r'^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$')`,message=`value is not the value of a taint: letters, digits, '-', '_' and '.', at most 63`,fieldPath=".value"
	// +kubebuilder:validation:items:XValidation:rule=`self.?effect.orValue("") in ["", 'NoSchedule', 'PreferNoSchedule', 'NoExecute']`,message=`effect is NoSchedule, PreferNoSchedule or NoExecute`,fieldPath=".effect"
	// +kubebuilder:validation:items:XValidation:rule=`!has(self.tolerationSeconds) || self.?effect.orValue("") == 'NoExecute'`,message=`effect has to be NoExecute when there are tolerationSeconds`,fieldPath=".effect"
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
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule=`type(self) == int ? self > 0 && self <= 2147483647 : self.matches('^([1-9][0-9]?|100)%$')`,message=`maxUnavailable is a number from 1 on, or a percentage from 1% to 100%`
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`

	// PauseOnFailures stops the change when it has failed on so many nodes, until
	// the Module is changed or they are well again. Default 1.
	// +optional
	// +kubebuilder:validation:Minimum=1
	PauseOnFailures *int32 `json:"pauseOnFailures,omitempty"`
}

// ModuleLoaderSpec says which module runs on which kernel.
type ModuleLoaderSpec struct {
	// Container says what is loaded, out of which image. No container is run for it.
	Container ModuleLoaderContainerSpec `json:"container"`

	// ServiceAccountName is the account whose imagePullSecrets count too, and under
	// which build and sign Jobs run.
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`
}

// ModuleLoaderContainerSpec holds the defaults that a kernel mapping may
// override.
//
// +kubebuilder:validation:XValidation:rule=`self.?containerImage.orValue("") != "" || self.kernelMappings.all(m, m.?containerImage.orValue("") != "")`,message=`a kernelMapping without containerImage needs the one of the container`,fieldPath=".kernelMappings",reason="FieldValueRequired"
// +kubebuilder:validation:XValidation:rule=`!(has(self.inTreeModulesToRemove) || self.kernelMappings.exists(m, has(m.inTreeModulesToRemove))) || (self.?inTreeModuleToRemove.orValue("") == "" && self.kernelMappings.all(m, m.?inTreeModuleToRemove.orValue("") == ""))`,message=`inTreeModuleToRemove and inTreeModulesToRemove may not be mixed in one Module: use the plural everywhere`,fieldPath=".inTreeModuleToRemove",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule=`(self.?version.orValue("") == "") == (oldSelf.?version.orValue("") == "")`,message=`version can not be added to a Module nor taken away: delete the Module and create it again`,fieldPath=".version",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule=`self.kernelMappings.all(m, !(has(self.build) || has(m.build)) || self.?build.?dockerfileConfigMap.?name.orValue("") != "" || m.?build.?dockerfileConfigMap.?name.orValue("") != "")`,message=`build needs dockerfileConfigMap, in the mapping or in the container`,fieldPath=".build.dockerfileConfigMap",reason="FieldValueRequired"
// +kubebuilder:validation:XValidation:rule=`self.kernelMappings.all(m, !(has(self.sign) || has(m.sign)) || self.?sign.?keySecret.?name.orValue("") != "" || m.?sign.?keySecret.?name.orValue("") != "")`,message=`sign needs keySecret, in the mapping or in the container`,fieldPath=".sign.keySecret",reason="FieldValueRequired"
// +kubebuilder:validation:XValidation:rule=`self.kernelMappings.all(m, !(has(self.sign) || has(m.sign)) || self.?sign.?certSecret.?name.orValue("") != "" || m.?sign.?certSecret.?name.orValue("") != "")`,message=`sign needs certSecret, in the mapping or in the container`,fieldPath=".sign.certSecret",reason="FieldValueRequired"
// +kubebuilder:validation:XValidation:rule=`self.kernelMappings.all(m, !(has(self.sign) || has(m.sign)) || (self.?sign.?filesToSign.orValue([]).size() + m.?sign.?filesToSign.orValue([]).size()) > 0)`,message=`sign needs filesToSign, in the mapping or in the container`,fieldPath=".sign.filesToSign",reason="FieldValueRequired"
// +kubebuilder:validation:XValidation:rule=`self.kernelMappings.all(m, !(has(self.sign) || has(m.sign)) || has(self.build) || has(m.build) || self.?sign.?unsignedImage.orValue("") != "" || m.?sign.?unsignedImage.orValue("") != "")`,message=`sign needs unsignedImage where nothing is built, in the mapping or in the container`,fieldPath=".sign.unsignedImage",reason="FieldValueRequired"
// +kubebuilder:validation:XValidation:rule=`[!has(self.modprobe.dirName) || self.modprobe.dirName == "" ? '/opt/' : (self.modprobe.dirName + '/').replace('//', '/')].all(dir, !has(self.sign) || !has(self.sign.filesToSign) || self.sign.filesToSign.all(f, f.startsWith(dir)))`,message=`filesToSign have to be below dirName, which is /opt by default`,fieldPath=".sign.filesToSign"
// +kubebuilder:validation:XValidation:rule=`[!has(self.modprobe.dirName) || self.modprobe.dirName == "" ? '/opt/' : (self.modprobe.dirName + '/').replace('//', '/')].all(dir, self.kernelMappings.all(m, !has(m.sign) || !has(m.sign.filesToSign) || m.sign.filesToSign.all(f, f.startsWith(dir))))`,message=`filesToSign of a kernelMapping have to be below dirName, which is /opt by default`,fieldPath=".kernelMappings"
type ModuleLoaderContainerSpec struct {
	// ContainerImage is the image that has the module: IMAGE:TAG or IMAGE@sha256:...
	// of a registry, or oci:/DIRECTORY[:TAG] or oci-archive:/FILE.tar[:TAG] on the
	// node. It may have the variables KERNEL_FULL_VERSION, KERNEL_VERSION,
	// KERNEL_XYZ, KERNEL_X, KERNEL_Y, KERNEL_Z, MOD_NAME and MOD_NAMESPACE, as `$X`,
	// `${X}`, `${X:-default}`, `${X-default}` or `${X:+other}`; `$$` is a dollar sign.
	// Either it is here or in each mapping.
	// +optional
	ContainerImage ImageTemplate `json:"containerImage,omitempty"`

	// ImagePullPolicy says whether the registry is asked what a tag stands for, although
	// the store of the node has an image under it. With Always it is when the document
	// is new or changes, and after a boot; never by itself while the module runs. Empty
	// is Always for the tag latest, else IfNotPresent.
	// +optional
	// +kubebuilder:validation:Enum=Always;IfNotPresent;Never;""
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`

	// Version makes upgrades ordered: a node changes when its label
	// kmm.node.kubernetes.io/version-module.NAMESPACE.NAME does. A document on a node
	// has it in its status only.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule=`self.matches(r'^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$')`,message=`version becomes the value of a label: letters, digits, '-', '_' and '.', a letter or digit first and last`
	Version string `json:"version,omitempty"`

	// Modprobe says what is loaded out of the image and how.
	Modprobe ModprobeSpec `json:"modprobe"`

	// KernelMappings tie kernels to images; the first that matches the running kernel
	// wins. One "+" at the end of the kernel's release is left out before.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	KernelMappings []KernelMapping `json:"kernelMappings"`

	// InTreeModuleToRemove is deprecated: use inTreeModulesToRemove.
	// +optional
	InTreeModuleToRemove ModuleName `json:"inTreeModuleToRemove,omitempty"`

	// InTreeModulesToRemove are unloaded before the module is loaded, once that is
	// known to fit, and loaded again when its load fails. modprobe and udev do not
	// load them while the Module is there.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	InTreeModulesToRemove []ModuleName `json:"inTreeModulesToRemove,omitzero"`

	// RegistryTLS relaxes how the image's registry is spoken to; not its mirrors.
	// +optional
	RegistryTLS *TLSOptions `json:"registryTLS,omitempty"`

	// Build has the image built in the cluster when the registry has none under
	// containerImage.
	// +optional
	Build *Build `json:"build,omitempty"`

	// Sign has the image's modules signed in the cluster, after they were built or out
	// of another image.
	// +optional
	Sign *Sign `json:"sign,omitempty"`

	// AllowInUse names uses of the old driver that do not stop a replacement. network:
	// its interfaces are away meanwhile, and get their addresses, routes, rules,
	// neighbours, stacked links and settings of /proc/sys/net back, but not ethtool
	// settings, traffic control or XDP. The annotation
	// kmm.node.kubernetes.io/allow-in-use says the same.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:items:Enum=network
	AllowInUse []string `json:"allowInUse,omitempty"`

	// BeforeUnload is done before a driver is unloaded. unbind: its PCI devices are
	// unbound. sriov-reset: its virtual functions are removed, and made again when the
	// new driver can. The annotation kmm.node.kubernetes.io/before-unload says the
	// same.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:items:Enum=unbind;sriov-reset
	BeforeUnload []string `json:"beforeUnload,omitempty"`
}

// ModprobeSpec says what is loaded out of the image and how. The name is that
// of the operator's field; no modprobe runs.
//
// +kubebuilder:validation:XValidation:rule=`has(self.rawArgs) || self.?moduleName.orValue("") != ""`,message=`moduleName is required, unless there are rawArgs`,fieldPath=".moduleName",reason="FieldValueRequired"
// +kubebuilder:validation:XValidation:rule=`!has(self.rawArgs) || self.?moduleName.orValue("") == ""`,message=`moduleName may not stand beside rawArgs, which name the module themselves`,fieldPath=".moduleName",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule=`!has(self.rawArgs) || !(has(self.args) || has(self.parameters) && self.parameters.size() > 0 || has(self.modulesLoadingOrder) || !(self.?dirName.orValue("") in ["", '/opt']))`,message=`rawArgs may not stand beside args, parameters, dirName or modulesLoadingOrder`,fieldPath=".rawArgs",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule=`!has(self.rawArgs) || has(self.rawArgs.load) && has(self.rawArgs.unload)`,message=`rawArgs need both load and unload`,fieldPath=".rawArgs",reason="FieldValueRequired"
// +kubebuilder:validation:XValidation:rule=`!has(self.rawArgs) || !has(self.rawArgs.load) || self.rawArgs.load.join('\n').matches(r'^((-v|--verbose|-q|--quiet|-s|--syslog|-i|--ignore-install|--ignore-remove|-a|--all|-f|--force|--force-vermagic|--force-modversion|-r|--remove|--dirname=[^\n]*|(-d|--dirname)\n[^\n]*)?\n)*[A-Za-z0-9_][A-Za-z0-9_-]{0,54}(\n(-v|--verbose|-q|--quiet|-s|--syslog|-i|--ignore-install|--ignore-remove|-a|--all|-f|--force|--force-vermagic|--force-modversion|-r|--remove|--dirname=[^\n]*|(-d|--dirname)\n[^\n]*|[^-\n][^\n]*)?)*$')`,message=`rawArgs.load names a module, as lsmod shows it; of modprobe's options it may have -d, -f, --force-vermagic, --force-modversion, -i, -q, -r, -s and -v`,fieldPath=".rawArgs.load"
// +kubebuilder:validation:XValidation:rule=`!has(self.rawArgs) || !has(self.rawArgs.unload) || self.rawArgs.unload.join('\n').matches(r'^(-v|--verbose|-q|--quiet|-s|--syslog|-i|--ignore-install|--ignore-remove|-a|--all|-r|--remove|--dirname=[^\n]*|(-d|--dirname)\n[^\n]*|[^-\n][^\n]*)?(\n(-v|--verbose|-q|--quiet|-s|--syslog|-i|--ignore-install|--ignore-remove|-a|--all|-r|--remove|--dirname=[^\n]*|(-d|--dirname)\n[^\n]*|[^-\n][^\n]*)?)*$')`,message=`rawArgs.unload may have of modprobe's options -d, -i, -q, -r, -s and -v: a forced unload is never done`,fieldPath=".rawArgs.unload"
// +kubebuilder:validation:XValidation:rule=`!has(self.args) || !has(self.args.load) || self.args.load.all(w, w in ['-v', '--verbose', '-q', '--quiet', '-s', '--syslog', '-i', '--ignore-install', '--ignore-remove', '-a', '--all', '-f', '--force', '--force-vermagic', '--force-modversion', '-r', '--remove'])`,message=`args.load may have -f, --force-vermagic, --force-modversion, -i, -q, -r, -s and -v: no modprobe runs, and any other option can not be obeyed`,fieldPath=".args.load"
// +kubebuilder:validation:XValidation:rule=`!has(self.args) || !has(self.args.unload) || self.args.unload.all(w, w in ['-v', '--verbose', '-q', '--quiet', '-s', '--syslog', '-i', '--ignore-install', '--ignore-remove', '-a', '--all', '-r', '--remove'])`,message=`args.unload may have -i, -q, -r, -s and -v: no modprobe runs, and a forced unload is never done`,fieldPath=".args.unload"
// +kubebuilder:validation:XValidation:rule=`!has(self.modulesLoadingOrder) || has(self.moduleName) && self.modulesLoadingOrder[0].replace('-', '_') == self.moduleName.replace('-', '_')`,message=`modulesLoadingOrder has to begin with moduleName: it goes from the top of the stack down`,fieldPath=".modulesLoadingOrder"
// +kubebuilder:validation:XValidation:rule=`!has(self.modulesLoadingOrder) || self.modulesLoadingOrder.all(a, self.modulesLoadingOrder.exists_one(b, a.replace('-', '_') == b.replace('-', '_')))`,message=`modulesLoadingOrder has a module twice`,fieldPath=".modulesLoadingOrder"
type ModprobeSpec struct {
	// ModuleName is the module's name as lsmod shows it, without directory and .ko. It
	// may be missing beside rawArgs only.
	// +optional
	ModuleName ModuleName `json:"moduleName,omitempty"`

	// DirName is the directory of the image that has lib/modules/RELEASE below it.
	// RELEASE is the kernel's, else that without a "+" at its end, else that with "_"
	// for each character that a tag can not have.
	// +optional
	// +kubebuilder:default=/opt
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule=`!self.matches(r'(^|/)\.\.(/|$)')`,message=`dirName may not have ".." in it`
	DirName string `json:"dirName,omitempty"`

	// Parameters of the module, NAME=VALUE. Name and type are compared with what the
	// module has before anything is removed.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=4096
	// +kubebuilder:validation:items:XValidation:rule=`!self.matches(r'[\x00\n\r\t]')`,message=`a parameter with a tab or a line break can not be handed to a kernel module`
	Parameters []string `json:"parameters,omitempty"`

	// FirmwarePath is the directory of the image whose content is copied to the node's
	// firmware_dir. Files of others are not written over, but for one with just the
	// bytes that the image before had.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule=`!self.matches(r'(^|/)\.\.(/|$)')`,message=`firmwarePath may not have ".." in it`
	FirmwarePath string `json:"firmwarePath,omitempty"`

	// ModulesLoadingOrder [A, B, C] loads C, B, A and unloads A, B, C; A is
	// moduleName. When B has to be loaded anew, A is, too. They need not use
	// symbols of each other: A may hold B in another way.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=2
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	ModulesLoadingOrder []ModuleName `json:"modulesLoadingOrder,omitempty"`

	// Args are words of modprobe's command line, before the module's name. No modprobe
	// runs: -f, --force-vermagic and --force-modversion are honoured, -i, -q, -r, -s
	// and -v change nothing. --force-vermagic allows a module that was built for another
	// kernel. Where its symbol versions are all that the kernel asks for, it is loaded as
	// any other; else by force, which taints the kernel, voids the signature, and is
	// refused without CONFIG_MODULE_FORCE_LOAD.
	// +optional
	Args *ModprobeArgs `json:"args,omitempty"`

	// RawArgs are the whole command line, in place of moduleName, parameters, dirName,
	// args and modulesLoadingOrder. Beside what args may have: -d DIR, the module, and
	// its parameters.
	// +optional
	RawArgs *ModprobeArgs `json:"rawArgs,omitempty"`
}

// ModprobeArgs are words of modprobe's command line.
type ModprobeArgs struct {
	// Load has the words for loading.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=1024
	// +kubebuilder:validation:items:XValidation:rule=`!self.contains('\n')`,message=`a word of a command line has no line break`
	// +listType=atomic
	Load []string `json:"load,omitempty"`

	// Unload has the words for unloading. They are checked and change nothing: what was
	// loaded for the Module is unloaded, and nothing by force.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=1024
	// +kubebuilder:validation:items:XValidation:rule=`!self.contains('\n')`,message=`a word of a command line has no line break`
	// +listType=atomic
	Unload []string `json:"unload,omitempty"`
}

// KernelMapping ties kernel releases to an image.
//
// +kubebuilder:validation:XValidation:rule=`self.?literal.orValue("") == "" || self.?regexp.orValue("") == ""`,message=`a mapping has either literal or regexp, not both`,fieldPath=".regexp",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule=`self.?literal.orValue("") != "" || self.?regexp.orValue("") != ""`,message=`a mapping needs a literal or a regexp`,fieldPath=".literal",reason="FieldValueRequired"
type KernelMapping struct {
	// Literal is a whole kernel release, as uname -r prints it.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Literal string `json:"literal,omitempty"`

	// Regexp is an RE2 expression, not anchored, for the release.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule=`"".matches(self) ? true : true`,message=`regexp is no RE2 expression`
	Regexp string `json:"regexp,omitempty"`

	// ContainerImage for these kernels, in place of the container's.
	// +optional
	ContainerImage ImageTemplate `json:"containerImage,omitempty"`

	// InTreeModuleToRemove is deprecated: use inTreeModulesToRemove.
	// +optional
	InTreeModuleToRemove ModuleName `json:"inTreeModuleToRemove,omitempty"`

	// InTreeModulesToRemove replaces the container's list; an empty one switches
	// removal off for these kernels.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	InTreeModulesToRemove []ModuleName `json:"inTreeModulesToRemove,omitzero"`

	// RegistryTLS replaces the container's as a whole.
	// +optional
	RegistryTLS *TLSOptions `json:"registryTLS,omitempty"`

	// Build for these kernels. Its dockerfileConfigMap replaces the container's, its
	// buildArgs replace those of the same name or are added, its secrets are added; all
	// else is the container's where it has any.
	// +optional
	Build *Build `json:"build,omitempty"`

	// Sign for these kernels. What it names replaces the container's, its filesToSign
	// are added; unsignedImageRegistryTLS is the container's where it has any.
	// +optional
	Sign *Sign `json:"sign,omitempty"`
}

// TLSOptions is how a registry may be spoken to with less care.
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
	// BuildArgs are arguments of the Dockerfile. KERNEL_VERSION, KERNEL_FULL_VERSION,
	// MOD_NAME and MOD_NAMESPACE are always there, and win.
	// +optional
	// +listType=atomic
	BuildArgs []BuildArg `json:"buildArgs,omitempty"`

	// DockerfileConfigMap has the Dockerfile under the key dockerfile.
	// +optional
	DockerfileConfigMap *corev1.LocalObjectReference `json:"dockerfileConfigMap,omitempty"`

	// BaseImageRegistryTLS relaxes how the registries of the images that the Dockerfile
	// names are spoken to.
	// +optional
	BaseImageRegistryTLS TLSOptions `json:"baseImageRegistryTLS,omitempty"`

	// Secrets are there during the build: /run/secrets/NAME/KEY in each RUN.
	// +optional
	// +listType=atomic
	Secrets []corev1.LocalObjectReference `json:"secrets,omitempty"`

	// KanikoParams are for kaniko, and mean nothing to another builder.
	// +optional
	KanikoParams *KanikoParams `json:"kanikoParams,omitempty"`

	// Selector is labels of the nodes that may build. Without it the Module's counts.
	// +optional
	Selector map[string]string `json:"selector,omitempty"`
}

// BuildArg is one argument of a Dockerfile.
type BuildArg struct {
	// Name that the Dockerfile declares with ARG.
	Name string `json:"name"`
	// Value it gets.
	// +optional
	Value string `json:"value,omitempty"`
}

// KanikoParams are for kaniko.
type KanikoParams struct {
	// Tag of kaniko's image, in place of the builder's own.
	// +optional
	Tag string `json:"tag,omitempty"`
}

// Sign is how the modules of an image are signed in the cluster.
type Sign struct {
	// UnsignedImage is the image to sign. It is needed where nothing is built, and means
	// nothing where something is. Variables are as in containerImage.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	UnsignedImage string `json:"unsignedImage,omitempty"`

	// UnsignedImageRegistryTLS relaxes how the registry of unsignedImage is spoken to.
	// +optional
	UnsignedImageRegistryTLS TLSOptions `json:"unsignedImageRegistryTLS,omitempty"`

	// KeySecret has the private key, in PEM or DER, under the name "key".
	// +optional
	KeySecret *corev1.LocalObjectReference `json:"keySecret,omitempty"`

	// CertSecret has the certificate, in PEM or DER, under the name "cert".
	// +optional
	CertSecret *corev1.LocalObjectReference `json:"certSecret,omitempty"`

	// FilesToSign are paths in the image, or patterns of a shell, of which each has to
	// match a file. Variables are as in containerImage.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:items:MaxLength=1024
	// +kubebuilder:validation:items:XValidation:rule=`!self.contains('/../') && !self.endsWith('/..')`,message=`a file to sign may not have ".." in its path`
	FilesToSign []string `json:"filesToSign,omitempty"`
}
