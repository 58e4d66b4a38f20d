// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	k8stesting "k8s.io/client-go/testing"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// takesNoEvents has creating an Event end in *with, unless that is nil.
func takesNoEvents(kube *fake.Clientset, with *error) {
	kube.PrependReactor("create", "events", func(k8stesting.Action) (bool, runtime.Object, error) {
		return *with != nil, nil, *with
	})
}

func eventsIn(t *testing.T, kube *fake.Clientset) (out []string) {
	t.Helper()
	list, err := kube.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	for i := range list.Items {
		out = append(out, list.Items[i].Reason)
	}
	return out
}

// TestEventsOfANodeAreTriedAgain: the API server takes none for a moment.
func TestEventsOfANodeAreTriedAgain(t *testing.T) {
	loaded, failed := module("a", "1"), module("b", "1")
	kube := fake.NewClientset(labelled())
	busy := errors.New("the server is too busy")
	takesNoEvents(kube, &busy)
	w := idle(kube, nil)
	defer w.queue.ShutDown()
	wants := wanted(loaded, failed)
	w.wants.Store(&wants)
	require.NoError(t, w.nodes.GetStore().Add(labelled()))
	before := has(given(loaded, failed), told(loaded, "Loaded"), told(failed, "Failed/InitFailed"))
	gone := told(module("c", "1"), "Loaded")
	before.states = append(before.states, gone)
	after := has(given(loaded, failed), before.states[:2]...)
	w.noteUnloaded(before, after)
	require.NoError(t, w.configs.GetStore().Add(after))

	require.ErrorIs(t, w.syncNode(t.Context(), "n"), busy)
	node, err := kube.CoreV1().Nodes().Get(t.Context(), "n", metav1.GetOptions{})
	require.NoError(t, err)
	require.NoError(t, w.nodes.GetStore().Update(node), "it has its label by now")
	w.expect.forget(nodeWork, "n")
	require.ErrorIs(t, w.syncNode(t.Context(), "n"), busy)
	busy = nil
	require.NoError(t, w.syncNode(t.Context(), "n"))
	all := []string{ReasonModuleLoaded, ReasonModuleUnloaded, ReasonModuleLoadFailed}
	assert.ElementsMatch(t, all, eventsIn(t, kube))
	require.NoError(t, w.syncNode(t.Context(), "n"))
	assert.Len(t, eventsIn(t, kube), len(all))
	assert.Empty(t, w.events.unsaid)
}

// TestEventsThatAreRefused are not tried for ever, and do not hold others back.
func TestEventsThatAreRefused(t *testing.T) {
	kube := fake.NewClientset()
	refused := error(apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, "", errors.New("exceeded quota")))
	takesNoEvents(kube, &refused)
	w := idle(kube, nil)
	defer w.queue.ShutDown()
	n, now := labelled(), time.Unix(1_000_000, 0)
	events := []*corev1.Event{NodeEvent(n, "A", "", "", now), NodeEvent(n, "B", "", "", now)}
	require.Error(t, w.makeEvents(t.Context(), nodeWork+"n", events))
	refused = nil
	require.NoError(t, w.makeEvents(t.Context(), nodeWork+"n", nil))
	assert.Equal(t, []string{"B"}, eventsIn(t, kube))

	refused = errors.New("too busy")
	for i := range 3 * maxUnsaid {
		e := NodeEvent(n, "C", string(rune(i)), "", now)
		require.Error(t, w.makeEvents(t.Context(), nodeWork+"n", []*corev1.Event{e}))
	}
	assert.Len(t, w.events.unsaid[nodeWork+"n"], maxUnsaid)
	w.events.forget("n")
	assert.Empty(t, w.events.unsaid)
}

// apiOf answers every request to the API server of our objects.
type apiOf func(*http.Request) any

func (f apiOf) RoundTrip(r *http.Request) (*http.Response, error) {
	b, err := json.Marshal(f(r))
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(b)), Request: r,
	}, err
}

// TestEventsOfAModuleAreTriedAgain: they come after the write of its status, which then is not another one.
func TestEventsOfAModuleAreTriedAgain(t *testing.T) {
	kube, busy := fake.NewClientset(), errors.New("the server is too busy")
	takesNoEvents(kube, &busy)
	w := idle(kube, func(context.Context, ImageRequest) (string, error) { return "", nil })
	defer w.queue.ShutDown()
	m := module("a", "1")
	m.Generation = 1
	wants := wanted(m)
	w.wants.Store(&wants)
	w.tally.set("n", []standing{{key: "ns/a", selected: true, desired: true, current: true, present: true, reason: "InitFailed"}})
	api, err := client.New(&rest.Config{Host: "http://api.example", Transport: apiOf(func(r *http.Request) any {
		var patch []struct{ Value json.RawMessage }
		assert.NoError(t, json.NewDecoder(r.Body).Decode(&patch))
		out := m.DeepCopy()
		assert.NoError(t, json.Unmarshal(patch[1].Value, &out.Status))
		out.TypeMeta = metav1.TypeMeta{APIVersion: v1beta1.GroupVersion.String(), Kind: "Module"}
		m = out
		return out
	})})
	require.NoError(t, err)
	w.cfg.API = api
	require.ErrorIs(t, w.writeStatus(t.Context(), m, nil), busy)
	require.NotEmpty(t, m.Status.Conditions)
	require.ErrorIs(t, w.writeStatus(t.Context(), m, nil), busy)
	busy = nil
	require.NoError(t, w.writeStatus(t.Context(), m, nil))
	assert.Equal(t, []string{ReasonModuleDegraded}, eventsIn(t, kube))
}
