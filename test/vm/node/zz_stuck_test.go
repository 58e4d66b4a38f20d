// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/test/vm/guest"
)

// TestZStuck runs last: its modules hang in the kernel until the VM is gone. An
// init that oopses or never returns is reported, what it replaced is back, and
// the daemon and every other module go on.
func TestZStuck(t *testing.T) {
	// The oops comes last, so that little is loaded after it. With idempotent loads
	// (Linux 6.12, kernel/module/main.c) the thread that died has left an entry on
	// its stack in the kernel's table of loads; a later load that runs into it, one
	// in some 250, dies with the lock held. A kernel that oopses twice is told to
	// panic, or the VM would hang: test/vm/exec begins anew then.
	tests := []struct{ name, module, params, words string }{
		{"never returns", "kmm_sleep", "modprobe.parameters: [secs=3600]", "did not answer"},
		{"oops", "kmm_oops", "", "kmm_oops"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			n.configure("network_timeout = \"3s\"\n")
			// What hangs is waited for so long; it must not be taken for what is slow, on a machine that does much else.
			n.setTimeout("15s")
			n.command("modprobe", "dummy")
			require.NoError(t, os.WriteFile("/proc/sys/kernel/oops_limit", []byte("2"), 0))
			n.document("stuck.yaml", module("a-stuck", n.image(tt.module, []string{tt.module + ".ko"}, nil), tt.module, "inTreeModulesToRemove: [dummy]", tt.params))
			n.document("good.yaml", module("good", n.image("after", []string{"kmm_base.ko"}, nil), "kmm_base"))
			d := n.start()
			n.eventually("both are told", func() bool {
				s := n.status()
				return len(s.Modules) == 2 && s.Modules[0].Reason == spec.ReasonNeedsReboot && s.Modules[1].State == spec.StateLoaded
			})
			assert.Contains(t, n.status().Modules[0].Message, tt.words)
			n.requireInTree("dummy")
			n.requireBuild("kmm_base.ko")
			require.Equal(t, "ok\n", guest.Get("/livez"))

			n.document("more.yaml", module("more", n.image("more", []string{"kmm_softdep.ko", "kmm_base.ko"}, nil), "kmm_softdep"))
			n.eventually("the daemon goes on", func() bool {
				s := n.status()
				return len(s.Modules) == 3 && s.Modules[2].State == spec.StateLoaded
			})
			assert.Equal(t, spec.ReasonNeedsReboot, n.status().Modules[0].Reason)
			d.stop()
		})
	}
}
