// SPDX-License-Identifier: Apache-2.0

// Package spec owns the document a node is given: the moduleLoader half of a
// Module of the Kernel Module Management operator, in YAML or TOML; how its
// kernel mappings are matched against a kernel release, how templates are
// substituted, what is an error in it and what only deserves a warning; and
// the status a node gives back.
//
// It never touches the kernel, the network or a cluster, and imports nothing
// of Kubernetes.
package spec

// APIVersion and Kind are what a document must say to be a Module.
const (
	APIVersion = "kmm.sigs.x-k8s.io/v1beta1"
	Kind       = "Module"
)

// Defaults of fields that a document may leave out.
const (
	DefaultDirName   = "/opt"
	DefaultNamespace = "default"
)

// Node is everything one node is asked for: the full set, not a change.
type Node struct {
	Modules []Module
	// Refused are Modules that are asked for and can not be obeyed as they stand.
	// What was loaded for them stays.
	Refused []Refused
	// Invalid lists documents that could not be read. While there is one,
	// nothing is unloaded for being absent: the unreadable document may be
	// the one that wants it.
	Invalid []error
	// Partial says that not everybody who may ask for Modules has spoken yet.
	// Nothing is unloaded for being absent then either.
	Partial bool
	// Generation is that of the cluster's order, 0 without one. It goes back with
	// the status.
	Generation int64
}

// Complete reports whether all that is asked for is known, so that what is in
// neither Modules nor Refused may go.
func (n *Node) Complete() bool { return len(n.Invalid) == 0 && !n.Partial }

// Refused is a Module that is asked for and not obeyed.
type Refused struct {
	Namespace, Name string
	Revision        string // of the order, see Module.Revision
	Reason          Reason
	Message         string
}

// Key is "namespace/name".
func (r *Refused) Key() string { return r.Namespace + "/" + r.Name }

// Module is one document.
type Module struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Metadata   Metadata   `json:"metadata"`
	Spec       ModuleSpec `json:"spec"`
	Status     any        `json:"status,omitempty"`

	// Warnings are what Lint said when the document was read.
	Warnings []string `json:"-"`
	// File is where the document came from, "" when not from a file.
	File string `json:"-"`
	// Revision is the cluster's name for this content, "" for a file. The status
	// of what was done about it has it too.
	Revision string `json:"-"`
	// PullSecrets are names of Secrets in the Module's namespace, in the order to
	// try them; a file has none.
	PullSecrets []string `json:"-"`
	// Made says which images the cluster makes itself; nil is none.
	Made *Made `json:"-"`
}

// MadeBy makes a Made; nil when no mapping's image is made.
func MadeBy(mappings []int, digests map[string]string) *Made {
	if len(mappings) == 0 {
		return nil
	}
	return &Made{Mappings: mappings, Digests: digests}
}

// Made are the images that a cluster builds or signs for a Module.
type Made struct {
	Mappings []int             // indices in kernelMappings: the image of these is made
	Digests  map[string]string // of the images that are there
}

// Key is "namespace/name", the identity of a Module on a node and in every
// message, ledger entry and metric label.
func (m *Module) Key() string { return m.Metadata.Namespace + "/" + m.Metadata.Name }

// Metadata is the part of a Kubernetes ObjectMeta that is read here. The
// fields an API server adds are accepted and ignored.
type Metadata struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	UID                        any `json:"uid,omitempty"`
	Generation                 any `json:"generation,omitempty"`
	ResourceVersion            any `json:"resourceVersion,omitempty"`
	CreationTimestamp          any `json:"creationTimestamp,omitempty"`
	DeletionTimestamp          any `json:"deletionTimestamp,omitempty"`
	DeletionGracePeriodSeconds any `json:"deletionGracePeriodSeconds,omitempty"`
	Finalizers                 any `json:"finalizers,omitempty"`
	OwnerReferences            any `json:"ownerReferences,omitempty"`
	ManagedFields              any `json:"managedFields,omitempty"`
	GenerateName               any `json:"generateName,omitempty"`
	SelfLink                   any `json:"selfLink,omitempty"`
}

// ModuleSpec is the wish. Fields tagged node:"ignored" are the cluster's business:
// here their type is checked, and nothing on the node depends on them.
type ModuleSpec struct {
	ModuleLoader                  *ModuleLoader     `json:"moduleLoader,omitempty"`
	DevicePlugin                  any               `json:"devicePlugin,omitempty" node:"ignored"`
	DRA                           any               `json:"dra,omitempty" node:"ignored"`
	Selector                      map[string]string `json:"selector,omitempty" node:"ignored"`
	Tolerations                   any               `json:"tolerations,omitempty" node:"ignored"`
	ImageRepoSecret               *LocalReference   `json:"imageRepoSecret,omitempty" node:"ignored"`
	ImageRebuildTriggerGeneration any               `json:"imageRebuildTriggerGeneration,omitempty" node:"ignored"`
	Rollout                       any               `json:"rollout,omitempty" node:"ignored"`
}

// LocalReference names an object in the Module's own namespace.
type LocalReference struct {
	Name string `json:"name"`
}

// ModuleLoader says which module runs on which kernel.
type ModuleLoader struct {
	Container          Container `json:"container"`
	ServiceAccountName string    `json:"serviceAccountName,omitempty" node:"ignored"`
}

// Container holds the defaults which a kernel mapping may override.
type Container struct {
	ContainerImage        string          `json:"containerImage,omitempty"`
	ImagePullPolicy       string          `json:"imagePullPolicy,omitempty"`
	Version               string          `json:"version,omitempty"`
	Modprobe              Modprobe        `json:"modprobe"`
	KernelMappings        []KernelMapping `json:"kernelMappings"`
	InTreeModuleToRemove  string          `json:"inTreeModuleToRemove,omitempty"`
	InTreeModulesToRemove []string        `json:"inTreeModulesToRemove,omitempty"`
	RegistryTLS           *RegistryTLS    `json:"registryTLS,omitempty"`
	Build                 *Build          `json:"build,omitempty" node:"ignored"`
	Sign                  *Sign           `json:"sign,omitempty" node:"ignored"`

	// AllowInUse and BeforeUnload are kmmd's own, for documents that no API
	// server prunes; everywhere the annotations of the same meaning do.
	AllowInUse   []string `json:"allowInUse,omitempty"`
	BeforeUnload []string `json:"beforeUnload,omitempty"`
}

// Modprobe says what is loaded out of the image and how. The name is KMM's;
// no modprobe runs.
type Modprobe struct {
	ModuleName          string   `json:"moduleName,omitempty"`
	DirName             string   `json:"dirName,omitempty"`
	FirmwarePath        string   `json:"firmwarePath,omitempty"`
	Parameters          []string `json:"parameters,omitempty"`
	ModulesLoadingOrder []string `json:"modulesLoadingOrder,omitempty"`
	Args                *Args    `json:"args,omitempty"`
	RawArgs             *Args    `json:"rawArgs,omitempty"`
}

// Args are modprobe's command-line words, for loading and for unloading. Those for
// unloading are checked, and what kmmd has loaded is unloaded whatever they say.
type Args struct {
	Load   []string `json:"load,omitempty"`
	Unload []string `json:"unload,omitempty" node:"ignored"`
}

// KernelMapping ties kernel releases to an image. A nil InTreeModulesToRemove
// inherits the container's list; an empty one switches removal off.
type KernelMapping struct {
	Literal               string       `json:"literal,omitempty"`
	Regexp                string       `json:"regexp,omitempty"`
	ContainerImage        string       `json:"containerImage,omitempty"`
	InTreeModuleToRemove  string       `json:"inTreeModuleToRemove,omitempty"`
	InTreeModulesToRemove []string     `json:"inTreeModulesToRemove,omitempty"`
	RegistryTLS           *RegistryTLS `json:"registryTLS,omitempty"`
	Build                 *Build       `json:"build,omitempty" node:"ignored"`
	Sign                  *Sign        `json:"sign,omitempty" node:"ignored"`
}

// RegistryTLS relaxes how a registry is spoken to.
type RegistryTLS struct {
	Insecure              bool `json:"insecure,omitempty"`              // plain HTTP is allowed
	InsecureSkipTLSVerify bool `json:"insecureSkipTLSVerify,omitempty"` // any certificate will do
}

// Build describes an image build in the cluster; the node does not build.
type Build struct {
	BaseImageRegistryTLS *RegistryTLS      `json:"baseImageRegistryTLS,omitempty"`
	BuildArgs            []BuildArg        `json:"buildArgs,omitempty"`
	DockerfileConfigMap  *LocalReference   `json:"dockerfileConfigMap,omitempty"`
	Secrets              []LocalReference  `json:"secrets,omitempty"`
	Selector             map[string]string `json:"selector,omitempty"`
	KanikoParams         any               `json:"kanikoParams,omitempty"`
}

// BuildArg is one build argument.
type BuildArg struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
}

// Sign describes signing in the cluster; the node does not sign.
type Sign struct {
	CertSecret               *LocalReference `json:"certSecret,omitempty"`
	KeySecret                *LocalReference `json:"keySecret,omitempty"`
	FilesToSign              []string        `json:"filesToSign,omitempty"`
	UnsignedImage            string          `json:"unsignedImage,omitempty"`
	UnsignedImageRegistryTLS *RegistryTLS    `json:"unsignedImageRegistryTLS,omitempty"`
}
