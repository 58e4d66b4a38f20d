// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
	"github.com/kmm-node/kmmd/pkg/build"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// trial is how the validation of one Module for one kernel stands.
type trial struct {
	revision      string     // of what is validated
	image, digest string     // what is looked into
	kind          build.Kind // of the Job that looks; "" until it is known what there is
	job           string     // its name
	attempt       int32      // the last Job whose failure was taken note of

	status, stage, reason string // as the status has them
	since                 time.Time

	final bool          // it failed, and only another image or revision can change that
	at    time.Time     // when to go on by ourselves
	wait  time.Duration // between the last two questions to the registry
}

// jobSeen is a Job that looks at an image, and what became of it.
type jobSeen struct {
	name    string
	attempt int32
	age     time.Duration
	result  build.Result
}

// trying is everything that is decided upon for one Module.
type trying struct {
	have            trial
	uid             types.UID // of the PreflightValidation
	revision, image string
	problem         error // why there is nothing to look at

	lack  error                // what is missing to make the image, should it not be there
	makes bool                 // the cluster builds or signs the image,
	push  bool                 // and may push it
	made  *v1beta1.ModuleImage // how that stands when it may; nil is not known yet
	hash  string               // that made has to be about

	jobs   map[string]*jobSeen // the last ones, by ID
	answer *answer             // nil: the registry has not been asked
	retry  time.Duration
	now    time.Time
}

// jobID names the Jobs for one trial: those that look at the same.
func jobID(uid types.UID, t *trial) string {
	return hashOf([]any{uid, t.revision, t.kind, t.digest})[:16]
}

// decide says how the validation stands, and what is to be done next.
func (y trying) decide() (trial, step) {
	t := y.have
	if t.revision != y.revision || t.image != y.image {
		t = trial{revision: y.revision, image: y.image}
	}
	next, do := y.from(t)
	return y.dated(next), do
}

// dated says since when it stands so.
func (y trying) dated(t trial) trial {
	t.since = y.have.since
	if t.status != y.have.status || t.since.IsZero() {
		t.since = y.now.Truncate(time.Second)
	}
	return t
}

// refused is a trial whose Job the API server did not take. It may the next time.
func (y trying) refused(t trial, err error) trial {
	return y.dated(t.failed(fmt.Sprintf("%s: %v", reasonJobRefused, err), false, y.now.Add(lookAgain)))
}

func (y trying) from(t trial) (trial, step) {
	switch {
	case y.problem != nil:
		return t.failed(problemText(y.problem), false, time.Time{}), stepNone
	case t.status == v1beta2.VerificationSuccess:
		return t, stepNone
	case y.makes && y.push:
		return y.wait(t)
	case t.kind != "":
		return y.follow(t)
	case t.final:
		return y.askAgain(t)
	}
	return y.ask(t)
}

// problemText says why there is nothing to look at.
func problemText(err error) string {
	reason := spec.ReasonInvalid
	var missing *errMissing
	switch {
	case errors.Is(err, spec.ErrNoMapping):
		reason = spec.ReasonNoMapping
	case errors.As(err, &missing):
		reason = reasonMissing
	}
	return fmt.Sprintf("%s: %v", reason, err)
}

// wait for the image to be made, and pushed.
func (y trying) wait(t trial) (trial, step) {
	i := y.made
	refused := i != nil && i.State == v1beta1.ImageFailed && i.Reason == reasonJobRefused // it may keep the Hash of before
	switch {
	case !refused && (i == nil || i.Hash != y.hash):
		return t.progress(v1beta2.VerificationStageImage, "the image is about to be made"), stepNone
	case i.State == v1beta1.ImageFailed && i.Stage != stageRegistry:
		return t.failed(fmt.Sprintf("%sFailed: %s: %s", i.Stage, i.Reason, i.Message), false, time.Time{}), stepNone
	case i.State != v1beta1.ImageReady:
		return t.progress(v1beta2.VerificationStageImage, cmp.Or(i.Message, "the image is being made")), stepNone
	}
	if t.kind != build.Check || t.digest != i.Digest {
		t = trial{revision: t.revision, image: t.image, kind: build.Check, digest: i.Digest}
	}
	return y.follow(t)
}

// follow the Job that looks at what the trial says.
func (y trying) follow(t trial) (trial, step) {
	j := y.jobs[jobID(y.uid, &t)]
	failed := t.status == v1beta2.VerificationFailure
	known := j != nil && j.result.State == build.Failed && j.attempt <= t.attempt // and the next one is not there
	switch {
	case failed && t.final:
		return y.askAgain(t)
	case failed && (j == nil || known) && y.now.Before(t.at):
		return t, stepNone
	case j == nil || known:
		return t.create()
	}
	t.job = j.name
	switch r := j.result; r.State {
	case build.Succeeded:
		return t.succeeded(r), stepNone
	case build.Failed:
		return y.note(t, j), stepNone
	default:
		return t.running(r, j.age), stepNone
	}
}

// note what a Job that failed has said.
func (y trying) note(t trial, j *jobSeen) trial {
	t.attempt = j.attempt
	r := j.result
	text := fmt.Sprintf("%s: %s", r.Reason, r.Message)
	if r.Output != "" && !passing[spec.Reason(r.Reason)] {
		return t.failed(text, true, y.now.Add(lookAgain))
	}
	wait := lastMakeAgain
	if n := j.attempt - 1; n < 16 {
		wait = min(wait, y.retry<<max(n, 0))
	}
	return t.failed(text, false, y.now.Add(wait))
}

// passing are reasons of a check that are not about what the image holds.
var passing = map[spec.Reason]bool{
	spec.ReasonImageNotFound: true, spec.ReasonImageUnauthorized: true, spec.ReasonImageUnreachable: true,
	spec.ReasonNoSpace: true, spec.ReasonInternal: true,
}

// create a Job of the trial's kind, the one after its last attempt.
func (t trial) create() (trial, step) {
	if t.kind == build.Rehearse {
		return t.progress(v1beta2.VerificationStageImage, "the image is about to be made; it will not be pushed"), stepCreate
	}
	return t.progress(v1beta2.VerificationStageContent, "the image is about to be looked into"), stepCreate
}

// ask whether there is an image, and what it is.
func (y trying) ask(t trial) (trial, step) {
	switch a := y.answer; {
	case y.now.Before(t.at):
		return t, stepNone
	case a == nil:
		if t.status == "" {
			t = t.progress(v1beta2.VerificationStageImage, "looking for the image "+t.image)
		}
		return t, stepAsk
	case a.err != nil:
		wait := min(max(2*t.wait, firstAskAgain), lastAskAgain)
		t = t.progress(v1beta2.VerificationStageImage, fmt.Sprintf("%s: %v", spec.ReasonImageUnreachable, a.err))
		t.wait, t.at = wait, y.now.Add(wait)
		return t, stepNone
	case a.digest != "":
		return y.follow(trial{revision: t.revision, image: t.image, kind: build.Check, digest: a.digest})
	case y.makes:
		return y.follow(trial{revision: t.revision, image: t.image, kind: build.Rehearse})
	}
	t.kind, t.digest = "", ""
	if y.lack != nil {
		return t.failed(problemText(y.lack), true, y.now.Add(lookAgain)), stepNone
	}
	return t.failed(fmt.Sprintf("%s: there is no image %s, and nothing says how to build or sign it", spec.ReasonImageNotFound, t.image), true, y.now.Add(lookAgain)), stepNone
}

// askAgain whether there is another image than the one that does not do.
func (y trying) askAgain(t trial) (trial, step) {
	a := y.answer
	switch {
	case y.makes && y.push: // then it is told
		return t, stepNone
	case a != nil && (a.err != nil || a.digest == t.digest && t.kind != ""):
		t.at = y.now.Add(lookAgain)
		return t, stepNone
	}
	return y.ask(t)
}

func (t trial) progress(stage, reason string) trial {
	t.status, t.stage, t.reason, t.final, t.at = v1beta2.VerificationInProgress, stage, reason, false, time.Time{}
	return t
}

func (t trial) failed(reason string, final bool, at time.Time) trial {
	t.status, t.stage, t.reason, t.final, t.at = v1beta2.VerificationFailure, v1beta2.VerificationStageDone, reason, final, at
	return t
}

func (t trial) succeeded(r build.Result) trial {
	t.status, t.stage, t.at = v1beta2.VerificationSuccess, v1beta2.VerificationStageDone, time.Time{}
	t.reason = cmp.Or(r.Message, "verified")
	if t.kind == build.Rehearse {
		t.reason = "it can be made, and was not pushed: " + t.reason
	}
	return t
}

// running says what a Job is at.
func (t trial) running(r build.Result, age time.Duration) trial {
	text := cmp.Or(r.Message, running(r.Step, age))
	if t.kind == build.Rehearse && r.Step != "check" {
		return t.progress(v1beta2.VerificationStageImage, text)
	}
	return t.progress(v1beta2.VerificationStageContent, text)
}
