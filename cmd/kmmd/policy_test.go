// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/exit"
)

// TestPolicy: what the node allows stands in its configuration, and a misspelt
// permission is no permission.
func TestPolicy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kmmd.toml")
	require.NoError(t, os.WriteFile(path, []byte("allow_in_use = [\"network\"]\nnetwork_timeout = \"7s\"\n"), 0o600))
	c, err := readConfig(path)
	require.NoError(t, err)
	assert.Equal(t, []string{"network"}, c.AllowInUse)
	assert.Equal(t, 7*time.Second, c.NetworkTimeout.Duration)
	assert.Equal(t, 30*time.Second, defaultConfig().NetworkTimeout.Duration)

	require.NoError(t, os.WriteFile(path, []byte("allow_in_use = [\"net\"]\n"), 0o600))
	_, err = readConfig(path)
	require.Error(t, err)
	assert.Equal(t, int(exit.Usage), exitCode(err))
	assert.Contains(t, err.Error(), `"net" is not "network"`)
}

// TestPolicyOfImages: a rule that can not be meant, and a key that is not there,
// are mistakes in the configuration.
func TestPolicyOfImages(t *testing.T) {
	_, base := root(t)
	text, err := os.ReadFile(base)
	require.NoError(t, err)
	dir := t.TempDir()
	key := write(t, filepath.Join(dir, "no.pem"), "no key")
	for rule, words := range map[string]string{
		`allowed_repositories = ["reg.example/*"]`:             "policy allowed_repositories",
		`signature_keys = ["` + filepath.Join(dir, "x") + `"]`: "policy: signature_keys",
		`signature_keys = ["` + key + `"]`:                     "policy: signature_keys",
		`never_load = ["a.ko"]`:                                `"a.ko" is not the name of a module`,
		`never_remove = [""]`:                                  "is not the name of a module",
	} {
		config := write(t, filepath.Join(dir, "kmmd.toml"), string(text)+"\n[policy]\n"+rule+"\n")
		_, err := kmmd(t, "image", "ls", "--config", config)
		require.ErrorContains(t, err, words, rule)
		assert.Equal(t, int(exit.Usage), exitCode(err), rule)
	}
}
