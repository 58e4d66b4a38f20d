// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// view is everything known about one node that is told something; false when it is
// gone.
func (w *Watcher) view(name string, wants []*want) (view, bool) {
	node, ok := get[*corev1.Node](w.nodes, name)
	if !ok {
		return view{}, false
	}
	v := view{node: node, wants: wants}
	v.config, _ = get[*config](w.configs, name)
	pods, err := w.pods.GetIndexer().ByIndex(podsByNode, name)
	if err != nil {
		return v, true // the index is there
	}
	for _, obj := range pods {
		if p, ok := obj.(*corev1.Pod); ok && alive(p) {
			v.plugins = append(v.plugins, pluginPod{
				key: podModule(p), role: p.Labels[v1beta1.RoleLabel], ready: podReady(p), versioned: DaemonSetVersion(p.Labels) != "",
			})
		}
	}
	return v, true
}

// alive reports whether a pod may still have processes.
func alive(p *corev1.Pod) bool {
	return p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

// syncNode makes one node what render says.
func (w *Watcher) syncNode(ctx context.Context, name string) error {
	wants := w.wants.Load()
	v, ok := w.view(name, *wants)
	if !ok {
		w.forgetNode(name, wants)
		return nil
	}
	seen := ""
	if v.config != nil {
		seen = v.config.ResourceVersion
	}
	if w.expect.behind(nodeWork, name, v.node.ResourceVersion) || w.expect.behind(configWork, name, seen) {
		w.queue.AddAfter(nodeWork+name, patience) // unless an event comes first, and it will
		return nil
	}
	if v.config != nil && v.config.owner != v.node.UID {
		return w.removeConfig(ctx, v.config)
	}
	d := render(v, func(k string) bool { return w.tally.admit(k, name) })
	if err := w.patchLabels(ctx, v.node, d.labels); err != nil {
		return err
	}
	written, err := true, error(nil)
	if d.write {
		written, err = w.writeConfig(ctx, v, d)
	}
	if written && err == nil {
		w.settle(w.tally.set(name, d.standings))
		w.told(name, wants)
	}
	// What has become ready by the labels is not found out again.
	events, again := w.events.due(v, d, time.Now())
	if again > 0 {
		w.queue.AddAfter(nodeWork+name, again)
	}
	return errors.Join(err, w.makeEvents(ctx, nodeWork+name, events))
}

// settle has looked at what it changes how a node stands.
func (w *Watcher) settle(changed, wake []string) {
	for _, k := range changed {
		w.queue.AddAfter(moduleWork+k, together)
	}
	for _, n := range wake {
		w.queue.Add(nodeWork + n)
	}
}

// told has Modules looked at that wait for having reached all nodes: one was told
// this, which may be old by now.
func (w *Watcher) told(name string, this *[]*want) {
	w.round.Lock()
	defer w.round.Unlock()
	if this != w.wants.Load() {
		return
	}
	for _, k := range w.tally.told(name) {
		w.queue.Add(moduleWork + k)
	}
}

func (w *Watcher) forgetNode(name string, wants *[]*want) {
	w.expect.forget(nodeWork, name)
	w.events.forget(name)
	w.settle(w.tally.forget(name))
	w.told(name, wants)
}

// patchLabels changes labels of a node in one request.
func (w *Watcher) patchLabels(ctx context.Context, n *corev1.Node, labels map[string]*string) error {
	if len(labels) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels, "uid": n.UID}})
	if err != nil {
		return fmt.Errorf("label node %s: %w", n.Name, err)
	}
	out, err := w.cfg.Kube.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil // an event will say so
	}
	if err != nil {
		return fmt.Errorf("label node %s: %w", n.Name, err)
	}
	w.cfg.Metrics.wrote("nodes")
	w.expect.wrote(nodeWork, n.Name, out.ResourceVersion)
	return nil
}

// writeConfig writes a node's whole spec. It reports false when it can not be
// written yet, since a plugin still runs.
func (w *Watcher) writeConfig(ctx context.Context, v view, d decision) (bool, error) {
	if len(d.leaving) > 0 {
		gone, err := w.pluginsGone(ctx, v.node.Name, d.leaving)
		if err != nil || !gone {
			return false, err
		}
	}
	modules := []v1beta1.NodeModule{}
	for _, e := range d.entries {
		modules = append(modules, e.NodeModule)
	}
	var held []v1beta1.HeldModule
	for _, k := range d.keeps {
		namespace, name, _ := strings.Cut(k, "/")
		held = append(held, v1beta1.HeldModule{Namespace: namespace, Name: name})
	}
	configs := w.cfg.API.NodeModulesConfigs()
	var out *v1beta1.NodeModulesConfig
	var err error
	if v.config == nil {
		out, err = configs.Create(ctx, &v1beta1.NodeModulesConfig{
			ObjectMeta: metav1.ObjectMeta{Name: v.node.Name, OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "v1", Kind: "Node", Name: v.node.Name, UID: v.node.UID},
			}},
			Spec: v1beta1.NodeModulesConfigSpec{Modules: modules, Held: held},
		}, metav1.CreateOptions{})
	} else {
		var patch []byte
		patch, err = json.Marshal(map[string]any{
			"metadata": map[string]any{"resourceVersion": v.config.ResourceVersion, "uid": v.config.UID},
			"spec":     map[string]any{"modules": modules, "held": held}, // an empty list has to be said
		})
		if err == nil {
			out, err = configs.Patch(ctx, v.node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		}
	}
	if err != nil {
		return false, fmt.Errorf("write NodeModulesConfig %s: %w", v.node.Name, err)
	}
	w.cfg.Metrics.wrote("nodemodulesconfigs")
	w.expect.wrote(configWork, v.node.Name, out.ResourceVersion)
	return true, nil
}

// pluginsGone asks the API server itself whether the plugins of some Modules have
// left a node: what the informer has may be a moment old.
func (w *Watcher) pluginsGone(ctx context.Context, node string, keys []string) (bool, error) {
	list, err := w.cfg.Kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		LabelSelector: v1beta1.RoleLabel, FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String(),
	})
	if err != nil {
		return false, fmt.Errorf("list plugin pods of node %s: %w", node, err)
	}
	for i := range list.Items {
		if p := &list.Items[i]; slices.Contains(keys, podModule(p)) && alive(p) {
			return false, nil
		}
	}
	return true, nil
}

// removeConfig removes what was another Node's of the same name.
func (w *Watcher) removeConfig(ctx context.Context, c *config) error {
	if c.DeletionTimestamp != nil {
		return nil
	}
	err := w.cfg.API.NodeModulesConfigs().Delete(ctx, c.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &c.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete NodeModulesConfig %s of a former Node: %w", c.Name, err)
	}
	w.cfg.Metrics.wrote("nodemodulesconfigs")
	w.cfg.Log.Info("removed the NodeModulesConfig of a former Node of that name", "node", c.Name)
	return nil
}
