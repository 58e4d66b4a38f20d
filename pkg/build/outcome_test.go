// SPDX-License-Identifier: Apache-2.0

package build_test

import (
	"cmp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/build"
)

// played is a Job with its pod, as the controllers and a kubelet would have them
// at some moment.
type played struct {
	job *batchv1.Job
	pod corev1.Pod
}

func play(t *testing.T, kind build.Kind, pull ...string) *played {
	t.Helper()
	r := request(t, module(t, "annotated"))
	r.PullSecrets = pull
	job := r.Job(kind, 0, build.Options{OurImage: "registry/kmmd:v1", BuilderImage: "registry/kaniko:v1"})
	job.UID = "job"
	p := &played{job: job, pod: corev1.Pod{Spec: job.Spec.Template.Spec}}
	p.pod.Namespace, p.pod.Name = job.Namespace, job.Name+"-abcde"
	p.pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))}
	p.pod.Status.Phase = corev1.PodPending
	return p
}

func (p *played) outcome() build.Result { return build.Outcome(p.job, []corev1.Pod{p.pod}) }

func (p *played) condition(kind corev1.PodConditionType, status corev1.ConditionStatus, reason, message string) {
	p.pod.Status.Conditions = append(p.pod.Status.Conditions, corev1.PodCondition{Type: kind, Status: status, Reason: reason, Message: message})
}

// started has a node for the pod, and its volumes.
func (p *played) started() *played {
	now := metav1.Now()
	p.pod.Spec.NodeName, p.pod.Status.StartTime = "n1", &now
	p.condition(corev1.PodScheduled, corev1.ConditionTrue, "", "")
	p.condition(corev1.PodReadyToStartContainers, corev1.ConditionTrue, "", "")
	p.pod.Status.Phase = corev1.PodRunning
	return p
}

// at gives a container its state; init containers are those before the last.
func (p *played) at(name string, state corev1.ContainerState) *played {
	s := corev1.ContainerStatus{Name: name, State: state}
	for _, c := range p.pod.Spec.InitContainers {
		if c.Name == name {
			p.pod.Status.InitContainerStatuses = append(p.pod.Status.InitContainerStatuses, s)
			return p
		}
	}
	p.pod.Status.ContainerStatuses = append(p.pod.Status.ContainerStatuses, s)
	return p
}

func (p *played) failed(reason string) *played {
	p.job.Status.Conditions = append(p.job.Status.Conditions, batchv1.JobCondition{
		Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: reason, Message: "Job: " + reason})
	return p
}

func exit(code int32, reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message}}
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

var (
	busy = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	good = exit(0, "Completed", "")
)

func TestOutcomeRunning(t *testing.T) {
	const notStarted = "the pod has not started yet; it waits on node n1 for its network and its volumes: do ConfigMap my-kmod-dockerfile (dockerfile), " +
		"Secret some-kubernetes-secret, Secret key-secret (key), Secret cert-secret (cert), Secret secret-name (.dockerconfigjson) exist, with the keys they need?"
	for name, c := range map[string]struct {
		play func(*played)
		want build.Result
	}{
		"just made": {func(*played) {}, build.Result{}},
		"no node": {func(p *played) {
			p.condition(corev1.PodScheduled, corev1.ConditionFalse, "Unschedulable", "0/3 nodes are available: 3 Insufficient memory.")
		}, build.Result{Reason: "Unschedulable", Message: "no node for the pod: 0/3 nodes are available: 3 Insufficient memory."}},
		"no volume": {func(p *played) {
			p.started().pod.Status.Conditions[1].Status = corev1.ConditionFalse
			p.at("build", waiting("PodInitializing", ""))
		}, build.Result{Step: "build", Reason: build.ReasonNotStarted, Message: notStarted}},
		"starting":            {func(p *played) { p.started().at("build", waiting("PodInitializing", "")) }, build.Result{Step: "build"}},
		"building":            {func(p *played) { p.started().at("build", busy) }, build.Result{Step: "build"}},
		"signing and pushing": {func(p *played) { p.started().at("build", good).at("publish", busy) }, build.Result{Step: "publish"}},
		"no builder": {func(p *played) {
			p.started().at("build", waiting("ImagePullBackOff", `Back-off pulling image "registry/kaniko:v1": not found`))
		}, build.Result{Step: "build", Reason: "ImagePullBackOff",
			Message: `the image registry/kaniko:v1 of build can not be pulled on node n1: Back-off pulling image "registry/kaniko:v1": not found`}},
		"no key in a Secret": {func(p *played) {
			p.started().at("build", good).at("publish", waiting("CreateContainerConfigError", `secret "key-secret" not found`))
		}, build.Result{Step: "publish", Reason: "CreateContainerConfigError", Message: `publish can not be started on node n1: secret "key-secret" not found`}},
		"the Job is ahead of what is known of the pod": {func(p *played) {
			p.failed(batchv1.JobReasonBackoffLimitExceeded).started().at("build", busy)
		}, build.Result{Step: "build"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := play(t, build.Publish)
			c.play(p)
			c.want.State = build.Running
			assert.Equal(t, c.want, p.outcome())
		})
	}
	assert.Equal(t, build.Result{State: build.Running}, build.Outcome(play(t, build.Publish).job, nil))
}

// TestOutcomeNotPushed: kmmd's exit code tells a registry that is down from a key
// that does not fit.
func TestOutcomeNotPushed(t *testing.T) {
	for _, c := range []struct {
		step string
		code int32
		want bool
	}{{"publish", 1, false}, {"publish", 2, false}, {"publish", 3, true}, {"build", 3, false}} {
		p := play(t, build.Publish).started().at(c.step, exit(c.code, "Error", "EOF"))
		p.pod.Status.Phase = corev1.PodFailed
		assert.Equal(t, c.want, p.outcome().NotPushed, c)
	}
}

func TestOutcomeSucceeded(t *testing.T) {
	const output = `{"image":"some.registry/org/my_kmod:x","digest":"sha256:6a1e","signed":2,"unchanged":true}` + "\n"
	p := play(t, build.Publish).started().at("build", good).
		at("injected", exit(0, "Completed", "somebody else's")).at("publish", exit(0, "Completed", output)).
		at("other", exit(0, "Completed", "somebody else's"))
	p.pod.Status.Phase = corev1.PodSucceeded
	want := build.Result{State: build.Succeeded, Step: "publish", Output: output, Digest: "sha256:6a1e", Signed: 2, Unchanged: true}
	assert.Equal(t, want, p.outcome(), "the Job's controller may not have seen it yet")

	p.job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	assert.Equal(t, want, p.outcome())
	assert.Equal(t, build.Result{State: build.Succeeded}, build.Outcome(p.job, nil), "its pod is gone")

	p.pod.Status.ContainerStatuses[1].State.Terminated.Message = "no JSON"
	assert.Equal(t, build.Result{State: build.Succeeded, Step: "publish", Output: "no JSON"}, p.outcome())
}

func TestOutcomeFailed(t *testing.T) {
	long := strings.Repeat("the compiler says a lot\n", 500) + "make: *** [Makefile:3: all] Error 2\n\n"
	for name, c := range map[string]struct {
		play         func(*played)
		step, reason string
		says         []string
		phase        corev1.PodPhase // "" is PodFailed
	}{
		"the Dockerfile": {func(p *played) {
			p.failed(batchv1.JobReasonBackoffLimitExceeded).started().at("build", exit(1, "Error", "\x1b[31mERRO\x1b[0m one\r\n\n\x00two\n")).at("publish", waiting("PodInitializing", ""))
		}, "build", "Error", []string{"build ended with exit code 1:\nERRO one\ntwo"}, ""},
		"much output": {func(p *played) { p.started().at("build", exit(2, "Error", long)) },
			"build", "Error", []string{"exit code 2", "Makefile:3"}, ""},
		"no access to a base image": {func(p *played) {
			p.started().at("build", exit(1, "Error", "error building image: GET https://registry/v2/base: UNAUTHORIZED: who are you"))
		}, "build", "Error", []string{"imagePullSecrets of the ServiceAccount", "UNAUTHORIZED"}, ""},
		"no access to push": {func(p *played) {
			p.started().at("build", good).at("publish", exit(1, "Error", "push registry/x: UNAUTHORIZED"))
		}, "publish", "Error", []string{"publish ended with exit code 1: push registry/x: UNAUTHORIZED"}, ""},
		"memory": {func(p *played) { p.started().at("build", exit(137, "OOMKilled", "cc1\n")) },
			"build", "OOMKilled", []string{"build was killed: it needs more memory", "cc1"}, ""},
		"the pod's deadline": {func(p *played) {
			p.started().at("build", exit(137, "Error", "still waiting for a lock"))
			p.pod.Status.Reason, p.pod.Status.Message = "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
		}, "build", "DeadlineExceeded", []string{"longer than the specified deadline: still waiting for a lock"}, ""},
		"evicted": {func(p *played) {
			p.started().at("build", exit(137, "Error", ""))
			p.pod.Status.Reason, p.pod.Status.Message = "Evicted", "The node was low on resource: ephemeral-storage."
		}, "build", "Evicted", []string{"low on resource: ephemeral-storage"}, ""},
		"preempted": {func(p *played) {
			p.started().at("build", exit(143, "Error", ""))
			p.condition(corev1.DisruptionTarget, corev1.ConditionTrue, "PreemptionByScheduler", "preempting to accommodate a higher priority pod")
		}, "build", "PreemptionByScheduler", []string{"higher priority"}, ""},
		"failed before any container": {func(p *played) { p.failed("X").started() }, "build", "X", []string{"Job: X"}, ""},
		"the node is gone": {func(p *played) {
			now := metav1.Now()
			p.failed(batchv1.JobReasonBackoffLimitExceeded).started().at("build", busy)
			p.pod.DeletionTimestamp = &now
		}, "build", "BackoffLimitExceeded", []string{"while at build"}, corev1.PodRunning},
		"the Job's deadline, never scheduled": {func(p *played) {
			p.failed(batchv1.JobReasonDeadlineExceeded)
			p.condition(corev1.PodScheduled, corev1.ConditionFalse, "Unschedulable", "0/3 nodes are available")
		}, "", "DeadlineExceeded", []string{"while waiting for a node", "0/3 nodes"}, corev1.PodPending},
	} {
		t.Run(name, func(t *testing.T) {
			p := play(t, build.Publish)
			c.play(p)
			p.pod.Status.Phase = cmp.Or(c.phase, corev1.PodFailed)
			got := p.outcome()
			assert.Equal(t, build.Failed, got.State)
			assert.Equal(t, c.step, got.Step)
			assert.Equal(t, c.reason, got.Reason)
			for _, text := range c.says {
				assert.Contains(t, got.Message, text)
			}
			assert.Less(t, len(got.Message), 1500)
			assert.NotContains(t, got.Message, "\x00")
			assert.Empty(t, got.Digest)
		})
	}
}

func TestOutcomeWithoutPod(t *testing.T) {
	p := play(t, build.Publish).failed(batchv1.JobReasonBackoffLimitExceeded)
	got := build.Outcome(p.job, nil)
	assert.Equal(t, build.Failed, got.State)
	assert.Equal(t, build.ReasonPodGone, got.Reason)
	assert.Contains(t, got.Message, "deleted")

	p = play(t, build.Publish).failed(batchv1.JobReasonDeadlineExceeded)
	got = build.Outcome(p.job, nil)
	assert.Equal(t, build.Result{State: build.Failed, Reason: "DeadlineExceeded", Message: "Job: DeadlineExceeded"}, got)
}

func TestOutcomeOfCheck(t *testing.T) {
	const bad = `{"image":"x","digest":"sha256:6a1e","ok":false,"reason":"VermagicMismatch","message":"my_kmod: built for 6.1.0-1"}`
	p := play(t, build.Check).started().at("check", exit(1, "Error", bad))
	p.pod.Status.Phase = corev1.PodFailed
	assert.Equal(t, build.Result{State: build.Failed, Step: "check", Reason: "VermagicMismatch",
		Message: "my_kmod: built for 6.1.0-1", Output: bad, Digest: "sha256:6a1e"}, p.outcome())

	const spoilt = "build ended with exit code 1: " + bad
	p = play(t, build.Publish).started().at("build", exit(1, "Error", bad))
	p.pod.Status.Phase = corev1.PodFailed
	assert.Equal(t, build.Result{State: build.Failed, Step: "build", Reason: "Error", Message: spoilt}, p.outcome(),
		"a Dockerfile may say what it likes")

	const well = `{"image":"x","digest":"sha256:6a1e","ok":true,"message":"1 module fits"}`
	p = play(t, build.Check).started().at("check", exit(0, "Completed", well))
	p.pod.Status.Phase = corev1.PodSucceeded
	assert.Equal(t, build.Result{State: build.Succeeded, Step: "check", Message: "1 module fits", Output: well, Digest: "sha256:6a1e"}, p.outcome())
}

// Of a long log whole lines are kept; of a long line its end.
func TestOutcomeOfLongLogs(t *testing.T) {
	line := "begin " + strings.Repeat("x", 400) + " end"
	for text, want := range map[string]string{
		strings.Repeat(line+"\n", 9):         "build ended with exit code 1:\n" + line + "\n" + line,
		"begin " + strings.Repeat("y", 9000): "build ended with exit code 1: …" + strings.Repeat("y", 1024),
	} {
		p := play(t, build.Publish).started().at("build", exit(1, "Error", text))
		p.pod.Status.Phase = corev1.PodFailed
		assert.Equal(t, want, p.outcome().Message)
	}
}

// Of several pods the newest counts, of other Jobs none.
func TestOutcomeOfItsPods(t *testing.T) {
	p := play(t, build.Publish).started().at("build", busy)
	other, older, elsewhere := *p.pod.DeepCopy(), *p.pod.DeepCopy(), *p.pod.DeepCopy()
	other.OwnerReferences[0].UID = "other"
	other.Status.Phase, older.Status.Phase, elsewhere.Status.Phase = corev1.PodSucceeded, corev1.PodSucceeded, corev1.PodSucceeded
	other.CreationTimestamp = metav1.NewTime(time.Unix(3, 0))
	elsewhere.CreationTimestamp = metav1.NewTime(time.Unix(3, 0))
	elsewhere.Namespace = "elsewhere"
	p.pod.CreationTimestamp, older.CreationTimestamp = metav1.NewTime(time.Unix(2, 0)), metav1.NewTime(time.Unix(1, 0))
	for _, pods := range [][]corev1.Pod{{other, older, p.pod, elsewhere}, {p.pod, elsewhere, older, other}} {
		assert.Equal(t, build.Result{State: build.Running, Step: "build"}, build.Outcome(p.job, pods))
	}
}

func TestRehearseSteps(t *testing.T) {
	p := play(t, build.Rehearse, "one", "two").started()
	for _, step := range []string{"credentials", "build", "sign", "check"} {
		assert.Equal(t, step, p.outcome().Step)
		p.at(step, good)
	}
	p.pod.Status.Phase = corev1.PodSucceeded
	require.Equal(t, build.Succeeded, p.outcome().State)
	assert.Equal(t, "check", p.outcome().Step)
}

func TestCheckSays(t *testing.T) {
	const bad = `{"image":"a:1","digest":"sha256:1","ok":false,"reason":"WrongKernel","message":"a: of another kernel"}`
	p := play(t, build.Check).started().at("check", exit(1, "Error", bad))
	p.pod.Status.Phase = corev1.PodFailed
	p.failed(batchv1.JobReasonBackoffLimitExceeded)
	assert.Equal(t, build.Result{State: build.Failed, Step: "check", Reason: "WrongKernel", Message: "a: of another kernel", Digest: "sha256:1", Output: bad}, p.outcome())

	p = play(t, build.Check).started().at("check", exit(2, "Error", "kmmd: unknown flag: --from"))
	p.pod.Status.Phase = corev1.PodFailed
	r := p.outcome()
	assert.Empty(t, r.Output)
	assert.Equal(t, build.ReasonExit, r.Reason)
	assert.Contains(t, r.Message, "unknown flag")

	const good = `{"image":"a:1","digest":"sha256:1","ok":true,"message":"1 files fit kernel 6.1"}`
	p = play(t, build.Check).started().at("check", exit(0, "Completed", good))
	p.pod.Status.Phase = corev1.PodSucceeded
	assert.Equal(t, build.Result{State: build.Succeeded, Step: "check", Message: "1 files fit kernel 6.1", Digest: "sha256:1", Output: good}, p.outcome())
}

func TestWantsHostModules(t *testing.T) {
	assert.True(t, build.WantsHostModules("RUN ln -s /host/lib/modules/${KERNEL_FULL_VERSION} /opt/lib/modules/${KERNEL_FULL_VERSION}/host"))
	assert.False(t, build.WantsHostModules("RUN depmod -b /opt"))
}
