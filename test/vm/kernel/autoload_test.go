// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel"
)

// TestHoldAutoload asks real modprobe, and the kernel that calls it.
func TestHoldAutoload(t *testing.T) {
	tests := []struct {
		name    string
		module  string
		command []string
	}{
		{"by name", "dummy", []string{"modprobe", "dummy"}},
		{"by name, as udev does", "dummy", []string{"modprobe", "-b", "dummy"}},
		{"by alias", "dummy", []string{"modprobe", "rtnl-link-dummy"}},
		{"by alias, as the kernel does", "dummy", []string{"modprobe", "-q", "--", "rtnl-link-dummy"}},
		{"request_module", "dummy", []string{"ip", "link", "add", "type", "dummy"}},
		// These have soft dependencies; by them libkmod would pass over the install command alone.
		{"softdep post", "vfio", []string{"modprobe", "vfio"}},
		{"softdep pre", "nfsd", []string{"modprobe", "nfsd"}},
		{"softdep, by alias", "nfsd", []string{"modprobe", "fs-nfsd"}},
		{"softdep, as a dependency", "vfio", []string{"modprobe", "vfio_iommu_type1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := open(t)
			t.Cleanup(func() {
				assert.NoError(t, h.HoldAutoload(nil))
				cleanUp(t, h)
			})
			require.NoError(t, h.HoldAutoload([]string{tt.module}))
			_, err := h.Module(tt.module)
			require.ErrorIs(t, err, kernel.ErrNotLoaded)

			// By an alias the blacklist makes modprobe do nothing, which is success.
			_, _ = run(t, tt.command[0], tt.command[1:]...)
			_, err = h.Module(tt.module)
			require.ErrorIs(t, err, kernel.ErrNotLoaded)

			require.NoError(t, h.HoldAutoload(nil))
			out, err := run(t, tt.command[0], tt.command[1:]...)
			require.NoError(t, err, out)
			_, err = h.Module(tt.module)
			require.NoError(t, err, "the command loads it when it is not held")
		})
	}
}

// cleanUp removes what the commands above load.
func cleanUp(t *testing.T, h *kernel.Host) {
	t.Helper()
	// Users first.
	for _, name := range []string{
		"dummy", "vfio_iommu_type1", "vfio", "nfsd", "auth_rpcgss", "nfs_acl", "lockd", "grace", "sunrpc",
	} {
		if _, err := h.Module(name); err == nil {
			require.NoError(t, h.Unload(context.Background(), name, 0), name)
		}
	}
}

// TestInstallAlone shows why there is a softdep line: without it modprobe loads the module in spite of its install
// command. When this fails, libkmod was mended and the line can go.
func TestInstallAlone(t *testing.T) {
	const conf = "/run/modprobe.d/test.conf"
	require.NoError(t, os.MkdirAll("/run/modprobe.d", 0o755))
	require.NoError(t, os.WriteFile(conf, []byte("install vfio /bin/false\n"), 0o644))
	t.Cleanup(func() { os.Remove(conf) })
	h := open(t)
	out, err := run(t, "modprobe", "vfio")
	require.NoError(t, err, out)
	_, err = h.Module("vfio")
	require.NoError(t, err)
	cleanUp(t, h)
}
