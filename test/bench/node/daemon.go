// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Where kmmd has what in the guest.
const (
	disk      = "/bench"
	kmmd      = disk + "/kmmd"
	files     = disk + "/modules" // of the scenarios, for the others
	documents = "/etc/kmmd/modules.d"
	runDir    = "/run/kmmd"
	metrics   = "http://127.0.0.1:9808/metrics"
	logFile   = "/tmp/kmmd.log"
)

// daemon is a kmmd that runs.
type daemon struct {
	cmd *exec.Cmd
	pid int
}

// start runs kmmd and returns at once.
func start(args ...string) (*daemon, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(kmmd, append([]string{"run"}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &daemon{cmd, cmd.Process.Pid}, nil
}

// startIdle runs kmmd and returns when it has nothing to do any more.
func startIdle(args ...string) (*daemon, error) {
	d, err := start(args...)
	if err != nil {
		return nil, err
	}
	limit := time.Now().Add(patience)
	for {
		if m, err := d.metrics(); err == nil && m["kmmd_reconciles_total"] > 0 {
			break
		}
		if time.Now().After(limit) {
			return nil, fmt.Errorf("kmmd does not come up: %w", d.stop())
		}
		time.Sleep(20 * time.Millisecond)
	}
	return d, d.rest(300 * time.Millisecond)
}

// stop ends it and waits.
func (d *daemon) stop() error {
	err := d.cmd.Process.Signal(syscall.SIGTERM)
	if werr := d.cmd.Wait(); werr != nil {
		text, _ := os.ReadFile(logFile)
		err = errors.Join(err, fmt.Errorf("kmmd ended: %w\n%s", werr, text))
	}
	return err
}

// cpu is what the process, all its threads together, has used.
func (d *daemon) cpu() (time.Duration, error) {
	var ts unix.Timespec
	// clock_getcpuclockid(3): the clock of another process.
	if err := unix.ClockGettime(int32(^d.pid<<3|2), &ts); err != nil {
		return 0, os.NewSyscallError("clock_gettime", err)
	}
	return time.Duration(ts.Nano()), nil
}

// rest returns when it has used no CPU for so long.
func (d *daemon) rest(quiet time.Duration) error {
	limit := time.Now().Add(patience)
	last, since := time.Duration(-1), time.Now()
	for {
		now, err := d.cpu()
		switch {
		case err != nil:
			return err
		case now != last:
			last, since = now, time.Now()
		case time.Since(since) >= quiet:
			return nil
		}
		if time.Now().After(limit) {
			return errors.New("kmmd does not come to rest")
		}
		time.Sleep(quiet / 20)
	}
}

// metrics are the sums over all labels of what it serves.
func (d *daemon) metrics() (map[string]float64, error) {
	resp, err := http.Get(metrics)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out := map[string]float64{}
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		line := s.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		name, _, _ := strings.Cut(line[:max(i, 0)], "{")
		if v, err := strconv.ParseFloat(line[i+1:], 64); err == nil {
			out[name] += v
		}
	}
	return out, nil
}

// processes are kmmd and those it has started.
func (d *daemon) processes() []int {
	out := []int{d.pid}
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", d.pid))
	for _, t := range tasks {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", d.pid, t.Name()))
		for word := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out
}

// status sums a number of /proc/PID/status, or of each thread's, over processes.
func status(pids []int, threads bool, names ...string) (sum int64) {
	for _, pid := range pids {
		paths := []string{fmt.Sprintf("/proc/%d/status", pid)}
		if threads {
			paths = nil
			tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
			for _, t := range tasks {
				paths = append(paths, fmt.Sprintf("/proc/%d/task/%s/status", pid, t.Name()))
			}
		}
		for _, path := range paths {
			text, _ := os.ReadFile(path)
			for line := range strings.Lines(string(text)) {
				key, value, _ := strings.Cut(line, ":")
				for _, name := range names {
					if f := strings.Fields(value); key == name && len(f) > 0 {
						n, _ := strconv.ParseInt(f[0], 10, 64)
						sum += n
					}
				}
			}
		}
	}
	return sum
}
