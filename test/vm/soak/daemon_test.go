// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/vm/guest"
)

// daemon is `kmmd run`, one process after the other.
type daemon struct {
	s   *soak
	cmd *exec.Cmd
	log string // file
}

// reported is what is read of kmmd's status.
type reported struct {
	Modules, Leaving []struct{ Namespace, Name, State, Reason, Message, Image string }
	Invalid          []string
}

// newDaemon writes the configuration. Everything is looked at every few seconds,
// and images that nothing needs go soon: this run is to see both often.
func newDaemon(s *soak) *daemon {
	h := s.host
	require.NoError(s, os.Mkdir(h.path("docs"), 0o755))
	config := fmt.Sprintf("modules_dir = %q\nstate_dir = %q\nrun_dir = %q\nfirmware_dir = %q\nlisten = %q\nresync = \"3s\"\nimage_keep_unused = \"20s\"\n",
		h.path("docs"), h.path("state"), h.path("run"), h.path("firmware"), "127.0.0.1:9808")
	require.NoError(s, os.WriteFile(h.path("kmmd.toml"), []byte(config), 0o644))
	d := &daemon{s: s, log: h.path("log")}
	s.Cleanup(func() {
		if d.cmd != nil {
			_ = d.cmd.Process.Kill()
			_ = d.cmd.Wait()
		}
	})
	return d
}

// begin starts kmmd and does not wait for it.
func (d *daemon) begin() {
	d.s.Helper()
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(d.s, err)
	defer log.Close()
	d.cmd = exec.Command(binary, "--config", d.s.host.path("kmmd.toml"), "run")
	d.cmd.Stderr = log
	require.NoError(d.s, d.cmd.Start())
	d.s.figures.born()
}

// start starts kmmd and waits until it has looked at the node.
func (d *daemon) start() {
	d.s.Helper()
	d.begin()
	require.True(d.s, d.s.poll(func() bool { return guest.Get("/readyz") == "ok\n" }), "kmmd becomes ready")
}

func (d *daemon) kill() {
	d.s.Helper()
	require.NoError(d.s, d.cmd.Process.Kill())
	_ = d.cmd.Wait()
	d.cmd = nil
}

// stop ends kmmd as systemd does and requires a clean end.
func (d *daemon) stop() {
	d.s.Helper()
	require.NoError(d.s, d.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(d.s, d.cmd.Wait())
	d.cmd = nil
}

func (d *daemon) signal(sig syscall.Signal) {
	d.s.Helper()
	require.NoError(d.s, d.cmd.Process.Signal(sig))
}

// metrics are all figures of /metrics, by name and labels.
func metrics() map[string]float64 {
	out := map[string]float64{}
	for line := range strings.Lines(guest.Get("/metrics")) {
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64); err == nil {
			out[line[:i]] = v
		}
	}
	return out
}

// reconciles is how often kmmd has looked at the node, -1 while it does not say.
func (d *daemon) reconciles() float64 {
	m := metrics()
	if len(m) == 0 {
		return -1
	}
	return m[`kmmd_reconciles_total{result="ok"}`] + m[`kmmd_reconciles_total{result="not-ok"}`]
}

// status is what kmmd reported last.
func (d *daemon) status() reported {
	var r reported
	data, err := os.ReadFile(d.s.host.path("run/status.json"))
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		r.Invalid = []string{"no status: " + err.Error()}
	}
	return r
}

// logTail is the end of what kmmd has logged.
func (d *daemon) logTail() string {
	data, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-20_000):])
}
