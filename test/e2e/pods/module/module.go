// SPDX-License-Identifier: Apache-2.0

// Package module says what is loaded.
package module

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
)

// What a container is told of the device that it is given.
const (
	DeviceEnv = "LAB_DEVICE"
	BuildEnv  = "LAB_DRIVER_BUILD"
	FileEnv   = "LAB_DEVICE_FILE" // not all have one
)

// Build is the build-id of a module that is loaded. The note has a head of 16
// bytes (elf(5)).
func Build(name string) (string, error) {
	note, err := os.ReadFile(filepath.Join("/sys/module", name, "notes/.note.gnu.build-id"))
	if err != nil {
		return "", fmt.Errorf("read build-id: %w", err)
	}
	if len(note) < 16 {
		return "", fmt.Errorf("read build-id of %s: the note has %d bytes", name, len(note))
	}
	return hex.EncodeToString(note[16:]), nil
}
