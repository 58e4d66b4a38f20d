// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestOtherNetwork: from a pod's network, a module that carries interfaces of the node is told from one that does not.
func TestOtherNetwork(t *testing.T) {
	tests := []struct{ name, node, module, want string }{
		{"a card's driver", "of another", "virtio_net", "eth0: "},
		{"a driver without interfaces", "of another", "null_blk", ""},
		{"a kind that uevent tells", "of another", "bonding", "b: "},
		{"a kind by its name", "of another", "dummy", "dummy7: "},
		{"a name that misleads", "of another", "vxlan", ""},
		{"in the node's network", "ours", "dummy", ""},
		{"no network is seen", "", "virtio_net", "eth0: "},
		{"no network is seen, a driver without interfaces", "", "null_blk", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := nodeTree(t, "sys/module/dummy/refcnt = 0", "sys/module/bonding/refcnt = 0", "sys/module/vxlan/refcnt = 0",
				"sys/class/net/b/uevent = DEVTYPE=bond", "sys/class/net/dummy7/uevent = IFINDEX=9", "sys/class/net/vxlan0/uevent = DEVTYPE=bridge")
			file := h.path("proc/1/net/dev")
			if tt.node != "ours" {
				require.NoError(t, os.Remove(file))
			}
			if tt.node == "of another" {
				require.NoError(t, os.WriteFile(file, nil, 0o644))
			}
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
