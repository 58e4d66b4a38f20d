// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// wantOf is a Module as the nodes see it; before is what it was, whose entry is
// used again when it is the same.
func (w *Watcher) wantOf(m *v1beta1.Module, before *want) *want {
	out := &want{
		key: key(m.Namespace, m.Name), module: m, role: roleOf(m), given: isGiven(m),
	}
	out.entry = newEntry(m, w.pullSecretsOf(m))
	if before != nil && same(before.entry, out.entry) {
		out.entry = before.entry
	}
	if out.entry != nil && out.entry.Made != nil {
		out.made = w.madeEntries(m, out.entry, before)
	}
	return out
}

// isGiven says whether nodes may have a Module: it is not being deleted, and its
// finalizer is there.
func isGiven(m *v1beta1.Module) bool {
	return m.DeletionTimestamp == nil && slices.Contains(m.Finalizers, v1beta1.ModuleFinalizer)
}

// roleOf is that of the pods of a Module's plugin; "" without one.
func roleOf(m *v1beta1.Module) string {
	switch {
	case m.Spec.DevicePlugin != nil:
		return v1beta1.RoleDevicePlugin
	case m.Spec.DRA != nil:
		return v1beta1.RoleDRA
	}
	return ""
}

// madeEntries are the entries of the kernels whose image the cluster makes, as far
// as it is known whether that is there.
func (w *Watcher) madeEntries(m *v1beta1.Module, e *entry, before *want) map[string]*entry {
	out, known := map[string]*entry{}, map[string]*entry{}
	if before != nil {
		for _, b := range before.made {
			known[b.hash] = b
		}
	}
	for kernel, i := range w.makings.told(m) {
		next := e
		if i.Digest != "" {
			next = e.with(i.Image, i.Digest)
		}
		if old := known[next.hash]; old != nil {
			next = old
		}
		known[next.hash], out[kernel] = next, next
	}
	return out
}

// says reports whether the nodes are asked for the same.
func (w *want) says(other *want) bool {
	return w.module.UID == other.module.UID && w.module.Generation == other.module.Generation &&
		w.given == other.given && same(w.entry, other.entry) && maps.EqualFunc(w.made, other.made, same)
}

// reached reports whether what a Module says now has been passed on.
func (w *Watcher) reached(m *v1beta1.Module) bool {
	wants := *w.wants.Load()
	i, ok := slices.BinarySearchFunc(wants, key(m.Namespace, m.Name), func(w *want, k string) int { return strings.Compare(w.key, k) })
	return ok && wants[i].module.UID == m.UID && wants[i].module.Generation == m.Generation && wants[i].given == isGiven(m)
}

// toldOf reports whether what nodes are told of a Module has these images.
func (w *Watcher) toldOf(k string, images []v1beta1.ModuleImage) bool {
	wants := *w.wants.Load()
	at, ok := slices.BinarySearchFunc(wants, k, func(w *want, k string) int { return strings.Compare(w.key, k) })
	return ok && !slices.ContainsFunc(images, func(i v1beta1.ModuleImage) bool {
		e := wants[at].made[i.Kernel]
		return i.Digest != "" && (e == nil || e.Made == nil || !slices.Contains(e.Made.Images, v1beta1.MadeImage{Image: i.Image, Digest: i.Digest}))
	})
}

// standing is how a Module stands on its nodes, and whether they have been told
// what it says now.
func (w *Watcher) standing(m *v1beta1.Module) report {
	w.round.Lock()
	defer w.round.Unlock()
	r := w.tally.report(key(m.Namespace, m.Name))
	r.telling = r.telling || !w.reached(m)
	if m.Spec.ModuleLoader == nil {
		r.available = r.plugins // metrics, and the alert about them, compare it with desired
	}
	return r
}

func sortWants(wants []*want) {
	slices.SortFunc(wants, func(a, b *want) int { return strings.Compare(a.key, b.key) })
}

// syncModule looks after everything of a Module that is not on a node: its
// finalizer, plugins and status.
func (w *Watcher) syncModule(ctx context.Context, k string) error {
	m, ok := get[*v1beta1.Module](w.modules, k)
	if !ok {
		w.statuses.forget(k)
		w.expect.forget(moduleWork, k)
		w.tally.drop(k)
		w.events.unsay(moduleWork + k)
		w.events.unsay(imageWork + k)
		w.cfg.Metrics.forgetModule(k)
		return nil
	}
	if w.expect.behind(moduleWork, k, m.ResourceVersion) {
		w.queue.AddAfter(moduleWork+k, patience)
		return nil
	}
	if m.DeletionTimestamp != nil {
		return w.finalize(ctx, m)
	}
	if !slices.Contains(m.Finalizers, v1beta1.ModuleFinalizer) {
		return w.setFinalizers(ctx, m, append(slices.Clone(m.Finalizers), v1beta1.ModuleFinalizer))
	}
	problem := w.syncPlugins(ctx, m)
	return errors.Join(w.writeStatus(ctx, m, problem), problem)
}

// finalize lets a Module go when no node has it any more.
func (w *Watcher) finalize(ctx context.Context, m *v1beta1.Module) error {
	if !slices.Contains(m.Finalizers, v1beta1.ModuleFinalizer) {
		return nil // somebody else still holds it
	}
	if err := w.removePlugins(ctx, m); err != nil {
		return err
	}
	if w.tally.report(key(m.Namespace, m.Name)).presentTotal > 0 {
		return w.writeStatus(ctx, m, nil)
	}
	rest := slices.DeleteFunc(slices.Clone(m.Finalizers), func(f string) bool { return f == v1beta1.ModuleFinalizer })
	return w.setFinalizers(ctx, m, rest)
}

func (w *Watcher) setFinalizers(ctx context.Context, m *v1beta1.Module, finalizers []string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": m.ResourceVersion, "uid": m.UID, "finalizers": finalizers,
	}})
	if err != nil {
		return fmt.Errorf("set finalizers of Module %s/%s: %w", m.Namespace, m.Name, err)
	}
	out, err := w.cfg.API.Modules(m.Namespace).Patch(ctx, m.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set finalizers of Module %s/%s: %w", m.Namespace, m.Name, err)
	}
	w.wroteModule(m, out)
	return nil
}

func (w *Watcher) wroteModule(m, out *v1beta1.Module) {
	w.cfg.Metrics.wrote("modules")
	if out.DeletionTimestamp == nil || len(out.Finalizers) > 0 {
		w.expect.wrote(moduleWork, key(m.Namespace, m.Name), out.ResourceVersion)
	}
}

// statusPace keeps the status of a Module from being written for each of
// thousands of nodes.
type statusPace struct {
	mu   sync.Mutex // guards last
	last map[string]time.Time
}

// wait is how long the next write of a status has to be put off, on so many
// nodes; 0 notes one as made now.
func (p *statusPace) wait(k string, nodes int) time.Duration {
	every := time.Second + time.Duration(nodes)*time.Millisecond
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = map[string]time.Time{}
	}
	if left := every - time.Since(p.last[k]); left > 0 {
		return left
	}
	p.last[k] = time.Now()
	return 0
}

func (p *statusPace) forget(k string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.last, k)
}

// reportOf is how a Module and its images stand.
func (w *Watcher) reportOf(m *v1beta1.Module) report {
	k := key(m.Namespace, m.Name)
	r := w.standing(m)
	r.decided = w.makings.finished(m) // before the images: these are of then, or newer
	r.images = w.makings.list(m)
	r.needed = w.makings.needed(k, r.images)
	r.telling = r.telling || makesImages(m) && !w.toldOf(k, r.needed)
	return r
}

// savedImages notes that a Module's status has these images, and has nodes told of them.
func (w *Watcher) savedImages(k string, images []v1beta1.ModuleImage) {
	if w.makings.unsaved(k, images) {
		w.makings.save(k, images)
		w.fan()
	}
}

// writeStatus writes a Module's status when it differs, and not too often, but for
// images that nodes are told of as soon as it has them: without that, a Watcher that
// came after this one would have nodes go back.
func (w *Watcher) writeStatus(ctx context.Context, m *v1beta1.Module, problem error) error {
	k := key(m.Namespace, m.Name)
	r := w.reportOf(m)
	w.cfg.Metrics.module(k, r)
	status := moduleStatus(m, r, problem)
	if apiequality.Semantic.DeepEqual(status, m.Status) {
		w.savedImages(k, r.images)
		return w.makeEvents(ctx, moduleWork+k, nil)
	}
	if w.makings.unsaved(k, r.images) {
		w.statuses.forget(k)
	}
	if wait := w.statuses.wait(k, r.desired); wait > 0 {
		w.queue.AddAfter(moduleWork+k, wait)
		return nil
	}
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": m.UID},
		{"op": "add", "path": "/status", "value": status},
	})
	if err != nil {
		return fmt.Errorf("write status of Module %s: %w", k, err)
	}
	out, err := w.cfg.API.Modules(m.Namespace).Patch(ctx, m.Name, types.JSONPatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status of Module %s: %w", k, err)
	}
	w.wroteModule(m, out)
	w.savedImages(k, r.images)
	return w.makeEvents(ctx, moduleWork+k, moduleEvents(m, status, time.Now()))
}
