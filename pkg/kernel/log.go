// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// logLines is how many lines ModuleLog keeps at most, the newest.
const logLines = 2000

// ModuleLog returns what the kernel's log still has about these modules and
// about loading modules at all, oldest first, with the seconds since the boot as
// dmesg prints them:
//
//	[   12.345678] dummy: loading out-of-tree module taints kernel.
//
// The log is a ring: what is old is gone. Names are compared without regard to
// '-' and '_'. With dmesg_restrict it needs CAP_SYSLOG. It does not wait.
func (h *Host) ModuleLog(modules []string) ([]string, error) {
	path := h.path("dev/kmsg")
	// Not os.Open: its Read would wait for the next message.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the kernel's log %s: %w", path, err)
	}
	defer unix.Close(fd)
	var lines []string
	buf := make([]byte, kmsgRecord)
	// A ring of the largest size has fewer records than that (CONFIG_LOG_BUF_SHIFT, 2^25 bytes).
	for range 1 << 20 {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EPIPE): // EPIPE: overwritten before we read it
			continue
		case errors.Is(err, unix.EAGAIN), err == nil && n == 0:
			return lines, nil
		case err != nil:
			return lines, fmt.Errorf("read the kernel's log %s: %w", path, err)
		}
		lines = appendLog(lines, modules, buf[:n])
	}
	return lines, nil
}

// appendLog adds the lines of a record that are about one of the modules. A file
// has several records.
func appendLog(lines, modules []string, records []byte) []string {
	for rec := range bytes.Lines(records) {
		head, text, ok := strings.Cut(strings.TrimSuffix(string(rec), "\n"), ";")
		if !ok || strings.HasPrefix(head, " ") || !aboutModules(text, modules) {
			continue
		}
		fields := strings.Split(head, ",")
		if prio, err := strconv.Atoi(fields[0]); err != nil || prio>>3 != 0 || len(fields) < 3 {
			continue // of user space
		}
		micros, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			continue
		}
		if len(lines) == logLines {
			lines = lines[1:]
		}
		lines = append(lines, fmt.Sprintf("[%5d.%06d] %s", micros/1e6, micros%1e6, text))
	}
	return lines
}

func aboutModules(text string, modules []string) bool {
	if isNoise(text) || isAbout(text, "module") {
		return true
	}
	for _, m := range modules {
		if isAbout(text, m) {
			return true
		}
	}
	return false
}
