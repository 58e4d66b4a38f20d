// SPDX-License-Identifier: Apache-2.0

// Package kernel runs pkg/kernel against a real kernel, inside a VM of the lab.
package kernel

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod"
)

// modules is where the lab puts the test modules.
const modules = "/kmmd-test/modules"

func TestMain(m *testing.M) {
	kernel.RunChild()
	if os.Getenv("KMMD_VM") == "" {
		os.Stdout.WriteString("skip: not in a VM of the lab, run it by -exec test/vm/exec\n")
		os.Exit(0)
	}
	if path := os.Getenv(helperEnv); path != "" {
		os.Exit(helper(path))
	}
	os.Exit(m.Run())
}

// TestLoader runs the contract that the fake kernel passes too.
func TestLoader(t *testing.T) {
	kerneltest.TestLoader(t, func(t *testing.T) kerneltest.Fixture {
		h := open(t)
		t.Cleanup(h.Close)
		return kerneltest.Fixture{
			Kernel:    h,
			Modules:   modules,
			InTree:    inTree(t, h.Release()),
			Builtin:   "ext4",
			Reference: openBase,
		}
	})
}

func open(t *testing.T) *kernel.Host {
	t.Helper()
	h, err := kernel.Open("")
	require.NoError(t, err)
	return h
}

// inTreeFile returns the file of the kernel's own dummy, compressed or not.
func inTreeFile(t *testing.T, release string) string {
	t.Helper()
	paths, err := filepath.Glob("/lib/modules/" + release + "/kernel/drivers/net/dummy.ko*")
	require.NoError(t, err)
	require.Len(t, paths, 1)
	return paths[0]
}

// inTree returns the kernel's own dummy, plain.
func inTree(t *testing.T, release string) string {
	t.Helper()
	plain, err := os.Create(filepath.Join(t.TempDir(), "dummy.ko"))
	require.NoError(t, err)
	require.NoError(t, kmod.Decompress(inTreeFile(t, release), plain))
	require.NoError(t, plain.Close())
	return plain.Name()
}

// load gives a file of the lab to the kernel.
func load(t *testing.T, h *kernel.Host, path, params string, timeout time.Duration) error {
	if !filepath.IsAbs(path) {
		path = filepath.Join(modules, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return h.Load(t.Context(), kernel.LoadRequest{Name: kmod.Name(path), File: f, Parameters: params, Timeout: timeout})
}

// unload removes a module at the end of the test if it is there.
func unload(t *testing.T, h *kernel.Host, name string) {
	t.Cleanup(func() {
		if _, err := h.Module(name); err == nil {
			assert.NoError(t, h.Unload(context.Background(), name, time.Minute))
		}
	})
}

// run runs a program of the guest and returns what it said.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	return string(out), err
}

// await waits until the module is in that state, "" for gone, woken by the kernel's events.
func await(t *testing.T, h *kernel.Host, name, state string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	reached := false
	look := func() {
		m, err := h.Module(name)
		if (err == nil && m.State == state) || (errors.Is(err, kernel.ErrNotLoaded) && state == "") {
			reached = true
			cancel()
		}
	}
	require.NoError(t, h.WatchModules(ctx, look, look))
	require.True(t, reached, "%s is not %q within a minute", name, state)
}

// openBase opens the device of kmm_base, which holds a reference.
func openBase(t *testing.T) func() {
	t.Helper()
	f, err := os.Open("/dev/kmm_base")
	require.NoError(t, err)
	return func() { require.NoError(t, f.Close()) }
}
