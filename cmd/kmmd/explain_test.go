// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/spec"
)

// every has every line that explain can print.
const every = `apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: nic, namespace: net}
spec:
  moduleLoader:
    container:
      version: "2"
      inTreeModulesToRemove: [old-nic, nic_core]
      modprobe:
        moduleName: nic
        dirName: /mods/
        firmwarePath: /fw
        parameters: [a=1, b]
        modulesLoadingOrder: [nic, nic-lib]
      kernelMappings:
        - literal: 6.1.0+
          containerImage: registry/never:1
        - regexp: '^6\.1\.'
          containerImage: registry/nic:${KERNEL_FULL_VERSION}$NOTHING
        - regexp: '^6\.'
          containerImage: registry/late:1
`

const literalOnly = `apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: only}
spec:
  moduleLoader:
    container:
      modprobe: {moduleName: only}
      kernelMappings: [{literal: 5.4.0, containerImage: "registry/only:1"}]
---
apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: plugin}
spec:
  devicePlugin: {container: {image: "registry/plugin:1"}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
`

func TestExplain(t *testing.T) {
	dir := t.TempDir()
	everything := write(t, filepath.Join(dir, "every.yaml"), every)
	mixed := write(t, filepath.Join(dir, "mixed.yaml"), literalOnly)
	for _, tt := range []struct {
		name, file, release string
		code                int
	}{
		{"annotated-literal", annotated, "6.0.15-300.fc37.x86_64", 0},
		{"annotated-catch-all", annotated, "6.1.0-56~bpo+cloud-amd64+", 0},
		{"every-line", everything, "6.1.0+", 0},
		{"no-mapping", mixed, "6.1.0", 1},
		{"mapping", mixed, "5.4.0", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, kind := range []string{"txt", "json"} {
				args := []string{"explain", "-f", tt.file, "--kernel", tt.release}
				if kind == "json" {
					args = append(args, "-o", "json")
				}
				out, err := kmmd(t, args...)
				assert.Equal(t, tt.code, exitCode(err))
				golden(t, "explain-"+tt.name+"."+kind, strings.ReplaceAll(out, dir+"/", ""))
			}
		})
	}
}

// TestExplainDefaults: without flags the documents of the configuration and the
// kernel that runs.
func TestExplainDefaults(t *testing.T) {
	dir, config := root(t)
	write(t, filepath.Join(dir, "modules.d/nic.yaml"), every)
	out, err := kmmd(t, "explain", "--config", config)
	require.NoError(t, err)
	assert.Contains(t, out, "net/nic ("+dir+"/modules.d/nic.yaml) on kernel 6.1.0-56-cloud-amd64")
}

// TestExplainInvalid: what is valid is explained, the rest ends with exit code 2.
func TestExplainInvalid(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), every)
	write(t, filepath.Join(dir, "b.yaml"), "kind: Module\n")
	out, err := kmmd(t, "explain", "-f", dir, "--kernel", "5.0")
	assert.Contains(t, out, "net/nic")
	require.ErrorIs(t, err, spec.ErrInvalid)
	assert.Equal(t, 2, exitCode(err), "more than that a Module has no mapping")
}
