// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/test/vm/guest"
)

// storms have so many uevents; the short form has a hundredth.
const storm = 100_000

func events() int {
	if full {
		return storm
	}
	return storm / 100
}

// blow has the kernel send uevents of a device or module: what is written to its
// file uevent makes one.
func blow(path string, count int) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for range count {
		if _, err := f.WriteString("change"); err != nil {
			return err
		}
	}
	return nil
}

const (
	moduleUevent = "/sys/module/kmm_base/uevent"
	deviceUevent = "/sys/class/net/lo/uevent" // no event that is meant for kmmd
)

// loadedDaemon is one that has made the change of a scenario.
func loadedDaemon(t *testing.T, s *scenario) *daemon {
	t.Helper()
	s.begin(t)
	d := startReady(t)
	d.untilIs(s.to.state(t))
	return d
}

// TestStorm has 100,000 uevents come. A swap that is wanted in the midst of them is
// made, what is removed by hand comes back, and memory and threads stay as they
// are.
func TestStorm(t *testing.T) {
	for _, source := range []string{moduleUevent, deviceUevent} {
		t.Run(strings.Split(source, "/")[2], func(t *testing.T) {
			defer counts.Case(t, "uevents")()
			s := swapBeside()
			s.begin(t)
			s.ask(t, nil)
			d := startReady(t)
			before := d.resident()
			done := make(chan error, 1)
			go func() { done <- blow(source, events()) }()
			s.ask(t, s.toImage)
			d.untilIs(s.to.state(t))
			require.NoError(t, <-done)
			guest.Unload(t, "dummy")
			d.untilIs(s.to.state(t))
			assert.Less(t, d.resident(), before+32<<20, "memory in use")
			d.stop()
			s.requireEnd(t)
		})
	}
}

// TestOverflow has more uevents come than the socket of a stopped kmmd holds, of
// things that are none of its business, and a module removed after that: the event
// of it is lost, and the overflow is the only hint.
func TestOverflow(t *testing.T) {
	for _, source := range []string{moduleUevent, deviceUevent} {
		if !full && source == moduleUevent {
			continue
		}
		t.Run(strings.Split(source, "/")[2], func(t *testing.T) {
			defer counts.Case(t, "uevents")()
			s := changes[0]
			d := loadedDaemon(t, s)
			d.signal(unix.SIGSTOP)
			requireStopped(t, d.cmd.Process.Pid)
			lost := drops(t)
			require.NoError(t, blow(source, max(events(), storm/30)))
			require.Greater(t, drops(t), lost, "the socket has overflowed")
			guest.Unload(t, "kmm_fw")
			d.signal(unix.SIGCONT)
			d.untilIs(s.to.state(t))
			d.stop()
			s.requireEnd(t)
		})
	}
}

// drops is how many uevents sockets have lost: the column Drops of
// /proc/net/netlink for protocol 15, NETLINK_KOBJECT_UEVENT.
func drops(t *testing.T) (n int) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/netlink")
	require.NoError(t, err)
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 8 && f[1] == "15" {
			count, err := strconv.Atoi(f[8])
			require.NoError(t, err)
			n += count
		}
	}
	return n
}

// resident is the daemon's memory in use, in bytes.
func (d *daemon) resident() int {
	d.t.Helper()
	status := line(d.t, fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	_, rest, _ := strings.Cut(status, "VmRSS:")
	var kb int
	_, err := fmt.Sscan(rest, &kb)
	require.NoError(d.t, err)
	return kb << 10
}
