// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// holdFile is the modprobe.d file that is ours alone. libkmod sorts the files of all modprobe.d directories by name
// and takes the first line that matches, for install and for softdep: an early name beats lines of others.
const holdFile = "run/modprobe.d/00-kmmd.conf"

// HoldAutoload keeps modprobe, udev and the kernel's own requests from loading these modules, until the next call or
// the next boot; none lifts the hold. It makes <root>/run/modprobe.d/00-kmmd.conf say exactly that, replacing it in one
// step, and writes nothing when it says so already. Load does not go through modprobe and is not held. A running udevd
// may take 3 s to see it (it looks for changed files no more often), and modules already on their way still arrive.
// Names of 1 to 55 letters, digits, '_' and '-' only. Needs write access to the directory, which it makes.
//
// Three lines each: an install command stops every way but one: libkmod (as of 34) ignores it for a module that has a
// soft dependency, https://github.com/kmod-project/kmod/issues/446. An empty softdep line ahead of depmod's
// modules.softdep closes that, as only the first one counts. The blacklist line spares udev a process for each device.
func (h *Host) HoldAutoload(names []string) error {
	want, err := holdText(names)
	if err != nil {
		return fmt.Errorf("hold autoload: %w", err)
	}
	path := h.path(holdFile)
	have, err := os.ReadFile(path)
	switch {
	case err == nil && want == nil:
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("hold autoload: %w", err)
		}
		return nil
	case errors.Is(err, fs.ErrNotExist) && want == nil:
		return nil
	case err == nil && bytes.Equal(have, want):
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("hold autoload: %w", err)
	}
	if err := replaceFile(path, want); err != nil {
		return fmt.Errorf("hold autoload: %w", err)
	}
	return nil
}

// Held returns the modules that the last HoldAutoload named, sorted, also that of an earlier process. A file that says
// anything else than HoldAutoload wrote holds nothing for certain: there are none then.
func (h *Host) Held() ([]string, error) {
	b, err := readFile(h.path(holdFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read held modules: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "install" {
			names = append(names, f[1])
		}
	}
	if want, err := holdText(names); err != nil || !bytes.Equal(b, want) {
		return nil, nil
	}
	return names, nil
}

// holdText returns the content of the file, nil for no names.
func holdText(names []string) ([]byte, error) {
	if len(names) == 0 {
		return nil, nil
	}
	var b bytes.Buffer
	b.WriteString("# Written by kmmd: out-of-tree builds stand in for these modules. Do not edit; gone after a reboot.\n")
	for _, n := range slices.Compact(slices.Sorted(slices.Values(names))) {
		if !isName(n) {
			return nil, fmt.Errorf("%q is no module name", n)
		}
		fmt.Fprintf(&b, "softdep %s pre: post:\ninstall %s /bin/false\nblacklist %s\n", n, n, n)
	}
	return b.Bytes(), nil
}

// isName refuses what would mean something else in a modprobe.d file: blanks, wildcards, line ends.
func isName(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-':
		default:
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

// replaceFile puts a file in place in one step. libkmod reads only *.conf, so the temporary one is not seen. There is
// one writer; what a killed one left is overwritten.
func replaceFile(path string, content []byte) error {
	dir, base := filepath.Split(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(dir, "."+base+".new")
	if err := os.WriteFile(tmp, content, 0o644); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return nil
}
