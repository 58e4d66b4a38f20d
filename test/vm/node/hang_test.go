// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/test/vm/guest"
)

// TestRemoveHangs: a driver that does not let go of its device is reported, its module is left alone, and the daemon and every
// other module go on. When it lets go after all, so does its Module.
func TestRemoveHangs(t *testing.T) {
	n := newNode(t)
	n.configure("unload_timeout = \"15s\"\n")
	const parameter, child = "/sys/module/kmm_pci/parameters/hang_remove", "kmmd: unbind 0000:00:00.0"
	t.Cleanup(func() { _ = os.WriteFile(parameter, []byte("0"), 0) }) // if it fails in the middle
	image := n.image("hangs", []string{"kmm_pci.ko"}, nil)
	hangs := func(parameters string) {
		n.document("hangs.yaml", module("a-hangs", image, "kmm_pci", "beforeUnload: [unbind]", "modprobe.parameters: ["+parameters+"]"))
	}
	loaded := func(count int) {
		n.eventually("loaded", func() bool { return n.status().OK() && len(n.status().Modules) == count })
	}
	hangs("hang_remove=1")
	d := n.start()
	loaded(1)

	hangs("hang_remove=1, hang_probe=0")
	n.document("good.yaml", module("good", n.image("beside", []string{"kmm_base.ko"}, nil), "kmm_base"))
	n.eventually("both are told", func() bool {
		s := n.status()
		return len(s.Modules) == 2 && s.Modules[0].Reason == spec.ReasonNeedsReboot && s.Modules[1].State == spec.StateLoaded
	})
	told := n.status().Modules[0].Message
	for _, words := range []string{"unbind 0000:00:00.0 from kmm_pci", "kernel did not answer within 15s", "only a reboot helps", "remove hangs", "roll back: bind 0000:00:00.0"} {
		assert.Contains(t, told, words)
	}
	pid := childOf(t, child)
	require.NotEmpty(t, pid)
	confined(t, pid, map[string]string{"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": sixCapabilities, "CapAmb": none,
		"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "2"})
	assert.Equal(t, "3 /sys/bus/pci/drivers/kmm_pci/unbind", descriptors(t, pid)[2], "and its answer, as a crash has it")
	_, all, code := n.run(binary, nil, "why", "kmm_pci")
	assert.Equal(t, 0, code, all)
	require.Equal(t, "ok\n", guest.Get("/livez"))

	// A new document, and a module that nothing is wrong with: the one waits, the other does not.
	hangs("hang_probe=0")
	n.document("more.yaml", module("more", n.image("beside2", []string{"kmm_softdep.ko", "kmm_base.ko"}, nil), "kmm_softdep"))
	n.eventually("the daemon goes on", func() bool {
		s := n.status()
		return len(s.Modules) == 3 && s.Modules[2].State == spec.StateLoaded
	})
	assert.Equal(t, spec.ReasonNeedsReboot, n.status().Modules[0].Reason)
	m, err := n.host.Module("kmm_pci")
	require.NoError(t, err)
	assert.Equal(t, kernel.StateLive, m.State, "nobody has tried to unload it")

	require.NoError(t, os.WriteFile(parameter, []byte("0"), 0))
	n.eventually("the child is gone", func() bool { return childOf(t, child) == "" })
	hangs("hang_probe=0") // a hint to look
	loaded(3)
	m, err = n.host.Module("kmm_pci")
	require.NoError(t, err)
	assert.Equal(t, "N", m.Parameters["hang_remove"], "of the new document")
	assert.FileExists(t, "/sys/bus/pci/drivers/kmm_pci/0000:00:00.0/vendor")
	d.stop()
}
