// SPDX-License-Identifier: Apache-2.0

package clustertest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/spec"
)

func testStatus(t *testing.T, s Server) {
	n := newNode(t, s)
	n.order(entry("nic", "r1"))
	n.start()
	n.next()
	n.report(1, "one")
	got := n.marked("one")
	since := got.Modules[0].Since
	assert.True(t, since.Equal(&metav1.Time{Time: at}), "%s", since)
	got.Modules[0].Since = metav1.Time{}
	assert.Equal(t, v1beta1.NodeModulesConfigStatus{
		ObservedGeneration: 1, BootID: "boot", KernelRelease: "one", SecureBoot: "no", Lockdown: "none", SignatureEnforced: "yes",
		AgentVersion: "v1", Summary: "1 loaded", Modules: []v1beta1.NodeModuleStatus{{
			Namespace: "default", Name: "nic", Revision: "r1", State: "Loaded", Image: "r/x:1", Digest: "sha256:ab", Version: "2",
			KernelModules: []v1beta1.KernelModule{{Name: "dummy", BuildID: "ab", Parameters: []string{"a=1"}}}, Warnings: []string{"w"},
		}},
	}, got)

	// What comes in a burst is one write, and what is as it was is none.
	n.report(1, "one")
	for i := range 50 {
		n.report(1, fmt.Sprint("burst ", i))
	}
	n.marked("burst 49")
	assert.LessOrEqual(t, n.patches.Load(), int64(3))
	before := n.patches.Load()
	n.report(1, "burst 49", func(s *spec.Status) {
		s.Time = s.Time.Add(time.Hour)
		s.Modules[0].Kernel[0].Refs++
	})
	n.report(1, "last")
	n.marked("last")
	assert.Equal(t, before+1, n.patches.Load())

	// A failure that is tried again and again is written once.
	long := strings.Repeat("é", 10000) + "\xff"
	fails := func(minutes time.Duration) func(*spec.Status) {
		return func(s *spec.Status) {
			again := at.Add(minutes * time.Minute)
			m := &s.Modules[0]
			m.State, m.Reason, m.Message, m.RetryAt = spec.StateFailed, spec.ReasonInUse, long, &again
			for range 40 {
				m.Warnings = append(m.Warnings, long)
				s.Invalid = append(s.Invalid, long)
			}
		}
	}
	n.report(1, "fails", fails(1))
	got = n.marked("fails")
	assert.LessOrEqual(t, len(got.Modules[0].Message), 4096)
	assert.True(t, strings.HasSuffix(got.Modules[0].Message, "é…"))
	assert.Len(t, got.Modules[0].Warnings, 16)
	assert.Equal(t, "… and 26 more", got.Modules[0].Warnings[15])
	assert.Len(t, got.Invalid, 16)
	assert.Equal(t, "1 failed", got.Summary)
	before = n.patches.Load()
	for i := range 10 {
		n.report(1, "fails", fails(time.Duration(i)))
	}
	n.report(1, "end")
	n.marked("end")
	assert.Equal(t, before+1, n.patches.Load())
}

func testStatusWaits(t *testing.T, s Server) {
	n := newNode(t, s)
	n.start()
	n.next()
	n.report(0, "before")
	n.order(entry("nic", "r1"))
	n.next()
	n.report(1, "partial", func(s *spec.Status) { s.Partial = true })
	n.order(entry("nic", "r2"))
	n.next()
	n.report(2, "whole")
	n.marked("whole")
	assert.EqualValues(t, 1, n.patches.Load(), "only what is about this object, and the whole")

	// One that comes of an earlier object, while there is another under its name already.
	again := func() {
		assert.NoError(t, n.admin.NodeModulesConfigs().Delete(t.Context(), n.name, metav1.DeleteOptions{}))
		_, err := n.create(v1beta1.NodeModulesConfigSpec{Modules: []v1beta1.NodeModule{entry("nic", "r2")}})
		assert.NoError(t, err)
	}
	n.meanwhile.Store(&again)
	n.report(2, "late")
	n.next()
	n.report(1, "again")
	n.marked("again")
	assert.NotZero(t, n.late.Load(), "it was refused")
	assert.EqualValues(t, 2, n.patches.Load()-n.late.Load())
}

func testStatusChanged(t *testing.T, s Server) {
	n := newNode(t, s)
	n.order(entry("nic", "r1"))
	n.start()
	n.next()
	n.report(1, "one")
	n.marked("one")
	o := n.object()
	o.Status = v1beta1.NodeModulesConfigStatus{Summary: "nonsense"}
	_, err := n.admin.NodeModulesConfigs().UpdateStatus(t.Context(), o, metav1.UpdateOptions{})
	require.NoError(t, err)
	n.marked("one")
	assert.EqualValues(t, 2, n.patches.Load())

	// Made again, and the order is the same: the agent has nothing new to say.
	require.NoError(t, n.admin.NodeModulesConfigs().Delete(t.Context(), n.name, metav1.DeleteOptions{}))
	n.order(entry("nic", "r1"))
	n.marked("one")
	assert.EqualValues(t, 3, n.patches.Load())
}

func testRefused(t *testing.T, s Server) {
	n := newNode(t, s)
	n.order(entry("nic", "r1"))
	n.start()
	n.next()
	n.report(1, "one", func(s *spec.Status) {
		s.Modules = append(s.Modules, spec.ModuleStatus{Namespace: "default", Name: "file", State: spec.StatePending, Since: at})
		s.Leaving = []spec.ModuleStatus{{Namespace: "default", Name: "old", State: spec.StateFailed, Reason: spec.ReasonInUse, Message: "held", Since: at}}
		s.Refused = []spec.ModuleStatus{{Namespace: "default", Name: "nic", Revision: "r1", State: spec.StateFailed, Reason: spec.ReasonConflict, Message: "in a.yaml too", Since: at}}
	})
	got := n.marked("one")
	assert.Equal(t, "1 pending, 1 failed, 1 leaving", got.Summary)
	var words []string
	for _, m := range got.Modules {
		words = append(words, strings.Join([]string{m.Name, m.Revision, m.State, m.Reason, m.Message}, " "))
	}
	assert.Equal(t, []string{"file  Pending  ", "nic r1 Failed Conflict in a.yaml too", "old  Leaving InUse held"}, words)
}
