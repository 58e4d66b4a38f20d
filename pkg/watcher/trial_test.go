// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
	"github.com/kmm-node/kmmd/pkg/build"
	"github.com/kmm-node/kmmd/pkg/spec"
)

const (
	digestA = "sha256:a"
	digestB = "sha256:b"
)

// line is a trial in the words of the tables below.
func line(t trial, do step) string {
	words := []string{t.status, t.stage, string(t.kind), t.digest}
	out := ""
	for _, w := range words {
		if w != "" {
			out += w + " "
		}
	}
	if t.final {
		out += "final "
	}
	switch do {
	case stepAsk:
		out += "-> ask "
	case stepCreate:
		out += fmt.Sprintf("-> Job %d ", t.attempt+1)
	}
	return strings.TrimSpace(out)
}

func TestTrying(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	trialAt := func(status, stage string, kind build.Kind, digest string) trial {
		return trial{revision: "r1", image: "r/kmod:6.1", kind: kind, digest: digest, status: status, stage: stage, since: now.Add(-time.Minute)}
	}
	looking := trialAt("InProgress", "Image", "", "")
	waiting := looking
	waiting.at, waiting.wait = now.Add(5*time.Second), 10*time.Second
	asked := looking
	asked.at, asked.wait = now.Add(-time.Second), 10*time.Second
	checking := trialAt("InProgress", "Content", build.Check, digestA)
	rehearsing := trialAt("InProgress", "Image", build.Rehearse, "")
	good := trialAt("Success", "Done", build.Check, digestA)
	failed := func(kind build.Kind, digest string, final bool, wait time.Duration) trial {
		f := trialAt("Failure", "Done", kind, digest)
		f.final, f.attempt, f.at = final, 1, now.Add(wait)
		return f
	}
	unfit := failed(build.Check, digestA, true, -time.Second)
	broken := func(wait time.Duration) trial { return failed(build.Check, digestA, false, wait) }
	absent := failed("", "", true, -time.Second)

	running := build.Result{State: build.Running, Step: "check"}
	fits := build.Result{State: build.Succeeded, Step: "check", Message: "2 files fit", Output: "{}"}
	doesNotFit := build.Result{State: build.Failed, Step: "check", Reason: "WrongKernel", Message: "a: of another kernel", Output: "{}"}
	down := build.Result{State: build.Failed, Step: "check", Reason: "ImageUnreachable", Message: "no route", Output: "{}"}
	evicted := build.Result{State: build.Failed, Step: "check", Reason: "Evicted", Message: "no disk"}
	notBuilt := build.Result{State: build.Failed, Step: "build", Reason: "Error", Message: "no compiler"}

	made := func(state, digest string) *v1beta1.ModuleImage {
		return &v1beta1.ModuleImage{State: state, Digest: digest, Hash: "h1", Message: "running: build"}
	}
	notMade := func(stage string) *v1beta1.ModuleImage {
		return &v1beta1.ModuleImage{State: v1beta1.ImageFailed, Stage: stage, Hash: "h1", Reason: "Error", Message: "no compiler"}
	}
	refused := func(hash, digest string) *v1beta1.ModuleImage {
		return &v1beta1.ModuleImage{State: v1beta1.ImageFailed, Stage: stageBuild, Hash: hash, Digest: digest, Reason: reasonJobRefused, Message: "exceeded quota"}
	}
	none, isA, isB, silent := &answer{}, &answer{digest: digestA}, &answer{digest: digestB}, &answer{err: errors.New("connection refused")}

	for _, tt := range []struct {
		name        string
		have        trial
		revision    string // default r1
		problem     error
		lack        error
		makes, push bool
		made        *v1beta1.ModuleImage
		answer      *answer
		job         string // kind, digest and attempt of what there is
		result      build.Result
		want        string
		says        string
	}{
		{name: "new: the registry is asked", want: "InProgress Image -> ask", says: "looking for the image r/kmod:6.1"},
		{name: "new, and it is there", answer: isA, want: "InProgress Content check sha256:a -> Job 1"},
		{name: "new, there, and a Watcher before us has begun", answer: isA, job: "check sha256:a 1", result: running, want: "InProgress Content check sha256:a", says: "running: check"},
		{name: "new, and not there", answer: none, want: "Failure Done final", says: "ImageNotFound: there is no image r/kmod:6.1"},
		{name: "new, and nobody answers", answer: silent, want: "InProgress Image", says: "ImageUnreachable: connection refused"},
		{name: "nobody has answered a moment ago", have: waiting, want: "InProgress Image"},
		{name: "nobody has answered a while ago", have: asked, want: "InProgress Image -> ask"},
		{name: "no mapping", problem: fmt.Errorf("match ns/a: %w", spec.ErrNoMapping), want: "Failure Done", says: "NoMapping: match ns/a: no kernel mapping matches"},
		{name: "something is not there", problem: &errMissing{"ConfigMap ns/d"}, want: "Failure Done", says: "Missing: ConfigMap ns/d is not there"},
		{name: "something wrong", problem: errOfNode, want: "Failure Done", says: "Invalid: the image is a file of the node"},

		{name: "checked: runs", have: checking, job: "check sha256:a 1", result: running, want: "InProgress Content check sha256:a"},
		{name: "checked: fits", have: checking, job: "check sha256:a 1", result: fits, want: "Success Done check sha256:a", says: "2 files fit"},
		{name: "checked: does not fit", have: checking, job: "check sha256:a 1", result: doesNotFit, want: "Failure Done check sha256:a final", says: "WrongKernel: a: of another kernel"},
		{name: "checked: the registry was down", have: checking, job: "check sha256:a 1", result: down, want: "Failure Done check sha256:a", says: "ImageUnreachable: no route"},
		{name: "checked: the pod was evicted", have: checking, job: "check sha256:a 1", result: evicted, want: "Failure Done check sha256:a", says: "Evicted: no disk"},
		{name: "checked: the Job is gone", have: checking, want: "InProgress Content check sha256:a -> Job 1"},
		{name: "the pod was evicted, not yet time", have: broken(time.Second), job: "check sha256:a 1", result: evicted, want: "Failure Done check sha256:a"},
		{name: "the pod was evicted, time", have: broken(0), job: "check sha256:a 1", result: evicted, want: "InProgress Content check sha256:a -> Job 2"},
		{name: "the pod was evicted, time, Job collected", have: broken(0), want: "InProgress Content check sha256:a -> Job 2"},
		{name: "the next one runs", have: trial{revision: "r1", image: "r/kmod:6.1", kind: build.Check, digest: digestA, status: "InProgress", attempt: 1, since: now}, job: "check sha256:a 2", result: running, want: "InProgress Content check sha256:a"},

		{name: "fits: nothing more is done", have: good, want: "Success Done check sha256:a"},
		{name: "fits, and the Module is another", have: good, revision: "r2", want: "InProgress Image -> ask"},
		{name: "fits, and the Module has no mapping any more", have: good, revision: "-", problem: spec.ErrNoMapping, want: "Failure Done"},

		{name: "does not fit: is there another?", have: unfit, job: "check sha256:a 1", result: doesNotFit, want: "Failure Done check sha256:a final -> ask"},
		{name: "does not fit: the same", have: unfit, answer: isA, job: "check sha256:a 1", result: doesNotFit, want: "Failure Done check sha256:a final"},
		{name: "does not fit: another", have: unfit, answer: isB, job: "check sha256:a 1", result: doesNotFit, want: "InProgress Content check sha256:b -> Job 1"},
		{name: "does not fit: nobody answers", have: unfit, answer: silent, want: "Failure Done check sha256:a final"},
		{name: "does not fit: gone", have: unfit, answer: none, want: "Failure Done final", says: "ImageNotFound"},
		{name: "does not fit: gone, but it can be built", have: unfit, makes: true, answer: none, want: "InProgress Image rehearse -> Job 1"},
		{name: "was not there: is it now?", have: absent, want: "Failure Done final -> ask"},
		{name: "was not there: still not", have: absent, answer: none, want: "Failure Done final"},
		{name: "was not there: nobody answers", have: absent, answer: silent, want: "Failure Done final"},
		{name: "was not there: it is", have: absent, answer: isB, want: "InProgress Content check sha256:b -> Job 1"},

		{name: "not pushed: one that is there is not built", makes: true, answer: isA, want: "InProgress Content check sha256:a -> Job 1"},
		{name: "not pushed: made, and thrown away", makes: true, answer: none, want: "InProgress Image rehearse -> Job 1", says: "will not be pushed"},
		{name: "not pushed: a Watcher before us has failed", makes: true, answer: none, job: "rehearse 3", result: notBuilt, want: "Failure Done rehearse", says: "Error: no compiler"},
		{name: "not pushed: building", have: rehearsing, makes: true, job: "rehearse 1", result: build.Result{State: build.Running, Step: "build"}, want: "InProgress Image rehearse", says: "running: build"},
		{name: "not pushed: checking", have: rehearsing, makes: true, job: "rehearse 1", result: running, want: "InProgress Content rehearse"},
		{name: "not pushed: fits", have: rehearsing, makes: true, job: "rehearse 1", result: fits, want: "Success Done rehearse", says: "it can be made, and was not pushed: 2 files fit"},
		{name: "not pushed: can not be built", have: rehearsing, makes: true, job: "rehearse 1", result: notBuilt, want: "Failure Done rehearse", says: "Error: no compiler"},
		{name: "not pushed: does not fit", have: rehearsing, makes: true, job: "rehearse 1", result: doesNotFit, want: "Failure Done rehearse final"},
		{name: "not pushed: did not fit, and was pushed by somebody", have: failed(build.Rehearse, "", true, 0), makes: true, answer: isB, want: "InProgress Content check sha256:b -> Job 1"},
		{name: "not pushed: did not fit, and is not there", have: failed(build.Rehearse, "", true, 0), makes: true, answer: none, want: "Failure Done rehearse final"},

		{name: "no Dockerfile, and an image", lack: &errMissing{"ConfigMap ns/d"}, answer: isA, want: "InProgress Content check sha256:a -> Job 1"},
		{name: "no Dockerfile, and no image", lack: &errMissing{"ConfigMap ns/d"}, answer: none, want: "Failure Done final", says: "Missing: ConfigMap ns/d is not there"},

		{name: "pushed: nobody has begun", makes: true, push: true, want: "InProgress Image", says: "about to be made"},
		{name: "pushed: of what was wanted before", makes: true, push: true, made: &v1beta1.ModuleImage{State: v1beta1.ImageReady, Digest: digestA, Hash: "h0"}, want: "InProgress Image"},
		{name: "pushed: building", makes: true, push: true, made: made(v1beta1.ImageBuilding, ""), want: "InProgress Image", says: "running: build"},
		{name: "pushed: can not be built", makes: true, push: true, made: notMade(stageBuild), want: "Failure Done", says: "BuildFailed: Error: no compiler"},
		{name: "pushed: its Job is refused", makes: true, push: true, made: refused("h1", ""), want: "Failure Done", says: "BuildFailed: JobRefused: exceeded quota"},
		{name: "pushed: its Job is refused, there is one of before", makes: true, push: true, made: refused("h0", digestA), want: "Failure Done", says: "exceeded quota"},
		{name: "pushed: nobody answers", makes: true, push: true, made: notMade(stageRegistry), want: "InProgress Image"},
		{name: "pushed: there", makes: true, push: true, made: made(v1beta1.ImageReady, digestA), want: "InProgress Content check sha256:a -> Job 1"},
		{name: "pushed: checking", have: checking, makes: true, push: true, made: made(v1beta1.ImageReady, digestA), job: "check sha256:a 1", result: running, want: "InProgress Content check sha256:a"},
		{name: "pushed: fits", have: checking, makes: true, push: true, made: made(v1beta1.ImageReady, digestA), job: "check sha256:a 1", result: fits, want: "Success Done check sha256:a"},
		{name: "pushed: does not fit", have: unfit, makes: true, push: true, made: made(v1beta1.ImageReady, digestA), job: "check sha256:a 1", result: doesNotFit, want: "Failure Done check sha256:a final"},
		{name: "pushed: did not fit, and was made anew", have: unfit, makes: true, push: true, made: made(v1beta1.ImageReady, digestB), job: "check sha256:a 1", result: doesNotFit, want: "InProgress Content check sha256:b -> Job 1"},
		{name: "pushed: failed, and is built again", have: failed("", "", false, 0), makes: true, push: true, made: made(v1beta1.ImageBuilding, ""), want: "InProgress Image"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			y := trying{
				have: tt.have, uid: "u", revision: "r1", image: "r/kmod:6.1", problem: tt.problem, lack: tt.lack, makes: tt.makes, push: tt.push,
				made: tt.made, hash: "h1", answer: tt.answer, retry: time.Minute, now: now, jobs: map[string]*jobSeen{},
			}
			switch {
			case tt.revision == "-" || tt.problem != nil:
				y.revision, y.image = "", ""
			case tt.revision != "":
				y.revision = tt.revision
			}
			if tt.job != "" {
				words := strings.Fields(tt.job)
				of := trial{revision: y.revision, kind: build.Kind(words[0])}
				if len(words) == 3 {
					of.digest = words[1]
				}
				y.jobs[jobID("u", &of)] = &jobSeen{name: tt.job, attempt: int32(words[len(words)-1][0] - '0'), result: tt.result}
			}
			next, do := y.decide()
			assert.Equal(t, tt.want, line(next, do))
			assert.Contains(t, next.reason, tt.says)
			assert.NotEmpty(t, next.status)
			if next.status == tt.have.status {
				assert.Equal(t, tt.have.since, next.since, "nothing has changed")
			} else {
				assert.Equal(t, now, next.since)
			}
			if do == stepNone && next.status != v1beta2.VerificationSuccess {
				assert.Positive(t, nextTrial(map[string]trial{"a/b": next}, now), "it is looked at again")
			}
			if do != stepAsk {
				again := y
				again.have, again.answer = next, nil
				settled, _ := again.decide()
				assert.Equal(t, next.status, settled.status, "a second look says the same")
			}
		})
	}
}

// TestTryAgain: what is not the image's fault is tried again, each time after twice
// as long.
func TestTryAgain(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	y := trying{uid: "u", revision: "r1", image: "i:1", retry: time.Minute, now: start}
	y.have = trial{revision: "r1", image: "i:1", kind: build.Check, digest: digestA, status: v1beta2.VerificationInProgress}
	var waits []string
	for attempt := int32(1); attempt <= 8; attempt++ {
		y.jobs = map[string]*jobSeen{jobID("u", &y.have): {attempt: attempt, result: build.Result{State: build.Failed, Reason: "Evicted"}}}
		next, do := y.decide()
		assert.Equal(t, stepNone, do)
		waits = append(waits, next.at.Sub(y.now).String())
		y.have, y.now = next, next.at
		next, do = y.decide()
		assert.Equal(t, stepCreate, do)
		assert.Equal(t, attempt, next.attempt, "and the Job is the one after it")
		y.have = next
	}
	assert.Equal(t, "1m0s 2m0s 4m0s 8m0s 16m0s 32m0s 1h0m0s 1h0m0s", strings.Join(waits, " "))

	y = trying{uid: "u", revision: "r1", image: "i:1", now: start}
	waits = nil
	for range 8 {
		_, do := y.decide()
		assert.Equal(t, stepAsk, do)
		y.answer = &answer{err: errors.New("down")}
		next, _ := y.decide()
		waits = append(waits, next.at.Sub(y.now).String())
		y.have, y.now, y.answer = next, next.at, nil
	}
	assert.Equal(t, "10s 20s 40s 1m20s 2m40s 5m0s 5m0s 5m0s", strings.Join(waits, " "))
}

func TestVerifiedCondition(t *testing.T) {
	module := func(name, status string) v1beta2.PreflightValidationModuleStatus {
		return v1beta2.PreflightValidationModuleStatus{Namespace: "ns", Name: name, CRBaseStatus: v1beta2.CRBaseStatus{VerificationStatus: status}}
	}
	good, bad, busy := module("good", "Success"), module("bad", "Failure"), module("busy", "InProgress")
	for _, tt := range []struct {
		modules []v1beta2.PreflightValidationModuleStatus
		status  metav1.ConditionStatus
		reason  string
		message string
	}{
		{nil, metav1.ConditionTrue, "NoModules", "there is no Module to validate"},
		{[]v1beta2.PreflightValidationModuleStatus{good}, metav1.ConditionTrue, "AllReady", "1 of 1 Module is ready for kernel 6.1.0-1"},
		{[]v1beta2.PreflightValidationModuleStatus{good, busy, bad}, metav1.ConditionUnknown, "InProgress", "1 of 3 Modules are ready for kernel 6.1.0-1; not ready: ns/bad"},
		{[]v1beta2.PreflightValidationModuleStatus{good, bad}, metav1.ConditionFalse, "NotReady", "1 of 2 Modules are ready for kernel 6.1.0-1; not ready: ns/bad"},
		{[]v1beta2.PreflightValidationModuleStatus{bad, bad, bad, bad, bad, bad, bad}, metav1.ConditionFalse, "NotReady",
			"0 of 7 Modules are ready for kernel 6.1.0-1; not ready: ns/bad, ns/bad, ns/bad, ns/bad, ns/bad and 2 more"},
	} {
		c := verifiedCondition("6.1.0-1", tt.modules)
		assert.Equal(t, v1beta2.ConditionVerified, c.Type)
		assert.Equal(t, tt.status, c.Status, tt.message)
		assert.Equal(t, tt.reason, c.Reason)
		assert.Equal(t, tt.message, c.Message)
	}
}

// TestStatusHasTheEnd of a log, which says what went wrong.
func TestStatusHasTheEnd(t *testing.T) {
	reason := "Error: build ended with exit code 1:\n" + strings.Repeat("the compiler says a lot\n", 42) + "fatal: foo.h: no such file"
	require.Greater(t, len(reason), maxStatusReason)
	said := entryOf("ns/a", &trial{reason: reason}).StatusReason
	assert.LessOrEqual(t, len(said), maxStatusReason)
	assert.Regexp(t, `^Error: build ended with exit code 1:(?s:.*)\nfatal: foo\.h: no such file$`, said)
	assert.True(t, utf8.ValidString(entryOf("ns/a", &trial{reason: "\xff"}).StatusReason))
}

// TestPreflightStatus: a Watcher that begins with the status goes on where the one
// before it was, and writes the same.
func TestPreflightStatus(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	trials := map[string]trial{
		"ns/a": {revision: "r1", image: "i:1", digest: digestA, kind: build.Check, status: "Success", stage: "Done", reason: "2 files fit", since: now},
		"ns/b": {revision: "r2", image: "i:2", status: "InProgress", stage: "Image", reason: strings.Repeat("long ", 1000), since: now},
	}
	p := &v1beta2.PreflightValidation{}
	p.Generation, p.Spec.KernelVersion = 3, "6.1.0-1"
	p.Status = preflightStatus(p, []string{"ns/a", "ns/b"}, trials, now)
	assert.Equal(t, int64(3), p.Status.ObservedGeneration)
	assert.LessOrEqual(t, len(p.Status.Modules[1].StatusReason), maxStatusReason)
	read := map[string]trial{}
	for i := range p.Status.Modules {
		m := &p.Status.Modules[i]
		read[key(m.Namespace, m.Name)] = trialOf(m)
	}
	assert.Equal(t, trials["ns/a"], read["ns/a"])
	assert.Equal(t, p.Status, preflightStatus(p, []string{"ns/a", "ns/b"}, read, now.Add(time.Hour)))
	delete(read, "ns/b")
	after := preflightStatus(p, []string{"ns/a"}, read, now.Add(time.Hour))
	assert.Len(t, after.Modules, 1)
	assert.Equal(t, metav1.ConditionTrue, after.Conditions[0].Status)
	assert.Equal(t, now.Add(time.Hour), after.Conditions[0].LastTransitionTime.Time)
}
