// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// swaps is how often the race is run.
const swaps = 50

// TestRace has the kernel ask for the in-tree module all the time, as any user
// of its alias does, while it is swapped: after "loaded" it never runs.
func TestRace(t *testing.T) {
	n := newNode(t)
	document := module("dummy", n.image("race", []string{"dummy.ko"}, nil), "dummy", "inTreeModulesToRemove: [dummy]")
	var stop atomic.Bool
	var asked atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; !stop.Load(); i++ {
			name := fmt.Sprintf("race%d", i%4)
			_ = exec.Command("ip", "link", "add", name, "type", "dummy").Run()
			_ = exec.Command("ip", "link", "del", name).Run()
			asked.Add(1)
		}
	}()
	defer func() { stop.Store(true); <-done }()
	for i := range swaps {
		n.command("modprobe", "dummy")
		n.requireInTree("dummy")
		n.document("dummy.yaml", document)
		n.requireLoaded()
		for range 5 {
			n.requireBuild("dummy.ko")
		}
		if i%10 == 9 {
			n.requireLoaded() // again: nothing has crept back
			n.requireBuild("dummy.ko")
		}
		n.remove("dummy.yaml")
		_, all, code := n.once()
		require.Equal(t, 0, code, all)
	}
	t.Logf("%d swaps, the kernel was asked for the in-tree module %d times", swaps, asked.Load())
	_ = os.Remove(n.path("docs/dummy.yaml"))
}
