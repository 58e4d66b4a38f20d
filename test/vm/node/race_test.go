// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

// swaps is how often the race is run.
const swaps = 50

// TestRace has the kernel ask for the in-tree module all the time, as any user
// of its alias does, while it is swapped: after "loaded" it never runs. Three
// things see to it, each of them alone: autoload is held off, EEXIST has the
// running build looked at, and a reconcile looks again at what it has done.
func TestRace(t *testing.T) {
	n := newNode(t)
	document := module("dummy", n.image("race", []string{"dummy.ko"}, nil), "dummy", "inTreeModulesToRemove: [dummy]")
	var asked atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	var askers sync.WaitGroup
	defer askers.Wait()
	defer stop()
	askers.Go(func() {
		// What ip link add NAME type dummy does: the kernel runs modprobe for
		// the alias rtnl-link-dummy when nobody has the type.
		link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "race"}}
		for ctx.Err() == nil {
			_ = netlink.LinkAdd(link)
			_ = netlink.LinkDel(link)
			asked.Add(1)
		}
	})
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
}
