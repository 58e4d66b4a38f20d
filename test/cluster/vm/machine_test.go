// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/test/cluster/lab"
)

const (
	repository = "../../.."
	kernels    = repository + "/.lab/kernels" // lines "SERIES RELEASE", written by test/vm/setup
	// patience is for a VM, emulated, on a machine that does other things, too.
	patience = 2 * time.Minute
)

// machine is a VM with a disk. Its power can be cut, and it can be booted again,
// into another kernel. It says what it is and runs; nobody asks it.
type machine struct {
	t          *testing.T
	name       string
	kubeconfig []byte
	disk       string
	boots      int
	series     string
	program    *lab.Program
	// As the VM tells, of the boot that runs.
	bootID, release string
}

// newMachine makes one that is off, with an empty disk.
func newMachine(t *testing.T, name string, kubeconfig []byte) *machine {
	t.Helper()
	require.FileExists(t, kernels, "run test/vm/setup (make setup-vm)")
	m := &machine{t: t, name: name, kubeconfig: kubeconfig, disk: filepath.Join(t.TempDir(), "disk")}
	require.NoError(t, os.WriteFile(m.disk, nil, 0o600))
	require.NoError(t, os.Truncate(m.disk, 256<<20))
	// With a journal: the power is cut while it is mounted.
	mkfs := exec.Command("/usr/sbin/mke2fs", "-q", "-t", "ext4", m.disk)
	out, err := mkfs.CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Cleanup(m.cut)
	return m
}

// boot starts the VM with a kernel and returns when it has said which boot it is.
func (m *machine) boot(series string) {
	m.t.Helper()
	require.Nil(m.t, m.program, "it is on")
	m.boots++
	m.series = series
	cmd := exec.Command(repository+"/test/vm/run", "testdata/node", m.name, base64.StdEncoding.EncodeToString(m.kubeconfig))
	// For kmmd in the guest the variable means something else.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KMMD_CLUSTER=") })
	cmd.Env = append(cmd.Env, "KMMD_VM_KERNEL="+series, "KMMD_VM_TIMEOUT=600",
		fmt.Sprintf("KMMD_VM_QEMU=-drive file=%s,if=virtio,format=raw,cache=unsafe", m.disk))
	var err error
	m.program, err = cluster.StartProgram(fmt.Sprintf("vm-%d-%s", m.boots, series), cmd)
	require.NoError(m.t, err)
	m.wait("the VM boots", func() error {
		fields := strings.Fields(m.last("boot"))
		if len(fields) != 2 {
			return errors.New("it has not said so")
		}
		m.bootID, m.release = fields[0], fields[1]
		return nil
	})
	assert.Equal(m.t, release(m.t, series), m.release)
}

// cut takes the power away. What the kernel said must be no complaint about
// itself.
func (m *machine) cut() {
	if m.program == nil {
		return
	}
	m.program.Stop()
	console, err := os.ReadFile(filepath.Join(repository, ".lab", "log", "run-node-"+m.series, "console.log"))
	assert.NoError(m.t, err)
	for _, bad := range []string{"BUG: ", "Oops", "Call Trace", "Kernel panic"} {
		assert.NotContains(m.t, string(console), bad)
	}
	if m.t.Failed() {
		m.t.Logf("--- VM, boot %d, kernel %s\n%s--- its console\n%s", m.boots, m.series,
			m.program.Log(), strings.ReplaceAll(string(console), "\r", ""))
	}
	m.program = nil
}

// last is what the VM has told last about something.
func (m *machine) last(what string) string {
	lines := strings.Split(m.program.Log(), "\n")
	lines = lines[:len(lines)-1] // what follows the last end of a line is not all there
	for _, line := range slices.Backward(lines) {
		if rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\r"), "guest: "+what); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// waitRuns waits until the VM tells that it runs this, and nothing of that,
// such as dummy=BUILD-ID; see testdata/node.
func (m *machine) waitRuns(present []string, absent ...string) {
	m.t.Helper()
	m.wait(fmt.Sprintf("the VM runs %q", present), func() error {
		runs := m.last("runs")
		fields := strings.Fields(runs)
		for _, want := range present {
			if !slices.Contains(fields, want) {
				return fmt.Errorf("it runs %s", runs)
			}
		}
		for _, prefix := range absent {
			if slices.ContainsFunc(fields, func(f string) bool { return strings.HasPrefix(f, prefix) }) {
				return fmt.Errorf("it runs %s", runs)
			}
		}
		return nil
	})
}

// wait waits for something that the VM has to do.
func (m *machine) wait(what string, check func() error) {
	m.t.Helper()
	lab.WaitFor(m.t, patience, what, func() error {
		if !m.program.Alive() {
			m.t.Fatalf("%s: the VM has ended", what)
		}
		return check()
	})
}

// release is the kernel release that stands for a series.
func release(t *testing.T, series string) string {
	t.Helper()
	data, err := os.ReadFile(kernels)
	require.NoError(t, err, "run test/vm/setup (make setup-vm)")
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == series {
			return fields[1]
		}
	}
	require.Failf(t, "no such kernel", "%s in %s", series, data)
	return ""
}

// buildID of a test module for a kernel; file is a path in modules-oot.
func buildID(t *testing.T, series, file string) string {
	t.Helper()
	return fileBuildID(t, filepath.Join(modulesOf(t, series), file))
}

// inTreeBuildID of a module of the kernel itself.
func inTreeBuildID(t *testing.T, series, name string) string {
	t.Helper()
	tree, err := kmod.OpenTree(filepath.Join(repository, ".lab", release(t, series), "lib", "modules", release(t, series)))
	require.NoError(t, err)
	path, ok := tree.Find(name)
	require.True(t, ok, name)
	return fileBuildID(t, path)
}

func fileBuildID(t *testing.T, path string) string {
	t.Helper()
	info, err := kmod.ReadInfo(path)
	require.NoError(t, err)
	require.NotEmpty(t, info.BuildID)
	return info.BuildID
}

// modulesOf is the directory of the test modules built for a kernel.
func modulesOf(t *testing.T, series string) string {
	t.Helper()
	return filepath.Join(repository, ".lab", release(t, series), "modules-oot")
}
