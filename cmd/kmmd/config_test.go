// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	full := defaultConfig()
	full.Listen, full.LoadTimeout, full.Resync = "", duration{90 * time.Second}, duration{time.Hour}
	host := defaultConfig()
	host.HostRoot, host.RunDir = "/host", "/host/run/kmmd"
	joined := defaultConfig()
	joined.Cluster = joins{Enabled: true, NodeName: "worker-1", Kubeconfig: "/etc/kubernetes/kubelet.conf"}
	for _, tt := range []struct {
		name, text string
		want       config
		err        string // behind the file's name
	}{
		{"empty: the defaults", "# nothing\n", defaultConfig(), ""},
		{"some keys", "listen = ''\nload_timeout = '1m30s'\nresync = \"1h\"\n", full, ""},
		{"of a container", "host_root = '/host'\nrun_dir = '/host/run/kmmd'\n", host, ""},
		{"of a cluster", "[cluster]\nenabled = true\nnode_name = 'worker-1'\nkubeconfig = '/etc/kubernetes/kubelet.conf'\n", joined, ""},
		{"unknown key", "listen = ''\n\nload_timeuot = '1s'\n", config{}, ":3: load_timeuot: unknown key"},
		{"unknown keys", "a = 1\nb = 2\n", config{}, ":1: a: unknown key\nFILE:2: b: unknown key"},
		{"unknown table", "[tls]\nkey = 'x'\n", config{}, ":1: tls: unknown key"},
		{"no duration", "state_dir = '/x'\nload_timeout = 'soon'\n", config{}, `:2: load_timeout: `},
		{"no unit", "load_timeout = '30'\n", config{}, `:1: load_timeout: `},
		{"zero", "resync = '0s'\n", config{}, `:1: resync: `},
		{"below zero", "unload_timeout = '-1s'\n", config{}, `:1: unload_timeout: `},
		{"a number is no duration", "resync = 30\n", config{}, `: time: missing unit in duration "30"`},
		{"a number is no size", "image_quota = 7\n", config{}, `: "7": a size above zero is needed`},
		{"no unit of size", "image_quota = '7'\n", config{}, ":1: image_quota: "},
		{"no size", "image_quota = 'much'\n", config{}, ":1: image_quota: "},
		{"no room at all", "image_quota = '0B'\n", config{}, ":1: image_quota: "},
		{"which firmware", "firmware = 'some'\n", config{}, `: firmware: "some" is neither "all" nor "declared"`},
		{"an address without a port", "listen = '127.0.0.1'\n", config{}, `: listen: "127.0.0.1" is no HOST:PORT: `},
		{"a port alone", "listen = '9808'\n", config{}, `: listen: "9808" is no HOST:PORT: `},
		{"no port", "listen = ':98080'\n", config{}, `: listen: ":98080" is no HOST:PORT: `},
		{"a number is no path", "run_dir = 7\n", config{}, ":1: run_dir: "},
		{"no TOML", "listen = \n", config{}, ":1: toml: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, filepath.Join(dir, "kmmd.toml"), tt.text)
			c, err := readConfig(path)
			if tt.err == "" {
				require.NoError(t, err)
				assert.Equal(t, tt.want, c)
				return
			}
			require.Error(t, err)
			assert.Contains(t, err.Error(), path+strings.ReplaceAll(tt.err, "FILE", path))
			assert.Equal(t, 2, exitCode(err))
		})
	}
}

func TestDefaults(t *testing.T) {
	c := defaultConfig()
	assert.Equal(t, "/etc/kmmd/modules.d", c.ModulesDir)
	assert.Equal(t, "/run/kmmd/status.json", c.statusFile())
	assert.Equal(t, "/lib/modules", c.hostModules())
	assert.Equal(t, "/var/lib/firmware", c.FirmwareDir)
	assert.Equal(t, 2*time.Minute, c.LoadTimeout.Duration)
	assert.Equal(t, time.Minute, c.UnloadTimeout.Duration)
	assert.Equal(t, 5*time.Minute, c.Resync.Duration)
	c.HostRoot = "/host"
	assert.Equal(t, "/host/lib/modules", c.hostModules())
}

// TestValues: what is written is short, and reads as the same.
func TestValues(t *testing.T) {
	for _, d := range []string{"1ms", "30s", "1m30s", "2m", "10m", "1h", "1h10m", "168h", "1h0m5s"} {
		var v duration
		require.NoError(t, v.UnmarshalText([]byte(d)))
		assert.Equal(t, d, v.String())
	}
	for text, want := range map[string]string{"2GiB": "2GiB", "2048 MiB": "2GiB", "1536MiB": "1536MiB", "1MB": "1000000B", "2048GiB": "2048GiB"} {
		var v size
		require.NoError(t, v.UnmarshalText([]byte(text)))
		assert.Equal(t, want, v.String())
		b, err := v.MarshalText()
		require.NoError(t, err)
		again := size{}
		require.NoError(t, again.UnmarshalText(b))
		assert.Equal(t, v, again)
	}
}
