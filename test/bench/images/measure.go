// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// figures are what one run cost.
type figures struct {
	Wall    time.Duration
	CPU     time.Duration // user and system, of everything that ran, daemon included
	RSS     int64         // bytes, of the largest process
	Fetched int64         // bytes out of the registry, headers of HTTP included
	Written int64         // bytes of pages and files made dirty (write_bytes of /proc/PID/io)
}

// daemon is a process that works for a tool and outlives its commands.
type daemon struct {
	pid int
}

// usage of a daemon since it started.
func (d *daemon) usage() (figures, error) {
	if d == nil {
		return figures{}, nil
	}
	dir := filepath.Join("/proc", strconv.Itoa(d.pid))
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return figures{}, err
	}
	// proc(5): the fields after the name in parentheses, from 3 on; 14 to 17 are
	// utime, stime, and those of children, in hundredths of a second.
	fields := strings.Fields(string(b)[strings.LastIndex(string(b), ")")+1:])
	var ticks int64
	for _, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return figures{}, err
		}
		ticks += n
	}
	written, err1 := procValue(filepath.Join(dir, "io"), "write_bytes:")
	peak, err2 := procValue(filepath.Join(dir, "status"), "VmHWM:")
	return figures{CPU: time.Duration(ticks) * 10 * time.Millisecond, Written: written, RSS: peak << 10}, errors.Join(err1, err2)
}

// procValue finds the number behind a name in a file of /proc.
func procValue(path, name string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 1 && fields[0] == name {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}

// measure runs a shell script, which must succeed, in an empty directory.
//
// GNU time starts it: it is small, and the kernel hands the peak of a process
// on to the one it starts in its place, so that a large parent would show.
func measure(script, dir string, l *link, d *daemon) (figures, error) {
	report := filepath.Join(dir, "time.txt")
	cmd := exec.Command("/usr/bin/time", "-q", "-f", "%M", "-o", report, "bash", "-euc", script)
	var said strings.Builder
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
	before, err := d.usage()
	if err != nil {
		return figures{}, err
	}
	written, err := procValue("/proc/self/io", "write_bytes:")
	if err != nil {
		return figures{}, err
	}
	l.fetched.Store(0)
	start := time.Now()
	err = cmd.Run()
	out := figures{Wall: time.Since(start)}
	if err != nil {
		return out, fmt.Errorf("%s: %w\n%s", script, err, said.String())
	}
	after, err := d.usage()
	if err != nil {
		return out, err
	}
	// What a child wrote is added to its parent's when it is waited for.
	all, err := procValue("/proc/self/io", "write_bytes:")
	if err != nil {
		return out, err
	}
	b, err := os.ReadFile(report)
	if err != nil {
		return out, err
	}
	kilobytes, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	out.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() + after.CPU - before.CPU
	out.RSS = max(kilobytes<<10, after.RSS)
	out.Written = all - written + after.Written - before.Written
	out.Fetched = l.fetched.Load()
	return out, err
}
