// SPDX-License-Identifier: Apache-2.0

// Package firmware puts the firmware files of an image into a directory of the
// host and takes them away again. A manifest says who owns which file: files
// nobody put there through this package are never changed or removed, and two
// owners may share a path only with the same bytes. A file that was there with
// just the bytes of an owner's image is used: it stays when the owner leaves, and
// goes by that owner's next image when this has other bytes, which are kmmd's then.
//
// It does not tell the kernel where the directory is: see pkg/kernel.
package firmware

import (
	"errors"
	"fmt"
)

// ErrConflict is a path that is taken by other bytes; every *ConflictError is one.
var ErrConflict = errors.New("firmware conflict")

// ErrUnsafe is a source directory with something in it that is not a plain
// file under a plain name, or that changed while it was read.
var ErrUnsafe = errors.New("unsafe firmware source")

// File is one firmware file: its slash-separated path below the directory, and
// its content.
type File struct {
	Path   string
	SHA256 string // lower-case hex
	Size   int64
}

// ConflictError says that a path has other bytes than wanted and may not be
// replaced. It is ErrConflict.
type ConflictError struct {
	Path   string // below the firmware directory
	Wanted string // the owner that wanted to put its file there
	Owner  string // who has it; empty: nobody this package knows
}

// Error names the path and both owners.
func (e *ConflictError) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("firmware %s of %s: the path has other content that kmmd did not put there: move it away, or take the file out of the image", e.Path, e.Wanted)
	}
	return fmt.Sprintf("firmware %s of %s: %s has other content for the same path: only one of the two can be on this node", e.Path, e.Wanted, e.Owner)
}

// Is makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }
