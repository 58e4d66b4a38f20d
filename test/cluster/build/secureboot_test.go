// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/sign"
	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/machine"
	"github.com/kmm-node/kmmd/test/cluster/play"
)

// secureNode is a node with Secure Boot, whose firmware trusts the lab's key.
type secureNode struct {
	*world
	vm   *machine.Machine
	name string
}

// TestSecureBoot: a Dockerfile becomes a module that a node with Secure Boot runs in
// the place of the kernel's own.
func TestSecureBoot(t *testing.T) {
	w := begin(t, "secureboot")
	n := w.secureNode(w.namespace + "-vm")
	text, err := os.ReadFile("testdata/Dockerfile")
	require.NoError(t, err)
	w.dockerfile("df", string(text))
	n.vm.Boot(series)
	_, err = w.player.Reboot(t.Context(), n.name, n.vm.BootID, n.vm.Release)
	require.NoError(t, err)
	inTree := machine.InTreeBuildID(t, series, "dummy")
	n.vm.WaitRuns([]string{"dummy=" + inTree, "dummy.taint="})

	d := document{
		name: "dummy", module: "dummy", replaces: "dummy", selector: "machine: " + n.name, tag: "unsigned", dockerfile: "df",
		args: []string{"{name: BASE, value: '" + base + "'}", "{name: FLAVOUR, value: vanilla}"},
	}
	n.unsigned(d, inTree)
	d.tag, d.sign = "signed", "/opt/lib/modules/${KERNEL_FULL_VERSION}/extra/*.ko"
	first := n.signed(d, inTree)
	d.args[1] = "{name: FLAVOUR, value: strawberry}"
	n.rebuilt(d, first)
	assert.Len(t, w.jobs(), 3)
}

// unsigned: what is built is not what this kernel takes. The node knows before it
// touches the driver that runs.
func (n *secureNode) unsigned(d document, inTree string) {
	n.t.Helper()
	before := registry.asked("10.0.2.2:" + registry.port())
	// Nothing is built at first: no node is free for it.
	cluster.Kubectl(n.t, "taint", "node", n.namespace, "busy=yes:NoSchedule")
	n.apply(d)
	n.waitStatus("Building")
	n.waitCondition("dummy", "Progressing", "True/Building", "no node for the pod")
	assert.Equal(n.t, before, registry.asked("10.0.2.2:"+registry.port()), "the node does not ask for what is not there")
	cluster.Kubectl(n.t, "taint", "node", n.namespace, "busy-")
	n.waitImage("dummy", d.tag, "Ready")
	s := n.waitStatus("Failed/Signature")
	assert.Contains(n.t, s.Message, "unsigned")
	n.waitCondition("dummy", "Degraded", "True/Signature", n.name, "unsigned")
	n.vm.WaitRuns([]string{"dummy=" + inTree, "dummy.taint="})
}

// signed: signed with a key that the firmware trusts, it replaces the kernel's own,
// and leaves no mark of a missing signature.
func (n *secureNode) signed(d document, inTree string) (buildID string) {
	n.t.Helper()
	n.apply(d)
	n.waitCondition("dummy", "Progressing", "True/Building", d.tag)
	i := n.waitImage("dummy", d.tag, "Ready")
	n.waitCondition("dummy", "Ready", "True/AllNodes")
	n.waitStatus("Loaded")
	buildID = n.runs(d.tag, "vanilla")
	assert.NotEqual(n.t, inTree, buildID)
	assert.Equal(n.t, []string{i.Digest}, registry.digests(n.namespace, d.tag), "only the signed image had this name")
	assert.Contains(n.t, registry.asked("10.0.2.2:"+registry.port()), "GET /v2/"+n.namespace+"/manifests/"+i.Digest)
	return buildID
}

// rebuilt: another argument makes another module. The one before runs until it is
// there.
func (n *secureNode) rebuilt(d document, first string) {
	n.t.Helper()
	before := n.status("dummy").Digest
	cluster.Kubectl(n.t, "taint", "node", n.namespace, "busy=yes:NoSchedule")
	n.apply(d)
	n.waitCondition("dummy", "Progressing", "True/Building", "no node for the pod")
	n.waitStatus("Loaded")
	n.vm.WaitRuns([]string{"dummy=" + first})
	cluster.Kubectl(n.t, "taint", "node", n.namespace, "busy-")
	n.vm.WaitRuns([]string{"dummy.build=strawberry"})
	n.waitStatus("Loaded")
	assert.NotEqual(n.t, first, n.runs(d.tag, "strawberry"))
	after := n.waitImage("dummy", d.tag, "Ready").Digest
	assert.Equal(n.t, []string{before, after}, registry.digests(n.namespace, d.tag))
	n.waitCondition("dummy", "Degraded", "False/NoFailures")
}

// runs requires that the node runs what is in an image, signed, and gives its
// build-id.
func (n *secureNode) runs(tag, flavour string) (buildID string) {
	n.t.Helper()
	module := file(n.t, n.pulled(n.image(tag)), "opt/lib/modules/"+release+"/extra/dummy.ko")
	require.NoError(n.t, sign.Verify(module, n.cert))
	path := filepath.Join(n.t.TempDir(), "dummy.ko")
	require.NoError(n.t, os.WriteFile(path, module, 0o600))
	info, err := kmod.ReadInfo(path)
	require.NoError(n.t, err)
	assert.Equal(n.t, flavour, info.Version)
	// O: not of the kernel's own tree; E would be a module without a signature.
	n.vm.WaitRuns([]string{"dummy=" + info.BuildID, "dummy.build=" + flavour, "dummy.taint=O"})
	return info.BuildID
}

// secureNode makes a Node, and a VM, off, that is it.
func (w *world) secureNode(name string) *secureNode {
	w.t.Helper()
	n := &secureNode{world: w, name: name}
	require.NoError(w.t, w.player.AddNodes(w.t.Context(), play.Node{Name: name, Kernel: release, Labels: map[string]string{"machine": name}}))
	identity, err := cluster.ServiceAccount(w.t.Context(), "kmm-system", "kmmd", name)
	require.NoError(w.t, err)
	kubeconfig, err := lab.Kubeconfig(identity, fmt.Sprintf("https://10.0.2.2:%d", cluster.Port()))
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		if w.t.Failed() {
			out, err := cluster.Run(context.WithoutCancel(w.t.Context()), "", "get", "nmc", name, "-o", "yaml")
			w.t.Log(out, err)
		}
	})
	n.vm = machine.New(w.t, cluster, machine.Options{
		Name: name, Kubeconfig: kubeconfig, Firmware: "secureboot", MirrorOf: registry.host, Mirror: "10.0.2.2:" + registry.port(),
	})
	return n
}

// waitStatus waits until the node reports the Module, as it is asked for now, as
// STATE or STATE/REASON.
func (n *secureNode) waitStatus(want string) (out v1beta1.NodeModuleStatus) {
	n.t.Helper()
	lab.WaitFor(n.t, patience, "the node says "+want, func() error {
		nmc, err := n.api.NodeModulesConfigs().Get(n.t.Context(), n.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if nmc.Status.ObservedGeneration != nmc.Generation || len(nmc.Status.Modules) != 1 {
			return fmt.Errorf("it says %+v", nmc.Status)
		}
		out = nmc.Status.Modules[0]
		if got := strings.TrimSuffix(out.State+"/"+out.Reason, "/"); got != want {
			return fmt.Errorf("it says %s: %s", got, out.Message)
		}
		return nil
	})
	return out
}
