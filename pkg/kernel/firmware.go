// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"os"
	"strings"
)

// firmwareParam is the first directory the kernel looks for firmware in (drivers/base/firmware_loader/main.c,
// fw_path_para; Linux 3.10).
const firmwareParam = "sys/module/firmware_class/parameters/path"

// maxFirmwarePath is the longest value the parameter takes: 256 bytes with the NUL.
const maxFirmwarePath = 255

// FirmwarePath returns firmware_class.path, "" when it is not set. A newline which somebody wrote into it (Linux 6.1
// keeps that and then finds nothing) is part of the result.
func (h *Host) FirmwarePath() (string, error) {
	s, err := h.readLine(firmwareParam)
	if err != nil {
		return "", fmt.Errorf("read firmware path: %w", err)
	}
	s, _, _ = strings.Cut(s, "\x00")
	return s, nil
}

// SetFirmwarePath sets firmware_class.path, "" unsets it. It holds at once and until the next boot, for every driver;
// there is one such directory, and the kernel opens it in the mount namespace of init. Needs root.
func (h *Host) SetFirmwarePath(path string) error {
	if len(path) > maxFirmwarePath {
		return fmt.Errorf("set firmware path: %d bytes, the kernel takes %d", len(path), maxFirmwarePath)
	}
	if strings.ContainsAny(path, "\n\x00") {
		return fmt.Errorf("set firmware path: control character in %q", path)
	}
	// A write of nothing changes nothing, a newline would be taken as the path: a NUL is what empties it.
	if path == "" {
		path = "\x00"
	}
	f, err := os.OpenFile(h.path(firmwareParam), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("set firmware path: %w", err)
	}
	_, err = f.WriteString(path)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("set firmware path: %w", err)
	}
	return nil
}
