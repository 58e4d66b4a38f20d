// SPDX-License-Identifier: Apache-2.0

package clustertest

import (
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/spec"
)

func testOrders(t *testing.T, s Server) {
	n := newNode(t, s)
	n.start()
	assert.Empty(t, n.next(), "there is no object: nothing is asked for, and that is known")
	created := n.order(entry("nic", "r1"), entry("disk", "r1"))
	got := n.next()
	assert.Equal(t, created.Generation, got.Generation)
	require.Len(t, got.Modules, 2)
	nic := got.Modules[0]
	if nic.Metadata.Name != "nic" {
		nic = got.Modules[1]
	}
	assert.Equal(t, "r1", nic.Revision)
	assert.Equal(t, []string{"one", "two"}, nic.PullSecrets)
	choice, err := nic.For("6.1.0")
	require.NoError(t, err)
	assert.Equal(t, "registry.example/x:1", choice.Image)
	assert.Equal(t, []string{"dummy"}, choice.RemoveInTree)
	assert.Equal(t, []string{spec.UseNetwork}, choice.AllowInUse)
	choice, err = nic.For("none")
	require.NoError(t, err)
	assert.Empty(t, choice.RemoveInTree, "an explicit [] is still there")

	changed := entry("nic", "r2")
	changed.ModuleLoader.Container.Modprobe.Parameters = []string{"a=1"}
	n.order(changed)
	got = n.next()
	assert.Equal(t, created.Generation+1, got.Generation)
	require.Len(t, got.Modules, 1, "the other one is gone")
	assert.Equal(t, "r2", got.Modules[0].Revision)
	n.order()
	got = n.next()
	assert.Empty(t, got.Modules)
	assert.Equal(t, created.Generation+2, got.Generation)
}

func testInvalid(t *testing.T, s Server) {
	n := newNode(t, s)
	bad := entry("bad", "r7")
	bad.ModuleLoader.Container.ContainerImage = "no-tag"
	raw := entry("raw", "r1") // the API server has filled in dirName
	raw.ModuleLoader.Container.Modprobe = v1beta1.ModprobeSpec{
		RawArgs: &v1beta1.ModprobeArgs{Load: []string{"-f", "dummy"}, Unload: []string{"-r", "dummy"}}, DirName: "/opt"}
	n.order(entry("nic", "r1"), bad, raw)
	n.start()
	got := n.next()
	assert.Len(t, got.Modules, 2)
	require.Len(t, got.Refused, 1)
	r := got.Refused[0]
	assert.Equal(t, "default/bad", r.Key())
	assert.Equal(t, "r7", r.Revision)
	assert.Equal(t, spec.ReasonInvalid, r.Reason)
	assert.Contains(t, r.Message, "Module default/bad (cluster): spec.moduleLoader.container.containerImage: ")
	assert.True(t, got.Complete(), "it spoils nothing else")
}

func testGone(t *testing.T, s Server) {
	n := newNode(t, s)
	n.order(entry("nic", "r1"))
	n.order(entry("nic", "r2"))
	n.start()
	assert.EqualValues(t, 2, n.next().Generation)
	require.NoError(t, n.admin.NodeModulesConfigs().Delete(t.Context(), n.name, metav1.DeleteOptions{}))
	n.order(entry("nic", "r3"))
	got := n.next()
	require.Len(t, got.Modules, 1, "nothing was said when the object went")
	assert.Equal(t, "r3", got.Modules[0].Revision)
	assert.EqualValues(t, 1, got.Generation, "of the new object")

	n.stop()
	require.NoError(t, n.admin.NodeModulesConfigs().Delete(t.Context(), n.name, metav1.DeleteOptions{}))
	n.start()
	assert.Equal(t, got, n.next(), "the last order stays while there is none")
	n.order(entry("nic", "r4"))
	assert.Equal(t, "r4", n.next().Modules[0].Revision)
}

func testHeld(t *testing.T, s Server) {
	n := newNode(t, s)
	n.order(entry("nic", "r1"), entry("disk", "r1"))
	n.start()
	require.Len(t, n.next().Modules, 2)
	require.NoError(t, n.admin.NodeModulesConfigs().Delete(t.Context(), n.name, metav1.DeleteOptions{}))
	held := v1beta1.NodeModulesConfigSpec{
		Modules: []v1beta1.NodeModule{entry("disk", "r2")},
		Held:    []v1beta1.HeldModule{{Namespace: "default", Name: "nic"}, {Namespace: "default", Name: "other"}},
	}
	n.orderSpec(held)
	got := n.next()
	said := func() []string {
		var out []string
		for i := range got.Modules {
			out = append(out, got.Modules[i].Key()+" "+got.Modules[i].Revision)
		}
		slices.Sort(out)
		return out
	}
	assert.Equal(t, []string{"default/disk r2", "default/nic r1"}, said())
	n.stop()
	n.start()
	assert.Equal(t, got, n.next(), "also after a start")
	held.Modules[0].Revision = "r3"
	n.orderSpec(held)
	got = n.next()
	assert.Equal(t, []string{"default/disk r3", "default/nic r1"}, said())
	held.Modules = append(held.Modules, entry("nic", "r2"))
	n.orderSpec(held)
	got = n.next()
	assert.Equal(t, []string{"default/disk r3", "default/nic r2"}, said(), "what it is asked for now counts")
	held.Modules, held.Held = held.Modules[:1], nil
	n.orderSpec(held)
	got = n.next()
	assert.Equal(t, []string{"default/disk r3"}, said())
}

func testRestart(t *testing.T, s Server) {
	n := newNode(t, s)
	n.order(entry("nic", "r1"))
	n.start()
	first := n.next()
	n.report(1, "one")
	n.marked("one")
	n.stop()
	file, err := os.Stat(n.state)
	require.NoError(t, err)
	assert.EqualValues(t, 0o600, file.Mode())
	before := n.object().ResourceVersion

	n.start()
	saved, ok := n.source.Saved()
	assert.True(t, ok)
	assert.Equal(t, first, saved)
	assert.Equal(t, first, n.next(), "at once, out of the file")
	n.report(1, "one")
	n.order(entry("nic", "r2")) // so that the watch is known to run
	got := n.next()
	assert.Equal(t, "r2", got.Modules[0].Revision, "the same order is not told twice")
	n.report(got.Generation, "two")
	n.marked("two")
	assert.EqualValues(t, 2, n.patches.Load(), "what the object has is not written again")
	assert.NotEqual(t, before, n.object().ResourceVersion)
	n.stop()

	again, err := os.Stat(n.state)
	require.NoError(t, err)
	n.start()
	n.next()
	n.report(got.Generation, "three")
	n.marked("three")
	n.stop()
	unchanged, err := os.Stat(n.state)
	require.NoError(t, err)
	assert.True(t, os.SameFile(again, unchanged), "the file is written when the order changes")
}

func testSecrets(t *testing.T, s Server) {
	n := newNode(t, s)
	good, gone := n.name+".good", n.name+".gone"
	n.secret(http.MethodPost, good, "first")
	t.Cleanup(func() { n.secret(http.MethodDelete, good, "") })
	n.start(good, gone)
	n.next()
	require.Eventually(t, func() bool { // until the server knows what was granted a moment ago
		return n.source.Secrets(t.Context(), "default", []string{good})[0].Err == nil
	}, patience, 20*time.Millisecond)
	got := n.source.Secrets(t.Context(), "default", []string{gone, good, "../x"})
	require.Len(t, got, 3)
	assert.Equal(t, "pull secret default/"+gone, got[0].Name)
	assert.ErrorContains(t, got[0].Err, "not found: create it")
	require.NoError(t, got[1].Err)
	assert.Contains(t, string(got[1].Data), `"first"`)
	assert.ErrorContains(t, got[2].Err, "is no name of a Secret")
	n.secret(http.MethodPut, good, "second")
	assert.Contains(t, string(n.source.Secrets(t.Context(), "default", []string{good})[0].Data), `"second"`, "each time anew")
}

func testStopped(t *testing.T, s Server) {
	n := newNode(t, s)
	n.order(entry("nic", "r1"))
	n.start()
	first := n.next()
	n.report(1, "one")
	n.marked("one")
	n.secret(http.MethodPost, n.name, "x")
	patches := n.patches.Load()

	s.Stop(t)
	secrets := n.source.Secrets(t.Context(), "default", []string{n.name})
	assert.ErrorContains(t, secrets[0].Err, "the API server can not be asked")
	for _, mark := range []string{"two", "three", "four"} {
		n.report(1, mark)
	}
	n.stop()
	n.start() // in the dark
	assert.Equal(t, first, n.next())
	n.report(1, "four")
	n.report(1, "five")
	s.Start(t)

	got := n.marked("five")
	assert.Equal(t, "five", got.KernelRelease)
	n.order(entry("nic", "r2"))
	assert.Equal(t, "r2", n.next().Modules[0].Revision, "nothing was wanted in between but the same")
	assert.LessOrEqual(t, n.patches.Load()-patches, int64(3), "tries, and one write of the last")
	n.secret(http.MethodDelete, n.name, "")
}
