// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
)

// noteBuildID is NT_GNU_BUILD_ID of elf.h.
const noteBuildID = 3

// buildID returns the hex build id out of ELF notes as /sys/module/M/notes/.note.gnu.build-id holds them (name size,
// descriptor size and type in the machine's byte order, then "GNU\0" and the id, each padded to 4 bytes), or "".
func buildID(notes []byte) string {
	const head = 12
	for len(notes) >= head {
		nameLen := int64(binary.NativeEndian.Uint32(notes))
		descLen := int64(binary.NativeEndian.Uint32(notes[4:]))
		typ := binary.NativeEndian.Uint32(notes[8:])
		notes = notes[head:]
		namePad, descPad := (nameLen+3)&^3, (descLen+3)&^3
		if namePad+descLen > int64(len(notes)) {
			return ""
		}
		name, desc := notes[:nameLen], notes[namePad:namePad+descLen]
		if typ == noteBuildID && bytes.Equal(name, []byte("GNU\x00")) {
			return hex.EncodeToString(desc)
		}
		notes = notes[min(namePad+descPad, int64(len(notes))):]
	}
	return ""
}
