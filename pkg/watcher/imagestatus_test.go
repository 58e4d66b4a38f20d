// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/meta"

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
