// SPDX-License-Identifier: Apache-2.0

package v1beta1

// Names on other objects. All begin with LabelPrefix.
const (
	LabelPrefix = "kmm.node.kubernetes.io/"

	// ModuleFinalizer is on each Module until its nodes have unloaded it.
	ModuleFinalizer = LabelPrefix + "module-finalizer"
	// ModuleNameLabel is on what is made for a Module: DaemonSets, their pods,
	// DeviceClasses, Jobs. Its value is the Module's name.
	ModuleNameLabel = LabelPrefix + "module.name"
	// ModuleNamespaceLabel is on DaemonSets, their pods and DeviceClasses. Its value is
	// the Module's namespace.
	ModuleNamespaceLabel = LabelPrefix + "module.namespace"
	// RoleLabel is on DaemonSets and their pods: device-plugin or dra.
	RoleLabel = LabelPrefix + "role"

	// RoleDevicePlugin and RoleDRA are the values of RoleLabel.
	RoleDevicePlugin = "device-plugin"
	RoleDRA          = "dra"

	// MaxNameLength is what namespace and name of a Module may have together, in
	// bytes, so that each label made of them fits in 63.
	MaxNameLength = 41
)

// ReadyLabel is on a node whose kernel runs the build that the Module asks for;
// its value is empty. It goes away before an unload starts.
func ReadyLabel(namespace, name string) string {
	return LabelPrefix + namespace + "." + name + ".ready"
}

// VersionReadyLabel is beside the ready label when the Module has a version; its
// value is the version that runs.
func VersionReadyLabel(namespace, name string) string {
	return LabelPrefix + namespace + "." + name + ".version.ready"
}

// VersionLabel is set on a node by the administrator: the version of the Module
// that the node should run. Without it a Module that has a version is unloaded.
func VersionLabel(namespace, name string) string {
	return LabelPrefix + "version-module." + namespace + "." + name
}

// DevicePluginReadyLabel is on a node where the Module's device plugin pod is
// Ready.
func DevicePluginReadyLabel(namespace, name string) string {
	return LabelPrefix + namespace + "." + name + ".device-plugin-ready"
}

// DRAReadyLabel is on a node where the Module's DRA driver pod is Ready.
func DRAReadyLabel(namespace, name string) string {
	return LabelPrefix + namespace + "." + name + ".dra-ready"
}
