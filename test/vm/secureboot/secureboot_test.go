// SPDX-License-Identifier: Apache-2.0

// Package secureboot holds what is predicted of module signatures against what a real kernel says, in each of the boot
// configurations of the lab: KMMD_VM_BOOT of test/vm/exec.
package secureboot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/preflight/gather"
	"github.com/kmm-node/kmmd/pkg/sign"
)

const modules = "/kmmd-test/modules/"

func TestMain(m *testing.M) {
	if os.Getenv("KMMD_VM") == "" {
		os.Stdout.WriteString("skip: not in a VM of the lab, run it by -exec test/vm/exec\n")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// boot is the configuration that this VM was booted with.
func boot() string { return os.Getenv("KMMD_VM_BOOT") }

// trusting says whether the kernel trusts the lab's keys, enforcing whether it wants signatures.
func trusting() bool  { return boot() == "secureboot" || boot() == "mok" }
func enforcing() bool { return boot() != "bios" }

func open(t *testing.T) (*kernel.Host, *kmod.Tree, *preflight.Kernel) {
	t.Helper()
	host, err := kernel.Open("")
	require.NoError(t, err)
	tree, err := kmod.OpenTree("/lib/modules/" + host.Release())
	require.NoError(t, err)
	k, err := gather.New(host, runtime.GOARCH, "").Kernel(tree, nil, nil)
	require.NoError(t, err)
	return host, tree, k
}

// TestPolicy: what the kernel is read to want is what it was booted with.
func TestPolicy(t *testing.T) {
	_, _, k := open(t)
	s := k.Security
	text := strings.Join(k.Policy().Lines(), "\n")
	t.Log(text)
	lockdown := map[string]string{"bios": "none", "sig_enforce": "none"}[boot()]
	if lockdown == "" {
		lockdown = "integrity"
	}
	assert.Equal(t, lockdown, s.Lockdown)
	assert.Equal(t, state(trusting()), s.SecureBoot)
	assert.Equal(t, state(boot() == "sig_enforce" || trusting()), s.SigEnforce)
	require.Len(t, s.Keyrings, 4)
	for _, r := range s.Keyrings {
		assert.True(t, r.Known, r.Name)
	}
	mounted, err := kernel.Open("/proc/1/root") // as in a container
	require.NoError(t, err)
	assert.Equal(t, s, mounted.Security())
	switch boot() {
	case "secureboot":
		assert.Contains(t, text, `db has "kmmd lab: module signing key trusted" (serial `)
		assert.Contains(t, text, "which is in .platform")
	case "mok":
		assert.Contains(t, text, `MOK has "kmmd lab: module signing key trusted" (serial `)
		assert.Contains(t, text, "which is in .machine")
	default:
		assert.Empty(t, s.Certificates)
	}
}

func state(yes bool) kernel.State {
	if yes {
		return kernel.Yes
	}
	return kernel.No
}

// TestPredictions asks the kernel about every case, after having said what it will answer.
func TestPredictions(t *testing.T) {
	host, tree, k := open(t)
	counts := make(map[string]int)
	for _, c := range cases(t, tree) {
		path := filepath.Join(t.TempDir(), c.name+".ko")
		require.NoError(t, os.WriteFile(path, c.file, 0o644))
		file, err := kmod.ReadFile(path)
		require.NoError(t, err, c.name)
		require.NoError(t, file.Examine(), c.name)
		m := preflight.Module{File: file, IgnoreVermagic: c.forced}
		said := k.Signature(&m)
		answer, tainted, err := load(t, host, file.Info.Name, path, c)
		what := fmt.Sprintf("%-28s kernel: %s; predicted: %s, %s", c.name, kernelSaid(answer, tainted, err), predicted(said), said.Reason)
		t.Log(what)
		switch {
		case c.unverifiable:
			assert.False(t, said.Certain, what)
			counts["said that it can not be known"]++
			continue
		case !c.guess:
			assert.True(t, said.Certain, what)
		}
		assert.Equal(t, answer, said.Answer, what)
		assert.Equal(t, tainted, said.Tainted, what)
		if said.Answer == answer && said.Tainted == tainted {
			counts["right"]++
		} else {
			counts["wrong"]++
		}
		counts[string(answer)]++
		if want := c.want(); want != "" {
			assert.Equal(t, want, answer, "%s: as the lab is meant to be", c.name)
		}
	}
	fmt.Printf("%s, %s: predictions %v\n", boot(), os.Getenv("KMMD_VM_KERNEL"), counts)
	assert.GreaterOrEqual(t, counts["right"], 40)
}

// load gives a file to finit_module(2), directly.
func load(t *testing.T, host *kernel.Host, name, path string, c sample) (answer sign.Answer, tainted bool, err error) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	flags := 0
	if c.forced {
		flags |= unix.MODULE_INIT_IGNORE_VERMAGIC
	}
	if c.compressed {
		flags |= unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil {
		require.NotErrorIs(t, err, unix.EEXIST)
		return sign.Refused, false, err
	}
	m, err := host.Module(name)
	require.NoError(t, err)
	require.NoError(t, unix.DeleteModule(name, unix.O_NONBLOCK))
	return sign.Accepted, strings.Contains(m.Taint, "E"), nil
}

func kernelSaid(answer sign.Answer, tainted bool, err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return fmt.Sprintf("%s (%s)", answer, unix.ErrnoName(errno))
	}
	return words(answer, tainted)
}

func predicted(p sign.Prediction) string {
	text := words(p.Answer, p.Tainted)
	if !p.Certain {
		text += " (perhaps)"
	}
	return text
}

func words(answer sign.Answer, tainted bool) string {
	if tainted {
		return string(answer) + " with E"
	}
	return string(answer)
}
