// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestOtherNetwork: from a pod's network, a module that carries interfaces of the node is told from one that does not.
func TestOtherNetwork(t *testing.T) {
	inside, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	tests := []struct{ name, node, module, want string }{
		{"a card's driver", "net:[1]", "virtio_net", "eth0: "},
		{"a driver without interfaces", "net:[1]", "null_blk", ""},
		{"a kind that uevent tells", "net:[1]", "bonding", "b: "},
		{"a kind by its name", "net:[1]", "dummy", "dummy7: "},
		{"a name that misleads", "net:[1]", "vxlan", ""},
		{"in the node's network", inside, "dummy", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := nodeTree(t, "sys/module/dummy/refcnt = 0", "sys/module/bonding/refcnt = 0", "sys/module/vxlan/refcnt = 0",
				"sys/class/net/b/uevent = DEVTYPE=bond", "sys/class/net/dummy7/uevent = IFINDEX=9", "sys/class/net/vxlan0/uevent = DEVTYPE=bridge")
			require.NoError(t, os.MkdirAll(h.path("proc/1/ns"), 0o755))
			require.NoError(t, os.Symlink(tt.node, filepath.Join(h.path("proc/1/ns"), "net")))
			_, err := h.Of(tt.module)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrOtherNetwork)
			assert.ErrorContains(t, err, tt.want)
		})
	}
}
