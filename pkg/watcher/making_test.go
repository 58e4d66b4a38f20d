// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/build"
)

// TestStageOfJob: what is pushed is signed, and a registry that does not take it is
// no fault of the key.
func TestStageOfJob(t *testing.T) {
	signs := &batchv1.Job{}
	signs.Spec.Template.Spec.Containers = []corev1.Container{{Name: "publish", Args: []string{"sign", "image"}}}
	for _, c := range []struct {
		job    *batchv1.Job
		result build.Result
		want   string
	}{
		{signs, build.Result{State: build.Failed, Step: "build"}, stageBuild},
		{signs, build.Result{State: build.Failed, Step: "publish"}, stageSign},
		{signs, build.Result{State: build.Failed, Step: "publish", NotPushed: true}, stagePush},
		{&batchv1.Job{}, build.Result{State: build.Failed, Step: "publish"}, stagePush},
	} {
		assert.Equal(t, c.want, viewOf(c.job, c.result).stage, c.result)
	}
}

func TestDecide(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	before, later := metav1.NewTime(now.Add(-time.Minute)), metav1.NewTime(now.Add(time.Minute))
	image := func(change func(*v1beta1.ModuleImage)) v1beta1.ModuleImage {
		i := v1beta1.ModuleImage{Kernel: "6.1", Image: "r/kmod:6.1", Hash: "h1", Since: before}
		change(&i)
		return i
	}
	fresh := v1beta1.ModuleImage{}
	adopted := image(func(i *v1beta1.ModuleImage) { i.State, i.Digest = v1beta1.ImageReady, "sha256:a" })
	made := image(func(i *v1beta1.ModuleImage) {
		i.State, i.Digest, i.Attempts, i.Job = v1beta1.ImageReady, "sha256:a", 1, "j-1"
	})
	building := image(func(i *v1beta1.ModuleImage) { i.State, i.Attempts, i.Job = v1beta1.ImageBuilding, 1, "j-1" })
	failed := func(at metav1.Time) v1beta1.ModuleImage {
		return image(func(i *v1beta1.ModuleImage) {
			i.State, i.Attempts, i.Job, i.Stage, i.Reason, i.RetryAt = v1beta1.ImageFailed, 1, "j-1", stageBuild, "Error", &at
		})
	}
	running := &jobView{name: "j-1", attempt: 1, running: true, stage: stageBuild, message: "m"}
	broken := &jobView{name: "j-1", attempt: 1, stage: stageSign, reason: "Error", message: "no key"}
	done := &jobView{name: "j-1", attempt: 1, digest: "sha256:b"}
	silent := &jobView{name: "j-1", attempt: 1}
	old := &jobView{name: "j-1", attempt: 1, digest: "sha256:old", created: now.Add(-time.Hour)}
	down := &answer{err: errors.New("connection refused")}
	none, there := &answer{}, &answer{digest: "sha256:b"}

	for _, tt := range []struct {
		name    string
		have    v1beta1.ModuleImage
		hash    string
		job     *jobView
		answer  *answer
		missing bool
		do      step
		state   string
		digest  string
		attempt int32
		reason  string
	}{
		{name: "new: the registry is asked first", have: fresh, do: stepAsk},
		{name: "new and there", have: fresh, answer: there, state: v1beta1.ImageReady, digest: "sha256:b"},
		{name: "new and not there", have: fresh, answer: none, do: stepCreate, state: v1beta1.ImageBuilding, attempt: 1},
		{name: "new and nobody answers", have: fresh, answer: down, state: v1beta1.ImageFailed, reason: reasonUnreachable},
		{name: "new, and a Watcher before us has begun", have: fresh, job: running, state: v1beta1.ImageBuilding, attempt: 1},
		{name: "new, and a Watcher before us was done", have: fresh, job: done, state: v1beta1.ImageReady, digest: "sha256:b", attempt: 1},
		{name: "adopted and the same", have: adopted, state: v1beta1.ImageReady, digest: "sha256:a"},
		{name: "found when the Dockerfile was not there", have: image(func(i *v1beta1.ModuleImage) {
			i.Hash, i.State, i.Digest = "", v1beta1.ImageReady, "sha256:a"
		}), state: v1beta1.ImageReady, digest: "sha256:a"},
		{name: "adopted, the Dockerfile is another: no question", have: adopted, hash: "h2", do: stepCreate, state: v1beta1.ImageBuilding, digest: "sha256:a", attempt: 1},
		{name: "made and the same, its Job still there", have: made, job: &jobView{name: "j-1", attempt: 1, digest: "sha256:a"}, state: v1beta1.ImageReady, digest: "sha256:a", attempt: 1},
		{name: "made and the same, its Job collected", have: made, state: v1beta1.ImageReady, digest: "sha256:a", attempt: 1},
		{name: "made, then another, and now as before: once more", have: image(func(i *v1beta1.ModuleImage) {
			i.Hash, i.State, i.Digest, i.Attempts, i.Job = "h0", v1beta1.ImageReady, "sha256:new", 1, "other-1"
		}), job: old, do: stepCreate, state: v1beta1.ImageBuilding, digest: "sha256:new", attempt: 2},
		{name: "building", have: building, job: running, state: v1beta1.ImageBuilding, attempt: 1},
		{name: "built", have: building, job: done, state: v1beta1.ImageReady, digest: "sha256:b", attempt: 1},
		{name: "built, and what it said is lost", have: building, job: silent, do: stepAsk, state: v1beta1.ImageBuilding, attempt: 1},
		{name: "built, lost, found", have: building, job: silent, answer: there, state: v1beta1.ImageReady, digest: "sha256:b", attempt: 1},
		{name: "built, lost, not found", have: building, job: silent, answer: none, state: v1beta1.ImageFailed, reason: "NotPushed", attempt: 1},
		{name: "its Job is gone", have: building, state: v1beta1.ImageFailed, reason: reasonJobGone, attempt: 1},
		{name: "fails", have: building, job: broken, state: v1beta1.ImageFailed, reason: "Error", attempt: 1},
		{name: "failed, not yet time", have: failed(later), job: broken, state: v1beta1.ImageFailed, reason: "Error", attempt: 1},
		{name: "failed, time", have: failed(before), job: broken, do: stepCreate, state: v1beta1.ImageBuilding, attempt: 2},
		{name: "failed, time, Job collected", have: failed(before), do: stepCreate, state: v1beta1.ImageBuilding, attempt: 2},
		{name: "failed, not yet time, Job collected", have: failed(later), state: v1beta1.ImageFailed, reason: "Error", attempt: 1},
		{name: "failed, and the last wait is the longest", have: failed(metav1.NewTime(now.Add(lastMakeAgain))), job: broken, state: v1beta1.ImageFailed, reason: "Error", attempt: 1},
		{name: "failed, by a clock that was ahead", have: failed(metav1.NewTime(now.AddDate(1, 0, 0))), job: broken, do: stepCreate, state: v1beta1.ImageBuilding, attempt: 2},
		{name: "failed, and the Dockerfile is mended: at once, no question", have: failed(later), hash: "h2", do: stepCreate, state: v1beta1.ImageBuilding, attempt: 1},
		{name: "built, and the Dockerfile was mended meanwhile: no question", have: building, hash: "h2", do: stepCreate, state: v1beta1.ImageBuilding, attempt: 1},
		{name: "nobody has answered, and the Dockerfile is mended", have: image(func(i *v1beta1.ModuleImage) {
			i.State, i.Stage, i.Reason, i.RetryAt = v1beta1.ImageFailed, stageRegistry, reasonUnreachable, &later
		}), hash: "h2", do: stepAsk},
		{name: "another containerImage", have: image(func(i *v1beta1.ModuleImage) {
			i.Image, i.State, i.Digest = "r/kmod:old", v1beta1.ImageReady, "sha256:a"
		}), do: stepAsk},
		{name: "a node misses it", have: made, missing: true, do: stepAsk, state: v1beta1.ImageReady, digest: "sha256:a", attempt: 1},
		{name: "missed and gone", have: made, missing: true, answer: none, do: stepCreate, state: v1beta1.ImageBuilding, attempt: 2},
		{name: "missed, and there is another", have: made, missing: true, answer: there, state: v1beta1.ImageReady, digest: "sha256:b", attempt: 1},
		{name: "missed, and nobody answers", have: made, missing: true, answer: down, state: v1beta1.ImageReady, digest: "sha256:a", attempt: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hash := tt.hash
			if hash == "" {
				hash = "h1"
			}
			m := making{
				have: tt.have, kernel: "6.1", image: "r/kmod:6.1", hash: hash, job: tt.job, answer: tt.answer,
				missing: tt.missing, retry: time.Minute, now: now,
			}
			got, do := m.decide()
			assert.Equal(t, tt.do, do)
			if tt.do == stepAsk && tt.state == "" {
				return
			}
			assert.Equal(t, tt.state, got.State)
			assert.Equal(t, tt.digest, got.Digest)
			assert.Equal(t, tt.attempt, got.Attempts)
			assert.Equal(t, tt.reason, got.Reason)
			assert.Equal(t, got.State == v1beta1.ImageFailed, got.RetryAt != nil && got.State != v1beta1.ImageReady)
		})
	}
}

// TestRetriesGrowApart: the tenth attempt comes no sooner than an hour after the
// ninth, and a registry that does not answer is asked less and less often.
func TestRetriesGrowApart(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	i, waits := v1beta1.ModuleImage{}, []time.Duration{}
	for attempt := range int32(9) {
		job := &jobView{name: "j", attempt: attempt + 1, reason: "Error", stage: stageBuild}
		m := making{have: i, kernel: "k", image: "i", hash: "h", job: job, retry: time.Minute, now: now}
		i, _ = m.decide()
		waits = append(waits, i.RetryAt.Sub(now))
		i.Job = "" // the next one is another
	}
	assert.Equal(t, []time.Duration{1 * time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute}, waits[:4])
	assert.Equal(t, time.Hour, waits[8])

	i, waits = v1beta1.ModuleImage{}, nil
	for range 8 {
		m := making{have: i, kernel: "k", image: "i", hash: "h", answer: &answer{err: errors.New("refused")}, now: now}
		i, _ = m.decide()
		waits = append(waits, i.RetryAt.Sub(now))
		now = i.RetryAt.Time
	}
	assert.Equal(t, firstAskAgain, waits[0])
	assert.Equal(t, lastAskAgain, waits[7])
	for n := range waits[1:] {
		assert.GreaterOrEqual(t, waits[n+1], waits[n])
	}
}

// TestRetryAtAsTheServerKeepsIt, in whole seconds: else each look at the Module writes a status that changes nothing.
func TestRetryAtAsTheServerKeepsIt(t *testing.T) {
	m := making{
		kernel: "6.1", image: "reg.example/x:1", hash: "h", retry: time.Minute, now: time.Unix(1_000_000, 123_456_789),
		answer: &answer{err: errors.New("no route")},
	}
	there := ready(v1beta1.ModuleImage{Kernel: "6.1", Image: "reg.example/x:1", Hash: "h"}, "sha256:a")
	lost := m
	lost.missing = true
	kept, _ := lost.keep(there)
	w := idle(fake.NewClientset(), func(context.Context, ImageRequest) (string, error) { return "", nil })
	defer w.queue.ShutDown()
	mod := fromDockerfile("a")
	r, err := build.For(mod, "6.1")
	require.NoError(t, err)
	for name, i := range map[string]v1beta1.ModuleImage{
		"failed":       m.fail(v1beta1.ModuleImage{Attempts: 1}, stageBuild, "Error", "no compiler"),
		"unanswered":   m.unanswered(v1beta1.ModuleImage{}),
		"kept":         kept,
		"refused":      m.refused(errors.New("quota")),
		"not makeable": w.unmakeable(t.Context(), mod, r, v1beta1.ModuleImage{}, &errMissing{"Secret ns/a"}),
	} {
		require.NotNil(t, i.RetryAt, name)
		var stored v1beta1.ModuleImage
		data, err := json.Marshal(i)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(data, &stored))
		assert.True(t, apiequality.Semantic.DeepEqual(i.RetryAt, stored.RetryAt), "%s: %s", name, i.RetryAt.Time)
	}
}
