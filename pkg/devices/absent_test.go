// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestAbsent: an interface is back once it runs again, if it did.
func TestAbsent(t *testing.T) {
	id := identity{Bus: "virtio", Address: "virtio0"}
	state := func(name string, flags uint32) linkState {
		return linkState{Name: name, MAC: "02:00:00:00:00:01", Flags: flags}
	}
	const up, running = syscall.IFF_UP, syscall.IFF_UP | syscall.IFF_RUNNING
	saved := func(flags uint32) *Network {
		return &Network{Links: []savedLink{
			{linkState: state("eth0", flags), identity: id},
			{linkState: linkState{Name: "eth0.5", Kind: "vlan", Flags: running}}, // made by us, not waited for
		}}
	}
	now := func(flags uint32) []presentLink { return []presentLink{{state("eth9", flags), id}} }
	for _, tt := range []struct {
		name          string
		n             *Network
		links         []presentLink
		missing, idle int
	}{
		{"not there", saved(running), nil, 1, 0},
		{"there, down", saved(running), now(0), 0, 1},
		{"up, no carrier", saved(running), now(up), 0, 1},
		{"running", saved(running), now(running), 0, 0},
		{"had no carrier before", saved(up), now(up), 0, 0},
		{"was down", saved(0), now(0), 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			missing, idle := tt.n.absent(tt.links)
			assert.Len(t, missing, tt.missing)
			assert.Len(t, idle, tt.idle)
		})
	}
}
