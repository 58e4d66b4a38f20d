// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const lastOrder = `{"node":"worker-1","uid":"u","generation":4,"modules":[
{"namespace":"ns","name":"nic","revision":"r","moduleLoader":{"container":{"modprobe":{"moduleName":"dummy"},"kernelMappings":[{"regexp":"^7","containerImage":"r/x:1"}]}}},
{"namespace":"default","name":"both","revision":"r","moduleLoader":{"container":{"modprobe":{"moduleName":"dummy"},"kernelMappings":[{"regexp":"^7","containerImage":"r/x:1"}]}}}]}`

const fileOfBoth = `{apiVersion: kmm.sigs.x-k8s.io/v1beta1, kind: Module, metadata: {name: both},
spec: {moduleLoader: {container: {modprobe: {moduleName: dummy}, kernelMappings: [{regexp: '^7', containerImage: "r/x:1"}]}}}}`

// TestLastOrder: commands that only look know what the cluster has asked for.
func TestLastOrder(t *testing.T) {
	dir, config := root(t)
	write(t, filepath.Join(dir, "state/cluster.json"), lastOrder)
	write(t, filepath.Join(dir, "modules.d/both.yaml"), fileOfBoth)
	for _, tt := range []struct {
		name, table string
		env         map[string]string
		seen        bool
	}{
		{"not in a cluster", "", nil, false},
		{"by the file", "[cluster]\nenabled = true\nnode_name = 'worker-1'\n", nil, true},
		{"by the environment", "", map[string]string{"KMMD_CLUSTER": "true", "NODE_NAME": "worker-1"}, true},
		{"another node's order", "[cluster]\nenabled = true\nnode_name = 'worker-2'\n", nil, false},
		{"the file's name counts", "[cluster]\nenabled = true\nnode_name = 'worker-1'\n", map[string]string{"NODE_NAME": "worker-2"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, name := range []string{"KMMD_CLUSTER", "NODE_NAME"} {
				t.Setenv(name, tt.env[name])
			}
			text, err := os.ReadFile(config)
			require.NoError(t, err)
			path := write(t, filepath.Join(dir, "in.toml"), string(text)+tt.table)
			explained, err := kmmd(t, "explain", "--config", path)
			assert.Equal(t, 1, exitCode(err), "no mapping fits this kernel")
			assert.Contains(t, explained, "default/both ("+dir+"/modules.d/both.yaml)")
			planned, err := kmmd(t, "plan", "--config", path)
			assert.Equal(t, 1, exitCode(err))
			assert.Contains(t, planned, "default/both\n  blocked, NoMapping: ")
			if !tt.seen {
				assert.NotContains(t, explained+planned, "ns/nic")
				return
			}
			assert.Contains(t, explained, "ns/nic (cluster) on kernel ")
			assert.Contains(t, explained, "default/both (cluster) on kernel 6.1.0-56-cloud-amd64\n  error      the node has a document of its own")
			assert.Contains(t, planned, "ns/nic\n  blocked, NoMapping: ")
		})
	}
	t.Setenv("KMMD_CLUSTER", "perhaps")
	_, err := kmmd(t, "explain", "--config", config)
	assert.Equal(t, 2, exitCode(err))
	assert.ErrorContains(t, err, "KMMD_CLUSTER=perhaps: true or false is needed")
}

// inCluster is root for a node whose last order is that, "" for none.
func inCluster(t *testing.T, order string) (config string) {
	t.Helper()
	dir, config := root(t)
	if order != "" {
		write(t, filepath.Join(dir, "state/cluster.json"), order)
	}
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	return write(t, filepath.Join(dir, "in.toml"), string(text)+"[cluster]\nenabled = true\nnode_name = 'worker-1'\n")
}

// TestRefusedOrder: an order that can not be obeyed is told by all that look.
func TestRefusedOrder(t *testing.T) {
	config := inCluster(t, strings.ReplaceAll(lastOrder, "^7", "("))
	for _, args := range [][]string{{"explain"}, {"plan"}, {"image", "pull"}, {"image", "pull", "-o", "json"}} {
		out, err := kmmd(t, append(args, "--config", config)...)
		require.ErrorIs(t, err, errNotAsWanted, args)
		assert.Contains(t, out, "error parsing regexp", args)
	}
	out, err := kmmd(t, "image", "pull", "--config", config)
	require.ErrorIs(t, err, errNotAsWanted)
	assert.Contains(t, out, "ns/nic: not ready, Invalid: ")
	assert.Contains(t, out, "default/both: not ready, Invalid: ")

	// A document in its stead is what counts.
	document := write(t, filepath.Join(t.TempDir(), "both.yaml"), fileOfBoth)
	out, err = kmmd(t, "image", "pull", "--config", config, "-f", document)
	require.ErrorIs(t, err, errNotAsWanted)
	assert.Contains(t, out, "default/both: not ready, NoMapping: ")
	assert.NotContains(t, out, "default/both: not ready, Invalid: ")
}

// TestNotHeard: without a last order nobody knows all that the node should run, and it is said as status says it.
func TestNotHeard(t *testing.T) {
	config := inCluster(t, "")
	for _, args := range [][]string{{"explain"}, {"plan"}, {"image", "pull"}} {
		out, err := kmmd(t, append(args, "--config", config)...)
		if args[0] == "image" {
			require.NoError(t, err, "what is known is in the store: it is filled before a node has heard its cluster")
		} else {
			require.ErrorIs(t, err, errNotAsWanted, args)
		}
		assert.Equal(t, notHeard+"\n", out, args)
	}
	out, err := kmmd(t, "plan", "-o", "json", "--config", config)
	require.ErrorIs(t, err, errNotAsWanted)
	assert.Contains(t, out, `"partial": true`)

	config = inCluster(t, `{"node":"worker-1","uid":"u","generation":4}`)
	for _, args := range [][]string{{"explain"}, {"plan"}, {"image", "pull"}} {
		out, err := kmmd(t, append(args, "--config", config)...)
		require.NoError(t, err, args)
		assert.NotContains(t, out, notHeard, args)
	}
}
