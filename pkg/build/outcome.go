// SPDX-License-Identifier: Apache-2.0

package build

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/exit"
)

// State is how far a Job is.
type State string

const (
	Running   State = "Running"
	Succeeded State = "Succeeded"
	Failed    State = "Failed"
)

// Reasons of a Job that makes or checks an image. Others are Kubernetes' words, such
// as ImagePullBackOff, CreateContainerConfigError, OOMKilled, Evicted or
// DeadlineExceeded.
const (
	// ReasonNotStarted: the pod has a node and no container yet. That is so for some
	// seconds of each pod; when it stays so, one of its volumes can not be had.
	ReasonNotStarted = "NotStarted"
	// ReasonExit: a program ended with an error; the message has its last lines.
	ReasonExit = "Error"
	// ReasonPodGone: the pod was deleted before it could say how it ended.
	ReasonPodGone = "PodGone"
)

// Result is what became of a Job.
type Result struct {
	State State
	// Step is the container it is about: credentials, build, sign, publish or
	// check. It is "" before the pod has a node, and without a pod.
	Step string
	// Reason is one word. While the Job runs it is "" unless something is in its
	// way, which may go by itself.
	Reason string
	// Message is for a person, some lines at most. It is "" when there is nothing to
	// say.
	Message string

	// Output is what publish or check have written as their result, a line of JSON.
	// Digest, Signed and Unchanged are out of it. All are empty until the Job has
	// ended, and when its pod is gone by then: then the registry has to be asked.
	Output    string
	Digest    string // of what was pushed, or checked: "sha256:…"
	Signed    int    // files
	Unchanged bool   // the registry had it already

	// NotPushed says of publish, where it failed, that the image was made, signed if
	// that was asked, and could not be pushed.
	NotPushed bool
}

// Outcome reads off a Job and its pods, of which those of other Jobs are passed
// over, what became of it.
func Outcome(job *batchv1.Job, pods []corev1.Pod) Result {
	pod := podOf(job, pods)
	done, failure := ended(job)
	switch {
	case pod != nil && pod.Status.Phase == corev1.PodSucceeded:
		return success(pod)
	case pod != nil && pod.Status.Phase == corev1.PodFailed:
		return failedPod(pod, failure)
	case done && failure == nil && pod == nil:
		return Result{State: Succeeded}
	case failure != nil && (pod == nil || failure.Reason == batchv1.JobReasonDeadlineExceeded || pod.DeletionTimestamp != nil):
		return failedJob(pod, failure)
	case pod == nil:
		return Result{State: Running}
	}
	// The Job may have ended, but what is known of the pod is older: it will tell.
	return running(pod)
}

// podOf is the Job's pod, the newest should there ever be two.
func podOf(job *batchv1.Job, pods []corev1.Pod) *corev1.Pod {
	var newest *corev1.Pod
	for i := range pods {
		p := &pods[i]
		if p.Namespace != job.Namespace || !metav1.IsControlledBy(p, job) {
			continue
		}
		if newest == nil || newest.CreationTimestamp.Before(&p.CreationTimestamp) {
			newest = p
		}
	}
	return newest
}

// ended reports whether the Job's controller is done with it, and why it failed.
func ended(job *batchv1.Job) (done bool, failure *batchv1.JobCondition) {
	for i := range job.Status.Conditions {
		c := &job.Status.Conditions[i]
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete:
			done = true
		case batchv1.JobFailed:
			done, failure = true, c
		}
	}
	return done, failure
}

func success(pod *corev1.Pod) Result {
	r := Result{State: Succeeded}
	for _, s := range pod.Status.ContainerStatuses { // others may have been put beside ours
		if t := s.State.Terminated; t != nil && (s.Name == stepPublish || s.Name == stepCheck) {
			r.Step, r.Output = s.Name, t.Message
		}
	}
	if said, ok := read(r.Output); ok {
		r.Digest, r.Signed, r.Unchanged, r.Message = said.Digest, said.Signed, said.Unchanged, said.Message
	}
	return r
}

// result is what our containers say: publish of an image that is pushed, check of
// one that fits or does not.
type result struct {
	Digest    string `json:"digest"`
	Signed    int    `json:"signed"`
	Unchanged bool   `json:"unchanged"`
	Reason    string `json:"reason"`
	Message   string `json:"message"`
}

func read(text string) (said result, ok bool) {
	return said, json.Unmarshal([]byte(text), &said) == nil
}

// failedPod looks for the container that ended badly. A pod may also have failed
// as a whole: evicted, preempted, out of time.
func failedPod(pod *corev1.Pod, failure *batchv1.JobCondition) Result {
	r := Result{State: Failed, Reason: pod.Status.Reason, Message: pod.Status.Message}
	if r.Reason == "" {
		if c := podCondition(pod, corev1.DisruptionTarget); c != nil && c.Status == corev1.ConditionTrue {
			r.Reason, r.Message = c.Reason, c.Message
		}
	}
	for _, s := range statuses(pod) {
		t := s.State.Terminated
		if t == nil || t.ExitCode == 0 {
			continue
		}
		r.Step = s.Name
		r.NotPushed = s.Name == stepPublish && t.ExitCode == int32(exit.NotWritten)
		if said, ok := read(t.Message); ok && said.Message != "" && r.Reason == "" && s.Name == stepCheck {
			r.Output, r.Digest, r.Reason, r.Message = t.Message, said.Digest, cmp.Or(said.Reason, ReasonExit), withLines("", said.Message)
			return r
		}
		what := fmt.Sprintf("%s ended with exit code %d", s.Name, t.ExitCode)
		if t.Reason == "OOMKilled" {
			what = s.Name + " was killed: it needs more memory than its limit, or than the node has"
		}
		if r.Reason == "" {
			r.Reason = cmp.Or(t.Reason, ReasonExit)
		} else {
			what = r.Message
		}
		r.Message = withLines(what+hint(s.Name, t.Message), t.Message)
		return r
	}
	if r.Reason == "" && failure != nil {
		r.Reason, r.Message = failure.Reason, failure.Message
	}
	r.Step = step(pod)
	return r
}

// failedJob is for a Job that ended while its pod had not, or has none any more.
func failedJob(pod *corev1.Pod, failure *batchv1.JobCondition) Result {
	r := Result{State: Failed, Reason: failure.Reason, Message: failure.Message}
	if pod != nil {
		last := running(pod)
		r.Step = last.Step
		while := "waiting for a node"
		if last.Step != "" {
			while = "at " + last.Step
		}
		r.Message = withLines(fmt.Sprintf("%s, while %s", r.Message, while), last.Message)
	} else if failure.Reason == batchv1.JobReasonBackoffLimitExceeded {
		r.Reason = ReasonPodGone
		r.Message = "the pod was deleted before it could say how it ended: its node was drained or is gone, or somebody deleted it"
	}
	return r
}

// statuses are those of all containers, in the order in which they run.
func statuses(pod *corev1.Pod) []corev1.ContainerStatus {
	all := make([]corev1.ContainerStatus, 0, len(pod.Spec.InitContainers)+len(pod.Spec.Containers))
	add := func(containers []corev1.Container, statuses []corev1.ContainerStatus) {
		for _, c := range containers {
			i := slices.IndexFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Name == c.Name })
			if i < 0 {
				all = append(all, corev1.ContainerStatus{Name: c.Name})
				continue
			}
			all = append(all, statuses[i])
		}
	}
	add(pod.Spec.InitContainers, pod.Status.InitContainerStatuses)
	add(pod.Spec.Containers, pod.Status.ContainerStatuses)
	return all
}

func podCondition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}
