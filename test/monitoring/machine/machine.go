// SPDX-License-Identifier: Apache-2.0

// Package machine runs the real kmmd for tests on a node that is a few files: it
// may be told to load what it can not get, and be watched. Nothing reaches a
// kernel.
package machine

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/monitoring/prom"
)

// Release of the kernel that the node seems to run, and of which boot.
const (
	Release = "6.1.0-56-cloud-amd64"
	BootID  = "3f0c3c5e-8f2b-4f5e-9d57-0a6d9f1b2c3d"
)

// Machine is a node with a kmmd that runs.
type Machine struct {
	Address string // of /metrics

	t   testing.TB
	dir string
}

// Start builds kmmd and runs it until the test ends. more is added to its
// kmmd.toml.
func Start(t testing.TB, more string) *Machine {
	t.Helper()
	m := &Machine{t: t, dir: t.TempDir(), Address: prom.FreeAddress(t)}
	program := filepath.Join(m.dir, "kmmd")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/kmm-node/kmmd/cmd/kmmd").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for path, text := range map[string]string{
		"host/proc/sys/kernel/osrelease":                 Release + "\n",
		"host/proc/sys/kernel/random/boot_id":            BootID + "\n",
		"host/proc/modules":                              "",
		"host/sys/module/firmware_class/parameters/path": "\n",
		"host/lib/modules/" + Release + "/modules.dep":   "",
		"host/run/modprobe.d/README":                     "",
		"modules.d/.keep":                                "",
		"kmmd.toml": strings.NewReplacer("DIR", m.dir, "ADDRESS", m.Address).Replace(`
modules_dir = "DIR/modules.d"
state_dir = "DIR/state"
run_dir = "DIR/run"
firmware_dir = "DIR/firmware"
host_root = "DIR/host"
listen = "ADDRESS"
resync = "1s"
`) + more,
	} {
		m.write(path, text)
	}
	prom.Run(t, exec.CommandContext(t.Context(), program, "run", "--config", filepath.Join(m.dir, "kmmd.toml")), &bytes.Buffer{})
	return m
}

func (m *Machine) write(path, text string) {
	m.t.Helper()
	path = filepath.Join(m.dir, path)
	require.NoError(m.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(m.t, os.WriteFile(path, []byte(text), 0o600))
}

// Put puts a document into its directory.
func (m *Machine) Put(name, text string) {
	m.t.Helper()
	m.write(filepath.Join("modules.d", name), text)
}

// Remove takes a document away.
func (m *Machine) Remove(name string) {
	m.t.Helper()
	require.NoError(m.t, os.Remove(filepath.Join(m.dir, "modules.d", name)))
}

// Scrape is what a Prometheus gets, once there has been a first look at the node.
func (m *Machine) Scrape() string {
	m.t.Helper()
	var body []byte
	require.Eventually(m.t, func() bool {
		r, err := http.Get("http://" + m.Address + "/metrics") //nolint:noctx // it is ours
		if err != nil {
			return false
		}
		defer r.Body.Close()
		body, err = io.ReadAll(r.Body)
		return err == nil && strings.Contains(string(body), `kmmd_info{kernel="`+Release)
	}, prom.Patience, prom.Tick, "kmmd answers")
	return string(body)
}
