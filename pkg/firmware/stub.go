// SPDX-License-Identifier: Apache-2.0

package firmware

import "errors"

// Dir is the firmware directory of a host.
type Dir struct{}

// Open opens dir with its manifest.
func Open(dir, manifest string) (*Dir, error) { return nil, errors.ErrUnsupported }

// List returns the files of srcDir.
func List(srcDir string) ([]File, error) { return nil, errors.ErrUnsupported }

// Check says whether files could be installed for owner.
func (d *Dir) Check(owner string, files []File) error { return errors.ErrUnsupported }

// Install makes the files of srcDir those of owner.
func (d *Dir) Install(owner, srcDir string) (changed bool, err error) {
	return false, errors.ErrUnsupported
}

// Current says whether owner has exactly files.
func (d *Dir) Current(owner string, files []File) (bool, error) { return false, errors.ErrUnsupported }

// Remove takes away what only owner owns.
func (d *Dir) Remove(owner string) error { return errors.ErrUnsupported }

// Owners returns who has files.
func (d *Dir) Owners() ([]string, error) { return nil, errors.ErrUnsupported }
