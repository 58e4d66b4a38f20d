// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/spec"
)

// Masks of capabilities, as /proc/PID/status has them.
const (
	sixCapabilities = "00000004000b1004" // docs/install.md
	withoutModule   = "00000004000a1004" // … less CAP_SYS_MODULE
	moduleOnly      = "0000000000010000"
	none            = "0000000000000000"
)

// TestConfined: what the daemon may do, and its child while it is in the kernel.
func TestConfined(t *testing.T) {
	n := newNode(t)
	t.Cleanup(func() { n.command("rmmod", "kmm_sleep") })
	d := n.start()
	daemon := fmt.Sprint(d.cmd.Process.Pid)
	confined(t, daemon, map[string]string{"CapInh": none, "CapPrm": sixCapabilities, "CapEff": withoutModule, "CapBnd": sixCapabilities, "CapAmb": none,
		"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "1"})

	n.document("slow.yaml", module("slow", n.image("slow", []string{"kmm_sleep.ko"}, nil), "kmm_sleep", "modprobe.parameters: [secs=10]"))
	child := ""
	n.eventually("the child is in the module's init", func() bool {
		m, err := n.host.Module("kmm_sleep")
		child = childOf(t, "kmmd: load kmm_sleep")
		return err == nil && m.State == "coming" && child != ""
	})
	confined(t, child, map[string]string{"CapInh": none, "CapPrm": moduleOnly, "CapEff": moduleOnly, "CapBnd": sixCapabilities, "CapAmb": none,
		"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "2"})
	environment, err := os.ReadFile("/proc/" + child + "/environ")
	require.NoError(t, err)
	assert.Empty(t, string(environment))
	cwd, err := os.Readlink("/proc/" + child + "/cwd")
	require.NoError(t, err)
	assert.Equal(t, "/", cwd)
	files := descriptors(t, child)
	require.GreaterOrEqual(t, len(files), 3, "%q", files)
	assert.Regexp(t, `^1 pipe:`, files[0], "its answer")
	assert.Regexp(t, `^2 pipe:`, files[1], "a crash")
	assert.Regexp(t, `^3 /memfd:`, files[2], "the module")
	for _, more := range files[3:] {
		assert.Regexp(t, `^\d+ anon_inode:\[event(poll|fd)\]$`, more, "by which Go's runtime waits")
	}
	n.eventually("it is loaded all the same", func() bool {
		s := n.status()
		return len(s.Modules) == 1 && s.Modules[0].State == spec.StateLoaded
	})
	n.remove("slow.yaml")
	n.eventually("it is unloaded", func() bool {
		_, err := n.host.Module("kmm_sleep")
		return err != nil
	})
	d.stop()
}

// confined compares what /proc says of each thread of a process.
func confined(t *testing.T, pid string, want map[string]string) {
	t.Helper()
	threads, err := filepath.Glob("/proc/" + pid + "/task/*/status")
	require.NoError(t, err)
	require.NotEmpty(t, threads)
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // it has ended
		}
		require.NoError(t, err)
		got := map[string]string{}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			if _, asked := want[name]; asked {
				got[name] = value
			}
		}
		assert.Equal(t, want, got, path)
	}
}

// childOf finds the process of that name.
func childOf(t *testing.T, name string) string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil && string(text) == name+"\x00" {
			return strings.Split(path, "/")[2]
		}
	}
	return ""
}

// descriptors are the open files of a process, "3 /memfd:x (deleted)".
func descriptors(t *testing.T, pid string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/" + pid + "/fd")
	require.NoError(t, err)
	var out []string
	for _, e := range entries {
		to, err := os.Readlink("/proc/" + pid + "/fd/" + e.Name())
		require.NoError(t, err)
		out = append(out, e.Name()+" "+to)
	}
	slices.Sort(out)
	return out
}
