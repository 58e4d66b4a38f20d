// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
	"github.com/kmm-node/kmmd/pkg/build"
)

// Reasons of the condition Verified of a PreflightValidation.
const (
	reasonVerified    = "AllReady"   // every Module has an image for that kernel whose content fits
	reasonNotVerified = "NotReady"   // a Module is not ready for that kernel; the message names it
	reasonVerifying   = "InProgress" // images are being looked for, built or checked
	reasonNothing     = "NoModules"  // there is no Module to validate
)

// maxStatusReason bounds what is said of each Module, in bytes; there may be
// hundreds.
const maxStatusReason = 1024

// trialOf reads a trial off the status, where a new Watcher begins.
func trialOf(s *v1beta2.PreflightValidationModuleStatus) trial {
	t := trial{
		revision: s.Revision, image: s.Image, digest: s.Digest,
		status: s.VerificationStatus, stage: s.VerificationStage, reason: s.StatusReason, since: s.LastTransitionTime.Time,
	}
	if t.digest != "" {
		t.kind = build.Check
	}
	return t
}

// entryOf is a trial as the status has it.
func entryOf(k string, t *trial) v1beta2.PreflightValidationModuleStatus {
	namespace, name, _ := strings.Cut(k, "/")
	return v1beta2.PreflightValidationModuleStatus{
		Namespace: namespace, Name: name,
		CRBaseStatus: v1beta2.CRBaseStatus{
			VerificationStatus: t.status, VerificationStage: t.stage, StatusReason: tail(t.reason, maxStatusReason),
			LastTransitionTime: metav1.NewTime(t.since),
		},
		Image: t.image, Digest: t.digest, Revision: t.revision,
	}
}

// preflightStatus is the status of a PreflightValidation; keys are in order.
func preflightStatus(p *v1beta2.PreflightValidation, keys []string, trials map[string]trial, now time.Time) v1beta2.PreflightValidationStatus {
	s := *p.Status.DeepCopy()
	s.ObservedGeneration, s.Modules = p.Generation, nil
	for _, k := range keys {
		t := trials[k]
		s.Modules = append(s.Modules, entryOf(k, &t))
	}
	c := verifiedCondition(p.Spec.KernelVersion, s.Modules)
	c.ObservedGeneration, c.LastTransitionTime = p.Generation, metav1.NewTime(now.Truncate(time.Second))
	meta.SetStatusCondition(&s.Conditions, c)
	return s
}

// verifiedCondition sums the Modules up.
func verifiedCondition(kernel string, modules []v1beta2.PreflightValidationModuleStatus) metav1.Condition {
	ready, failed, others := 0, []string{}, 0
	for i := range modules {
		switch m := &modules[i]; m.VerificationStatus {
		case v1beta2.VerificationSuccess:
			ready++
		case v1beta2.VerificationFailure:
			failed = append(failed, key(m.Namespace, m.Name))
		default:
			others++
		}
	}
	c := condition(v1beta2.ConditionVerified, false, reasonNotVerified, "")
	c.Message = fmt.Sprintf("%d of %s ready for kernel %s", ready, count(len(modules), "Module is", "Modules are"), kernel)
	if len(failed) > 0 {
		c.Message += "; not ready: " + strings.Join(failed[:min(len(failed), maxNamed)], ", ")
		if more := len(failed) - maxNamed; more > 0 {
			c.Message += fmt.Sprintf(" and %d more", more)
		}
	}
	switch {
	case len(modules) == 0:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, reasonNothing, "there is no Module to validate"
	case others > 0:
		c.Status, c.Reason = metav1.ConditionUnknown, reasonVerifying
	case len(failed) == 0:
		c.Status, c.Reason = metav1.ConditionTrue, reasonVerified
	}
	return c
}
