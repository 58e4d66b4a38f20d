// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/machine"
	"github.com/kmm-node/kmmd/test/cluster/play"
)

const (
	namespace = "drivers"
	nodeName  = "vm"
)

// node is the Node that the VM is, as the cluster shows it.
type node struct {
	*machine.Machine
	t      *testing.T
	kube   kubernetes.Interface
	api    *client.Client
	player *play.Player
}

// newNode makes a Node, and a machine, off, that has its identity, and asks the
// registry for what is outside.
func newNode(t *testing.T, r *registry) *node {
	t.Helper()
	n := &node{t: t, player: play.Start(t, cluster.Config())}
	var err error
	n.kube, err = kubernetes.NewForConfig(cluster.Config())
	require.NoError(t, err)
	n.api, err = client.New(cluster.Config())
	require.NoError(t, err)
	require.NoError(t, n.player.AddNodes(t.Context(), play.Node{Name: nodeName, Labels: map[string]string{"machine": "vm"}}))
	identity, err := cluster.ServiceAccount(t.Context(), "kmm-system", "kmmd", nodeName)
	require.NoError(t, err)
	kubeconfig, err := lab.Kubeconfig(identity, fmt.Sprintf("https://10.0.2.2:%d", cluster.Port()))
	require.NoError(t, err)
	t.Cleanup(func() { n.show(t) })
	n.Machine = machine.New(t, cluster, machine.Options{
		Name: nodeName, Kubeconfig: kubeconfig, MirrorOf: outside, Mirror: "10.0.2.2:" + r.port,
	})
	return n
}

// show shows what the cluster knows, for a test that failed.
func (n *node) show(t *testing.T) {
	if !t.Failed() {
		return
	}
	for _, what := range [][]string{{"modules", "-A", "-o", "yaml"}, {"nmc", "-o", "yaml"}, {"nodes", "--show-labels"}, {"events", "-A"}} {
		out, err := cluster.Run(context.WithoutCancel(t.Context()), "", append([]string{"get"}, what...)...)
		t.Log(out, err)
	}
}

// kubelet puts into the Node what a kubelet does after a boot.
func (n *node) kubelet() {
	n.t.Helper()
	_, err := n.player.Reboot(n.t.Context(), nodeName, n.BootID, n.Release)
	require.NoError(n.t, err)
}

// ready is whether the Node has the label of a Module.
func ready(n *corev1.Node, module string) bool {
	_, ok := n.Labels[v1beta1.ReadyLabel(namespace, module)]
	return ok
}

func (n *node) waitReady(want bool, modules ...string) {
	n.t.Helper()
	n.Wait(fmt.Sprintf("the label of %s is there: %v", modules, want), func() error {
		node, err := n.kube.CoreV1().Nodes().Get(n.t.Context(), nodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, m := range modules {
			if ready(node, m) != want {
				return fmt.Errorf("that of %s: %v", m, !want)
			}
		}
		return nil
	})
}

// nmc is what the node reports; empty when there is nothing.
func (n *node) nmc() *v1beta1.NodeModulesConfig {
	n.t.Helper()
	nmc, err := n.api.NodeModulesConfigs().Get(n.t.Context(), nodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &v1beta1.NodeModulesConfig{}
	}
	require.NoError(n.t, err)
	return nmc
}

// waitStatus waits until the node reports a Module, as it is asked for now, as
// STATE or STATE/REASON.
func (n *node) waitStatus(module, want string) v1beta1.NodeModuleStatus {
	n.t.Helper()
	var out v1beta1.NodeModuleStatus
	n.Wait(fmt.Sprintf("the node says %s: %s", module, want), func() error {
		nmc := n.nmc()
		if nmc.Status.ObservedGeneration != nmc.Generation {
			return fmt.Errorf("it speaks of generation %d of %d", nmc.Status.ObservedGeneration, nmc.Generation)
		}
		for _, s := range nmc.Status.Modules {
			if s.Name != module {
				continue
			}
			if got := strings.TrimSuffix(s.State+"/"+s.Reason, "/"); got != want {
				return fmt.Errorf("it says %s: %s", got, s.Message)
			}
			out = s
			return nil
		}
		return fmt.Errorf("it says nothing of it")
	})
	return out
}

// waitDegraded waits until a Module, as it is now, is Degraded for a reason, and
// returns the message.
func (n *node) waitDegraded(module, reason string) string {
	n.t.Helper()
	message := ""
	n.Wait(fmt.Sprintf("%s is degraded: %s", module, reason), func() error {
		m, err := n.api.Modules(namespace).Get(n.t.Context(), module, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(m.Status.Conditions, v1beta1.ConditionDegraded)
		if c == nil || c.Reason != reason || c.ObservedGeneration != m.Generation {
			return fmt.Errorf("generation %d, conditions %v", m.Generation, m.Status.Conditions)
		}
		message = c.Message
		return nil
	})
	return message
}

// waitEvent waits until kubectl describe shows an event of the Node.
func (n *node) waitEvent(pattern string) {
	n.t.Helper()
	want := regexp.MustCompile(pattern)
	n.Wait("kubectl describe node shows "+pattern, func() error {
		if described := cluster.Kubectl(n.t, "describe", "node", nodeName); !want.MatchString(described) {
			return errors.New(described)
		}
		return nil
	})
}

// history is each value that the label of a Module had, one after the other.
type history struct {
	mu     sync.Mutex // guards values
	values []bool
}

func (h *history) get() []bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]bool(nil), h.values...)
}

// follow begins the history of a label, until the test ends or the API server
// stops.
func (n *node) follow(module string) *history {
	n.t.Helper()
	changes, err := n.kube.CoreV1().Nodes().Watch(n.t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + nodeName})
	require.NoError(n.t, err)
	h := &history{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for c := range changes.ResultChan() {
			if node, ok := c.Object.(*corev1.Node); ok {
				h.mu.Lock()
				if value := ready(node, module); len(h.values) == 0 || h.values[len(h.values)-1] != value {
					h.values = append(h.values, value)
				}
				h.mu.Unlock()
			}
		}
	}()
	n.t.Cleanup(func() { changes.Stop(); <-done })
	return h
}
