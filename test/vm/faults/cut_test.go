// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/test/faults/points"
	"github.com/kmm-node/kmmd/test/faults/state"
)

// notes is where the campaign of power cuts remembers, on a disk of its own, where
// it is.
const notes = "/mnt"

// progress outlives the resets.
type progress struct {
	Scenario int    // of cutScenarios
	Nth      int    // point of it; the next one is a stride away
	Point    string // for people
	Cutting  bool   // the next reset is meant
	Cases    int
	Failed   []string
}

func readProgress() (p progress, err error) {
	data, err := os.ReadFile(notes + "/progress.json")
	if errors.Is(err, fs.ErrNotExist) {
		return progress{Nth: 1}, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	return p, err
}

func (p *progress) save() error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	f, err := os.Create(notes + "/progress.new")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close(), os.Rename(notes+"/progress.new", notes+"/progress.json"))
	if err != nil {
		return err
	}
	dir, err := os.Open(notes) // and not the other disk, which sync(2) would reach
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// cutChange is a change, and what a node is after it and a boot.
type cutChange struct {
	*scenario
	end side
}

func cutChanges() []cutChange {
	pulls := *changes[0]
	pulls.name, pulls.pulls = "load with its pull", true
	load, swap, upgrade, unload := changes[0], changes[1], changes[3], changes[5]
	return []cutChange{
		{unload, side{runs: inTreeRuns}}, {swap, swap.to}, {upgrade, upgrade.to}, {load, load.to}, {&pulls, pulls.to},
	}
}

// reset cuts the power, as far as the kernel, its memory and what has not been
// written to the disk are concerned.
func reset() {
	_ = os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0)
	select {} // it takes a moment
}

// TestCut cuts the power at each call about a module, and at each change of what
// is on the disk. Each time the VM comes back this test begins anew, and goes on
// where it was: what the disk has must be whole, and kmmd has to bring the node to
// where it was to be.
func TestCut(t *testing.T) {
	if os.Getenv("KMMD_VM_RESETS") == "" {
		t.Skip("the VM may not reset itself")
	}
	require.NoError(t, unix.Mount("/dev/vdb", notes, "ext4", 0, ""))
	p, err := readProgress()
	require.NoError(t, err)
	require.NoError(t, p.ports())
	all := cutChanges()
	if p.Cutting {
		p.look(t, all[p.Scenario])
	} else if p.Cases > 0 {
		p.Failed = append(p.Failed, "the VM was reset after "+p.Point)
	}
	for p.Scenario < len(all) {
		p.cut(t, all[p.Scenario])
		p.Scenario, p.Nth = p.Scenario+1, 1
	}
	t.Logf("power cuts: %d cases, %d passed", p.Cases, p.Cases-len(p.Failed))
	require.Empty(t, p.Failed)
}

// ports gives each boot ports of its own: QEMU's network still has the connections of the boots before, and one that begins
// on the ports of such a one is not answered.
func (p *progress) ports() error {
	const first, each = 20000, 128
	begin := first + p.Cases%((1<<16-first)/each)*each
	return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "%d %d", begin, begin+each-1), 0)
}

// look is what follows a cut.
func (p *progress) look(t *testing.T, c cutChange) {
	t.Helper()
	passed := t.Run(fmt.Sprintf("%s, %d", c.name, p.Nth), func(t *testing.T) {
		t.Log(p.Point)
		if len(inTreeOf(c.from.runs)) > 0 || c.fromImage != nil {
			loadInTree(t)
		}
		have, from, to := look(t), c.from.state(t), c.to.state(t)
		for _, s := range []*state.State{&have, &from, &to} {
			s.Modules, s.Path, s.Held = nil, "", nil
		}
		require.NoError(t, have.Between(from, to, staging))
		require.NoError(t, dirs.Store())
		require.NoError(t, os.MkdirAll(documents, 0o755))
		c.ask(t, c.toImage)
		require.Equal(t, 0, once(t))
		require.NoError(t, look(t).Is(c.end.state(t)))
		require.NoError(t, dirs.Settled(bootID(t), c.end.ours(t)))
	})
	p.Cases++
	if !passed {
		p.Failed = append(p.Failed, fmt.Sprintf("%s, %d: %s", c.name, p.Nth, p.Point))
	}
	p.Nth += stride
	p.Cutting = false
	require.NoError(t, p.save())
}

// cut plays a change until the power is cut. It returns when all of its points
// have been.
func (p *progress) cut(t *testing.T, c cutChange) {
	t.Helper()
	c.fromSnapshot = c.kept(t)
	c.begin(t)
	unix.Sync() // what was there before was there for long
	at := place{durable, p.Nth}
	watched(t, func(_ *exec.Cmd, q points.Point) points.Verdict {
		if at.here(q) {
			p.Point, p.Cutting = q.String(), true
			if err := p.save(); err == nil {
				reset()
			}
		}
		return points.Go
	})
	c.requireEnd(t)
}

// durable are points that matter to what a boot finds.
func durable(p points.Point) bool { return p.Module() || below("/var/lib")(p) }

// kept is the snapshot of a change, made in the first boot.
func (c cutChange) kept(t *testing.T) *snapshot {
	t.Helper()
	dir := notes + "/" + c.name
	if _, err := os.Stat(dir + "/done"); err == nil {
		boot(t)
		return &snapshot{dir: dir, runs: c.from.runs}
	}
	require.NoError(t, os.RemoveAll(dir))
	s := c.snapshot(t, dir)
	require.NoError(t, os.WriteFile(dir+"/done", nil, 0o644))
	unix.Sync()
	return s
}
