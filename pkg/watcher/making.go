// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// Stages of an image that the cluster makes.
const (
	stageRegistry = "Registry" // the registry is asked whether it is there
	stageBuild    = "Build"    // a Job builds it
	stageSign     = "Sign"     // the same Job, or one of its own, signs its modules
	stagePush     = "Push"     // the Job pushes it
)

// Reasons of an image that the cluster could not make, beside those of its Job.
const (
	reasonUnreachable  = "ImageUnreachable" // the registry did not answer kmm-watcher, or refused it
	reasonCanNotBeMade = "Invalid"          // what build or sign say can not be done, or the image's name can not be expanded
	reasonMissing      = "Missing"          // a ConfigMap or Secret that goes into it is not there, or lacks its key
	reasonJobRefused   = "JobRefused"       // the API server did not take the Job
	reasonJobGone      = "JobGone"          // somebody deleted the Job before it ended
	reasonNotPushed    = "NotPushed"        // the Job ended well, and the registry has no such image
)

// How long to wait after a failure: as long as this after the first, and twice as
// long after each further one.
const (
	firstAskAgain = 10 * time.Second
	lastAskAgain  = 5 * time.Minute
	lastMakeAgain = time.Hour
)

// jobView is what became of the last Job that was made for a hash.
type jobView struct {
	name    string
	attempt int32
	created time.Time
	ended   time.Time // zero while it runs
	running bool
	digest  string // of what it has pushed
	// Where it is or has failed, and why.
	stage, reason, message string
}

func (j *jobView) failed() bool { return !j.running && j.reason != "" }

// answer is what the registry says of an image: digest "" is that there is none.
type answer struct {
	digest string
	err    error
}

// making is everything that is decided upon for the image of one Module on one
// kernel.
type making struct {
	have v1beta1.ModuleImage // as it was
	// What is wanted.
	kernel, image, hash string
	job                 *jobView // nil: there is none for this hash
	answer              *answer  // nil: the registry has not been asked
	missing             bool     // a node says that the digest is not there
	retry               time.Duration
	now                 time.Time
}

// step is what has to be done.
type step int

const (
	stepNone   step = iota
	stepAsk         // the registry, and decide again
	stepCreate      // a Job, the attempt of the image
)

// decide says what is to be done about an image, and how it stands.
func (m making) decide() (v1beta1.ModuleImage, step) {
	i := about(m.have, m.kernel, m.image)
	was := i
	next, do := m.from(i)
	if next.State != was.State || next.Hash != was.Hash || next.Reason != was.Reason {
		next.Since = metav1.NewTime(m.now.Truncate(time.Second))
	}
	return next, do
}

// about is what is known of an image: nothing, when it was another one.
func about(have v1beta1.ModuleImage, kernel, image string) v1beta1.ModuleImage {
	if have.Image != image || have.Kernel != kernel {
		return v1beta1.ModuleImage{Kernel: kernel, Image: image}
	}
	return have
}

func (m making) from(i v1beta1.ModuleImage) (v1beta1.ModuleImage, step) {
	switch {
	case m.job != nil && !m.outdated(&i):
		return m.follow(i)
	case m.job != nil: // of a time when the same was wanted, and something else since
		return m.create(i, m.job.attempt+1)
	case i.Hash == m.hash && i.State == v1beta1.ImageReady:
		return m.keep(i)
	case i.Hash == m.hash && i.State == v1beta1.ImageBuilding && i.Attempts > 0:
		return m.fail(i, stageBuild, reasonJobGone, "the Job "+i.Job+" is gone; another one follows"), stepNone
	case i.Hash == m.hash && i.State == v1beta1.ImageFailed && !due(&i, m.now):
		return i, stepNone
	case i.Hash == m.hash && i.State == v1beta1.ImageFailed && i.Attempts > 0:
		return m.create(i, i.Attempts+1)
	case i.Hash == "" && i.Digest != "" && i.State == v1beta1.ImageReady:
		i.Hash = m.hash // it was found when nobody could say what would be made
		return i, stepNone
	case i.Hash != m.hash && (i.Digest != "" || i.Attempts > 0):
		return m.create(i, 1) // what is in the registry, if anything, was made of something else
	}
	return m.ask(i)
}

// outdated reports whether the Job's result was the last word once, and is not any
// more.
func (m making) outdated(i *v1beta1.ModuleImage) bool {
	return !m.job.running && i.Hash != "" && i.Hash != m.hash && m.job.created.Before(i.Since.Time)
}

// follow what became of the Job.
func (m making) follow(i v1beta1.ModuleImage) (v1beta1.ModuleImage, step) {
	j := m.job
	known := i.Hash == m.hash && i.Job == j.name
	switch {
	case known && !j.running && i.State == v1beta1.ImageFailed && !due(&i, m.now):
		return i, stepNone
	case known && !j.running && i.State == v1beta1.ImageFailed && i.Stage != stageRegistry:
		return m.create(i, j.attempt+1)
	case j.running:
		i.Hash, i.Job, i.Attempts, i.RetryAt = m.hash, j.name, j.attempt, nil
		i.State, i.Stage, i.Reason, i.Message = v1beta1.ImageBuilding, j.stage, "", j.message
		return i, stepNone
	case j.failed():
		i.Hash, i.Job, i.Attempts = m.hash, j.name, j.attempt
		return m.fail(i, j.stage, j.reason, j.message), stepNone
	case known && i.State == v1beta1.ImageReady:
		return m.keep(i)
	case j.digest == "" && m.answer == nil:
		return i, stepAsk // what it said is lost
	}
	i.Hash, i.Job, i.Attempts = m.hash, j.name, j.attempt
	digest := j.digest
	if digest == "" {
		if m.answer.err != nil {
			return m.unanswered(i), stepNone
		}
		if digest = m.answer.digest; digest == "" {
			return m.fail(i, stagePush, reasonNotPushed, "the Job has ended well, and the image is not in the registry"), stepNone
		}
	}
	return ready(i, digest), stepNone
}

// keep an image that is there, unless a node says that it is not any more.
func (m making) keep(i v1beta1.ModuleImage) (v1beta1.ModuleImage, step) {
	if !m.missing || !due(&i, m.now) {
		return i, stepNone
	}
	if m.answer == nil {
		return i, stepAsk
	}
	switch {
	case m.answer.err == nil && m.answer.digest == "":
		i.Digest = ""
		return m.create(i, i.Attempts+1)
	case m.answer.err == nil:
		i.Digest = m.answer.digest
	}
	i.RetryAt = retryAt(m.now.Add(lastAskAgain))
	return i, stepNone
}

// ask whether the image is there already.
func (m making) ask(i v1beta1.ModuleImage) (v1beta1.ModuleImage, step) {
	switch {
	case m.answer == nil:
		return i, stepAsk
	case m.answer.err != nil:
		return m.unanswered(i), stepNone
	case m.answer.digest != "":
		i.Hash, i.Attempts, i.Job = m.hash, 0, ""
		return ready(i, m.answer.digest), stepNone
	}
	return m.create(i, 1)
}

func ready(i v1beta1.ModuleImage, digest string) v1beta1.ModuleImage {
	i.State, i.Digest, i.Stage, i.Reason, i.Message, i.RetryAt = v1beta1.ImageReady, digest, "", "", "", nil
	return i
}

// create another Job.
func (m making) create(i v1beta1.ModuleImage, attempt int32) (v1beta1.ModuleImage, step) {
	i.State, i.Hash, i.Attempts, i.RetryAt = v1beta1.ImageBuilding, m.hash, attempt, nil
	i.Stage, i.Reason, i.Message = "", "", ""
	return i, stepCreate
}

func (m making) fail(i v1beta1.ModuleImage, stage, reason, message string) v1beta1.ModuleImage {
	i.State, i.Stage, i.Reason, i.Message = v1beta1.ImageFailed, stage, reason, shorten(message, maxConditionMessage)
	wait := lastMakeAgain
	if n := i.Attempts - 1; n < 16 {
		wait = min(wait, m.retry<<max(n, 0))
	}
	i.RetryAt = retryAt(m.now.Add(wait))
	return i
}

// unanswered is a registry that could not be asked. It is asked again, each time
// after twice as long.
func (m making) unanswered(i v1beta1.ModuleImage) v1beta1.ModuleImage {
	wait := firstAskAgain
	if i.RetryAt != nil && i.Reason == reasonUnreachable {
		wait = min(max(2*i.RetryAt.Sub(i.Since.Time), firstAskAgain), lastAskAgain)
	}
	i.State, i.Stage, i.Reason, i.Hash = v1beta1.ImageFailed, stageRegistry, reasonUnreachable, m.hash
	i.Message = shorten(m.answer.err.Error(), maxConditionMessage)
	i.RetryAt = retryAt(m.now.Add(wait))
	return i
}

// due reports whether it is time for the next attempt. A time that nobody can have meant
// is of a clock that was ahead.
func due(i *v1beta1.ModuleImage, now time.Time) bool {
	return i.RetryAt == nil || !now.Before(i.RetryAt.Time) || i.RetryAt.Sub(now) > lastMakeAgain
}

// retryAt is a time as the API server keeps it.
func retryAt(t time.Time) *metav1.Time {
	at := metav1.NewTime(t.Truncate(time.Second))
	return &at
}
