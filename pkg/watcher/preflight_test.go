// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
	"github.com/kmm-node/kmmd/pkg/build"
)

// broken is a Job whose builder has failed with a log, and its pod.
func broken(j *batchv1.Job, log string) (*batchv1.Job, *corev1.Pod) {
	j = j.DeepCopy()
	j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: "BackoffLimitExceeded"}}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: j.Namespace, Name: j.Name + "-x", OwnerReferences: []metav1.OwnerReference{
			*metav1.NewControllerRef(j, batchv1.SchemeGroupVersion.WithKind("Job")),
		}},
		Spec: *j.Spec.Template.Spec.DeepCopy(),
	}
	pod.Status.Phase = corev1.PodFailed
	pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "build", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: log},
	}}}
	return j, pod
}

// withLicence is a Module whose builds get a Secret.
func withLicence(name string) *v1beta1.Module {
	m := fromDockerfile(name)
	m.Spec.ModuleLoader.Container.Build.Secrets = []corev1.LocalObjectReference{{Name: "licence"}}
	return m
}

func licence() *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "licence", UID: "s"}, Data: map[string][]byte{"key": []byte("Tops3cret-licence")}}
}

// TestSecretsOfARehearsal are not told by a Watcher that finds a Job of another one.
func TestSecretsOfARehearsal(t *testing.T) {
	kube := fake.NewClientset(dockerfile("FROM a"), licence())
	begin := func() *Watcher {
		w := idle(kube, func(context.Context, ImageRequest) (string, error) { return "", nil })
		t.Cleanup(w.queue.ShutDown)
		return w
	}
	p := &v1beta2.PreflightValidation{ObjectMeta: metav1.ObjectMeta{Name: "next", UID: "p"}, Spec: v1beta2.PreflightValidationSpec{KernelVersion: madeKernel}}
	modules := map[string]*v1beta1.Module{"ns/a": withLicence("a")}
	try := func(w *Watcher) trial {
		trials, errs := w.tryAll(t.Context(), p, modules, []string{"ns/a"}, map[string]trial{}, time.Now())
		require.Empty(t, errs)
		return trials["ns/a"]
	}
	first := try(begin())
	require.Equal(t, build.Rehearse, first.kind)
	job, err := kube.BatchV1().Jobs("ns").Get(t.Context(), first.job, metav1.GetOptions{})
	require.NoError(t, err)
	job.UID = "job"
	done, pod := broken(job, "+ activate --key Tops3cret-licence\nno such feature\n")

	w := begin()
	require.NoError(t, w.jobs.GetStore().Add(done))
	require.NoError(t, w.jobPods.GetStore().Add(pod))
	second := try(w)
	assert.Equal(t, v1beta2.VerificationFailure, second.status)
	assert.Contains(t, second.reason, "no such feature")
	assert.NotContains(t, second.reason, "Tops3cret")
}

// TestJobThatIsStopped: a Module is changed, and back before the Job that looked at it has ended. That fails nothing.
func TestJobThatIsStopped(t *testing.T) {
	kube := fake.NewClientset(dockerfile("FROM a"))
	w := idle(kube, func(context.Context, ImageRequest) (string, error) { return "", nil })
	defer w.queue.ShutDown()
	p := &v1beta2.PreflightValidation{ObjectMeta: metav1.ObjectMeta{Name: "next", UID: "p"}, Spec: v1beta2.PreflightValidationSpec{KernelVersion: madeKernel}}
	try := func() trial {
		trials, errs := w.tryAll(t.Context(), p, map[string]*v1beta1.Module{"ns/a": fromDockerfile("a")}, []string{"ns/a"}, map[string]trial{}, time.Now())
		require.Empty(t, errs)
		return trials["ns/a"]
	}
	first := try()
	jobs := kube.BatchV1().Jobs("ns")
	job, err := jobs.Get(t.Context(), first.job, metav1.GetOptions{})
	require.NoError(t, err)
	now := metav1.Now()
	job.DeletionTimestamp, job.Finalizers = &now, []string{metav1.FinalizerDeleteDependents}
	_, err = jobs.Update(t.Context(), job, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.NoError(t, w.jobs.GetStore().Add(job))
	assert.Equal(t, v1beta2.VerificationInProgress, try().status)
	require.NoError(t, jobs.Delete(t.Context(), job.Name, metav1.DeleteOptions{}))
	require.NoError(t, w.jobs.GetStore().Delete(job))
	again := try()
	assert.Equal(t, v1beta2.VerificationInProgress, again.status)
	assert.Equal(t, first.job, again.job)
	_, err = jobs.Get(t.Context(), first.job, metav1.GetOptions{})
	require.NoError(t, err)
}

// TestOutcomeWithheld: nothing of a log is told while it is not known what is secret in it.
func TestOutcomeWithheld(t *testing.T) {
	kube := fake.NewClientset(dockerfile("FROM a"), licence())
	w := idle(kube, nil)
	defer w.queue.ShutDown()
	r, err := build.For(withLicence("a"), madeKernel)
	require.NoError(t, err)
	require.NoError(t, w.addVersions(t.Context(), r))
	job := r.Job(build.Publish, 1, build.Options{OurImage: "kmmd"})
	job.UID = "job"
	done, pod := broken(job, "+ activate --key Tops3cret-licence\nno such feature\n")
	require.NoError(t, w.jobPods.GetStore().Add(pod))
	assert.Contains(t, w.outcomeOf(done).Message, "no such feature")

	w.versions.seen = nil
	out := w.outcomeOf(done)
	assert.Equal(t, build.Failed, out.State)
	assert.NotContains(t, out.Message, "Tops3cret")
	assert.NotContains(t, out.Message, "no such feature")
	assert.Contains(t, out.Message, "Secret ns/licence")

	pod.Status.InitContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such builder"}}
	pod.Spec.NodeName, pod.Status.Phase, done.Status = "n", corev1.PodPending, batchv1.JobStatus{}
	require.NoError(t, w.jobPods.GetStore().Update(pod))
	assert.Contains(t, w.outcomeOf(done).Message, "no such builder", "a program that has not run has printed nothing")
}

// TestSecretAcrossACut: of a log the end is told, by the kubelet and by us, and of a Secret that lies across either cut nothing.
func TestSecretAcrossACut(t *testing.T) {
	var long []byte
	for i := range 500 {
		long = fmt.Appendf(long, "%04d-", i)
	}
	secret := licence()
	secret.Data = map[string][]byte{"key": long}
	kube := fake.NewClientset(dockerfile("FROM a"), secret)
	r, err := build.For(withLicence("a"), madeKernel)
	require.NoError(t, err)
	for name, log := range map[string]string{
		"ours":          "+ activate " + string(long[:1500]) + "\x1b[31m" + string(long[1500:]) + ": no such feature\n",
		"the kubelet's": string(long[2000:]) + strings.Repeat("\n", 1500) + "no such feature\n",
		"both":          string(long[600:]) + ": no such feature\n",
		"at its end":    "no such feature\n+ activate " + string(long[:1100]),
	} {
		t.Run(name, func(t *testing.T) {
			w := idle(kube, nil)
			defer w.queue.ShutDown()
			require.NoError(t, w.addVersions(t.Context(), r))
			job := r.Job(build.Publish, 1, build.Options{OurImage: "kmmd"})
			job.UID = "job"
			done, pod := broken(job, log)
			require.NoError(t, w.jobPods.GetStore().Add(pod))
			message := w.outcomeOf(done).Message
			assert.Contains(t, message, "no such feature")
			for part := range slices.Chunk(long, 5) {
				assert.NotContains(t, message, string(part))
			}
			assert.Equal(t, log, pod.Status.InitContainerStatuses[0].State.Terminated.Message, "what others have is not changed")
		})
	}
}
