// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"testing"

	"github.com/stretchr/testify/assert"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// TestNotReachedBeforeGiven: a Module that nodes may not have yet stands on no node,
// which is not what is to be said of it.
func TestNotReachedBeforeGiven(t *testing.T) {
	w := &Watcher{tally: newTally()}
	m := &v1beta1.Module{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m", UID: "u", Generation: 1}}
	publish := func() {
		wants := []*want{{key: "ns/m", module: m, given: isGiven(m)}}
		w.publish(wants, nil, nil)
	}
	w.wants.Store(&[]*want{})
	assert.True(t, w.standing(m).telling, "nobody knows of it")
	publish()
	with := m.DeepCopy()
	with.Finalizers = []string{v1beta1.ModuleFinalizer}
	m = with
	assert.True(t, w.standing(m).telling, "nodes were told that they may not have it")
	publish()
	assert.False(t, w.standing(m).telling)
}
