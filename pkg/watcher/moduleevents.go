// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// Reasons of Events on Modules.
const (
	ReasonModuleReady    = "ModuleReady"    // every node that should run it does
	ReasonModuleDegraded = "ModuleDegraded" // something failed for another reason than before; the message begins with it
	ReasonRolloutPaused  = "RolloutPaused"  // too many nodes have failed, the others are left as they are
)

// moduleEvents are for what changes from one status of a Module to the next: it
// is ready, something failed for another reason than before, a rollout stopped.
func moduleEvents(m *v1beta1.Module, now v1beta1.ModuleStatus, at time.Time) []*corev1.Event {
	var out []*corev1.Event
	for _, e := range []struct {
		kind   string
		status metav1.ConditionStatus
		reason string // of the condition; "" is any
		event  string
		level  string
	}{
		{v1beta1.ConditionReady, metav1.ConditionTrue, "", ReasonModuleReady, corev1.EventTypeNormal},
		{v1beta1.ConditionDegraded, metav1.ConditionTrue, "", ReasonModuleDegraded, corev1.EventTypeWarning},
		{v1beta1.ConditionProgressing, metav1.ConditionFalse, reasonPaused, ReasonRolloutPaused, corev1.EventTypeWarning},
	} {
		c := meta.FindStatusCondition(now.Conditions, e.kind)
		if c == nil || c.Status != e.status || e.reason != "" && c.Reason != e.reason {
			continue
		}
		before := meta.FindStatusCondition(m.Status.Conditions, e.kind)
		if before != nil && before.Status == c.Status && before.Reason == c.Reason && before.ObservedGeneration == c.ObservedGeneration {
			continue
		}
		message := c.Message
		if e.kind == v1beta1.ConditionDegraded {
			message = c.Reason + ": " + message
		}
		what := fmt.Sprintf("%d %s %s", c.ObservedGeneration, c.Reason, c.LastTransitionTime.UTC().Format(time.RFC3339))
		event := ModuleEvent(m, e.event, what, message, at)
		event.Type = e.level
		out = append(out, event)
	}
	return out
}
