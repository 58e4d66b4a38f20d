// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/build"
)

func TestConditionsOfImages(t *testing.T) {
	m := module("a", "1")
	failed := v1beta1.ModuleImage{Kernel: "6.1", Image: "r/x:1", State: v1beta1.ImageFailed, Stage: stageSign, Reason: "Error", Message: "key and certificate do not match"}
	building := v1beta1.ModuleImage{Kernel: "6.2", Image: "r/x:2", State: v1beta1.ImageBuilding, Job: "j-1", Message: "running: build"}
	var s makings
	s.of(m)
	s.set("ns/a", map[string]v1beta1.ModuleImage{"6.1": failed, "6.2": building})
	say := func(kind string) (status, reason, message string) {
		images := s.list(m)
		now := moduleStatus(m, report{images: images, needed: s.needed("ns/a", images), building: 2}, nil)
		require.Len(t, now.Images, 2)
		c := meta.FindStatusCondition(now.Conditions, kind)
		return string(c.Status), c.Reason, c.Message
	}
	status, reason, message := say(v1beta1.ConditionDegraded)
	assert.Equal(t, "True SignFailed", status+" "+reason)
	assert.Contains(t, message, "r/x:1 for kernel 6.1: Error: key and certificate do not match")
	status, reason, message = say(v1beta1.ConditionProgressing)
	assert.Equal(t, "True Building", status+" "+reason)
	assert.Contains(t, message, "r/x:2 for kernel 6.2 (Job j-1): running: build")
	_, _, message = say(v1beta1.ConditionReady)
	assert.Contains(t, message, "2 wait for an image")

	// Kernels to come are somebody else's business.
	s.running("ns/a", map[string]*demand{"6.1": {}, "6.2": {}})
	status, _, _ = say(v1beta1.ConditionDegraded)
	assert.Equal(t, "False", status)
	status, _, _ = say(v1beta1.ConditionProgressing)
	assert.Equal(t, "False", status)
}

func TestReasonOfAStage(t *testing.T) {
	for stage, reason := range map[string]string{
		stageBuild: "BuildFailed", stageSign: "SignFailed", stagePush: "PushFailed", stageRegistry: "RegistryFailed", "": "BuildFailed",
	} {
		assert.Equal(t, reason, failedReason(&v1beta1.ModuleImage{Stage: stage}))
	}
}

// TestGenerationIsObeyed when all images are there that the Module asks for now, and
// not before; nor is it Ready.
func TestGenerationIsObeyed(t *testing.T) {
	three := 3
	m := fromDockerfile("a")
	m.Generation, m.Spec.ImageRebuildTriggerGeneration = 2, &three
	image := func(state, digest string) v1beta1.ModuleImage {
		return v1beta1.ModuleImage{State: state, Digest: digest}
	}
	there, again := image(v1beta1.ImageReady, "sha256:a"), image(v1beta1.ImageBuilding, "sha256:a")
	ready := func(generation int64) []metav1.Condition {
		return []metav1.Condition{{Type: v1beta1.ConditionReady, Status: metav1.ConditionTrue, ObservedGeneration: generation}}
	}
	for _, tt := range []struct {
		name    string
		was     []metav1.Condition
		needed  []v1beta1.ModuleImage
		decided int64
		obeyed  bool
		ready   string // what keeps it from being Ready
	}{
		{name: "just changed: they are of before", was: ready(1), needed: []v1beta1.ModuleImage{there}, decided: 1, ready: "not known yet"},
		{name: "changed while there was no Watcher", was: ready(1), needed: []v1beta1.ModuleImage{there}, ready: "not known yet"},
		{name: "another Watcher, it was Ready as it is", was: ready(2), needed: []v1beta1.ModuleImage{there}},
		{name: "one is made", was: ready(2), needed: []v1beta1.ModuleImage{there, again}, decided: 2, ready: "is being made"},
		{name: "one could not be made", needed: []v1beta1.ModuleImage{image(v1beta1.ImageFailed, "sha256:a")}, decided: 2, ready: "could not be made anew"},
		{name: "all are there", needed: []v1beta1.ModuleImage{there, there}, decided: 2, obeyed: true},
		{name: "none is needed", decided: 2, obeyed: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m.Status.Conditions = tt.was
			s := moduleStatus(m, report{counts: counts{selected: 2, desired: 2, available: 2, current: 2}, needed: tt.needed, decided: tt.decided}, nil)
			assert.Equal(t, tt.obeyed, s.ImageRebuildTriggerGeneration != nil)
			c := meta.FindStatusCondition(s.Conditions, v1beta1.ConditionReady)
			assert.Equal(t, tt.ready == "", c.Status == metav1.ConditionTrue)
			assert.Contains(t, c.Message, tt.ready)
		})
	}
}

func TestImageEvents(t *testing.T) {
	m, at := module("a", "1"), time.Unix(1, 0)
	image := func(state string, attempt int32) v1beta1.ModuleImage {
		return v1beta1.ModuleImage{Kernel: "6.1", Image: "r/x:1", State: state, Hash: "h", Attempts: attempt, Job: "j", Digest: "sha256:a"}
	}
	failed := image(v1beta1.ImageFailed, 1)
	failed.Stage, failed.Reason, failed.Message = stageSign, "Error", strings.Repeat("x", 4000)+"\nthe last line"
	found := image(v1beta1.ImageReady, 0)
	found.Job = ""
	both := &build.Request{Build: &build.Build{}, Sign: &build.Sign{}}
	for _, tt := range []struct {
		name     string
		r        *build.Request
		was, now v1beta1.ModuleImage
		want     []string
	}{
		{"begun", both, v1beta1.ModuleImage{}, image(v1beta1.ImageBuilding, 1), []string{"BuildCreated", "SignCreated"}},
		{"begun, only signed", &build.Request{Sign: &build.Sign{}}, v1beta1.ModuleImage{}, image(v1beta1.ImageBuilding, 1), []string{"SignCreated"}},
		{"going on", both, image(v1beta1.ImageBuilding, 1), image(v1beta1.ImageBuilding, 1), nil},
		{"begun again", both, failed, image(v1beta1.ImageBuilding, 2), []string{"BuildCreated", "SignCreated"}},
		{"done", both, image(v1beta1.ImageBuilding, 1), image(v1beta1.ImageReady, 1), []string{"BuildSucceeded", "SignSucceeded"}},
		{"failed", both, image(v1beta1.ImageBuilding, 1), failed, []string{"SignFailed"}},
		{"found", both, v1beta1.ModuleImage{}, found, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, e := range imageEvents(m, tt.r, tt.was, tt.now, at) {
				got = append(got, e.Reason)
				assert.LessOrEqual(t, len(e.Message), maxEventMessage)
				if strings.HasSuffix(e.Reason, "Failed") {
					assert.Equal(t, "Warning", e.Type)
					assert.Contains(t, e.Message, "the last line")
				}
			}
			assert.Equal(t, tt.want, got)
		})
	}
}
