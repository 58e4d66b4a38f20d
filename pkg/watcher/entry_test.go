// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

func TestEntry(t *testing.T) {
	m := module("a", "1", func(m *v1beta1.Module) {
		m.Annotations = map[string]string{"kmm.node.kubernetes.io/allow-in-use": "network", "other": "x"}
		l := m.Spec.ModuleLoader
		l.ServiceAccountName = "builder"
		l.Container.Build = &v1beta1.Build{}
		l.Container.KernelMappings[0].Sign = &v1beta1.Sign{}
		l.Container.KernelMappings[0].InTreeModulesToRemove = []string{}
	})
	e := newEntry(m, []string{"pull"})
	assert.Equal(t, map[string]string{"kmm.node.kubernetes.io/allow-in-use": "network"}, e.Annotations)
	assert.Nil(t, e.ModuleLoader.Container.Build)
	assert.Nil(t, e.ModuleLoader.Container.KernelMappings[0].Sign)
	assert.Empty(t, e.ModuleLoader.ServiceAccountName)
	assert.NotNil(t, m.Spec.ModuleLoader.Container.Build, "the Module itself is not changed")
	data, err := e.Document()
	require.NoError(t, err)
	assert.Contains(t, string(data), `"inTreeModulesToRemove":[]`, "an empty list is not a missing one")
	doc, err := e.document()
	require.NoError(t, err)
	assert.Equal(t, "ns/a", doc.Key())

	assert.Equal(t, []int32{0}, e.Made.Mappings)

	build, other := module("a", "1"), module("a", "1")
	build.Spec.ModuleLoader.Container.Build = &v1beta1.Build{}
	other.Spec.ModuleLoader.Container.Build = &v1beta1.Build{Secrets: []corev1.LocalObjectReference{{Name: "s"}}}
	assert.Equal(t, newEntry(build, nil).Revision, newEntry(other, nil).Revision, "how it is built is no other order")
	assert.NotEqual(t, newEntry(module("a", "1"), nil).Revision, newEntry(build, nil).Revision, "that it is built is one")
	assert.NotEqual(t, e.Revision, newEntry(m, []string{"other"}).Revision)
	assert.Nil(t, newEntry(&v1beta1.Module{}, nil))
}

func TestReloads(t *testing.T) {
	const kernel = "6.1.0-1-amd64"
	change := func(f func(c *v1beta1.ModuleLoaderContainerSpec)) *v1beta1.Module {
		return module("a", "1", func(m *v1beta1.Module) { f(&m.Spec.ModuleLoader.Container) })
	}
	tests := []struct {
		name string
		to   *v1beta1.Module
		want bool
	}{
		{"the same", module("a", "1"), false},
		{"image", module("a", "2"), true},
		{"parameters", change(func(c *v1beta1.ModuleLoaderContainerSpec) { c.Modprobe.Parameters = []string{"a=1"} }), true},
		{"removals", change(func(c *v1beta1.ModuleLoaderContainerSpec) { c.InTreeModulesToRemove = []string{"x"} }), true},
		{"firmware", change(func(c *v1beta1.ModuleLoaderContainerSpec) { c.Modprobe.FirmwarePath = "/fw" }), true},
		{"version", module("a", "1", version("2")), true},
		{"pull policy", module("a", "1", policy("Never")), false},
		{"pull policy that asks again", module("a", "1", policy("Always")), true},
		{"a tag that moves", module("a", "latest"), true},
		{"TLS", change(func(c *v1beta1.ModuleLoaderContainerSpec) { c.RegistryTLS = &v1beta1.TLSOptions{Insecure: true} }), false},
		{"a mapping of another kernel", change(func(c *v1beta1.ModuleLoaderContainerSpec) {
			c.KernelMappings = append([]v1beta1.KernelMapping{{Literal: "5.10.0", ContainerImage: "reg.example/x:other"}}, c.KernelMappings...)
		}), false},
		{"a mapping of this kernel", change(func(c *v1beta1.ModuleLoaderContainerSpec) {
			c.KernelMappings = append([]v1beta1.KernelMapping{{Literal: kernel, ContainerImage: "reg.example/x:other"}}, c.KernelMappings...)
		}), true},
		{"no mapping any more", change(func(c *v1beta1.ModuleLoaderContainerSpec) { c.KernelMappings[0].Regexp = "^5" }), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			from, to := newEntry(module("a", "1"), nil), newEntry(tt.to, nil)
			assert.Equal(t, tt.want, reloads(from, to, kernel))
			assert.True(t, reloads(from, to, ""), "an unknown kernel")
		})
	}
}

func TestCompact(t *testing.T) {
	var s configs
	object := func(name string, generation int64, image string) *v1beta1.NodeModulesConfig {
		return &v1beta1.NodeModulesConfig{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u", Generation: generation, OwnerReferences: []metav1.OwnerReference{{Kind: "Node", Name: name, UID: "node"}}},
			Spec:       v1beta1.NodeModulesConfigSpec{Modules: []v1beta1.NodeModule{newEntry(module("b", image), nil).NodeModule, newEntry(module("a", "1"), nil).NodeModule}},
			Status: v1beta1.NodeModulesConfigStatus{BootID: "boot", ObservedGeneration: 3, Modules: []v1beta1.NodeModuleStatus{
				{Namespace: "ns", Name: "a", State: "Failed", Reason: "InUse", Message: strings.Repeat("ü", 1000)},
				{Namespace: "ns", Name: "b", State: "Loaded", Message: "not kept"},
			}},
		}
	}
	compact := func(o *v1beta1.NodeModulesConfig) *config {
		t.Helper()
		out, err := s.compact(o)
		require.NoError(t, err)
		again, err := s.compact(out)
		require.NoError(t, err)
		assert.Same(t, out, again)
		return out.(*config)
	}
	one, two := compact(object("one", 1, "1")), compact(object("two", 1, "1"))
	assert.Same(t, one.entry("ns/a"), two.entry("ns/a"), "nodes share what is equal")
	assert.Nil(t, one.entry("ns/c"))
	assert.Equal(t, "node", string(one.owner))
	assert.LessOrEqual(t, len(one.state("ns/a").message), maxMessage)
	assert.Empty(t, one.state("ns/b").message)
	assert.Nil(t, one.state("ns/c"))

	changed := object("one", 2, "2")
	three := compact(changed)
	assert.NotSame(t, one.entry("ns/b"), three.entry("ns/b"))
	edited := object("one", 3, "1")
	edited.Spec.Modules[0].ModuleLoader.Container.KernelMappings[0].ContainerImage = "reg.example/evil:1"
	assert.False(t, same(one.entry("ns/b"), compact(edited).entry("ns/b")), "the revision alone proves nothing")

	s.forget("two")
	s.forget("one")
	s.collect()
	assert.Empty(t, s.entries.known)
	_, err := s.compact("x")
	assert.Error(t, err)
}

// TestChoiceIsRemembered, for some kernels, and is what it was whoever compares it.
func TestChoiceIsRemembered(t *testing.T) {
	e, other := given(module("a", "1", policy("Never")))[0], given(module("a", "2"))[0]
	first, ok := e.choice("6.1")
	require.True(t, ok)
	assert.True(t, reloads(e, other, "6.1"))
	again, _ := e.choice("6.1")
	assert.Same(t, first, again)
	assert.Equal(t, "Never", again.PullPolicy)
	for range 2 {
		_, ok = e.choice("5.10")
		assert.False(t, ok)
	}
	for i := range 1000 {
		e.fits(fmt.Sprintf("6.%d", i))
	}
	assert.LessOrEqual(t, len(e.choices), maxChoices)
}

// BenchmarkRender is one look at a node with twenty Modules, at rest.
func BenchmarkRender(b *testing.B) {
	var modules []*v1beta1.Module
	for i := range 20 {
		modules = append(modules, module(fmt.Sprintf("m%d", i), "1"))
	}
	wants, node, c := wanted(modules...), labelled(), has(given(modules...))
	for _, m := range modules {
		c.states = append(c.states, told(m, "Loaded"))
		node.Labels[v1beta1.ReadyLabel("ns", m.Name)] = ""
	}
	b.ReportAllocs()
	for b.Loop() {
		if d := render(view{node: node, config: c, wants: wants}, func(string) bool { return true }); d.write || len(d.labels) > 0 {
			b.Fatal("not at rest")
		}
	}
}
