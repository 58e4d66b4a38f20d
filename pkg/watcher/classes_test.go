// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// TestServesClasses: a cluster without DRA has none, and is worked with all the same.
func TestServesClasses(t *testing.T) {
	kube := fake.NewClientset()
	w := idle(kube, nil)
	defer w.queue.ShutDown()
	assert.False(t, w.servesClasses())
	kube.Resources = []*metav1.APIResourceList{{GroupVersion: "resource.k8s.io/v1"}}
	assert.True(t, w.servesClasses())
	kube.Resources = nil
	kube.PrependReactor("get", "resource", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("no answer") })
	assert.True(t, w.servesClasses(), "nobody knows")
}
