// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/play"
)

var cluster *lab.Cluster

func TestMain(m *testing.M) {
	if os.Getenv(child) != "" {
		beChild()
	}
	os.Exit(lab.Main(m, lab.Options{ControllerManager: true, Scheduler: true, Install: []string{"deploy/crd"}}, &cluster))
}

func newClient(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	return c
}

// addNode plays a node, which goes with the test.
func addNode(t *testing.T, player *play.Player, n play.Node) *corev1.Node {
	t.Helper()
	require.NoError(t, player.AddNodes(t.Context(), n))
	t.Cleanup(func() { cluster.Kubectl(t, "delete", "node", n.Name, "--ignore-not-found") })
	node, err := newClient(t, cluster.Config()).CoreV1().Nodes().Get(t.Context(), n.Name, metav1.GetOptions{})
	require.NoError(t, err)
	return node
}

func TestKubectl(t *testing.T) {
	out := cluster.Kubectl(t, "version")
	assert.Regexp(t, `(?s)Client Version: v1\.\d+\.\d+\n.*Server Version: v1\.\d+\.\d+\n`, out) // not v0.0.0-master+…
	out, err := cluster.Run(t.Context(), "", "get", "nodes", "nobody")
	require.ErrorContains(t, err, `"nobody" not found`)
	assert.Empty(t, out)
}

func TestDefinitionsAreEstablished(t *testing.T) {
	out := cluster.Kubectl(t, "get", "crd", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Established")].status}{"\n"}{end}`)
	for _, kind := range []string{"modules", "nodemodulesconfigs"} {
		assert.Contains(t, out, kind+".kmm.sigs.x-k8s.io True\n")
	}
	assert.Empty(t, cluster.Kubectl(t, "get", "nmc"))
}

func TestInstallLeavesWorkloadsOut(t *testing.T) {
	dir := t.TempDir()
	config := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: installed, namespace: default}\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(daemonSet+"---\n"+config), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte("resources: [a.yaml]\nnamePrefix: by-kustomize-\n"), 0o600))
	t.Cleanup(func() { cluster.Kubectl(t, "delete", "configmap", "installed", "by-kustomize-installed") })
	require.NoError(t, cluster.Install(t.Context(), filepath.Join(dir, "a.yaml"), dir))
	assert.Equal(t, "configmap/by-kustomize-installed\nconfigmap/installed\n", cluster.Kubectl(t, "get", "configmap,daemonset", "-o", "name", "--field-selector=metadata.name!=kube-root-ca.crt"))
}

const daemonSet = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: plugin, namespace: default}
spec:
  selector: {matchLabels: {app: plugin}}
  template:
    metadata: {labels: {app: plugin}}
    spec:
      nodeSelector: {lab/ready: ""}
      containers: [{name: plugin, image: registry.example/plugin:1}]
`

func TestDaemonSetFollowsLabel(t *testing.T) {
	player := play.Start(t, cluster.Config())
	addNode(t, player, play.Node{Name: "ds-1", Labels: map[string]string{"lab/ready": ""}})
	addNode(t, player, play.Node{Name: "ds-2"})
	cluster.KubectlInput(t, daemonSet, "apply", "-f", "-")
	t.Cleanup(func() { cluster.Kubectl(t, "delete", "daemonset", "plugin") })

	pods := func() string {
		return cluster.Kubectl(t, "get", "pods", "-l", "app=plugin", "-o",
			`jsonpath={range .items[*]}{.spec.nodeName} {.status.phase} {.status.conditions[?(@.type=="Ready")].status} {.metadata.deletionGracePeriodSeconds};{end}`)
	}
	become := func(want string) {
		t.Helper()
		lab.Wait(t, "pods are "+want, func() error {
			if got := pods(); got != want {
				return fmt.Errorf("they are %q", got)
			}
			return nil
		})
	}
	become("ds-1 Running True ;")
	lab.Wait(t, "the DaemonSet counts it", func() error {
		if got := cluster.Kubectl(t, "get", "ds", "plugin", "-o", "jsonpath={.status.numberReady}"); got != "1" {
			return fmt.Errorf("%s are ready", got)
		}
		return nil
	})

	player.Pause("ds-1")
	cluster.Kubectl(t, "label", "node", "ds-1", "lab/ready-")
	become("ds-1 Running True 30;") // a paused node keeps what is being deleted
	player.Resume("ds-1")
	become("")
	cluster.Kubectl(t, "label", "node", "ds-2", "lab/ready=")
	become("ds-2 Running True ;")
}

func TestRebootAndReadiness(t *testing.T) {
	player := play.Start(t, cluster.Config())
	addNode(t, player, play.Node{Name: "ready"}) // with no such node the controller takes itself for cut off
	before := addNode(t, player, play.Node{Name: "reboots"})
	boot, err := player.Reboot(t.Context(), "reboots", "", "6.12.117+deb12-cloud-amd64")
	require.NoError(t, err)
	require.NoError(t, player.SetNodeReady(t.Context(), "reboots", false))

	nodes := newClient(t, cluster.Config()).CoreV1().Nodes()
	lab.Wait(t, "the taint of a node that is not ready", func() error {
		node, err := nodes.Get(t.Context(), "reboots", metav1.GetOptions{})
		require.NoError(t, err)
		assert.NotEqual(t, before.Status.NodeInfo.BootID, node.Status.NodeInfo.BootID)
		assert.Equal(t, boot, node.Status.NodeInfo.BootID)
		assert.Equal(t, "6.12.117+deb12-cloud-amd64", node.Status.NodeInfo.KernelVersion)
		if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
			return t.Key == corev1.TaintNodeNotReady && t.Effect == corev1.TaintEffectNoExecute
		}) {
			return fmt.Errorf("there is none: %v", node.Spec.Taints)
		}
		return nil
	})
}

func TestTokenIsBoundToNode(t *testing.T) {
	player := play.Start(t, cluster.Config())
	addNode(t, player, play.Node{Name: "token"})
	cluster.Kubectl(t, "create", "namespace", "token")
	t.Cleanup(func() { cluster.Kubectl(t, "delete", "namespace", "token", "--wait=false") })
	cluster.Kubectl(t, "-n", "token", "create", "serviceaccount", "agent")

	config, err := cluster.ServiceAccount(t.Context(), "token", "agent", "token")
	require.NoError(t, err)
	me, err := newClient(t, config).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	require.NoError(t, err)
	assert.Equal(t, "system:serviceaccount:token:agent", me.Status.UserInfo.Username)
	assert.Equal(t, authenticationv1.ExtraValue{"token"}, me.Status.UserInfo.Extra["authentication.kubernetes.io/node-name"])

	config, err = cluster.Kubelet("token")
	require.NoError(t, err)
	me, err = newClient(t, config).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	require.NoError(t, err)
	assert.Equal(t, "system:node:token", me.Status.UserInfo.Username)
	assert.Contains(t, me.Status.UserInfo.Groups, "system:nodes")
}

func TestOwnedGoesWithNode(t *testing.T) {
	player := play.Start(t, cluster.Config())
	node := addNode(t, player, play.Node{Name: "owner"})
	kmm, err := client.New(cluster.Config())
	require.NoError(t, err)
	_, err = kmm.NodeModulesConfigs().Create(t.Context(), &v1beta1.NodeModulesConfig{ObjectMeta: metav1.ObjectMeta{
		Name: "owner", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "owner", UID: node.UID}},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)

	require.NoError(t, player.RemoveNodes(t.Context(), "owner"))
	lab.Wait(t, "the nmc goes with its node", func() error {
		_, err := kmm.NodeModulesConfigs().Get(t.Context(), "owner", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is there"))
	})
}

func TestRequestsAreCounted(t *testing.T) {
	config, err := cluster.User("writer", "system:masters")
	require.NoError(t, err)
	config.UserAgent = "kmm-watcher/1"
	mark, err := cluster.Mark(t.Context())
	require.NoError(t, err)
	before := count(t)
	maps := newClient(t, config).CoreV1().ConfigMaps("default")
	_, err = maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "audit"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = maps.Get(t.Context(), "audit", metav1.GetOptions{})
	require.NoError(t, err)
	require.NoError(t, maps.Delete(t.Context(), "audit", metav1.DeleteOptions{}))
	require.Error(t, maps.Delete(t.Context(), "audit", metav1.DeleteOptions{}))

	all, err := cluster.Requests(t.Context(), mark)
	require.NoError(t, err)
	var mine []string
	for _, r := range all {
		if r.UserAgent == "kmm-watcher/1" {
			mine = append(mine, fmt.Sprintf("%s %s %s/%s %s %d", r.User, r.Verb, r.Namespace, r.Resource, r.Name, r.Code))
		}
	}
	assert.Equal(t, "writer create default/configmaps audit 201\nwriter delete default/configmaps audit 200\nwriter delete default/configmaps audit 404",
		strings.Join(mine, "\n"))
	lab.Wait(t, "the last one is counted", func() error { // after it was answered
		if got := count(t); got != before+1 {
			return fmt.Errorf("%d, before it %d", got, before)
		}
		return nil
	})

	mark, err = cluster.Mark(t.Context())
	require.NoError(t, err)
	all, err = cluster.Requests(t.Context(), mark)
	require.NoError(t, err)
	assert.Empty(t, slices.DeleteFunc(all, func(r lab.Request) bool { return r.User != "writer" }))
}

// count is how often a ConfigMap was not there for somebody who deletes it.
func count(t *testing.T) (n int) {
	t.Helper()
	counts, err := cluster.Counts(t.Context())
	require.NoError(t, err)
	for _, c := range counts {
		if c.Resource == "configmaps" && c.Verb == "DELETE" && c.Code == "404" {
			n += c.N
		}
	}
	return n
}
