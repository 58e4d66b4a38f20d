// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
)

// Step is one change of the node. The set is closed: Hold, Unload, Load,
// InstallFirmware, RemoveFirmware, SetFirmwarePath, Adopt, Forget, and those
// around a driver in use: SaveNetwork, RestoreNetwork, Unbind, ResetSRIOV,
// RestoreSRIOV.
type Step interface {
	fmt.Stringer
	step() string
}

// Hold keeps modprobe and udev from loading these modules; they replace what
// was held for the owner. None lets all go.
type Hold struct {
	Owner string   `json:"owner"`
	Names []string `json:"names"`
}

// Unload removes a module from the kernel. Undo is how it comes back if a
// later step of the same transaction fails; nil when it does not.
type Unload struct {
	Name string `json:"name"`
	Why  string `json:"why"`
	Undo *File  `json:"undo,omitempty"`
	Ours bool   `json:"ours,omitempty"` // kmmd loaded it
}

// Load puts a file into the kernel and verifies what then runs.
type Load struct {
	Owner string `json:"owner"`
	File  File   `json:"file"`
}

// InstallFirmware copies a directory's files to the host's firmware directory;
// Previous is what the owner had there before, "" for nothing.
type InstallFirmware struct {
	Owner    string `json:"owner"`
	Dir      string `json:"dir"`
	Previous string `json:"previous,omitempty"`
}

// RemoveFirmware takes away the files that only this owner has.
type RemoveFirmware struct {
	Owner string `json:"owner"`
}

// SetFirmwarePath writes firmware_class.path; "" unsets it.
type SetFirmwarePath struct {
	Path string `json:"path"`
}

// Adopt notes in the ledger that what runs already is what the owner wants.
type Adopt struct {
	Owner string `json:"owner"`
	File  File   `json:"file"`
}

// Forget takes an owner off a module in the ledger; the module stays. With Ours
// it stays in the ledger, too, when that was its last owner.
type Forget struct {
	Owner string `json:"owner"`
	Name  string `json:"name"`
	Ours  bool   `json:"ours,omitempty"`
}

func (Hold) step() string            { return "hold" }
func (Unload) step() string          { return "unload" }
func (Load) step() string            { return "load" }
func (InstallFirmware) step() string { return "install-firmware" }
func (RemoveFirmware) step() string  { return "remove-firmware" }
func (SetFirmwarePath) step() string { return "set-firmware-path" }
func (Adopt) step() string           { return "adopt" }
func (Forget) step() string          { return "forget" }

func (s Hold) String() string {
	if len(s.Names) == 0 {
		return "let modprobe and udev load again what was held off"
	}
	return "hold off modprobe and udev: " + strings.Join(s.Names, ", ")
}

func (s Unload) String() string { return fmt.Sprintf("unload %s (%s)", s.Name, s.Why) }

func (s Load) String() string {
	words := []string{"load", s.File.Name, "from", s.File.Path}
	if len(s.File.Parameters) > 0 {
		words = append(words, "with", strings.Join(s.File.Parameters, " "))
	}
	switch {
	case s.File.Optional:
		words = append(words, "(softdep)")
	case s.File.FromHost:
		words = append(words, "(in-tree dependency)")
	}
	return strings.Join(words, " ")
}

func (s InstallFirmware) String() string { return "install the firmware of " + s.Dir }
func (s RemoveFirmware) String() string  { return "remove the firmware of " + s.Owner }

func (s SetFirmwarePath) String() string {
	if s.Path == "" {
		return "unset firmware_class.path"
	}
	return "point firmware_class.path to " + s.Path
}

func (s Adopt) String() string {
	return fmt.Sprintf("adopt %s: it runs already (build-id %s)", s.File.Name, short(s.File.BuildID))
}
func (s Forget) String() string { return fmt.Sprintf("forget %s: no longer for %s", s.Name, s.Owner) }

// Changes reports whether the step changes the kernel or the host; adopting
// and forgetting only change the ledger.
func Changes(s Step) bool {
	switch s.(type) {
	case Adopt, Forget:
		return false
	}
	return true
}

func short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

// Transaction is what is done for one Module: all steps, or none in effect.
type Transaction struct {
	Owner   string
	Leaving bool // the Module's document is gone
	Steps   []Step
	Blocked []Block  // when not empty, no step is taken
	Notes   []string // what the kernel may say, as far as can be known
	// Unloads are the modules that have to go, also when blocked: what hangs
	// on them is worth a look.
	Unloads []string
}

// Block is one reason why a transaction must not begin.
type Block struct {
	Reason  string `json:"reason"` // a spec.Reason
	Message string `json:"message"`
}

// MarshalJSON writes the steps with their kind and the sentence for people.
func (t Transaction) MarshalJSON() ([]byte, error) {
	type row struct {
		Step string `json:"step"`
		Text string `json:"text"`
		Args Step   `json:"args"`
	}
	out := struct {
		Owner   string   `json:"owner"`
		Leaving bool     `json:"leaving,omitempty"`
		Steps   []row    `json:"steps"`
		Blocked []Block  `json:"blocked,omitempty"`
		Notes   []string `json:"notes,omitempty"`
	}{Owner: t.Owner, Leaving: t.Leaving, Steps: []row{}, Blocked: t.Blocked, Notes: t.Notes}
	for _, s := range t.Steps {
		out.Steps = append(out.Steps, row{s.step(), s.String(), s})
	}
	return json.Marshal(out)
}

// Plan is the transactions in the order in which they are done.
type Plan struct {
	Transactions []Transaction `json:"transactions"`
}

// Unloads are all modules that have to go, blocked or not.
func (p *Plan) Unloads() []string {
	var names []string
	for _, t := range p.Transactions {
		names = append(names, t.Unloads...)
	}
	return names
}

// Changes reports whether any unblocked transaction changes something.
func (p *Plan) Changes() bool {
	for _, t := range p.Transactions {
		if len(t.Blocked) > 0 {
			continue
		}
		for _, s := range t.Steps {
			if Changes(s) {
				return true
			}
		}
	}
	return false
}

func base(path string) string { return filepath.Base(path) }

// Kind is the step's name on the wire and in metrics: "load", "unload", …
func Kind(s Step) string { return s.step() }
