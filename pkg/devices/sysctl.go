// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// sysctlDirs are the directories of /proc/sys/net with settings of one interface each.
var sysctlDirs = []string{"ipv4/conf", "ipv4/neigh", "ipv6/conf", "ipv6/neigh"}

// sysctlDir is a directory of an interface; its name may have dots and can not have a slash.
func (h *Host) sysctlDir(dir, name string) string { return h.path("proc/sys/net", dir, name) }

// readSysctls reads the settings of an interface. What can not be read (the IPv6 secret that nobody set) is left out.
func (h *Host) readSysctls(name string) map[string]string {
	m := map[string]string{}
	for _, dir := range sysctlDirs {
		keys := names(h.sysctlDir(dir, name))
		for _, key := range keys {
			// The kernel complains about those who read a time in seconds when there is one in milliseconds.
			if slices.Contains(keys, key+"_ms") {
				continue
			}
			if b, err := os.ReadFile(path.Join(h.sysctlDir(dir, name), key)); err == nil {
				m[dir+"/*/"+key] = strings.TrimSuffix(string(b), "\n")
			}
		}
	}
	return m
}

// writeSysctls gives an interface back those settings that differ.
func (h *Host) writeSysctls(name string, saved map[string]string) error {
	var errs []error
	now := h.readSysctls(name)
	keys := make([]string, 0, len(saved))
	for key := range saved {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		current, there := now[key]
		if current == saved[key] && there {
			continue
		}
		dir, base, ok := strings.Cut(key, "/*/")
		if !ok || !slices.Contains(sysctlDirs, dir) || base != path.Base(base) {
			errs = append(errs, fmt.Errorf("set %s of %s: no setting of an interface", key, name))
			continue
		}
		err := overwrite(path.Join(h.sysctlDir(dir, name), base), saved[key])
		if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(dir, "ipv6") {
			continue // too small an MTU for IPv6, as before or because that could not be set
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("set net/%s/%s of %s to %s: %w", dir, base, name, saved[key], err))
		}
	}
	return errors.Join(errs...)
}

// overwrite writes a file of the kernel, which must be there.
func overwrite(file, content string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}
