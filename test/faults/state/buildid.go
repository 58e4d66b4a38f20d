// SPDX-License-Identifier: Apache-2.0

package state

import (
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

var errNote = errors.New("no note with a build-id")

// noteBuildID reads an ELF note: sizes of name and content, type 3, "GNU\0", and
// the build-id (elf(5)).
func noteBuildID(note []byte) (string, error) {
	if len(note) < 16 || binary.LittleEndian.Uint32(note[8:]) != 3 || string(note[12:16]) != "GNU\x00" {
		return "", errNote
	}
	if n := binary.LittleEndian.Uint32(note[4:]); len(note) == 16+int(n) && n > 0 {
		return hex.EncodeToString(note[16:]), nil
	}
	return "", errNote
}

// FileBuildID is the build-id of a module file that is not compressed.
func FileBuildID(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	section := f.Section(".note.gnu.build-id")
	if section == nil {
		return "", fmt.Errorf("%s: %w", path, errNote)
	}
	note, err := section.Data()
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return noteBuildID(note)
}
