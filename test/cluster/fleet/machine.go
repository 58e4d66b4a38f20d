// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/firmware"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/source"
	"github.com/kmm-node/kmmd/pkg/source/cluster"
	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/test/cluster/play"
)

// Machine is one node: a kernel in memory, a disk, and an agent that can be
// killed and started again.
type Machine struct {
	Name   string
	Kernel *kerneltest.Kernel

	fleet    *Fleet
	dir      string
	config   *rest.Config
	previous spec.Status // of this boot

	stop func() // ends the agent that runs, nil when none does
}

func (f *Fleet) machine(name string) *Machine {
	f.t.Helper()
	m := &Machine{Name: name, Kernel: kerneltest.New(Release), fleet: f, dir: f.t.TempDir()}
	for _, release := range []string{Release, OtherRelease} {
		kmodtest.WriteTree(f.t, m.path("host/lib/modules", release, "kernel"), map[string]kmodtest.Spec{
			"dummy.ko": {InTree: true, Vermagic: kerneltest.Vermagic(release)},
		})
	}
	require.NoError(f.t, os.Mkdir(m.path("run"), 0o755))
	f.t.Cleanup(m.Kill)
	return m
}

func (m *Machine) path(elements ...string) string {
	return filepath.Join(append([]string{m.dir}, elements...)...)
}

// identify gets the token for the Node that there is now.
func (m *Machine) identify() {
	m.fleet.t.Helper()
	config, err := m.fleet.identity(m.fleet.t.Context(), m.Name)
	require.NoError(m.fleet.t, err)
	m.config = config
}

// Start starts the agent, as a daemon that begins anew does.
func (m *Machine) Start() {
	t := m.fleet.t
	t.Helper()
	require.Nil(t, m.stop, "the agent of %s runs", m.Name)
	log := slog.New(slog.NewTextHandler(&output{t: t, name: m.Name}, nil))
	fw, err := firmware.Open(m.path("firmware"), m.path("firmware.json"))
	require.NoError(t, err)
	store, err := images.Open(m.path("images"), images.Options{})
	require.NoError(t, err)
	src, err := cluster.New(cluster.Config{
		Node: m.Name, StateFile: m.path("cluster.json"), Log: log,
		Connect: func() (*rest.Config, error) { c := rest.CopyConfig(m.config); c.UserAgent = "kmmd"; return c, nil },
	})
	require.NoError(t, err)
	a := agent.New(agent.Config{
		Kernel: m.Kernel, Images: store, Firmware: fw, ModulesDir: m.path("host/lib/modules"), RunDir: m.path("run"),
		FirmwareDir: m.path("firmware"), Version: "fleet", Log: log, Previous: m.previous, Announce: true,
		Facts: func() spec.Facts { return spec.Facts{SecureBoot: "no", SignatureEnforced: "no"} },
		Report: func(ctx context.Context, s spec.Status) error {
			m.previous = s
			return src.Report(ctx, s)
		},
		Secrets: func(ctx context.Context, namespace string, names []string) []images.PullSecret {
			var out []images.PullSecret
			for _, s := range src.Secrets(ctx, namespace, names) {
				out = append(out, images.PullSecret(s))
			}
			return out
		},
	})
	joint := source.NewJoint(a.SetDesired)
	if saved, ok := src.Saved(); ok {
		joint.Cluster(saved)
	}
	joint.Files(spec.Node{})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { m.must(m.Kernel.WatchModules(ctx, func() {}, a.Trigger)) })
	running.Go(func() { m.must(src.Watch(ctx, joint.Cluster)) })
	running.Go(func() { m.must(a.Run(ctx)) })
	m.stop = func() {
		cancel()
		running.Wait()
		m.must(store.Close())
	}
}

func (m *Machine) must(err error) {
	if err != nil {
		m.fleet.t.Errorf("%s: %v", m.Name, err)
	}
}

// Kill ends the agent; its modules stay.
func (m *Machine) Kill() {
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
}

// Boot starts the machine anew with a kernel: its modules are gone, and the Node
// says so. The agent runs afterwards, if wanted.
func (m *Machine) Boot(release string, withAgent bool) {
	t := m.fleet.t
	t.Helper()
	m.anew(release)
	_, err := m.fleet.player.Reboot(t.Context(), m.Name, m.Kernel.BootID(), release)
	require.NoError(t, err)
	if withAgent {
		m.Start()
	}
}

// Wipe removes all that the agent has on disk; it must not run.
func (m *Machine) Wipe() {
	t := m.fleet.t
	t.Helper()
	for _, d := range []string{"images", "firmware", "firmware.json", "cluster.json"} {
		require.NoError(t, os.RemoveAll(m.path(d)))
	}
}

// Runs is the version of a module in the kernel: "in-tree", or "" for none.
func (m *Machine) Runs(name string) string {
	mod, err := m.Kernel.Module(name)
	switch {
	case err != nil:
		return ""
	case !strings.Contains(mod.Taint, "O"):
		return "in-tree"
	}
	return mod.Version
}

// output is the log of a machine in the test's.
type output struct {
	t    testing.TB
	name string
}

func (o *output) Write(b []byte) (int, error) {
	_, err := fmt.Fprintf(o.t.Output(), "%s: %s", o.name, b)
	return len(b), err
}

var _ io.Writer = (*output)(nil)

// Join makes a new Node object for the machine, which has started anew, and
// starts its agent.
func (m *Machine) Join(labels map[string]string) {
	t := m.fleet.t
	t.Helper()
	m.anew(Release)
	require.NoError(t, m.fleet.player.AddNodes(t.Context(), play.Node{
		Name: m.Name, Labels: labels, BootID: m.Kernel.BootID(), Kernel: m.Kernel.Release(),
	}))
	m.identify()
	m.Start()
}

// Restart is Boot while nobody can be told of it.
func (m *Machine) Restart(release string) {
	t := m.fleet.t
	t.Helper()
	m.anew(release)
	m.Start()
}

// anew is the machine after a boot.
func (m *Machine) anew(release string) {
	t := m.fleet.t
	t.Helper()
	m.Kill()
	m.Kernel.Reboot(release)
	m.previous = spec.Status{}
	require.NoError(t, os.RemoveAll(m.path("run")))
	require.NoError(t, os.Mkdir(m.path("run"), 0o755))
}
