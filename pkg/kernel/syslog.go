// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	syslogLog  = 1 << 20 // read at most so much of the log's end
	syslogMark = 4 << 10 // so much of it marks a place
)

// syslogLine is a line as SYSLOG_ACTION_READ_ALL gives it (kernel/printk/printk.c, info_print_prefix): the number of
// facility and level, the time with printk.time, the caller with CONFIG_PRINTK_CALLER.
//
//	<4>[   12.345678][    T1] dummy: version magic '6.1.0 SMP' should be '6.1.0-56 SMP'
var syslogLine = regexp.MustCompile(`^<(\d+)>(?:\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? )?(.*)$`)

// openSyslog marks the end of the log for a process that can not open /dev/kmsg, such as one in a container that is given
// no devices: syslog(2) needs CAP_SYSLOG alone. There is no text without, nor of another kernel's files.
func (h *Host) openSyslog() kmsg {
	k := kmsg{fd: -1}
	if !h.isOurs() {
		return k
	}
	log, ok := readSyslog()
	if ok {
		k.syslog, k.mark = true, bytes.Clone(log[max(0, len(log)-syslogMark):])
	}
	return k
}

// aboutSyslog is about for such a process.
func (k kmsg) aboutSyslog(module string) []string {
	if !k.syslog {
		return nil
	}
	lines := k.sinceMark(module)
	if len(lines) == 0 {
		time.Sleep(kmsgGrace * time.Millisecond)
		lines = k.sinceMark(module)
	}
	return lines
}

func (k kmsg) sinceMark(module string) []string {
	log, ok := readSyslog()
	if !ok {
		return nil
	}
	return appendAbout(nil, module, syslogRecords(since(log, k.mark)))
}

// since is what follows the mark: all there is when the mark was overwritten.
func since(log, mark []byte) []byte {
	if i := bytes.LastIndex(log, mark); i >= 0 && len(mark) > 0 {
		return log[i+len(mark):]
	}
	return log
}

// readSyslog reads the end of the log, and leaves it for others to read.
func readSyslog() (log []byte, ok bool) {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil || size <= 0 {
		return nil, false
	}
	buf := make([]byte, min(size, syslogLog))
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf)
	if err != nil {
		return nil, false
	}
	return buf[:n], true
}

// syslogRecords gives the lines the form of /dev/kmsg: "4,0,0,-;text", and escapes what it escapes.
func syslogRecords(log []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(log) {
		f := syslogLine.FindStringSubmatch(strings.TrimSuffix(string(line), "\n"))
		if f == nil {
			continue
		}
		fmt.Fprintf(&b, "%s,0,0,-;", f[1])
		for _, c := range []byte(f[2]) {
			if c < ' ' || c >= 127 || c == '\\' {
				fmt.Fprintf(&b, "\\x%02x", c)
			} else {
				b.WriteByte(c)
			}
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}
