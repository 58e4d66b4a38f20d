// SPDX-License-Identifier: Apache-2.0

package secureboot

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/sign"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// kmmd is one with directories of its own.
type kmmd struct {
	host *kernel.Host
	dir  string
}

func newKmmd(t *testing.T, host *kernel.Host) *kmmd {
	t.Helper()
	k := &kmmd{host, t.TempDir()}
	require.NoError(t, os.Mkdir(filepath.Join(k.dir, "docs"), 0o755))
	config := ""
	for key, dir := range map[string]string{"modules_dir": "docs", "state_dir": "state", "run_dir": "run", "firmware_dir": "firmware"} {
		config += fmt.Sprintf("%s = %q\n", key, filepath.Join(k.dir, dir))
	}
	require.NoError(t, os.WriteFile(filepath.Join(k.dir, "kmmd.toml"), []byte(config), 0o644))
	t.Cleanup(func() {
		require.NoError(t, os.Remove(filepath.Join(k.dir, "docs/dummy.yaml")))
		_, all, code := k.run(t, "run", "--once")
		assert.Equal(t, 0, code, all)
		if _, err := host.Module("dummy"); err == nil { // the in-tree one stayed
			assert.NoError(t, exec.Command("rmmod", "dummy").Run())
		}
	})
	return k
}

// run gives standard output, all it said, and the exit code.
func (k *kmmd) run(t *testing.T, args ...string) (stdout []byte, all string, code int) {
	t.Helper()
	cmd := exec.Command("/usr/bin/kmmd", append([]string{"--config", filepath.Join(k.dir, "kmmd.toml")}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return out.Bytes(), out.String() + errs.String(), cmd.ProcessState.ExitCode()
}

// ask writes a document that replaces the in-tree dummy by that file, with those words of modprobe's, and runs kmmd once.
func (k *kmmd) ask(t *testing.T, name string, file []byte, load string) (m spec.ModuleStatus, all string, code int) {
	t.Helper()
	ref := os.Getenv("KMMD_VM_REGISTRY") + "/test/" + name + ":1"
	imagestest.Push(t, ref, imagestest.Layer(t, map[string]string{"opt/lib/modules/" + k.host.Release() + "/dummy.ko": string(file)}))
	require.NoError(t, os.WriteFile(filepath.Join(k.dir, "docs/dummy.yaml"), fmt.Appendf(nil, `apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: dummy}
spec:
  selector: {}
  moduleLoader:
    container:
      modprobe: {moduleName: dummy%s}
      registryTLS: {insecure: true}
      inTreeModulesToRemove: [dummy]
      kernelMappings:
      - {regexp: '^.+$', containerImage: %q}
`, load, ref), 0o644))
	out, all, code := k.run(t, "run", "--once", "-o", "json")
	var status spec.Status
	require.NoError(t, json.Unmarshal(out, &status), all)
	require.Len(t, status.Modules, 1, all)
	return status.Modules[0], all, code
}

// swap is one replacement of the in-tree dummy, and what it comes to.
type swap struct {
	name    string
	file    []byte
	loads   bool
	tainted bool   // if it loads
	text    string // of the status if not
	asked   bool   // the kernel, which refuses it, and the driver is brought back
}

// TestSwap replaces an in-tree module by files signed by all sorts. Where the kernel refuses one, the in-tree driver is
// there as before, and the status says why.
func TestSwap(t *testing.T) {
	host, tree, _ := open(t)
	path, ok := tree.Find("dummy")
	require.True(t, ok)
	inTree := buildID(t, path)
	k := newKmmd(t, host)
	out, err := exec.Command("modprobe", "dummy").CombinedOutput()
	require.NoError(t, err, string(out))
	for _, s := range swaps(t, path) {
		m, all, code := k.ask(t, s.name, s.file, "")
		running, err := host.Module("dummy")
		require.NoError(t, err, all)
		if s.loads {
			assert.Equal(t, 0, code, all)
			assert.Equal(t, spec.StateLoaded, m.State, all)
			want := "O"
			if s.tainted {
				want = "OE"
			}
			assert.Equal(t, want, running.Taint, s.name)
			continue
		}
		assert.Equal(t, 1, code, all)
		assert.Equal(t, spec.StateFailed, m.State, all)
		assert.Equal(t, spec.ReasonSignature, m.Reason, all)
		assert.Contains(t, m.Message, s.text, s.name)
		assert.Equal(t, s.asked, m.RolledBack, s.name)
		assert.Equal(t, inTree, running.BuildID, "%s: the in-tree driver runs\n%s", s.name, all)
		t.Logf("%s: %s", s.name, m.Message)
	}
	_, all, _ := k.run(t, "explain", "--preflight")
	t.Log(all)
	assert.Contains(t, all, `  signature  dummy: signed by "kmmd lab: module signing key trusted" (serial `)
	assert.Contains(t, all, "  policy     ")
}

// TestOtherRelease: a signed module for several releases, which the document allows, is not loaded by force: its signature
// counts.
func TestOtherRelease(t *testing.T) {
	host, _, _ := open(t)
	k := newKmmd(t, host)
	out, err := exec.Command("modprobe", "null_blk").CombinedOutput() // tells the kernel's version magic
	require.NoError(t, err, string(out))
	t.Cleanup(func() { assert.NoError(t, exec.Command("rmmod", "null_blk").Run()) })
	module, err := os.ReadFile(modules + "variants/other-release/dummy.ko")
	require.NoError(t, err)
	m, all, code := k.ask(t, "other-release", signed(t, module, "trusted", crypto.SHA256), ", args: {load: [--force-vermagic]}")
	if enforcing() && !trusting() {
		assert.Equal(t, spec.ReasonSignature, m.Reason, all)
		assert.NotContains(t, m.Message, "by force")
		return
	}
	require.Equal(t, 0, code, all)
	running, err := host.Module("dummy")
	require.NoError(t, err)
	assert.Equal(t, map[bool]string{true: "O", false: "OE"}[trusting()], running.Taint)
}

// swaps are in this order: what loads stays, so it is the last.
func swaps(t *testing.T, inTree string) []swap {
	t.Helper()
	module, err := os.ReadFile(modules + "dummy.ko")
	require.NoError(t, err)
	good := signed(t, module, "trusted", crypto.SHA256)
	tampered := flip(good, bytes.Index(module, []byte("description="))+14)
	switch {
	case !enforcing():
		return []swap{
			{name: "damaged", file: flip(good, len(module)), text: "its signature can not be read"},
			{name: "trusted", file: good, loads: true, tainted: true},
		}
	case !trusting():
		return []swap{
			{name: "unsigned", file: module, text: "unsigned, and "},
			{name: "tampered", file: tampered, text: "which is in none of the kernel's keyrings"},
			{name: "trusted", file: good, text: `signed by "kmmd lab: module signing key trusted" (serial `},
		}
	}
	return []swap{
		{name: "unsigned", file: module, text: "unsigned, and "},
		{name: "stripped", file: sign.Strip(good), text: "unsigned, and "},
		{name: "tampered", file: tampered, text: `signed by "kmmd lab: module signing key trusted" (serial `},
		{name: "foreign", file: signed(t, module, "foreign", crypto.SHA256), text: "which is in neither MOK nor db"},
		// The build key's certificate is not shown: that this was changed only the kernel can tell, and is asked.
		{name: "in-tree-changed", file: otherBuild(t, inTree), text: "whether this one was changed since can not be checked here", asked: true},
		{name: "trusted", file: good, loads: true},
	}
}

// otherBuild is the distribution's module, with another build-id.
func otherBuild(t *testing.T, path string) []byte {
	t.Helper()
	var own bytes.Buffer
	require.NoError(t, kmod.Decompress(path, &own))
	id, err := hex.DecodeString(buildID(t, path))
	require.NoError(t, err)
	return flip(own.Bytes(), bytes.Index(own.Bytes(), id))
}

func buildID(t *testing.T, path string) string {
	t.Helper()
	info, err := kmod.ReadInfo(path)
	require.NoError(t, err)
	return info.BuildID
}
