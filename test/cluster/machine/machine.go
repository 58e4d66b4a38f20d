// SPDX-License-Identifier: Apache-2.0

// Package machine is a VM with a real kernel and the real kmmd, as a node of a
// cluster of the lab. Only the kubelet is missing. Tests only.
package machine

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
	repository = "../../.." // the packages that use this one are all as deep
	kernels    = repository + "/.lab/kernels"
	// patience is for a VM, emulated, on a machine that does other things, too.
	patience = 5 * time.Minute
)

// Options say what a machine is.
type Options struct {
	Name       string // of its Node
	Kubeconfig []byte // with the access that its kmmd has
	// Firmware is how it boots: KMMD_VM_BOOT of test/vm/exec. Empty is "bios".
	Firmware string
	// Mirror is, in the form HOST:PORT, where kmmd asks for images of the registry
	// MirrorOf. Empty: where everybody does.
	Mirror, MirrorOf string
}

// Machine is a VM with a disk. Its power can be cut, and it can be booted again,
// into another kernel. It says what it is and runs; nobody asks it.
type Machine struct {
	t       *testing.T
	cluster *lab.Cluster
	options Options
	disk    string
	boots   int
	series  string
	program *lab.Program
	// As the VM tells, of the boot that runs.
	BootID, Release string
}

// New makes one that is off, with an empty disk. It is off again when the test has
// ended.
func New(t *testing.T, cluster *lab.Cluster, o Options) *Machine {
	t.Helper()
	require.FileExists(t, kernels, "run test/vm/setup (make setup-vm)")
	m := &Machine{t: t, cluster: cluster, options: o, disk: filepath.Join(t.TempDir(), "disk")}
	require.NoError(t, os.WriteFile(m.disk, nil, 0o600))
	require.NoError(t, os.Truncate(m.disk, 256<<20))
	// With a journal: the power is cut while it is mounted.
	mkfs := exec.Command("/usr/sbin/mke2fs", "-q", "-t", "ext4", m.disk)
	out, err := mkfs.CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Cleanup(m.Cut)
	return m
}

// Boot starts the VM with a kernel and returns when it has said which boot it is.
func (m *Machine) Boot(series string) {
	m.t.Helper()
	require.Nil(m.t, m.program, "it is on")
	m.boots++
	m.series = series
	cmd := exec.Command(repository+"/test/vm/run", repository+"/test/cluster/machine/node", m.options.Name,
		base64.StdEncoding.EncodeToString(m.options.Kubeconfig), m.options.MirrorOf, m.options.Mirror)
	// For kmmd in the guest the variable means something else.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "KMMD_CLUSTER=") || strings.HasPrefix(v, "KMMD_VM_BOOT=")
	})
	cmd.Env = append(cmd.Env, "KMMD_VM_KERNEL="+series, "KMMD_VM_TIMEOUT=1200", "KMMD_VM_CPUS=1",
		fmt.Sprintf("KMMD_VM_QEMU=-drive file=%s,if=virtio,format=raw,cache=unsafe", m.disk))
	if m.options.Firmware != "" {
		cmd.Env = append(cmd.Env, "KMMD_VM_BOOT="+m.options.Firmware)
	}
	var err error
	m.program, err = m.cluster.StartProgram(fmt.Sprintf("%s-%d-%s", m.options.Name, m.boots, series), cmd)
	require.NoError(m.t, err)
	m.Wait("the VM boots", func() error {
		fields := strings.Fields(m.last("boot"))
		if len(fields) != 2 {
			return errors.New("it has not said so")
		}
		m.BootID, m.Release = fields[0], fields[1]
		return nil
	})
	assert.Equal(m.t, Release(m.t, series), m.Release)
}

// Cut takes the power away. What the kernel said must be no complaint about
// itself.
func (m *Machine) Cut() {
	if m.program == nil {
		return
	}
	m.program.Stop()
	logs := "run-node-" + m.series
	if m.options.Firmware != "" {
		logs += "-" + m.options.Firmware
	}
	console, err := os.ReadFile(filepath.Join(repository, ".lab", "log", logs, "console.log"))
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
func (m *Machine) last(what string) string {
	lines := strings.Split(m.program.Log(), "\n")
	lines = lines[:len(lines)-1] // what follows the last end of a line is not all there
	for _, line := range slices.Backward(lines) {
		if rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\r"), "guest: "+what); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// WaitRuns waits until the VM tells that it runs this, and nothing of that,
// such as dummy=BUILD-ID; see the script node.
func (m *Machine) WaitRuns(present []string, absent ...string) {
	m.t.Helper()
	m.Wait(fmt.Sprintf("the VM runs %q", present), func() error {
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

// Wait waits for something that the VM has to do.
func (m *Machine) Wait(what string, check func() error) {
	m.t.Helper()
	lab.WaitFor(m.t, patience, what, func() error {
		if !m.program.Alive() {
			m.t.Fatalf("%s: the VM has ended", what)
		}
		return check()
	})
}

// Release is the kernel release that stands for a series.
func Release(t *testing.T, series string) string {
	t.Helper()
	release, err := Kernel(series)
	require.NoError(t, err)
	return release
}

// Kernel is Release for who has no test.
func Kernel(series string) (release string, err error) {
	data, err := os.ReadFile(kernels)
	if err != nil {
		return "", fmt.Errorf("%w (run test/vm/setup)", err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == series {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("the lab has no kernel %s", series)
}

// BuildID of a test module for a kernel; file is a path in modules-oot.
func BuildID(t *testing.T, series, file string) string {
	t.Helper()
	return fileBuildID(t, filepath.Join(ModulesOf(t, series), file))
}

// InTreeBuildID of a module of the kernel itself.
func InTreeBuildID(t *testing.T, series, name string) string {
	t.Helper()
	tree, err := kmod.OpenTree(filepath.Join(repository, ".lab", Release(t, series), "lib", "modules", Release(t, series)))
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

// ModulesOf is the directory of the test modules built for a kernel.
func ModulesOf(t *testing.T, series string) string {
	t.Helper()
	return filepath.Join(repository, ".lab", Release(t, series), "modules-oot")
}
