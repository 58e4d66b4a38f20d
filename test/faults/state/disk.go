// SPDX-License-Identifier: Apache-2.0

package state

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Dirs are where kmmd keeps what it knows.
type Dirs struct {
	State, Run, Firmware string
}

// ledger is what matters of ledger.json.
type ledger struct {
	BootID  string
	Modules map[string]struct {
		Owners []string
		File   struct{ BuildID string }
	}
	Journal  map[string]json.RawMessage
	Failures map[string]json.RawMessage
}

// Settled says what is wrong on disk when kmmd has come to an end with a change:
// a journal that is left, a ledger that is of another boot or does not say what
// runs, a damaged image in the store, work in progress that was left behind. ours
// are the modules that the ledger has to know, by name, with their build-ids.
func (d Dirs) Settled(bootID string, ours map[string]string) error {
	return errors.Join(d.ledger(bootID, ours), d.Store(), d.leftovers())
}

func (d Dirs) ledger(bootID string, ours map[string]string) error {
	path := filepath.Join(d.Run, "ledger.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && len(ours) == 0 {
		return nil // nothing was ever changed
	}
	if err != nil {
		return err
	}
	var l ledger
	if err := json.Unmarshal(data, &l); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var errs []error
	if l.BootID != bootID {
		errs = append(errs, fmt.Errorf("%s is of boot %s", path, l.BootID))
	}
	for owner := range l.Journal {
		errs = append(errs, fmt.Errorf("%s has a journal of %s", path, owner))
	}
	for name, id := range ours {
		if have := l.Modules[name].File.BuildID; have != id {
			errs = append(errs, fmt.Errorf("%s has %s as build-id %q, %s runs", path, name, have, id))
		}
	}
	for name := range l.Modules {
		if _, known := ours[name]; !known {
			errs = append(errs, fmt.Errorf("%s has %s, which is not kmmd's", path, name))
		}
	}
	return errors.Join(errs...)
}

// Store says what of the image store is damaged: content that is not what its
// name says, a tree with other files than it was made with. A tree that can not
// be read is not whole either.
func (d Dirs) Store() error {
	store := filepath.Join(d.State, "images")
	var errs []error
	contents, err := filepath.Glob(filepath.Join(store, "files/sha256/*/*"))
	errs = append(errs, err)
	for _, path := range contents {
		errs = append(errs, isDigest(path, filepath.Base(path)))
	}
	trees, err := filepath.Glob(filepath.Join(store, "trees/*"))
	errs = append(errs, err)
	for _, dir := range trees {
		errs = append(errs, tree(dir))
	}
	return errors.Join(errs...)
}

// tree looks at the files of one image:
//
//	{"files": [{"path": "lib/modules/6.1.0/a.ko", "sha256": "…", "size": 5}], …}
func tree(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, "tree.json"))
	if err != nil {
		return err
	}
	var t struct {
		Files []struct {
			Path, SHA256 string
		}
	}
	if err := json.Unmarshal(data, &t); err != nil {
		return fmt.Errorf("%s/tree.json: %w", dir, err)
	}
	if len(t.Files) == 0 {
		return fmt.Errorf("%s/tree.json names no file", dir)
	}
	var errs []error
	known := []string{"tree.json"}
	for _, f := range t.Files {
		known = append(known, f.Path)
		errs = append(errs, isDigest(filepath.Join(dir, f.Path), f.SHA256))
	}
	have, err := readFiles(dir)
	errs = append(errs, err)
	for path := range have {
		if !slices.Contains(known, path) {
			errs = append(errs, fmt.Errorf("%s/%s is not of the image", dir, path))
		}
	}
	return errors.Join(errs...)
}

func isDigest(path, want string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != want {
		return fmt.Errorf("%s is not sha256:%s", path, want)
	}
	return nil
}

// leftovers are files of work in progress.
func (d Dirs) leftovers() error {
	var errs []error
	for _, pattern := range []string{
		filepath.Join(d.State, "*.tmp"), filepath.Join(d.State, "images/tmp/*"), filepath.Join(d.Run, "*.tmp"),
		filepath.Join(d.Run, "module-*"), filepath.Join(d.Firmware, ".*"), "/run/modprobe.d/.*",
	} {
		found, err := filepath.Glob(pattern)
		errs = append(errs, err)
		if len(found) > 0 {
			errs = append(errs, fmt.Errorf("left behind: %s", strings.Join(found, " ")))
		}
	}
	return errors.Join(errs...)
}
