// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/test/cluster/fleet"
	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/play"
)

// world is one test's part of a cluster: a namespace, nodes with a label of
// their own, and a registry.
type world struct {
	*fleet.Fleet
	t         *testing.T
	cluster   *lab.Cluster
	player    *play.Player
	kube      kubernetes.Interface
	api       *client.Client
	namespace string
	nodes     []string
}

// begin makes a world in the shared cluster, beside those of other tests, that go
// on meanwhile. namespace names it; all that is in it is gone when the test ends.
func begin(t *testing.T, namespace string) *world {
	t.Helper()
	t.Parallel()
	return beginIn(t, cluster, namespace)
}

func beginIn(t *testing.T, c *lab.Cluster, namespace string) *world {
	t.Helper()
	w := &world{t: t, cluster: c, namespace: namespace, player: play.Start(t, c.Config())}
	w.Fleet = fleet.New(t, c, w.player)
	var err error
	w.kube, err = kubernetes.NewForConfig(c.Config())
	require.NoError(t, err)
	w.api, err = client.New(c.Config())
	require.NoError(t, err)
	w.kubectl("create", "namespace", namespace)
	t.Cleanup(w.end)
	return w
}

// end removes everything, Modules first: their nodes unload them.
func (w *world) end() {
	if w.t.Failed() {
		ctx := context.WithoutCancel(w.t.Context())
		for _, args := range [][]string{{"get", "modules", "-n", w.namespace, "-o", "yaml"}, {"get", "nmc", "-o", "yaml"}, {"get", "nodes", "--show-labels"}, {"get", "pods,ds", "-A", "-o", "wide"}} {
			out, _ := w.cluster.Run(ctx, "", args...)
			w.t.Log(out)
		}
	}
	w.kubectl("delete", "modules", "--all", "-n", w.namespace, "--wait=false")
	for _, n := range w.nodes {
		w.kubectl("delete", "node", n, "--ignore-not-found")
	}
	w.kubectl("delete", "namespace", w.namespace, "--wait=false")
}

// node adds one with an agent and the label of this world.
func (w *world) node(name string, taints ...corev1.Taint) *fleet.Machine {
	w.t.Helper()
	name = w.namespace + "-" + name
	w.nodes = append(w.nodes, name)
	return w.Node(name, map[string]string{"world": w.namespace}, taints...)
}

func (w *world) kubectl(args ...string) string {
	w.t.Helper()
	return w.cluster.Kubectl(w.t, args...)
}

// module is a document of this world in a person's hand: lines of YAML.
type document struct {
	name, image, module string
	spec                []string // more lines below spec
	loader              []string // below spec.moduleLoader
	container           []string // below spec.moduleLoader.container
}

func (w *world) yaml(d document) string {
	if d.module == "" {
		d.module = "mod"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: kmm.sigs.x-k8s.io/v1beta1\nkind: Module\nmetadata: {name: %q, namespace: %s}\nspec:\n", d.name, w.namespace)
	fmt.Fprintf(&b, "  selector: {world: %s}\n", w.namespace)
	for _, line := range d.spec {
		b.WriteString("  " + line + "\n")
	}
	if d.image == "" {
		return b.String()
	}
	b.WriteString("  moduleLoader:\n")
	for _, line := range d.loader {
		b.WriteString("    " + line + "\n")
	}
	b.WriteString("    container:\n")
	for _, line := range d.container {
		b.WriteString("      " + line + "\n")
	}
	fmt.Fprintf(&b, "      registryTLS: {insecure: true}\n      modprobe: {moduleName: %s}\n", d.module)
	fmt.Fprintf(&b, "      kernelMappings:\n      - {regexp: '^6\\.', containerImage: %q}\n", d.image)
	return b.String()
}

// apply is kubectl apply.
func (w *world) apply(docs ...document) {
	w.t.Helper()
	var all []string
	for _, d := range docs {
		all = append(all, w.yaml(d))
	}
	w.applyYAML(strings.Join(all, "---\n"))
}

func (w *world) applyYAML(manifest string) {
	w.t.Helper()
	w.cluster.KubectlInput(w.t, manifest, "apply", "-f", "-")
}

func (w *world) wait(what string, check func() error) {
	w.t.Helper()
	lab.Wait(w.t, what, check)
}

// waitRuns waits until the kernel of a machine runs a module in a version; ""
// for none.
func (w *world) waitRuns(m *fleet.Machine, module, version string) {
	w.t.Helper()
	w.wait(fmt.Sprintf("%s runs %s %q", m.Name, module, version), func() error {
		if got := m.Runs(module); got != version {
			return fmt.Errorf("it runs %q", got)
		}
		return nil
	})
}

func (w *world) getNode(m *fleet.Machine) *corev1.Node {
	w.t.Helper()
	n, err := w.kube.CoreV1().Nodes().Get(context.WithoutCancel(w.t.Context()), m.Name, metav1.GetOptions{})
	require.NoError(w.t, err)
	return n
}

// labels of a node that this API writes, without its prefix.
func (w *world) labels(m *fleet.Machine) map[string]string {
	w.t.Helper()
	out := map[string]string{}
	for k, v := range w.getNode(m).Labels {
		if rest, ok := strings.CutPrefix(k, v1beta1.LabelPrefix); ok {
			out[rest] = v
		}
	}
	return out
}

// ready reports whether the node has the ready label of a Module.
func (w *world) ready(m *fleet.Machine, module string) bool {
	w.t.Helper()
	_, ok := w.getNode(m).Labels[v1beta1.ReadyLabel(w.namespace, module)]
	return ok
}

func (w *world) waitReady(m *fleet.Machine, module string, want bool) {
	w.t.Helper()
	w.wait(fmt.Sprintf("%s is ready on %s: %v", module, m.Name, want), func() error {
		if got := w.ready(m, module); got != want {
			return fmt.Errorf("it is %v; status %s", got, w.status(m, module))
		}
		return nil
	})
}

// status is what a node says of a Module, as JSON; "" when it has not mentioned
// it.
func (w *world) status(m *fleet.Machine, module string) string {
	w.t.Helper()
	s, ok := w.nodeStatus(m, module)
	if !ok {
		return ""
	}
	b, err := json.Marshal(s)
	require.NoError(w.t, err)
	return string(b)
}

func (w *world) nodeStatus(m *fleet.Machine, module string) (v1beta1.NodeModuleStatus, bool) {
	w.t.Helper()
	nmc, ok := w.nmc(m)
	if !ok {
		return v1beta1.NodeModuleStatus{}, false
	}
	for _, s := range nmc.Status.Modules {
		if s.Namespace == w.namespace && s.Name == module {
			return s, true
		}
	}
	return v1beta1.NodeModuleStatus{}, false
}

// waitStatus waits for a node to report a Module as STATE or STATE/REASON.
func (w *world) waitStatus(m *fleet.Machine, module, want string) v1beta1.NodeModuleStatus {
	w.t.Helper()
	var out v1beta1.NodeModuleStatus
	w.wait(fmt.Sprintf("%s is %s on %s", module, want, m.Name), func() error {
		s, ok := w.nodeStatus(m, module)
		got := strings.TrimSuffix(s.State+"/"+s.Reason, "/")
		if !ok || got != want {
			return fmt.Errorf("it is %q %s", got, s.Message)
		}
		out = s
		return nil
	})
	return out
}

func (w *world) nmc(m *fleet.Machine) (*v1beta1.NodeModulesConfig, bool) {
	w.t.Helper()
	nmc, err := w.api.NodeModulesConfigs().Get(context.WithoutCancel(w.t.Context()), m.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, false
	}
	require.NoError(w.t, err)
	return nmc, true
}

// waitCondition waits for a condition of a Module to be STATUS/REASON with a
// message that has all of words, and gives the message. What an assertion would
// look for belongs into words: the first such condition may be of what was before.
func (w *world) waitCondition(module, kind, want string, words ...string) string {
	w.t.Helper()
	message := ""
	w.wait(fmt.Sprintf("Module %s is %s %s", module, kind, want), func() error {
		m, err := w.api.Modules(w.namespace).Get(w.t.Context(), module, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(m.Status.Conditions, kind)
		if c == nil {
			return fmt.Errorf("it has no such condition")
		}
		if got := string(c.Status) + "/" + c.Reason; got != want || c.ObservedGeneration != m.Generation {
			return fmt.Errorf("it is %s of generation %d of %d: %s", got, c.ObservedGeneration, m.Generation, c.Message)
		}
		for _, text := range words {
			if !strings.Contains(c.Message, text) {
				return fmt.Errorf("it does not say %q: %s", text, c.Message)
			}
		}
		message = c.Message
		return nil
	})
	return message
}

// takeAway kills an agent and deletes its node, and with that what was ordered of it.
func (w *world) takeAway(m *fleet.Machine) {
	w.t.Helper()
	m.Kill()
	w.kubectl("delete", "node", m.Name)
	w.wait("the NodeModulesConfig is gone", func() error {
		if _, ok := w.nmc(m); ok {
			return fmt.Errorf("it is there")
		}
		return nil
	})
}

// waitEvent waits for an event on an object, of that reason, whose message has text.
func (w *world) waitEvent(namespace, kind, name, reason, text string) {
	w.t.Helper()
	w.wait("event "+reason, func() error {
		events := w.events(namespace, kind, name)
		for _, e := range events {
			if strings.HasPrefix(e, reason+": ") && strings.Contains(e, text) {
				return nil
			}
		}
		return fmt.Errorf("there are %q", events)
	})
}

func (w *world) waitGone(module string) {
	w.t.Helper()
	w.wait("Module "+module+" is gone", func() error {
		m, err := w.api.Modules(w.namespace).Get(w.t.Context(), module, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("it is there: %v", m.Status.Conditions)
	})
}

// events on an object: "reason: message", in no order.
func (w *world) events(namespace, kind, name string) []string {
	w.t.Helper()
	list, err := w.kube.CoreV1().Events(namespace).List(w.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=" + kind + ",involvedObject.name=" + name})
	require.NoError(w.t, err)
	var out []string
	for i := range list.Items {
		out = append(out, list.Items[i].Reason+": "+list.Items[i].Message)
	}
	return out
}
