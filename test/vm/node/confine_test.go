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
	t.Cleanup(func() { _ = n.tryCommand("rmmod", "kmm_sleep") }) // if it fails in the middle
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
	require.GreaterOrEqual(t, len(files), 4, "%q", files)
	orders := strings.TrimPrefix(files[0], "0 ")
	assert.Regexp(t, `^socket:`, orders, "by which kmmd speaks to it")
	assert.Equal(t, []string{"1 " + orders, "2 " + orders}, files[1:3], "its answer, a crash")
	assert.Regexp(t, `^3 /memfd:`, files[3], "the module")
	for _, more := range files[4:] {
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
	waits := ""
	n.eventually("the child waits again", func() bool { // the module goes a moment before the call is over
		waits = childOf(t, "kmmd: waits")
		return waits != ""
	})
	assert.Equal(t, child, waits, "the same for each call")
	assert.Equal(t, "3 "+orders, descriptors(t, waits)[3], "it has let go of the module")
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

// TestFileModes: who may read what kmmd leaves on a node.
func TestFileModes(t *testing.T) {
	n := newNode(t)
	n.command("modprobe", "dummy", "numdummies=0")
	n.document("dummy.yaml", module("dummy", n.image("modes", []string{"dummy.ko"}, map[string]string{"kmm/modes.bin": "bytes"}), "dummy",
		"modprobe.firmwarePath: /firmware", "inTreeModulesToRemove: [dummy]"))
	n.requireLoaded()
	public := map[string]os.FileMode{n.path("run"): 0o755, n.path("run/status.json"): 0o644}
	require.FileExists(t, n.path("run/symbols.json")) // addresses of the kernel
	files := 0
	for _, dir := range []string{"state", "run", "firmware"} {
		require.NoError(t, filepath.WalkDir(n.path(dir), func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			files++
			want, listed := public[path]
			switch {
			case listed:
			case dir == "firmware" && d.IsDir():
				want = 0o755
			case dir == "firmware":
				want = 0o644
			case d.IsDir():
				want = 0o700
			default:
				want = 0o600
			}
			assert.Zero(t, info.Mode().Perm()&^want, "%s is %v", path, info.Mode())
			return nil
		}))
	}
	assert.Greater(t, files, 15)
	hold, err := os.Stat("/run/modprobe.d/00-kmmd.conf")
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o644), hold.Mode())
}
