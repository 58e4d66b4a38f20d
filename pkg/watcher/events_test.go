// SPDX-License-Identifier: Apache-2.0

package watcher_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/watcher"
)

func TestEvents(t *testing.T) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	m := &v1beta1.Module{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "kmod.x", UID: "module-uid"}}
	golden(t, "testdata/events.golden.yaml",
		watcher.NodeEvent(worker("worker-1", "node-uid"), watcher.ReasonModuleLoaded, "boot/7", "ns/a, ns/b loaded", now),
		watcher.NodeEvent(worker("worker-1", "node-uid"), watcher.ReasonModuleLoadFailed, "boot/7", "ns/a: finit_module: Exec format error", now),
		watcher.ModuleEvent(m, "BuildFailed", "image", "no such base image", now))
}

func TestEventNames(t *testing.T) {
	name := func(node *corev1.Node, reason, key string) string {
		return watcher.NodeEvent(node, reason, key, "at "+time.Now().String(), time.Now()).Name
	}
	first := name(worker("w", "1"), "A", "k")
	assert.Equal(t, first, name(worker("w", "1"), "A", "k"), "neither time nor message makes a second event")
	for _, other := range []string{
		name(worker("w", "2"), "A", "k"),
		name(worker("w", "1"), "B", "k"),
		name(worker("w", "1"), "A", "l"),
		name(worker("w", "1"), "Ak", ""),
		name(worker("w", "1A"), "", "k"),
	} {
		assert.NotEqual(t, first, other)
	}

	long := strings.Repeat("n", 235) + "." + strings.Repeat("n", 17)
	require.Len(t, long, 253)
	for _, node := range []string{"w", "w.example", long} {
		got := name(worker(node, "1"), "A", "k")
		assert.Empty(t, validation.IsDNS1123Subdomain(got), got)
	}
}

func TestEventMessage(t *testing.T) {
	for _, tt := range []struct{ name, message, want string }{
		{"short", "loaded", "loaded"},
		{"just fits", strings.Repeat("x", 1024), strings.Repeat("x", 1024)},
		{"too long", strings.Repeat("x", 1025), strings.Repeat("x", 1021) + "…"},
		{"between characters", strings.Repeat("é", 513), strings.Repeat("é", 510) + "…"},
		{"not UTF-8", "a\xffb", "a\uFFFDb"},
		{"longer once it is UTF-8", strings.Repeat("\xffx", 400), strings.Repeat("\uFFFDx", 255) + "…"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := watcher.NodeEvent(worker("w", "1"), "A", "k", tt.message, time.Now()).Message
			assert.Equal(t, tt.want, got)
			assert.True(t, utf8.ValidString(got))
			assert.LessOrEqual(t, len(got), 1024)
		})
	}
}

func TestModuleList(t *testing.T) {
	many := make([]string, 100)
	for i := range many {
		many[i] = fmt.Sprintf("a-namespace-of-some-length/module-%02d", i) // 36 bytes
	}
	for _, tt := range []struct {
		name string
		keys []string
		want string
	}{
		{"none", nil, ""},
		{"one", []string{"ns/a"}, "ns/a"},
		{"sorted, each once", []string{"ns/b", "ns/a", "ns/b"}, "ns/a, ns/b"},
		{"many", many, strings.Join(many[:21], ", ") + " and 79 more"},
		{"one too long", []string{"ns/" + strings.Repeat("x", 900)}, "1 modules"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := watcher.ModuleList(tt.keys)
			assert.Equal(t, tt.want, got)
			assert.Less(t, len(got), 900)
		})
	}
}

func worker(name string, uid types.UID) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: uid}}
}
