// SPDX-License-Identifier: Apache-2.0

package spec

import "time"

// State of a Module on a node.
type State string

// The states. Only Loaded says that the wanted build runs in the kernel.
const (
	StateLoaded  State = "Loaded"  // the kernel runs the wanted build
	StatePending State = "Pending" // being worked on; what waits for another try is Failed
	StateFailed  State = "Failed"  // not loaded; the reason says why
	// StateBuilding waits for an image that the cluster makes; no registry is asked
	// for it before that.
	StateBuilding State = "Building"
)

// Reason is the closed set of why a Module is not Loaded.
type Reason string

// The reasons. Each stands for one remedy.
const (
	ReasonNoMapping         Reason = "NoMapping"         // no kernelMapping matches the running kernel
	ReasonInvalid           Reason = "Invalid"           // the document asks for what can not be done
	ReasonImageNotFound     Reason = "ImageNotFound"     // the registry has no such image
	ReasonImageUnauthorized Reason = "ImageUnauthorized" // the registry wants other credentials
	ReasonImageUnreachable  Reason = "ImageUnreachable"  // the registry did not answer
	ReasonImageNotMade      Reason = "ImageNotMade"      // the cluster builds or signs the image and is not done
	ReasonImageInvalid      Reason = "ImageInvalid"      // bytes and digest differ, or the image is hostile
	ReasonNoModules         Reason = "NoModules"         // the image has nothing for this kernel
	ReasonModuleNotFound    Reason = "ModuleNotFound"    // the module or a dependency is in neither tree
	ReasonWrongKernel       Reason = "WrongKernel"       // the file was built for another kernel (vermagic)
	ReasonInvalidParameter  Reason = "InvalidParameter"  // the module has no such parameter, or not of that type
	ReasonUnknownSymbol     Reason = "UnknownSymbol"     // the kernel lacks a symbol the module imports
	ReasonSymbolVersion     Reason = "SymbolVersion"     // a symbol's CRC differs
	ReasonSignature         Reason = "Signature"         // the kernel does not accept the signature
	ReasonBlacklisted       Reason = "Blacklisted"       // the kernel command line has it in module_blacklist=
	ReasonFirmwareMissing   Reason = "FirmwareMissing"   // the driver or the document names firmware that is not there
	ReasonFirmwareConflict  Reason = "FirmwareConflict"  // the path on the host belongs to somebody else
	ReasonBuiltin           Reason = "Builtin"           // the module is part of the kernel image
	ReasonInUse             Reason = "InUse"             // what must go is held
	ReasonNoWayBack         Reason = "NoWayBack"         // the in-tree file is missing, so a failed swap could not be undone
	ReasonWrongBuild        Reason = "WrongBuild"        // another build of that name runs, and nobody said to remove it
	ReasonConflict          Reason = "Conflict"          // two Modules want what excludes each other, or there are two of one name
	ReasonInterfaceLost     Reason = "InterfaceLost"     // the new driver did not bring the network interface back
	ReasonInitFailed        Reason = "InitFailed"        // the module's own init refused
	ReasonLoadFailed        Reason = "LoadFailed"        // the kernel refused for another reason
	ReasonUnloadFailed      Reason = "UnloadFailed"      // the kernel did not let a module go
	ReasonNeedsReboot       Reason = "NeedsReboot"       // a module hangs inside the kernel
	ReasonPolicy            Reason = "Policy"            // the node's own policy forbids it
	ReasonNoSpace           Reason = "NoSpace"           // the image store has no room
	ReasonInternal          Reason = "Internal"          // the host failed us: disk, permissions
)

// Status is what a node says of itself.
type Status struct {
	Version       string    `json:"version"` // of kmmd
	KernelRelease string    `json:"kernelRelease"`
	BootID        string    `json:"bootID"`
	Time          time.Time `json:"time"` // of the last reconcile that changed something here
	Facts
	// ObservedGeneration is the Generation of the Node that this is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Partial is that of the Node: more may be asked for than is known here.
	Partial bool           `json:"partial,omitempty"`
	Modules []ModuleStatus `json:"modules"`
	// Refused are orders that are not obeyed, though one in Modules may have the
	// same name.
	Refused []ModuleStatus `json:"refused,omitempty"`
	// Leaving are Modules whose document is gone and whose modules are still
	// in the kernel.
	Leaving []ModuleStatus `json:"leaving,omitempty"`
	Invalid []string       `json:"invalid,omitempty"` // documents that could not be read
	// Staged are the Modules on the kernels that are installed and do not run,
	// when kmmd is asked to get their images early.
	Staged []StagedModule `json:"staged,omitempty"`
}

// OK reports whether everything is as wanted.
func (s Status) OK() bool {
	for i := range s.Modules {
		if s.Modules[i].State != StateLoaded {
			return false
		}
	}
	return len(s.Leaving) == 0 && len(s.Invalid) == 0 && len(s.Refused) == 0
}

// Facts decide which modules the node's kernel takes. An empty one is unknown.
type Facts struct {
	SecureBoot        string `json:"secureBoot,omitempty"`        // yes or no
	Lockdown          string `json:"lockdown,omitempty"`          // none, integrity or confidentiality
	SignatureEnforced string `json:"signatureEnforced,omitempty"` // yes or no
}

// ModuleStatus is what a node did about one Module.
type ModuleStatus struct {
	Namespace  string         `json:"namespace"`
	Name       string         `json:"name"`
	Revision   string         `json:"revision,omitempty"` // of the document that this is about
	State      State          `json:"state"`
	Reason     Reason         `json:"reason,omitempty"`
	Message    string         `json:"message,omitempty"`
	RolledBack bool           `json:"rolledBack,omitempty"` // what ran before runs again
	Image      string         `json:"image,omitempty"`
	Digest     string         `json:"digest,omitempty"`
	Version    string         `json:"version,omitempty"`
	Kernel     []LoadedModule `json:"kernel,omitempty"`
	Warnings   []string       `json:"warnings,omitempty"`
	Since      time.Time      `json:"since"`             // of this state and reason
	RetryAt    *time.Time     `json:"retryAt,omitempty"` // absent: waits for new input
}

// Key is "namespace/name".
func (m *ModuleStatus) Key() string { return m.Namespace + "/" + m.Name }

// StagedModule is a Module on a kernel that does not run.
type StagedModule struct {
	Kernel    string `json:"kernel"` // release
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Ready     bool   `json:"ready"` // its files are in the store and fit the kernel
	Reason    Reason `json:"reason,omitempty"`
	Message   string `json:"message,omitempty"`
	Image     string `json:"image,omitempty"`
	Digest    string `json:"digest,omitempty"`
}

// Key is "namespace/name".
func (s *StagedModule) Key() string { return s.Namespace + "/" + s.Name }

// LoadedModule is one kernel module of a Module, as the kernel has it.
type LoadedModule struct {
	Name       string   `json:"name"`
	BuildID    string   `json:"buildID,omitempty"`
	Parameters []string `json:"parameters,omitempty"`
	Taint      string   `json:"taint,omitempty"`
	Refs       int      `json:"refs"`
}
