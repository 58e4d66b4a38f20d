// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"maps"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/spec"
)

const next = "6.12.9-amd64"

// nextKernel installs another kernel on the node, and what a removed one leaves.
func (n *node) nextKernel() {
	n.t.Helper()
	kmodtest.WriteTree(n.t, n.path("host/lib/modules", next, "kernel"), map[string]kmodtest.Spec{
		"core.ko": {InTree: true, Vermagic: kerneltest.Vermagic(next), Exports: []string{"core_symbol"}},
	})
	require.NoError(n.t, os.MkdirAll(n.path("host/lib/modules/5.0.0-old/updates"), 0o755))
}

// bothKernels pushes an image with modules for the running kernel and the next.
func (n *node) bothKernels(tag string) string {
	n.t.Helper()
	files := map[string]string{}
	for _, r := range []string{release, next} {
		for path, s := range ours(tag) {
			s.Vermagic = kerneltest.Vermagic(r)
			s.Name = path[:len(path)-len(".ko")]
			files["opt/lib/modules/"+r+"/"+path] = string(kmodtest.Build(s))
		}
	}
	ref := n.registry.Host + "/modules:" + tag
	imagestest.Push(n.t, ref, imagestest.Layer(n.t, files))
	return ref
}

func staged(list []spec.StagedModule) map[string]string {
	out := map[string]string{}
	for _, s := range list {
		out[s.Kernel+" "+s.Name] = map[bool]string{true: "ready", false: string(s.Reason)}[s.Ready]
	}
	return out
}

func TestStage(t *testing.T) {
	n := newNode(t)
	n.nextKernel()
	n.start(func(c *agent.Config) { c.NeverLoad = []string{"side"} })
	both, running := n.bothKernels("both"), n.push("running", ours("1"), nil)
	wants := []want{
		{name: "a-ready", image: both, module: "hostuser"},
		{name: "b-other", image: running, module: "dummy"},
		{name: "c-missing", image: both, module: "nothere"},
		{name: "d-parameter", image: both, module: "dummy", parameters: []string{"level=1"}},
		{name: "e-policy", image: both, module: "side"},
		{name: "f-gone", image: n.registry.Host + "/modules:gone", module: "dummy"},
	}
	n.agent.SetDesired(documents(wants...))
	list, err := n.agent.Stage(t.Context(), next)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{
		next + " a-ready": "ready", next + " b-other": "NoModules", next + " c-missing": "ModuleNotFound",
		next + " d-parameter": "InvalidParameter", next + " e-policy": "Policy", next + " f-gone": "ImageNotFound",
	}, staged(list))
	assert.Equal(t, both, list[0].Image)
	assert.Regexp(t, "^sha256:", list[0].Digest)
	assert.Contains(t, list[4].Message, "policy never_load: side")
	assert.Empty(t, n.calls(), "nothing was loaded")
}

func TestStageChecksVermagic(t *testing.T) {
	n := newNode(t)
	n.nextKernel()
	n.start()
	s := ours("1")["dummy.ko"]
	s.Name = "dummy"
	ref := n.registry.Host + "/modules:wrong"
	imagestest.Push(t, ref, imagestest.Layer(t, map[string]string{"opt/lib/modules/" + next + "/dummy.ko": string(kmodtest.Build(s))}))
	n.agent.SetDesired(documents(want{name: "nic", image: ref, module: "dummy"}))
	list, err := n.agent.Stage(t.Context(), next)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{next + " nic": "WrongKernel"}, staged(list))

	n.agent.SetDesired(documents(want{name: "nic", image: ref, module: "dummy", load: []string{"--force-vermagic"}}))
	list, err = n.agent.Stage(t.Context(), next)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{next + " nic": "ready"}, staged(list))
}

// TestPrestage: the daemon gets the images for the installed kernels, tells so,
// and looks again when the wish changes; after a reboot into that kernel, the
// registry is not needed.
func TestPrestage(t *testing.T) {
	n := newNode(t)
	n.nextKernel()
	reports := make(chan spec.Status, 100)
	n.start(func(c *agent.Config) {
		c.Prestage = true
		c.Report = func(_ context.Context, s spec.Status) error { reports <- s; return nil }
	})
	w := want{name: "nic", image: n.bothKernels("both"), module: "top"}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- n.agent.Run(ctx) }()
	until := func(states map[string]string) {
		t.Helper()
		for {
			select {
			case s := <-reports:
				if maps.Equal(states, staged(s.Staged)) && s.OK() { // the image of the running kernel may be on its way
					return
				}
			case <-t.Context().Done():
				require.Fail(t, "not reported", states)
			}
		}
	}
	n.agent.SetDesired(documents(w))
	until(map[string]string{next + " nic": "ready"})
	other := want{name: "other", image: n.push("running", ours("1"), nil), module: "helper"}
	n.agent.SetDesired(documents(w, other))
	until(map[string]string{next + " nic": "ready", next + " other": "NoModules"})
	cancel()
	require.NoError(t, <-done)

	n.registry.Close()
	n.Reboot(next)
	n.start()
	s := n.reconcile(w)
	assert.True(t, s.OK(), s.Modules)
	assert.Equal(t, "both", n.runs("top"))
}
