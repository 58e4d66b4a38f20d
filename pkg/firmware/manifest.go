// SPDX-License-Identifier: Apache-2.0

package firmware

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kmm-node/kmmd/pkg/record"
)

// The manifest is there twice, each sealed (pkg/record): who owns which file can
// be learnt from nothing else. The second one is written when a change is done,
// and read when the first one is missing or damaged.
const secondSuffix = ".2"

// load reads the manifest; record.ErrDamaged when there is none that can be read.
func (d *Dir) load() (*state, error) {
	s, err := readState(d.manifest)
	if err == nil || !errors.Is(err, record.ErrDamaged) && !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	second, err2 := readState(d.manifest + secondSuffix)
	switch {
	case err2 == nil:
		second.repair = true
		return second, nil
	case errors.Is(err, fs.ErrNotExist) && errors.Is(err2, fs.ErrNotExist):
		return &state{Version: stateVersion, Files: map[string]entry{}}, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, err2
	}
	return nil, err
}

// twice says whether both manifests say the same. After a full disk, or a kill, the
// second one may be the one before.
func (d *Dir) twice() bool {
	first, err1 := os.ReadFile(d.manifest)
	second, err2 := os.ReadFile(d.manifest + secondSuffix)
	return bytes.Equal(first, second) && errors.Is(err1, fs.ErrNotExist) == errors.Is(err2, fs.ErrNotExist)
}

func readState(path string) (*state, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	object, err := record.Open(b)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", path, err)
	}
	var s state
	if err := json.Unmarshal(object, &s); err != nil {
		return nil, fmt.Errorf("parse manifest %s: %w", path, err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("parse manifest %s: version %d is not %d", path, s.Version, stateVersion)
	}
	if s.Files == nil {
		s.Files = map[string]entry{}
	}
	return &s, nil
}

// setAside renames what can not be read.
func (d *Dir) setAside() error {
	var errs []error
	for _, path := range []string{d.manifest, d.manifest + secondSuffix} {
		if _, err := readState(path); errors.Is(err, record.ErrDamaged) {
			errs = append(errs, os.Rename(path, path+".broken"))
		}
	}
	return errors.Join(errs...)
}

// save replaces the manifest: after a crash it is the old one or the new one. The
// second one follows when nothing is pending.
func (d *Dir) save(s *state) error {
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(filepath.Dir(d.manifest))
	if err != nil {
		return err
	}
	defer closeRoot(root)
	b = append(record.Seal(b), '\n')
	base := filepath.Base(d.manifest)
	if err := d.replaceManifest(root, base, b); err != nil || s.Pending != nil {
		return err
	}
	return d.replaceManifest(root, base+secondSuffix, b)
}

func (d *Dir) replaceManifest(root *os.Root, base string, b []byte) error {
	d.step("write " + base)
	f, err := root.OpenFile(base+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, root.Remove(base+".tmp"))
	}
	d.step("rename " + base)
	if err := root.Rename(base+".tmp", base); err != nil {
		return err
	}
	d.step("sync " + base)
	return d.syncDir(root, ".")
}
