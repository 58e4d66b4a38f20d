// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/test/cluster/machine"
)

// The kernels that the VM boots, as test/vm calls them.
const (
	older = "6.1"
	newer = "6.12"
)

// TestNode is the life of one node with a real kernel.
func TestNode(t *testing.T) {
	watcher, err := cluster.StartWatcher(t.Context(), "vm")
	require.NoError(t, err)
	t.Cleanup(watcher.Kill)
	r := newRegistry(t)
	n := newNode(t, r)
	i := images{
		first:   r.push("first", "dummy.ko", map[string]string{"demo.bin": "one"}),
		second:  r.push("second", "variants/second/dummy.ko", map[string]string{"demo.bin": "two"}),
		broken:  r.push("broken", "variants/init-fails/dummy.ko", map[string]string{"demo.bin": "broken"}),
		foreign: r.push("foreign", "variants/other-release/dummy.ko", map[string]string{"demo.bin": "foreign"}),
		fw:      r.push("fw", "kmm_fw.ko", map[string]string{"kmm/fw.bin": "hello"}),
	}

	n.Boot(older)
	n.kubelet()
	d := n.readPages(r)
	n.refused(i)
	n.swapped(i)
	n.unwell(i)
	n.upgraded(i)
	n.unlabelled()

	n.Cut()
	n.otherKernel()

	n.Cut()
	cluster.StopAPIServer()
	r.program.Stop()
	n.alone()
	require.NoError(t, cluster.StartAPIServer(t.Context()))
	n.reunited()
	n.deleted()
	d.end()
}

// images are references of what the Modules here are given.
type images struct{ first, second, broken, foreign, fw string }

// applyDummy applies the Module that puts an image into the place of the kernel's
// own dummy driver.
func (n *node) applyDummy(image, parameters string) {
	n.t.Helper()
	n.apply("dummy", image, fmt.Sprintf("{moduleName: dummy, firmwarePath: /firmware, parameters: [%s]}", parameters),
		"inTreeModulesToRemove: [dummy]")
}

func (n *node) apply(name, image, modprobe string, container ...string) {
	n.t.Helper()
	cluster.KubectlInput(n.t, fmt.Sprintf(`apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: %s, namespace: %s}
spec:
  selector: {machine: vm}
  moduleLoader:
    container:
      modprobe: %s
      registryTLS: {insecure: true}
      kernelMappings:
      - {regexp: '^6\.', containerImage: '%s'}
      %s
`, name, namespace, modprobe, image, strings.Join(container, "\n      ")), "apply", "-f", "-")
}

// refused: the first image is no good. The kernel says why, and the in-tree driver
// is back.
func (n *node) refused(i images) {
	n.t.Helper()
	n.WaitRuns([]string{"dummy=" + machine.InTreeBuildID(n.t, older, "dummy")})
	n.applyDummy(i.broken, "numdummies=2")
	s := n.waitStatus("dummy", "Failed/InitFailed")
	assert.True(n.t, s.RolledBack)
	message := n.waitDegraded("dummy", "InitFailed")
	assert.Contains(n.t, message, "vm: ", "the node is named")
	assert.Contains(n.t, message, "init fails, as it was built to", "the kernel's words")
	n.WaitRuns([]string{"dummy=" + machine.InTreeBuildID(n.t, older, "dummy")}, "firmware/")
	n.waitReady(false, "dummy")
}

// swapped: a good one replaces the in-tree driver; another Module brings a driver
// that asks for firmware.
func (n *node) swapped(i images) {
	n.t.Helper()
	n.applyDummy(i.first, "numdummies=2")
	n.apply("fw", i.fw, "{moduleName: kmm_fw, firmwarePath: /firmware}")
	n.waitReady(true, "dummy", "fw")
	n.waitDegraded("dummy", "NoFailures")
	n.reports(older, "first", "dummy.ko", "numdummies=2")
	n.WaitRuns([]string{
		"dummy=" + machine.BuildID(n.t, older, "dummy.ko"), "dummy.numdummies=2", "firmware/demo.bin=one",
		"kmm_fw=" + machine.BuildID(n.t, older, "kmm_fw.ko"), "kmm_fw.got=5:hello",
	})
	n.waitEvent(`ModuleLoaded .*loaded .*drivers/dummy`)
	n.waitEvent(`ModuleLoadFailed .*drivers/dummy: InitFailed`)
}

// reports requires that the node reports that it runs a test module out of an
// image, and what it is.
func (n *node) reports(series, image, file string, parameters ...string) {
	n.t.Helper()
	s := n.waitStatus("dummy", "Loaded")
	require.Len(n.t, s.KernelModules, 1)
	assert.Equal(n.t, v1beta1.KernelModule{Name: "dummy", BuildID: machine.BuildID(n.t, series, file), Parameters: parameters}, s.KernelModules[0])
	assert.Contains(n.t, s.Image, "/"+image+":"+notInATag.ReplaceAllString(n.Release, "_"))
	assert.Regexp(n.t, `^sha256:[0-9a-f]{64}$`, s.Digest)
	status := n.nmc().Status
	assert.Equal(n.t, n.BootID, status.BootID)
	assert.Equal(n.t, n.Release, status.KernelRelease)
	assert.Equal(n.t, "no", status.SecureBoot)
	assert.Equal(n.t, "none", status.Lockdown)
	assert.Equal(n.t, "no", status.SignatureEnforced)
	assert.NotEmpty(n.t, status.AgentVersion)
	assert.Equal(n.t, "2 loaded", status.Summary)
}

// unwell: changes that can not work leave the driver alone, and say why.
func (n *node) unwell(i images) {
	n.t.Helper()
	runs := []string{"dummy=" + machine.BuildID(n.t, older, "dummy.ko"), "dummy.numdummies=2", "firmware/demo.bin=one"}
	for _, c := range []struct{ image, parameters, reason, words string }{
		{i.first, "numdummies=2, nosuch=1", "InvalidParameter", "nosuch"},
		{i.foreign, "numdummies=2", "WrongKernel", "vermagic"},
		{i.broken, "numdummies=2", "InitFailed", "init fails, as it was built to"},
	} {
		n.applyDummy(c.image, c.parameters)
		assert.Contains(n.t, n.waitDegraded("dummy", c.reason), c.words)
		n.waitStatus("dummy", "Failed/"+c.reason)
		n.WaitRuns(runs)
		n.waitReady(false, "dummy")
		n.waitReady(true, "fw")
	}
	n.applyDummy(i.first, "numdummies=2")
	n.waitReady(true, "dummy")
	n.waitDegraded("dummy", "NoFailures")
}

// upgraded: another build, with another parameter and other firmware.
func (n *node) upgraded(i images) {
	n.t.Helper()
	n.applyDummy(i.second, "numdummies=3")
	n.WaitRuns([]string{"dummy=" + machine.BuildID(n.t, older, "variants/second/dummy.ko"), "dummy.numdummies=3", "firmware/demo.bin=two"})
	n.waitReady(true, "dummy")
	n.reports(older, "second", "variants/second/dummy.ko", "numdummies=3")
}

// unlabelled: the selector does not match for a while.
func (n *node) unlabelled() {
	n.t.Helper()
	cluster.Kubectl(n.t, "label", "node", nodeName, "machine-")
	n.WaitRuns(nil, "dummy=", "kmm_fw=", "firmware/")
	n.waitReady(false, "dummy", "fw")
	cluster.Kubectl(n.t, "label", "node", nodeName, "machine=vm")
	n.waitReady(true, "dummy", "fw")
}

// otherKernel: the node boots into another kernel. Nobody has to do anything.
func (n *node) otherKernel() {
	n.t.Helper()
	before, label := n.BootID, n.follow("dummy")
	n.Boot(newer)
	assert.NotEqual(n.t, before, n.BootID)
	n.kubelet()
	n.Wait("the label goes, and comes back", func() error {
		if got := label.get(); !assert.ObjectsAreEqual([]bool{true, false, true}, got) {
			return fmt.Errorf("it was %v", got)
		}
		return nil
	})
	n.waitReady(true, "fw")
	n.reports(newer, "second", "variants/second/dummy.ko", "numdummies=3")
	n.WaitRuns([]string{
		"dummy=" + machine.BuildID(n.t, newer, "variants/second/dummy.ko"), "dummy.numdummies=3", "firmware/demo.bin=two",
		"kmm_fw=" + machine.BuildID(n.t, newer, "kmm_fw.ko"), "kmm_fw.got=5:hello",
	})
}

// alone: the node boots while there is neither an API server nor a registry, and
// loads what it knows of.
func (n *node) alone() {
	n.t.Helper()
	n.Boot(older)
	n.WaitRuns([]string{
		"dummy=" + machine.BuildID(n.t, older, "variants/second/dummy.ko"), "dummy.numdummies=3", "firmware/demo.bin=two",
		"kmm_fw=" + machine.BuildID(n.t, older, "kmm_fw.ko"), "kmm_fw.got=5:hello",
	})
}

// reunited: the API server is back. The node tells of its boot, and counts as
// ready when the kubelet has told of the same.
func (n *node) reunited() {
	n.t.Helper()
	n.Wait("the node tells of its boot", func() error {
		if got := n.nmc().Status.BootID; got != n.BootID {
			return fmt.Errorf("it is %s, not %s", got, n.BootID)
		}
		return nil
	})
	n.waitReady(false, "dummy", "fw")
	n.kubelet()
	n.waitReady(true, "dummy", "fw")
	n.reports(older, "second", "variants/second/dummy.ko", "numdummies=3")
}

// deleted: Modules that are deleted are unloaded, with their firmware.
func (n *node) deleted() {
	n.t.Helper()
	cluster.Kubectl(n.t, "delete", "module", "dummy", "fw", "-n", namespace)
	n.WaitRuns(nil, "dummy=", "kmm_fw=", "firmware/")
	node, err := n.kube.CoreV1().Nodes().Get(n.t.Context(), nodeName, metav1.GetOptions{})
	require.NoError(n.t, err)
	for label := range node.Labels {
		assert.NotContains(n.t, label, v1beta1.LabelPrefix)
	}
	n.waitEvent(`ModuleUnloaded .*drivers/dummy`)
}
