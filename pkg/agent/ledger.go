// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/record"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// ledger answers "is it ours?" and remembers how to undo a transaction that is
// under way. It lives on a tmpfs and is keyed by boot id, so it dies with the
// modules.
type ledger struct {
	path   string
	tidied bool   // nothing of an earlier process lies beside it
	BootID string `json:"bootID"`
	// Modules are what was loaded or adopted, by name. An entry is written
	// before its load, so that nothing that runs is ever unknown.
	Modules map[string]plan.Entry `json:"modules"`
	// Holds are the names whose autoload is held off, by owner.
	Holds map[string][]string `json:"holds,omitempty"`
	// Firmware is the directory of the image that an owner's firmware is from.
	Firmware map[string]string `json:"firmware,omitempty"`
	// Images are the digests of an owner's image that runs and of the one before.
	Images map[string][]string `json:"images,omitempty"`
	// Settled are documents that are obeyed, by owner.
	Settled map[string]settled `json:"settled,omitempty"`
	// FirmwarePathBefore is firmware_class.path before it was first set.
	FirmwarePathBefore *string `json:"firmwarePathBefore,omitempty"`
	// Networks and SRIOV are what interfaces and devices had before their driver
	// was unloaded, and have not been given back yet, by owner.
	Networks map[string]saved            `json:"networks,omitempty"`
	SRIOV    map[string][]devices.Device `json:"sriov,omitempty"`
	// Journal is how to undo what was done of an owner's transaction, first
	// done first. It is empty unless a transaction is under way, or was when
	// kmmd was killed, or could not be rolled back.
	Journal map[string][]undo `json:"journal,omitempty"`
	// StandIn are in-tree modules that may have to stand in for an owner's, by owner: an interrupted change was rolled back
	// while its image was still being got.
	StandIn map[string][]string `json:"standIn,omitempty"`
	// Failures are wants that the kernel refused, by owner: they are not tried
	// again in this boot, also not by a restarted kmmd.
	Failures map[string]refusal `json:"failures,omitempty"`
}

// refusal is a failure that waiting does not mend.
type refusal struct {
	Input      string      `json:"input"` // identifies what was tried
	Reason     spec.Reason `json:"reason"`
	Message    string      `json:"message"`
	Left       string      `json:"left,omitempty"` // what a rollback could not undo so far
	RolledBack bool        `json:"rolledBack,omitempty"`
}

// settled is a document and the image that runs for it. As long as the document stays as it is, so does the image,
// whatever its tag stands for by now: a kmmd that starts anew takes no driver away that works.
type settled struct {
	Document string `json:"document"` // a hash
	Digest   string `json:"digest"`
}

// undo is one step back; exactly one of the fields is set, apart from those that say more about one.
type undo struct {
	Load         *plan.File          `json:"load,omitempty"`         // load this again
	Ours         bool                `json:"ours,omitempty"`         // Load is of something kmmd had loaded
	Unload       *plan.File          `json:"unload,omitempty"`       // unload it if this build runs
	Freed        []devices.Device    `json:"freed,omitempty"`        // Unload takes their driver: offer them to others then
	Firmware     *string             `json:"firmware,omitempty"`     // install this directory again, "" removes
	FirmwarePath *string             `json:"firmwarePath,omitempty"` // set this again
	Hold         *[]string           `json:"hold,omitempty"`         // hold these again
	Network      bool                `json:"network,omitempty"`      // give the saved configuration back
	Interfaces   []devices.Interface `json:"interfaces,omitempty"`   // Network is of these
	Bind         []devices.Device    `json:"bind,omitempty"`         // bind these again
	SRIOV        *devices.Device     `json:"sriov,omitempty"`        // make its virtual functions again
}

func (u undo) empty() bool {
	return u.Load == nil && u.Unload == nil && u.Firmware == nil && u.FirmwarePath == nil && u.Hold == nil &&
		!u.Network && len(u.Bind) == 0 && u.SRIOV == nil
}

// openLedger always gives a usable ledger. The error says that there was one
// which could not be read; it was renamed to ledger.json.broken.
func openLedger(dir, bootID string) (*ledger, error) {
	path := filepath.Join(dir, "ledger.json")
	l := &ledger{path: path}
	data, err := os.ReadFile(path)
	if err == nil {
		data, err = record.Open(data)
	}
	if err == nil {
		err = json.Unmarshal(data, l)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("read ledger %s: %w", path, err), os.Rename(path, path+".broken"))
	}
	if err != nil || l.BootID != bootID {
		l = &ledger{path: path, BootID: bootID}
	}
	if l.Modules == nil {
		l.Modules = map[string]plan.Entry{}
	}
	if l.Holds == nil {
		l.Holds = map[string][]string{}
	}
	if l.Firmware == nil {
		l.Firmware = map[string]string{}
	}
	if l.Images == nil {
		l.Images = map[string][]string{}
	}
	if l.Settled == nil {
		l.Settled = map[string]settled{}
	}
	if l.Journal == nil {
		l.Journal = map[string][]undo{}
	}
	if l.StandIn == nil {
		l.StandIn = map[string][]string{}
	}
	if l.Networks == nil {
		l.Networks = map[string]saved{}
	}
	if l.SRIOV == nil {
		l.SRIOV = map[string][]devices.Device{}
	}
	if l.Failures == nil {
		l.Failures = map[string]refusal{}
	}
	return l, err
}

// save replaces the file at once. No fsync: a crash of the machine ends what
// it describes too.
func (l *ledger) save() error {
	data, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	if err := os.WriteFile(l.tmp(), record.Seal(data), 0o600); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	if err := os.Rename(l.tmp(), l.path); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

// tmp is where the ledger is written before it takes the place of the last one.
func (l *ledger) tmp() string { return l.path + ".tmp" }

// tidy removes, once, what a kill left of a ledger that was being written. Only who
// may write one may call it.
func (l *ledger) tidy() {
	if !l.tidied {
		_ = os.Remove(l.tmp()) // if it is there
		l.tidied = true
	}
}

// add notes that a file is loaded for an owner too.
func (l *ledger) add(owner string, file plan.File) {
	e := l.Modules[file.Name]
	if e.File.BuildID != file.BuildID {
		e.Owners = nil
	}
	if slices.ContainsFunc(e.Owners, func(o string) bool { return o != owner }) {
		file.Dependency = file.Dependency && e.File.Dependency // one of them may name it
	}
	e.File = file
	if !slices.Contains(e.Owners, owner) {
		e.Owners = append(slices.Clone(e.Owners), owner)
		slices.Sort(e.Owners)
	}
	l.Modules[file.Name] = e
}

// forget takes an owner off a module, and the module off the ledger with its
// last owner, unless it is to stay ours.
func (l *ledger) forget(owner, name string, ours bool) {
	e, ok := l.Modules[name]
	if !ok {
		return
	}
	e.Owners = slices.DeleteFunc(slices.Clone(e.Owners), func(o string) bool { return o == owner })
	if len(e.Owners) == 0 && !ours {
		delete(l.Modules, name)
		return
	}
	l.Modules[name] = e
}

// held is every name to be held off, for whatever owner.
func (l *ledger) held() []string {
	var names []string
	for _, n := range l.Holds {
		names = append(names, n...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
