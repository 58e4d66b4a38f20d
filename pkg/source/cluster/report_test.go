// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/spec"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	again = start.Add(time.Minute)
)

func failing(message string) spec.Status {
	return spec.Status{ObservedGeneration: 1, Modules: []spec.ModuleStatus{{
		Namespace: "ns", Name: "a", Revision: "r", State: spec.StateFailed, Message: message, RetryAt: &again, Since: start}}}
}

// TestDue: the object has a failure already; what is written when.
func TestDue(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*spec.Status)
		wait   time.Duration // after a write 10 ms ago
	}{
		{"nothing", func(*spec.Status) {}, time.Hour},
		{"another try", func(s *spec.Status) { at := again.Add(time.Minute); s.Modules[0].RetryAt = &at }, time.Hour},
		{"no further try", func(s *spec.Status) { s.Modules[0].RetryAt = nil }, between},
		{"other words", func(s *spec.Status) { s.Modules[0].Message = "from port 40001" }, betweenWords},
		{"a warning more", func(s *spec.Status) { s.Modules[0].Warnings = []string{"x"} }, betweenWords},
		{"state", func(s *spec.Status) { s.Modules[0].State = spec.StateLoaded }, between},
		{"revision", func(s *spec.Status) { s.Modules[0].Revision = "r2" }, between},
		{"boot", func(s *spec.Status) { s.BootID = "other" }, between},
		{"part of it", func(s *spec.Status) { s.BootID, s.Partial = "other", true }, time.Hour},
		{"about another object", func(s *spec.Status) { s.ObservedGeneration = 2 }, time.Hour},
		{"about none", func(s *spec.Status) { s.ObservedGeneration = 0 }, time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &Source{}
			w := newWriter(s)
			s.writer = w
			w.object = &v1beta1.NodeModulesConfig{ObjectMeta: metav1.ObjectMeta{Generation: 1}, Status: statusOf(failing("from port 40000"))}
			w.last = start
			next := failing("from port 40000")
			tt.change(&next)
			require.NoError(t, s.Report(t.Context(), next))
			status, wait := w.due(start)
			assert.Nil(t, status)
			assert.Equal(t, tt.wait, wait)
			if tt.wait == time.Hour {
				return
			}
			status, _ = w.due(start.Add(tt.wait))
			require.NotNil(t, status)
			w.next = start.Add(tt.wait + time.Minute)
			_, wait = w.due(start.Add(tt.wait))
			assert.Equal(t, time.Minute, wait, "not before the next try")
		})
	}
}

func TestObserve(t *testing.T) {
	s := &Source{}
	w := newWriter(s)
	object := func(uid types.UID, version, summary string) *v1beta1.NodeModulesConfig {
		return &v1beta1.NodeModulesConfig{
			ObjectMeta: metav1.ObjectMeta{UID: uid, ResourceVersion: version},
			Status:     v1beta1.NodeModulesConfigStatus{Summary: summary},
		}
	}
	w.observe(object("first", "9", "old"), true)
	sent := v1beta1.NodeModulesConfigStatus{Summary: "ours"}
	w.wrote(&sent, object("first", "11", "ours"))
	w.observe(object("first", "10", "old"), false)
	assert.Equal(t, "ours", w.object.Status.Summary, "an event from before our write")
	w.observe(object("first", "12", "theirs"), false)
	assert.Equal(t, "theirs", w.object.Status.Summary)
	w.wrote(&sent, object("first", "11", "ours"))
	assert.Equal(t, "theirs", w.object.Status.Summary, "the answer came later than the event behind it")
	w.observe(object("other", "10", "made again"), false)
	assert.Equal(t, "made again", w.object.Status.Summary)
	w.observe(object("other", "5", "restored"), true)
	assert.Equal(t, "restored", w.object.Status.Summary, "a list is always right")
}

// TestLateAnswer: the object is gone by the time it is written to, or another has its name. Another one, of which was
// heard meanwhile, is not gone, and that it was not written to is no failure.
func TestLateAnswer(t *testing.T) {
	for _, tt := range []struct {
		name   string
		code   int
		next   types.UID // that is heard of before the answer
		want   types.UID
		failed bool
	}{
		{"gone, nothing was heard", http.StatusNotFound, "", "", false},
		{"gone, the same", http.StatusNotFound, "first", "", false},
		{"gone, another", http.StatusNotFound, "second", "second", false},
		{"another, nothing was heard", http.StatusUnprocessableEntity, "", "first", true},
		{"another", http.StatusUnprocessableEntity, "second", "second", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			object := func(uid types.UID) *v1beta1.NodeModulesConfig {
				return &v1beta1.NodeModulesConfig{ObjectMeta: metav1.ObjectMeta{UID: uid, Generation: 1}}
			}
			s := &Source{}
			w := newWriter(s)
			s.writer = w
			server := httptest.NewServer(http.HandlerFunc(func(a http.ResponseWriter, _ *http.Request) {
				if tt.next != "" {
					w.observe(object(tt.next), false)
				}
				http.Error(a, "", tt.code)
			}))
			defer server.Close()
			s.cfg = Config{Node: "n", Log: slog.New(slog.DiscardHandler), Connect: func() (*rest.Config, error) { return &rest.Config{Host: server.URL}, nil }}
			w.observe(object("first"), true)
			require.NoError(t, s.Report(t.Context(), spec.Status{ObservedGeneration: 1, Facts: spec.Facts{Lockdown: "none"}}))
			w.step(t.Context())
			got := types.UID("")
			if w.object != nil {
				got = w.object.UID
			}
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.failed, w.failure != "", w.failure)
		})
	}
}

// TestFieldThatTheServerDoesNotKnow is not written again and again.
func TestFieldThatTheServerDoesNotKnow(t *testing.T) {
	s := &Source{}
	w := newWriter(s)
	s.writer = w
	object := &v1beta1.NodeModulesConfig{ObjectMeta: metav1.ObjectMeta{Generation: 1}}
	w.observe(object, true)
	require.NoError(t, s.Report(t.Context(), spec.Status{ObservedGeneration: 1, Facts: spec.Facts{Lockdown: "none"}}))
	status, _ := w.due(start)
	require.NotNil(t, status)
	pruned := object.DeepCopy()
	pruned.ResourceVersion, pruned.Status = "2", *status
	pruned.Status.Lockdown = ""
	w.wrote(status, pruned)
	later := time.Now().Add(time.Minute)
	status, _ = w.due(later)
	assert.Nil(t, status)
	cleared := pruned.DeepCopy()
	cleared.ResourceVersion, cleared.Status = "3", v1beta1.NodeModulesConfigStatus{}
	w.observe(cleared, false)
	status, _ = w.due(later)
	assert.NotNil(t, status)
}

func TestWaitAfterFailures(t *testing.T) {
	var log strings.Builder
	w := newWriter(&Source{cfg: Config{Log: slog.New(slog.NewTextHandler(io.MultiWriter(&log, t.Output()), nil))}})
	var waits []time.Duration
	for range 8 {
		w.failed(errors.New("no"))
		waits = append(waits, w.wait)
		assert.GreaterOrEqual(t, time.Until(w.next), w.wait-time.Second)
		assert.LessOrEqual(t, time.Until(w.next), w.wait*3/2)
	}
	assert.Equal(t, []time.Duration{1, 2, 4, 8, 16, 32, 60, 60}, seconds(waits))
	assert.Equal(t, 1, strings.Count(log.String(), "not written"), "told once")
	w.wrote(&v1beta1.NodeModulesConfigStatus{}, &v1beta1.NodeModulesConfig{})
	assert.Zero(t, w.wait)
}

func seconds(list []time.Duration) []time.Duration {
	var out []time.Duration
	for _, d := range list {
		out = append(out, d/time.Second)
	}
	return out
}

func TestStatusIsBounded(t *testing.T) {
	s := spec.Status{}
	for range 200 {
		m := spec.ModuleStatus{Namespace: "ns", Name: strings.Repeat("x", len(s.Modules)+1), Message: strings.Repeat("m", 5000), Since: start}
		for range 30 {
			m.Warnings = append(m.Warnings, strings.Repeat("w", 2000))
		}
		s.Modules = append(s.Modules, m)
	}
	got := statusOf(s)
	assert.Len(t, got.Modules, 200)
	assert.LessOrEqual(t, len(marshal(got)), maxStatus)
	assert.Equal(t, "no modules", statusOf(spec.Status{}).Summary)
}

// TestOrderIsKeptLater: an order that could not be written down is, with the next thing that is heard of the object.
func TestOrderIsKeptLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster.json")
	cfg := Config{Node: "n", StateFile: path, Log: slog.New(slog.DiscardHandler)}
	s, err := New(cfg)
	require.NoError(t, err)
	told := 0
	s.set = func(spec.Node) { told++ }
	order := func(generation int64) *v1beta1.NodeModulesConfig {
		return &v1beta1.NodeModulesConfig{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "u", Generation: generation}}
	}
	s.seen(order(1), true)
	require.NoError(t, os.Mkdir(path+".tmp", 0o755)) // as if the disk were full
	s.seen(order(2), false)
	require.NoError(t, os.Remove(path+".tmp"))
	s.seen(order(2), false)
	assert.Equal(t, 2, told)
	again, err := New(cfg)
	require.NoError(t, err)
	assert.EqualValues(t, 2, again.saved.Generation)
}
