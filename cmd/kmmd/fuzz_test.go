// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FuzzConfig has anything for kmmd.toml. It is refused as a wrong usage, or all
// times and sizes are above zero, and it is the same when it was written and read
// again.
func FuzzConfig(f *testing.F) {
	for _, s := range []string{"", "listen = ''\nload_timeout = '1m30s'\nimage_quota = '1.5GiB'\n", "[policy]\nnever_load = ['a-b']\nrequire_digest = true\n",
		"[cluster]\nenabled = true\nnode_name = 'n'\n", "firmware = 'declared'\nallow_in_use = ['network']\nprestage = true\n", "image_quota = '9e99GB'\n",
		"resync = '-1s'\n", "a.b.c = 1\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "kmmd.toml")
		require.NoError(t, os.WriteFile(path, data, 0o600))
		c, err := readConfig(path)
		if err != nil {
			var usage usageError
			require.ErrorAs(t, err, &usage)
			assert.ErrorContains(t, err, path)
			return
		}
		for _, d := range []duration{c.LoadTimeout, c.UnloadTimeout, c.Resync, c.StartWait, c.NetworkTimeout, c.ImageKeepUnused} {
			assert.Positive(t, d.Duration)
		}
		assert.Positive(t, c.ImageQuota.Bytes)
		again, err := toml.Marshal(c)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, again, 0o600))
		same, err := readConfig(path)
		require.NoError(t, err, "%s", again)
		text, err := toml.Marshal(same)
		require.NoError(t, err)
		assert.Equal(t, string(again), string(text))
	})
}
