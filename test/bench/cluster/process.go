// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

// process is a program that is measured.
type process struct {
	*lab.Program
	cmd *exec.Cmd
}

// start a program beside the control plane; what it says goes to a log of that
// name.
func (s *stage) start(name, program string, args ...string) (*process, error) {
	cmd := exec.Command(program, args...)
	p, err := s.cluster.StartProgram(name, cmd)
	if err != nil {
		return nil, err
	}
	return &process{p, cmd}, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// waitFor asks until the answer is yes, while the process lives.
func (p *process) waitFor(ctx context.Context, what string, every time.Duration, yes func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, err := yes()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
		if !p.Alive() {
			log := p.Log()
			return fmt.Errorf("%s: %s has ended; its last words: %s", what, p.cmd.Path, log[max(0, len(log)-2000):])
		}
	}
}

// cpuOf is the time that all threads of a process have run.
func cpuOf(pid int) (time.Duration, error) {
	// include/linux/posix-timers_types.h: the clock of a process is ~PID and, in the
	// last three bits, CPUCLOCK_SCHED.
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, fmt.Errorf("read CPU time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// memory of a process, in bytes.
type memory struct {
	now, peak int64
}

func memoryOf(pid int) (memory, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	defer f.Close()
	var m memory
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// VmHWM:	  123456 kB
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 || fields[0] != "VmHWM:" && fields[0] != "VmRSS:" {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return memory{}, fmt.Errorf("read memory of process %d: %w", pid, err)
		}
		if fields[0] == "VmHWM:" {
			m.peak = n << 10
		} else {
			m.now = n << 10
		}
	}
	return m, nil
}
