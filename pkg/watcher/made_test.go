// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"unique"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

const madeKernel = "6.1.0-1-amd64" // of labelled

// built is a Module whose image the cluster builds; what is known of it is in
// images: DIGEST of an image that is there, "" of one that is not.
func built(tag string, images ...string) *want {
	m := module("a", tag, func(m *v1beta1.Module) { m.Spec.ModuleLoader.Container.Build = &v1beta1.Build{} })
	w := &Watcher{informers: informers{accounts: noAccounts()}}
	known := map[string]v1beta1.ModuleImage{}
	for _, digest := range images {
		known[madeKernel] = v1beta1.ModuleImage{Kernel: madeKernel, Image: "reg.example/x:" + tag, Digest: digest}
	}
	w.makings.of(m)
	w.makings.set("ns/a", known)
	w.makings.save("ns/a", w.makings.list(m))
	return w.wantOf(m, nil)
}

func (w *want) entryOf() *entry { return w.made[madeKernel] }

func TestRenderMadeImages(t *testing.T) {
	always := func(string) bool { return true }
	loaded := func(e *entry) state {
		st := told(module("a", "1"), v1beta1.StateLoaded)
		st.revision = unique.Make(e.Revision)
		return st
	}
	there, waits := built("1", "sha256:a"), built("1", "")
	for _, tt := range []struct {
		name     string
		want     *want
		config   *config
		labels   []string
		gives    *entry // the node has, or is given
		writes   bool
		building bool
		label    bool // it stays, or is taken away
	}{
		{name: "nobody has looked whether it is there", want: built("1"), building: true},
		{name: "it is not there: the node is to know that it waits", want: waits, gives: waits.entryOf(), writes: true, building: true},
		{name: "it waits", want: waits, config: has([]*entry{waits.entryOf()}), gives: waits.entryOf(), building: true},
		{name: "it is there", want: there, gives: there.entryOf(), writes: true},
		{name: "it is there, and the node has waited", want: there, config: has([]*entry{waits.entryOf()}), gives: there.entryOf(), writes: true},
		{
			name: "another image is made: what runs stays", want: built("2", ""), labels: []string{isReady},
			config: has([]*entry{there.entryOf()}, loaded(there.entryOf())), gives: there.entryOf(), building: true, label: true,
		},
		{
			name: "another image, nobody has looked", want: built("2"), labels: []string{isReady},
			config: has([]*entry{there.entryOf()}, loaded(there.entryOf())), gives: there.entryOf(), building: true, label: true,
		},
		{
			name: "the same image, made again", want: built("1", "sha256:b"), labels: []string{isReady},
			config: has([]*entry{there.entryOf()}, loaded(there.entryOf())), gives: built("1", "sha256:b").entryOf(), writes: true,
		},
		{
			name: "what it has is for another kernel: it can wait as well", want: built("2", ""),
			config: has([]*entry{newEntry(module("a", "1", func(m *v1beta1.Module) {
				m.Spec.ModuleLoader.Container.KernelMappings[0].Regexp = "^5"
			}), nil)}), gives: built("2", "").entryOf(), writes: true, building: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := render(view{node: labelled(tt.labels...), config: tt.config, wants: []*want{tt.want}}, always)
			require.Len(t, d.standings, 1)
			s := d.standings[0]
			assert.Equal(t, tt.building, s.building, "building")
			assert.True(t, s.desired)
			assert.False(t, tt.building && s.settling, "what waits for an image takes nobody's turn")
			assert.Equal(t, tt.writes, d.write)
			if tt.gives == nil {
				assert.Empty(t, d.entries)
			} else {
				require.Len(t, d.entries, 1)
				assert.True(t, same(tt.gives, d.entries[0]))
			}
			assert.Equal(t, tt.label, s.available)
			assert.Equal(t, len(tt.labels) > 0 && !tt.label, len(d.labels) > 0, "labels: %v", d.labels)
		})
	}
}

// TestWaitingTakesNobodysTurn: to be told to wait needs no turn in a rollout, and to
// get the image then does, whatever the pull policy.
func TestWaitingTakesNobodysTurn(t *testing.T) {
	never := func(string) bool { return false }
	waits := built("1", "")
	d := render(view{node: labelled(), wants: []*want{waits}}, never)
	require.Len(t, d.entries, 1)
	assert.True(t, same(waits.entryOf(), d.entries[0]))
	assert.False(t, d.standings[0].held)

	d = render(view{node: labelled(), config: has([]*entry{waits.entryOf()}), wants: []*want{built("1", "sha256:a")}}, never)
	assert.False(t, d.write)
	assert.True(t, d.standings[0].held)

	made := func(digest string, policy corev1.PullPolicy) *entry {
		e := built("1", digest).entry
		e.ModuleLoader.Container.ImagePullPolicy = policy
		return e.with("reg.example/x:1", digest)
	}
	assert.False(t, reloads(made("sha256:a", ""), made("sha256:a", corev1.PullAlways), madeKernel), "a digest stays what it is")
	assert.True(t, reloads(made("sha256:a", ""), made("sha256:b", ""), madeKernel))
}

// TestMadeEntriesAreShared: two kernels with the same image have one entry, and a
// look that changes nothing makes none.
func TestMadeEntriesAreShared(t *testing.T) {
	m := module("a", "1", func(m *v1beta1.Module) { m.Spec.ModuleLoader.Container.Build = &v1beta1.Build{} })
	w := &Watcher{informers: informers{accounts: noAccounts()}}
	w.makings.of(m)
	w.makings.set("ns/a", map[string]v1beta1.ModuleImage{
		"6.1": {Kernel: "6.1", Image: "reg.example/x:1", Digest: "sha256:a"},
		"6.2": {Kernel: "6.2", Image: "reg.example/x:1", Digest: "sha256:a"},
		"6.3": {Kernel: "6.3", Image: "reg.example/x:1"},
	})
	w.makings.save("ns/a", w.makings.list(m))
	first := w.wantOf(m, nil)
	assert.Same(t, first.made["6.1"], first.made["6.2"])
	assert.Same(t, first.entry, first.made["6.3"])
	second := w.wantOf(m, first)
	assert.True(t, first.says(second))
	assert.Same(t, first.made["6.1"], second.made["6.1"])
	w.makings.set("ns/a", map[string]v1beta1.ModuleImage{"6.1": {Kernel: "6.1", Image: "reg.example/x:1", Digest: "sha256:b"}})
	w.makings.save("ns/a", w.makings.list(m))
	assert.False(t, second.says(w.wantOf(m, second)), "the nodes are asked for another build")
}

// BenchmarkRenderMade is one look at a node with twenty Modules whose images the
// cluster makes, at rest.
func BenchmarkRenderMade(b *testing.B) {
	w := &Watcher{informers: informers{accounts: noAccounts()}}
	var wants []*want
	c, node := has(nil), labelled()
	for i := range 20 {
		m := module(fmt.Sprintf("m%02d", i), "1", func(m *v1beta1.Module) {
			l := &m.Spec.ModuleLoader.Container
			l.Build = &v1beta1.Build{}
			for _, re := range []string{`^5\.[0-9]+\..*$`, `^6\.12\..*-rt.*$`} {
				l.KernelMappings = append([]v1beta1.KernelMapping{{Regexp: re, ContainerImage: "reg.example/y:1"}}, l.KernelMappings...)
			}
		})
		w.makings.of(m)
		w.makings.set("ns/"+m.Name, map[string]v1beta1.ModuleImage{madeKernel: {Kernel: madeKernel, Image: "reg.example/x:1", Digest: "sha256:a"}})
		w.makings.save("ns/"+m.Name, w.makings.list(m))
		one := w.wantOf(m, nil)
		wants = append(wants, one)
		e := one.entryOf()
		st := told(m, v1beta1.StateLoaded)
		st.revision = unique.Make(e.Revision)
		c.entries, c.states = append(c.entries, e), append(c.states, st)
		node.Labels[v1beta1.ReadyLabel("ns", m.Name)] = ""
	}
	v := view{node: node, config: c, wants: wants}
	b.ReportAllocs()
	for b.Loop() {
		if d := render(v, func(string) bool { return true }); d.write || len(d.labels) > 0 {
			b.Fatal(say(d))
		}
	}
}

// TestNodesAreToldWhatTheStatusHas: the status is what the next Watcher begins with. One that lacks an image which nodes were told of
// would have them go back to the one before.
func TestNodesAreToldWhatTheStatusHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := idle(fake.NewClientset(), nil)
		defer w.queue.ShutDown()
		m := fromDockerfile("a")
		image := func(digest string) map[string]v1beta1.ModuleImage {
			return map[string]v1beta1.ModuleImage{madeKernel: {Kernel: madeKernel, Image: "reg.example/x:1", Digest: digest, State: v1beta1.ImageReady}}
		}
		refuses := true
		api, err := client.New(&rest.Config{Host: "http://api.example", Transport: apiOf(func(r *http.Request) any {
			if refuses {
				return &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: http.StatusInternalServerError}
			}
			var patch []struct{ Value json.RawMessage }
			assert.NoError(t, json.NewDecoder(r.Body).Decode(&patch))
			m = m.DeepCopy()
			m.Status = v1beta1.ModuleStatus{}
			assert.NoError(t, json.Unmarshal(patch[1].Value, &m.Status))
			m.TypeMeta = metav1.TypeMeta{APIVersion: v1beta1.GroupVersion.String(), Kind: "Module"}
			return m
		})})
		require.NoError(t, err)
		w.cfg.API = api
		told := func() string {
			require.NoError(t, w.modules.GetStore().Add(m))
			wants, _ := w.rebuild()
			w.wants.Store(&wants)
			if e := wants[0].entryOf(); e != nil {
				return e.Made.Images[0].Digest
			}
			return ""
		}
		m.Status.Images = w.makings.list(m)
		w.noteImages(m, image("sha256:a"), true)
		assert.Empty(t, told())
		require.Error(t, w.writeStatus(t.Context(), m, nil))
		assert.Empty(t, told(), "the API server has refused it")
		assert.False(t, fans(w))
		refuses = false
		require.NoError(t, w.writeStatus(t.Context(), m, nil))
		assert.True(t, fans(w))
		assert.Equal(t, "sha256:a", told())

		w.noteImages(m, image("sha256:b"), true)
		assert.False(t, fans(w))
		assert.Equal(t, "sha256:a", told(), "not before it is in the status")
		require.NoError(t, w.writeStatus(t.Context(), m, nil))
		require.Equal(t, w.makings.list(m), m.Status.Images, "it is not put off")
		assert.True(t, fans(w))
		assert.Equal(t, "sha256:b", told())

		before := m.Status
		assert.NotEqual(t, before, moduleStatus(m, w.reportOf(m), nil), "that nodes have been told")
		require.NoError(t, w.writeStatus(t.Context(), m, nil))
		assert.Equal(t, before, m.Status, "anything else is put off")
		assert.False(t, fans(w))

		next := idle(fake.NewClientset(), nil)
		defer next.queue.ShutDown()
		assert.Equal(t, "sha256:b", next.wantOf(m, nil).entryOf().Made.Images[0].Digest)
	})
}

// TestMoreImagesThanAStatusHas: nodes are told of them all the same.
func TestMoreImagesThanAStatusHas(t *testing.T) {
	m := fromDockerfile("a")
	w := &Watcher{informers: informers{accounts: noAccounts()}}
	w.makings.of(m)
	images := map[string]v1beta1.ModuleImage{}
	for i := range maxImages + 1 {
		kernel := fmt.Sprintf("6.%04d", i)
		images[kernel] = v1beta1.ModuleImage{Kernel: kernel, Image: "reg.example/x:1", Digest: fmt.Sprintf("sha256:%d", i), Message: strings.Repeat("x", maxConditionMessage)}
	}
	w.makings.set("ns/a", images)
	w.makings.save("ns/a", w.makings.list(m))
	assert.Len(t, w.wantOf(m, nil).made, maxImages+1)
	status := moduleStatus(m, report{images: w.makings.list(m)}, nil)
	assert.Len(t, status.Images, maxImages)
	data, err := json.Marshal(status)
	require.NoError(t, err)
	assert.Less(t, len(data), 1<<20, "etcd takes it")
	assert.Len(t, moduleStatus(m, report{images: w.makings.list(m)[:1]}, nil).Images[0].Message, maxConditionMessage)
}
