// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
	assert.Equal(t, exitUsage, exitCode(err))
	assert.Contains(t, err.Error(), `"net" is not "network"`)
}
