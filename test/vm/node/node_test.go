// SPDX-License-Identifier: Apache-2.0

// Package node runs the kmmd binary on a real kernel, inside a VM of the lab,
// against a real registry: the main job and everything that can go wrong.
package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/test/faults/points"
)

const (
	modules  = "/kmmd-test/modules"
	binary   = "/usr/bin/kmmd"
	patience = 3 * time.Minute // for things that take a moment even when emulated
)

func TestMain(m *testing.M) {
	points.Launch()
	if os.Getenv("KMMD_VM") == "" {
		os.Stdout.WriteString("skip: not in a VM of the lab, run it by -exec test/vm/exec\n")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// node is one kmmd with directories of its own, on the one kernel there is.
type node struct {
	t       *testing.T
	host    *kernel.Host
	release string
	dir     string // docs/ state/ run/ firmware/ kmmd.toml
}

func newNode(t *testing.T) *node {
	t.Helper()
	host, err := kernel.Open("")
	require.NoError(t, err)
	n := &node{t: t, host: host, release: host.Release(), dir: t.TempDir()}
	require.NoError(t, os.Mkdir(n.path("docs"), 0o755))
	n.write("kmmd.toml", fmt.Sprintf("modules_dir = %q\nstate_dir = %q\nrun_dir = %q\nfirmware_dir = %q\nlisten = \"127.0.0.1:9808\"\nload_timeout = \"60s\"\n",
		n.path("docs"), n.path("state"), n.path("run"), n.path("firmware")))
	t.Cleanup(func() {
		entries, err := os.ReadDir(n.path("docs"))
		assert.NoError(t, err)
		for _, e := range entries {
			assert.NoError(t, os.Remove(n.path("docs", e.Name())))
		}
		n.once()
		for _, name := range []string{"dummy", "kmm_dep", "kmm_taker", "kmm_base", "kmm_fw", "kmm_softdep", "null_blk", "8021q", "mrp", "garp", "bridge", "stp", "llc"} {
			if _, err := n.host.Module(name); err == nil {
				n.command("rmmod", name)
			}
		}
	})
	return n
}

func (n *node) path(parts ...string) string {
	return filepath.Join(append([]string{n.dir}, parts...)...)
}

func (n *node) write(name, content string) {
	n.t.Helper()
	require.NoError(n.t, os.WriteFile(n.path(name), []byte(content), 0o644))
}

// document puts a document into the directory that kmmd reads.
func (n *node) document(name, content string) { n.t.Helper(); n.write("docs/"+name, content) }

func (n *node) remove(name string) {
	n.t.Helper()
	require.NoError(n.t, os.Remove(n.path("docs", name)))
}

// image pushes an image with these module files (by their name below
// modules/) and firmware files, and returns its reference.
func (n *node) image(name string, files []string, firmware map[string]string) string {
	n.t.Helper()
	content := map[string]string{}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(modules, f))
		require.NoError(n.t, err)
		content["opt/lib/modules/"+n.release+"/"+filepath.Base(f)] = string(data)
	}
	for path, body := range firmware {
		content["firmware/"+path] = body
	}
	ref := os.Getenv("KMMD_VM_REGISTRY") + "/test/" + name + ":1"
	imagestest.Push(n.t, ref, imagestest.Layer(n.t, content))
	return ref
}

// module is a document in YAML; extra lines go into the container.
func module(name, image, moduleName string, extra ...string) string {
	return fmt.Sprintf(`apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata:
  name: %s
spec:
  selector: {}
  moduleLoader:
    container:
      modprobe: {moduleName: %s%s}
      registryTLS: {insecure: true}
      kernelMappings:
      - regexp: '^.+$'
        containerImage: %s
%s
`, name, moduleName, modprobeExtra(extra), image, containerExtra(extra))
}

// modprobeExtra are the extra lines that begin with "modprobe.".
func modprobeExtra(extra []string) string {
	out := ""
	for _, e := range extra {
		if rest, ok := strings.CutPrefix(e, "modprobe."); ok {
			out += ", " + rest
		}
	}
	return out
}

func containerExtra(extra []string) string {
	out := ""
	for _, e := range extra {
		if !strings.HasPrefix(e, "modprobe.") {
			out += "      " + e + "\n"
		}
	}
	return out
}

// run runs a kmmd and returns its standard output, all it said, and its exit code.
func (n *node) run(program string, env []string, args ...string) (stdout, all string, code int) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), program, append([]string{"--config", n.path("kmmd.toml")}, args...)...)
	if n.t.Context().Err() != nil { // in a clean-up
		cmd = exec.Command(program, append([]string{"--config", n.path("kmmd.toml")}, args...)...)
	}
	cmd.Env = append(os.Environ(), env...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(n.t, err)
	}
	return out.String(), out.String() + errs.String(), cmd.ProcessState.ExitCode()
}

// once is `kmmd run --once`.
func (n *node) once() (status spec.Status, all string, code int) {
	n.t.Helper()
	out, all, code := n.run(binary, nil, "run", "--once", "-o", "json")
	if out != "" {
		require.NoError(n.t, json.Unmarshal([]byte(out), &status), all)
	}
	return status, all, code
}

// requireLoaded runs kmmd once and requires that all is well.
func (n *node) requireLoaded() spec.Status {
	n.t.Helper()
	status, all, code := n.once()
	require.Equal(n.t, 0, code, all)
	for _, m := range status.Modules {
		require.Equal(n.t, spec.StateLoaded, m.State, all)
	}
	return status
}

// requireBuild requires that the kernel runs this file, as kmmd is not asked.
func (n *node) requireBuild(file string) kernel.Module {
	n.t.Helper()
	info, err := kmod.ReadInfo(filepath.Join(modules, file))
	require.NoError(n.t, err)
	m, err := n.host.Module(info.Name)
	require.NoError(n.t, err)
	require.NotEmpty(n.t, m.BuildID)
	require.Equal(n.t, info.BuildID, m.BuildID)
	return m
}

// requireInTreeFile finds the kernel's own file of a module.
func (n *node) requireInTreeFile(name string) string {
	n.t.Helper()
	tree, err := kmod.OpenTree("/lib/modules/" + n.release)
	require.NoError(n.t, err)
	path, ok := tree.Find(name)
	require.True(n.t, ok)
	return path
}

// requireInTree requires that the kernel's own build of a module runs.
func (n *node) requireInTree(name string) kernel.Module {
	n.t.Helper()
	path := n.requireInTreeFile(name)
	info, err := kmod.ReadInfo(path)
	require.NoError(n.t, err)
	m, err := n.host.Module(name)
	require.NoError(n.t, err)
	require.Equal(n.t, info.BuildID, m.BuildID, "the in-tree build runs")
	return m
}

func (n *node) requireAbsent(name string) {
	n.t.Helper()
	_, err := n.host.Module(name)
	require.ErrorIs(n.t, err, kernel.ErrNotLoaded)
}

// configure adds lines to kmmd.toml.
func (n *node) configure(lines string) {
	n.t.Helper()
	old, err := os.ReadFile(n.path("kmmd.toml"))
	require.NoError(n.t, err)
	n.write("kmmd.toml", string(old)+lines)
}

// setTimeout changes how long one load may take.
func (n *node) setTimeout(d string) {
	n.t.Helper()
	old, err := os.ReadFile(n.path("kmmd.toml"))
	require.NoError(n.t, err)
	n.write("kmmd.toml", strings.Replace(string(old), `load_timeout = "60s"`, fmt.Sprintf("load_timeout = %q", d), 1))
}

// tryCommand runs a program of the guest that may fail.
func (n *node) tryCommand(name string, args ...string) error {
	return exec.Command(name, args...).Run()
}

// command runs a program of the guest.
func (n *node) command(name string, args ...string) string {
	n.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(n.t, err, "%s %v: %s", name, args, out)
	return string(out)
}
