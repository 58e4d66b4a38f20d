// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"testing"

	"github.com/stretchr/testify/assert"
	appsv1 "k8s.io/api/apps/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// TestApplied: what was applied last is not sent again, unless somebody has changed the object or made another one.
func TestApplied(t *testing.T) {
	object := func(uid types.UID, generation int64, version string) *metav1.ObjectMeta {
		return &metav1.ObjectMeta{UID: uid, Generation: generation, ResourceVersion: version}
	}
	var a appliedSets
	a.note("ds/ns/a", "h", object("u", 1, "5"))
	a.note("role/ns/a", "h", object("u", 0, "5"))
	for _, tt := range []struct {
		name, id, hash string
		object         *metav1.ObjectMeta
		want           bool
	}{
		{"the same", "ds/ns/a", "h", object("u", 1, "5"), true},
		{"its status has changed", "ds/ns/a", "h", object("u", 1, "9"), true},
		{"not seen yet", "ds/ns/a", "h", object("before", 7, "4"), true},
		{"something else is wanted", "ds/ns/a", "other", object("u", 1, "5"), false},
		{"changed", "ds/ns/a", "h", object("u", 2, "9"), false},
		{"made again, of the same generation", "ds/ns/a", "h", object("v", 1, "9"), false},
		{"never applied", "ds/ns/b", "h", object("u", 1, "5"), false},
		{"of a kind that counts no generations", "role/ns/a", "h", object("u", 0, "5"), true},
		{"of such a kind, and changed", "role/ns/a", "h", object("u", 0, "9"), false},
	} {
		assert.Equal(t, tt.want, a.current(tt.id, tt.hash, tt.object), tt.name)
	}
}

// TestMadeAgain: an object that is another one is looked at, though its generation is the same.
func TestMadeAgain(t *testing.T) {
	w := idle(fake.NewClientset(), nil)
	defer w.queue.ShutDown()
	labels := map[string]string{v1beta1.ModuleNameLabel: "a", v1beta1.ModuleNamespaceLabel: "ns"}
	object := func(uid types.UID) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "ns", Name: "a", UID: uid, Generation: 1, Labels: labels}
	}
	for _, looks := range []struct {
		name   string
		update func(from, to types.UID)
	}{
		{"DaemonSet", func(from, to types.UID) {
			w.daemonSetEvents().OnUpdate(&appsv1.DaemonSet{ObjectMeta: object(from)}, &appsv1.DaemonSet{ObjectMeta: object(to)})
		}},
		{"DeviceClass", func(from, to types.UID) {
			w.classEvents().OnUpdate(&resourcev1.DeviceClass{ObjectMeta: object(from)}, &resourcev1.DeviceClass{ObjectMeta: object(to)})
		}},
	} {
		looks.update("u", "u")
		assert.Zero(t, w.queue.Len(), looks.name)
		looks.update("u", "v")
		if assert.Equal(t, 1, w.queue.Len(), looks.name) {
			item, _ := w.queue.cluster.Get()
			w.queue.Done(item)
			assert.Equal(t, moduleWork+"ns/a", item)
		}
	}
}
