// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	kmsgRecord  = 8 << 10 // one record; the kernel cuts a longer one (kernel/printk, CONSOLE_EXT_LOG_MAX)
	kmsgRecords = 10000   // read at most so many after one failure
	kmsgLines   = 32      // keep at most so many
	kmsgGrace   = 5       // milliseconds
)

// kmsg reads what the kernel prints after it was opened (/dev/kmsg, Documentation/ABI/testing/dev-kmsg). With
// dmesg_restrict that needs CAP_SYSLOG; without it there is no text, which is no error. Where there is no such device, or
// it is denied, syslog(2) is asked.
type kmsg struct {
	fd     int    // of /dev/kmsg; -1 when it can not be opened
	syslog bool   // then: syslog(2) answers
	mark   []byte // the end of what it had to say
}

// openKmsg stands at the end of the log. Close it.
func (h *Host) openKmsg() kmsg {
	// Not os.Open: its Read would wait for the next message.
	fd, err := unix.Open(h.path("dev/kmsg"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return h.openSyslog()
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		unix.Close(fd)
		return kmsg{fd: -1}
	}
	return kmsg{fd: fd}
}

func (k kmsg) close() {
	if k.fd >= 0 {
		unix.Close(k.fd)
	}
}

// about returns the lines printed since openKmsg that are about the module. They are there when the system call
// returns; only if there are none yet it waits a few milliseconds for one.
func (k kmsg) about(module string) []string {
	if k.fd < 0 {
		return k.aboutSyslog(module)
	}
	lines := k.drain(module, nil)
	if len(lines) == 0 {
		fds := []unix.PollFd{{Fd: int32(k.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, kmsgGrace); n > 0 || err == unix.EINTR {
			lines = k.drain(module, lines)
		}
	}
	return lines
}

// drain reads to the end of the log.
func (k kmsg) drain(module string, lines []string) []string {
	buf := make([]byte, kmsgRecord)
	for range kmsgRecords {
		n, err := unix.Read(k.fd, buf)
		switch {
		case err == unix.EINTR || err == unix.EPIPE: // EPIPE: records were overwritten before we read them
			continue
		case err != nil || n == 0 || len(lines) >= kmsgLines:
			return lines
		}
		lines = appendAbout(lines, module, buf[:n])
	}
	return lines
}

// appendAbout adds the lines about the module out of one record (or several, as a plain file gives them):
//
//	4,1234,5678901,-;dummy: version magic '6.1.0 SMP' should be '6.1.0-56 SMP'
//	 SUBSYSTEM=module
//
// The first number is facility*8 + level; a facility other than 0 was written by user space. Lines that begin with a
// blank are properties. Characters that could harm a terminal come escaped as \x1b.
func appendAbout(lines []string, module string, records []byte) []string {
	for rec := range bytes.Lines(records) {
		head, text, ok := strings.Cut(strings.TrimSuffix(string(rec), "\n"), ";")
		if !ok || strings.HasPrefix(head, " ") {
			continue
		}
		prio, _, _ := strings.Cut(head, ",")
		if n, err := strconv.Atoi(prio); err != nil || n>>3 != 0 {
			continue
		}
		if len(lines) < kmsgLines && isAbout(text, module) && !isNoise(text) && !slices.Contains(lines, text) {
			lines = append(lines, text)
		}
	}
	return lines
}

// isAbout tells whether a line of the kernel is about the module: it begins with its name ("dummy: ...", or
// "dummy dummy.0: ..." by a driver of the same name), whatever the case of '-' and '_', or it is one of those that the
// module loader prints without a name.
func isAbout(text, module string) bool {
	if n := len(module); len(text) > n && (text[n] == ':' || text[n] == ' ') &&
		strings.ReplaceAll(text[:n], "-", "_") == strings.ReplaceAll(module, "-", "_") {
		return true
	}
	if name, ok := strings.CutPrefix(text, "Module "); ok && strings.HasPrefix(name, module+" is blacklisted") {
		return true
	}
	for _, p := range nameless() {
		if strings.Contains(text, p) {
			return true
		}
	}
	return false
}

// isNoise tells whether a line is no reason: the taint notices come once per boot, with whatever is loaded first, and an
// oops ends with the registers of user space.
func isNoise(text string) bool {
	return strings.Contains(text, "taints kernel") || strings.Contains(text, "tainting kernel") ||
		strings.Contains(text, "RIP: 0033:")
}

// nameless returns parts of those lines that come without the module's name (kernel/module/{main,signing,decompress}.c,
// kernel/params.c, security/lockdown, drivers/base/firmware_loader; Linux 6.1 and 6.12). With one loader at a time they
// are about our module. The last rows are the signs of a crash in init or exit.
func nameless() []string {
	return []string{
		"Invalid ELF ", "Invalid architecture in ELF", "Invalid module architecture",
		"Module has invalid ELF", "module has no symbols",
		"Loading of unsigned module", "Loading of module with", "Lockdown: ", "module: PKCS#7",
		"compressed module", "decompression failed", "ZSTD-compressed data has ", "module: failed to",
		"string parameter too long", "can only take ",
		"Direct firmware load for ", "firmware: failed to load", "fw_load_sysfs_fallback",
		"Unable to create sysfs", "vmalloc error",
		"BUG: ", "Oops: ", "kernel BUG at ", "RIP: ", "general protection fault", "Kernel panic", "blocked for more than",
		"Internal error: ",
	}
}
