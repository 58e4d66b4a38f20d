// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/source/file"
)

// TestTerminal: what a registry or a driver has said does nothing to the terminal it is shown on.
func TestTerminal(t *testing.T) {
	dir, config := root(t)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "run"), 0o755))
	status := fullStatus()
	status.Modules[0].Message = "it said \x1b]0;title\x07\x1b[2Jagain\u009b1m\u202e\nnext line"
	require.NoError(t, (&file.Source{Status: filepath.Join(dir, "run/status.json")}).Report(t.Context(), status))
	out, err := kmmd(t, "status", "--config", config)
	require.ErrorIs(t, err, errNotAsWanted)
	assert.Contains(t, out, "it said �]0;title��[2Jagain�1m�\n")
	assert.Contains(t, out, "next line")
	for _, r := range []string{"\x1b", "\x07", "\u009b", "\u202e"} {
		assert.NotContains(t, out, r)
	}
}
