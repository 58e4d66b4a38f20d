// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// fieldManager owns the fields that are applied.
const fieldManager = managedBy

// appliedSets remember what has been applied, so that the same is not sent again
// at each look.
type appliedSets struct {
	mu   sync.Mutex // guards sets
	sets map[string]applied
}

type applied struct {
	hash       string
	uid        types.UID
	generation int64
	version    string // resourceVersion
}

// current reports whether an object is as it was applied: the same was applied
// last, and nobody has changed it since.
func (a *appliedSets) current(id, hash string, object metav1.Object) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	last, ok := a.sets[id]
	if !ok || last.hash != hash {
		return false
	}
	if object == nil {
		return false
	}
	if c, err := resourceversion.CompareResourceVersion(object.GetResourceVersion(), last.version); err == nil && c < 0 {
		return true // not seen yet
	}
	if object.GetUID() != last.uid {
		return false // somebody has made it again
	}
	if last.generation == 0 { // of a kind that counts none, and has no status that others change: Roles, RoleBindings
		return object.GetResourceVersion() == last.version
	}
	return object.GetGeneration() == last.generation
}

func (a *appliedSets) note(id, hash string, object metav1.Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sets == nil {
		a.sets = map[string]applied{}
	}
	a.sets[id] = applied{hash, object.GetUID(), object.GetGeneration(), object.GetResourceVersion()}
}

// hashOf stands for what v marshals to: 64 hexadecimal digits.
func hashOf(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", v, err)) // types of the API, and strings, lists and maps
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// syncPlugins applies the DaemonSets and DeviceClasses of a Module, and removes
// those it does not have any more. Those of a version that a node still runs
// stay as they are.
func (w *Watcher) syncPlugins(ctx context.Context, m *v1beta1.Module) error {
	wanted := map[string]bool{}
	sets, err := DaemonSets(m)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range sets {
		wanted[*d.Name] = true
		id, hash := key(m.Namespace, *d.Name), hashOf(d)
		if have, ok := get[*appsv1.DaemonSet](w.daemonSets, id); ok && w.applied.current("ds/"+id, hash, have) {
			continue
		}
		out, err := w.applyDaemonSet(ctx, m, d)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		w.cfg.Metrics.wrote("daemonsets")
		w.applied.note("ds/"+id, hash, out)
	}
	versions := w.tally.versions(key(m.Namespace, m.Name))
	errs = append(errs, w.deleteDaemonSets(ctx, m, func(d *appsv1.DaemonSet) bool {
		version := DaemonSetVersion(d.Labels)
		return !wanted[d.Name] && (version == "" || !versions[version] || m.Spec.DevicePlugin == nil && m.Spec.DRA == nil)
	}), w.syncDeviceClasses(ctx, m))
	return errors.Join(errs...)
}

// errForeign is an object of that name which is not this Module's.
var errForeign = errors.New("there is one of that name that is not this Module's: rename one of the two, or delete it")

// applyDaemonSet takes no stranger's object over.
func (w *Watcher) applyDaemonSet(ctx context.Context, m *v1beta1.Module, d *appsv1ac.DaemonSetApplyConfiguration) (*appsv1.DaemonSet, error) {
	api := w.cfg.Kube.AppsV1().DaemonSets(m.Namespace)
	have, err := api.Get(ctx, *d.Name, metav1.GetOptions{})
	if err == nil && !OwnedBy(have, m) {
		err = errForeign
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("apply DaemonSet %s/%s: %w", m.Namespace, *d.Name, err)
	}
	out, err := api.Apply(ctx, d, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil {
		return nil, fmt.Errorf("apply DaemonSet %s/%s: %w", m.Namespace, *d.Name, err)
	}
	return out, nil
}

// removePlugins removes all of them.
func (w *Watcher) removePlugins(ctx context.Context, m *v1beta1.Module) error {
	err := w.deleteDaemonSets(ctx, m, func(*appsv1.DaemonSet) bool { return true })
	without := m.DeepCopy()
	without.Spec.DRA = nil
	return errors.Join(err, w.syncDeviceClasses(ctx, without))
}

func (w *Watcher) deleteDaemonSets(ctx context.Context, m *v1beta1.Module, which func(*appsv1.DaemonSet) bool) error {
	var errs []error
	for _, obj := range w.daemonSets.GetStore().List() {
		d, ok := obj.(*appsv1.DaemonSet)
		if !ok || d.DeletionTimestamp != nil || !OwnedBy(d, m) || !which(d) {
			continue
		}
		background := metav1.DeletePropagationBackground
		err := w.cfg.Kube.AppsV1().DaemonSets(d.Namespace).Delete(ctx, d.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &d.UID}, PropagationPolicy: &background,
		})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete DaemonSet %s/%s: %w", d.Namespace, d.Name, err))
			continue
		}
		w.cfg.Metrics.wrote("daemonsets")
	}
	return errors.Join(errs...)
}

// is reports whether exactly this was applied last.
func (a *appliedSets) is(id, hash string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sets[id].hash == hash
}

func (a *appliedSets) known(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.sets[id]
	return ok
}
