// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/exit"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

const nextKernel = "9.9.9-next"

// pushImage has modules a, which needs b, and c, and firmware.
func pushImage(t *testing.T, ref string) (digest string) {
	t.Helper()
	files := map[string]string{"firmware/fw.bin": "fw"}
	magic := kerneltest.Vermagic(nextKernel)
	for name, s := range map[string]kmodtest.Spec{
		"a": {Depends: []string{"b"}, Imports: []string{"b_symbol"}}, "b": {Exports: []string{"b_symbol"}}, "c": {},
	} {
		s.Name, s.Vermagic = name, magic
		files["opt/lib/modules/"+nextKernel+"/"+name+".ko"] = string(kmodtest.Build(s))
	}
	return imagestest.Push(t, ref, imagestest.Layer(t, files))
}

func TestImageCommands(t *testing.T) {
	_, config := root(t)
	store := filepath.Join(t.TempDir(), "store")
	registry := imagestest.NewRegistry(t)
	ref := registry.Host + "/drivers/a:1"
	digest := pushImage(t, ref)
	run := func(args ...string) (string, error) {
		return kmmd(t, append([]string{"image", "--config", config, "--store", store}, args...)...)
	}

	out, err := run("pull", "--insecure", "--kernel", nextKernel, "--module", "a", "--firmware", "/firmware", "-o", "json", ref)
	require.NoError(t, err)
	var p pulled
	require.NoError(t, json.Unmarshal([]byte(out), &p), out)
	assert.Equal(t, digest, p.Digest)
	assert.Equal(t, nextKernel, p.Kernel)
	assert.FileExists(t, filepath.Join(p.ModulesDir, "a.ko"))
	assert.FileExists(t, filepath.Join(p.ModulesDir, "b.ko"))
	assert.NoFileExists(t, filepath.Join(p.ModulesDir, "c.ko"), "nobody needs it")
	assert.FileExists(t, filepath.Join(p.FirmwareDir, "fw.bin"))

	registry.Close()
	out, err = run("pull", "--insecure", "--kernel", nextKernel, "--module", "a", "--firmware", "/firmware", ref)
	require.NoError(t, err, "the store is enough")
	assert.Contains(t, out, "digest    "+digest)

	out, err = run("ls")
	require.NoError(t, err)
	assert.Contains(t, out, ref+"  "+digest)
	assert.Contains(t, out, "1 images")
	out, err = run("ls", "-o", "json")
	require.NoError(t, err)
	var list struct {
		Images       []storedImage
		Bytes, Quota int64
	}
	require.NoError(t, json.Unmarshal([]byte(out), &list), out)
	require.Len(t, list.Images, 1)
	assert.Equal(t, nextKernel, list.Images[0].Kernel)
	assert.Equal(t, int64(images.DefaultQuota), list.Quota)
	assert.Positive(t, list.Bytes)

	s, err := images.Open(store, images.Options{})
	require.NoError(t, err)
	require.NoError(t, s.Pin("default/nic", digest))
	out, err = run("prune")
	require.NoError(t, err)
	assert.Equal(t, "0 B freed\n", out)
	_, err = run("rm", ref)
	require.ErrorIs(t, err, images.ErrPinned)
	require.ErrorContains(t, err, "default/nic")
	assert.Equal(t, 1, exitCode(err))
	require.NoError(t, s.Pin("default/nic"))

	out, err = run("prune", "--unused", "1h", "-o", "json")
	require.NoError(t, err)
	assert.JSONEq(t, `{"removed": [], "freed": 0}`, out)
	out, err = run("prune")
	require.NoError(t, err)
	assert.Contains(t, out, "removed "+ref)
	_, err = run("rm", digest)
	require.ErrorIs(t, err, images.ErrNotCached)

	_, err = run("pull", "--insecure", "--kernel", nextKernel, ref)
	require.ErrorIs(t, err, images.ErrUnreachable)
	assert.Equal(t, 1, exitCode(err))
}

func TestImageUsage(t *testing.T) {
	_, config := root(t)
	for _, args := range [][]string{
		{"nothing"}, {"ls", "extra"}, {"rm"}, {"pull", "a:1", "b:1"}, {"pull", "no-tag"}, {"pull", "-f", "x", "a:1"},
		{"pull", "--store", "/tmp/x"}, {"pull", "--pull-secret", "/does/not/exist", "a:1"}, {"prune", "--unused", "soon"}, {"prune", "--unused", "-168h"},
	} {
		_, err := kmmd(t, append([]string{"image", "--config", config}, args...)...)
		require.Error(t, err, args)
		assert.Equal(t, int(exit.Usage), exitCode(err), "%v: %v", args, err)
	}
	for _, flag := range []string{
		"--module=a", "--dir=/x", "--firmware=/fw", "--declared-firmware", "--pull-policy=Never", "--pull-secret=/x", "--insecure",
		"--insecure-skip-tls-verify",
	} {
		_, err := kmmd(t, "image", "pull", "--config", config, flag)
		name, _, _ := strings.Cut(flag, "=")
		require.ErrorContains(t, err, name+" needs REF")
		assert.Equal(t, int(exit.Usage), exitCode(err), flag)
	}
}

// TestImagePullDocuments: for a kernel that does not run, each Module is told to be
// ready, or why not.
func TestImagePullDocuments(t *testing.T) {
	dir, config := root(t)
	registry := imagestest.NewRegistry(t)
	ref := registry.Host + "/drivers/a:1"
	pushImage(t, ref)
	document := func(name, module, literal string) {
		write(t, filepath.Join(dir, "docs", name+".yaml"), `apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: `+name+`}
spec:
  moduleLoader:
    container:
      modprobe: {moduleName: `+module+`}
      registryTLS: {insecure: true}
      kernelMappings: [{literal: `+literal+`, containerImage: "`+ref+`"}]
`)
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "docs"), 0o755))
	document("good", "a", nextKernel)
	pull := func() (string, error) {
		return kmmd(t, "image", "pull", "--config", config, "-f", filepath.Join(dir, "docs"), "--kernel", nextKernel)
	}
	out, err := pull()
	require.NoError(t, err)
	assert.Equal(t, "default/good: ready, "+ref+"\n", out)

	document("other", "a", "1.2.3")
	document("wrong", "nothere", nextKernel)
	out, err = pull()
	require.ErrorIs(t, err, errNotAsWanted)
	assert.Contains(t, out, "default/good: ready")
	assert.Contains(t, out, "default/other: not ready, NoMapping")
	assert.Contains(t, out, "default/wrong: not ready, ModuleNotFound")

	write(t, filepath.Join(dir, "docs", "bad.yaml"), "kind: Module\n")
	_, err = pull()
	assert.Equal(t, int(exit.Usage), exitCode(err))
}
