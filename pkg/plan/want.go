// SPDX-License-Identifier: Apache-2.0

// Package plan turns what a node is asked for and what its kernel has into an
// ordered list of steps, or into the reason why not. It is pure: no kernel, no
// file, no clock; the same input gives the same plan.
package plan

import (
	"slices"

	"github.com/kmm-node/kmmd/pkg/devices"
)

// File is one module file to be loaded, and how.
type File struct {
	Name       string   `json:"name"` // the kernel's name, from .modinfo
	Path       string   `json:"path"`
	BuildID    string   `json:"buildID,omitempty"`
	Parameters []string `json:"parameters,omitempty"`
	// FromHost says that the file is the node's own, of /lib/modules: an
	// in-tree dependency.
	FromHost bool `json:"fromHost,omitempty"`
	// Optional files come from a softdep: their failure is no failure.
	Optional bool `json:"optional,omitempty"`
	// Dependency files are there because others need them; no document names them.
	Dependency        bool `json:"dependency,omitempty"`
	IgnoreVermagic    bool `json:"ignoreVermagic,omitempty"`
	IgnoreModversions bool `json:"ignoreModversions,omitempty"`
	// Unseen are parameters whose value the kernel does not show (permission 0
	// in sysfs), or would not take back as it shows it: a module that comes back
	// has their defaults.
	Unseen []string `json:"unseen,omitempty"`
	// Types are the parmtypes of the module's parameters, by name.
	Types map[string]string `json:"-"`
}

// Mere says that a module is no reason for others to stay: when something uses it by the time it should go, it stays
// behind.
func (f *File) Mere() bool { return f.FromHost || f.Optional || f.Dependency }

// Want is one Module resolved for the running kernel: files are on disk, read
// and checked.
type Want struct {
	Owner string `json:"owner"` // "namespace/name"
	// Files are in load order: dependencies before what needs them.
	Files []File `json:"files"`
	// Order are those of Files that the document puts in an order, in load order;
	// nil when it names but one. They need not use each other's symbols.
	Order []string `json:"order,omitempty"`
	// Remove are the in-tree modules that have to leave first.
	Remove []string `json:"remove,omitempty"`
	// FirmwareDir holds what goes to the firmware directory of the host; ""
	// means no firmware.
	FirmwareDir string `json:"firmwareDir,omitempty"`
	// AllowNetwork lets a driver go whose network interface is in use; Unbind
	// and ResetSRIOV are done before.
	AllowNetwork bool `json:"allowNetwork,omitempty"`
	Unbind       bool `json:"unbind,omitempty"`
	ResetSRIOV   bool `json:"resetSRIOV,omitempty"`
}

func (w *Want) file(name string) *File {
	for i := range w.Files {
		if w.Files[i].Name == name {
			return &w.Files[i]
		}
	}
	return nil
}

// above are the modules that the document has loaded after one that it names.
func (w *Want) above(name string) []string {
	if i := slices.Index(w.Order, name); i >= 0 {
		return w.Order[i+1:]
	}
	return nil
}

// Loaded is a module as the kernel has it.
type Loaded struct {
	Name       string
	State      string // live, coming or going
	Refs       int
	UsedBy     []string // modules that import its symbols
	Place      int      // in the kernel's list, in which the one that was loaded last is 0
	Permanent  bool
	BuildID    string
	Parameters map[string]string // as /sys/module/M/parameters shows them
}

// Entry is what the ledger knows of a module which kmmd loaded or adopted.
type Entry struct {
	// Owners are the Modules it was loaded for. It has none when it has outlived them: it can go, or be another's, as if
	// it had been loaded for whoever asks next.
	Owners []string `json:"owners"`
	File   File     `json:"file"`
}

// only reports whether a module is nobody else's.
func (e *Entry) only(owner string) bool {
	return len(e.Owners) == 0 || slices.Equal(e.Owners, []string{owner})
}

// Facts are what was observed. Maps may be nil.
type Facts struct {
	Loaded  map[string]Loaded
	Builtin map[string]bool     // of the names that are wanted or to be removed
	InTree  map[string]*File    // the host's own file of each name in Want.Remove, nil or absent when there is none
	Ours    map[string]Entry    // the ledger, by module name
	Held    map[string][]string // names whose autoload is held off, by owner; nil: they were, and it is lost
	// Firmware
	FirmwareDirs     map[string]string // what is installed now, by owner: the directory it came from
	FirmwareCurrent  map[string]bool   // owner's wanted firmware is in place, byte for byte
	FirmwareOwners   []string          // of every file in the manifest
	FirmwareConflict map[string]error  // why an owner's firmware can not be installed
	FirmwarePath     string            // firmware_class.path as it is
	FirmwareTarget   string            // what it has to be while there is firmware of ours
	FirmwareBefore   string            // what it was before kmmd set it
	// Uses are what hangs on modules that have to go; one that was not looked at
	// is absent.
	Uses map[string]devices.Use
	// UseUnknown is why what hangs on a module could not be found out.
	UseUnknown map[string]error
	// PendingNetwork and PendingSRIOV are owners whose interfaces or virtual
	// functions have not been given back yet.
	PendingNetwork map[string]bool
	PendingSRIOV   map[string][]devices.Device
	AllowNetwork   bool // the node's own policy, for Modules that are gone
	// NeverLoad and NeverRemove are modules that the node's own policy keeps out
	// of the kernel, and in it.
	NeverLoad, NeverRemove map[string]bool
	// Wanted are all owners that a document exists for, resolved or not, obeyed or
	// refused.
	Wanted map[string]bool
	// KeepAll forbids to unload for absence: not all that is wanted is known.
	KeepAll bool
}

// entry is the ledger's entry of a module, unless another build than the one
// in the ledger runs by now: then what runs is not ours.
func (f *Facts) entry(name string) (Entry, bool) {
	e, ours := f.Ours[name]
	if l, runs := f.Loaded[name]; ours && runs && l.BuildID != "" && l.BuildID != e.File.BuildID {
		return Entry{}, false
	}
	return e, ours
}
