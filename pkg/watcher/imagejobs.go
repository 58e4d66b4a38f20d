// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/build"
)

// ImageConfig is how images are made.
type ImageConfig struct {
	build.Options
	// AgentDaemonSet is NAMESPACE/NAME of the DaemonSet whose image is used when
	// OurImage is not given.
	AgentDaemonSet string
	// Retry is how long after the first failure an image is tried again; after each
	// further one it is twice as long, up to an hour. 0 is a minute.
	Retry time.Duration
	// Lookup asks a registry for the digest of an image. "" is that it answers and
	// has no such image; an error is that it could not be asked.
	Lookup func(context.Context, ImageRequest) (digest string, err error)
}

const (
	// jobWork is for what has been written; there is no such work on the queue.
	jobWork = "job/"

	builderStep = "build" // the container that runs a Dockerfile

	jobsByModule = "module"
	podsByJob    = "job"
)

// jobEvents has the Module's images looked at when a Job or its pod changes, or the
// validation that the Job is for.
func (w *Watcher) jobEvents() cache.ResourceEventHandler {
	look := func(obj any) {
		o, ok := last(obj).(metav1.Object)
		if ok && o.GetLabels()[build.KindLabel] != string(build.Publish) {
			w.preflightJobChanged(o)
		} else if ok {
			w.queue.Add(imageWork + key(o.GetNamespace(), o.GetLabels()[v1beta1.ModuleNameLabel]))
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, obj any) { look(obj) }, DeleteFunc: look}
}

// kernelsChanged: a node has come, or has another kernel, or other labels, which may
// matter for some Modules.
func (w *Watcher) kernelsChanged(which func(*v1beta1.Module) bool) {
	for _, m := range *w.wants.Load() {
		if makesImages(m.module) && which(m.module) {
			w.queue.AddAfter(imageWork+m.key, together)
		}
	}
}

func moduleOfJob(obj any) ([]string, error) {
	if j, ok := obj.(*batchv1.Job); ok {
		return []string{key(j.Namespace, j.Labels[v1beta1.ModuleNameLabel])}, nil
	}
	return nil, nil
}

func jobOfPod(obj any) ([]string, error) {
	if p, ok := obj.(*corev1.Pod); ok {
		if c := metav1.GetControllerOf(p); c != nil {
			return []string{key(p.Namespace, c.Name)}, nil
		}
	}
	return nil, nil
}

// compactJobPod keeps what build.Outcome reads.
func compactJobPod(obj any) (any, error) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	out := p.DeepCopy()
	out.ManagedFields, out.Annotations = nil, nil
	return out, nil
}

// jobSeen is the resourceVersion of a Job as it is known, "" when it is not.
func (w *Watcher) jobSeen(namespace, name string) string {
	if j, ok := get[*batchv1.Job](w.jobs, key(namespace, name)); ok {
		return j.ResourceVersion
	}
	return ""
}

// outcomeOf is what became of a Job.
func (w *Watcher) outcomeOf(j *batchv1.Job) build.Result {
	objs, err := w.jobPods.GetIndexer().ByIndex(podsByJob, key(j.Namespace, j.Name))
	var pods []corev1.Pod
	for _, obj := range objs {
		if p, ok := obj.(*corev1.Pod); ok && err == nil { // the index is there
			pods = append(pods, w.withoutSecrets(p))
		}
	}
	r := build.Outcome(j, pods)
	if name := w.versions.unread(j.Namespace, readable(pods)); name != "" && r.Message != "" {
		r.Message = fmt.Sprintf("what was printed is not told before Secret %s/%s has been read: see the log of Job %s", j.Namespace, name, j.Name)
	}
	r.Message = w.versions.conceal(j.Namespace, r.Message)
	return r
}

// withoutSecrets is a pod with nothing secret in what its builder has printed: only the
// end of that is told, and of a Secret that lies across the cut a part would be left.
func (w *Watcher) withoutSecrets(p *corev1.Pod) corev1.Pod {
	out := *p
	out.Status.InitContainerStatuses = slices.Clone(p.Status.InitContainerStatuses)
	for i := range out.Status.InitContainerStatuses {
		if s := &out.Status.InitContainerStatuses[i]; s.Name == builderStep && s.State.Terminated != nil {
			end := *s.State.Terminated
			end.Message = w.versions.concealLog(p.Namespace, build.Legible(end.Message))
			s.State.Terminated = &end
		}
	}
	return out
}

// readable are the Secrets that a Dockerfile can read whose program has printed something.
func readable(pods []corev1.Pod) []string {
	var out []string
	for i := range pods {
		p := &pods[i]
		if !slices.ContainsFunc(slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses), func(s corev1.ContainerStatus) bool {
			return s.Name == builderStep && s.State.Terminated != nil && s.State.Terminated.Message != ""
		}) {
			continue
		}
		for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			for _, mount := range c.VolumeMounts {
				for _, v := range p.Spec.Volumes {
					// Those that are optional are credentials to pull with.
					if c.Name == builderStep && v.Name == mount.Name && v.Secret != nil && (v.Secret.Optional == nil || !*v.Secret.Optional) {
						out = append(out, v.Secret.SecretName)
					}
				}
			}
		}
	}
	return out
}

// publishing are the Jobs that make images of a Module.
func (w *Watcher) publishing(m *v1beta1.Module) []*batchv1.Job {
	return slices.DeleteFunc(w.jobsBy(jobsByModule, key(m.Namespace, m.Name)), func(j *batchv1.Job) bool {
		return j.Labels[build.KindLabel] != string(build.Publish) || !metav1.IsControlledBy(j, m)
	})
}

// jobsBy are the Jobs that an index has.
func (w *Watcher) jobsBy(index, value string) []*batchv1.Job {
	objs, err := w.jobs.GetIndexer().ByIndex(index, value)
	if err != nil {
		return nil // the index is there
	}
	var out []*batchv1.Job
	for _, obj := range objs {
		if j, ok := obj.(*batchv1.Job); ok {
			out = append(out, j)
		}
	}
	return out
}

// jobsOf finds the last Job that was made for the hash. Those that make what is
// not wanted any more are stopped first: busy says that one is not gone yet.
func (w *Watcher) jobsOf(ctx context.Context, m *v1beta1.Module, kernel, hash string) (job *jobView, busy bool, err error) {
	for _, j := range w.publishing(m) {
		if j.Annotations[build.KernelAnnotation] != kernel {
			continue
		}
		if j.Labels[build.HashLabel] == hash && j.DeletionTimestamp == nil {
			if v := viewOf(j, w.outcomeOf(j)); job == nil || v.attempt > job.attempt {
				job = v
			}
			continue
		}
		stopped, err := w.stopJob(ctx, j)
		if err != nil {
			return nil, false, err
		}
		busy = busy || stopped
		busy = busy || j.DeletionTimestamp != nil && slices.Contains(j.Finalizers, metav1.FinalizerDeleteDependents)
	}
	return job, busy, nil
}

// stopJobs stops the Jobs for kernels whose image is not made any more.
func (w *Watcher) stopJobs(ctx context.Context, m *v1beta1.Module, unwanted func(kernel string) bool) error {
	var errs []error
	for _, j := range w.publishing(m) {
		if unwanted(j.Annotations[build.KernelAnnotation]) {
			_, err := w.stopJob(ctx, j)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// stopJob deletes a Job that runs; it is there until its pod has ended, so that
// what the pod pushes can not come after what another one does. One that has ended
// stays for those who want to know how.
func (w *Watcher) stopJob(ctx context.Context, j *batchv1.Job) (stopped bool, err error) {
	if j.DeletionTimestamp != nil || w.outcomeOf(j).State != build.Running {
		return false, nil
	}
	policy := metav1.DeletePropagationForeground
	err = w.cfg.Kube.BatchV1().Jobs(j.Namespace).Delete(ctx, j.Name, metav1.DeleteOptions{
		PropagationPolicy: &policy, Preconditions: &metav1.Preconditions{UID: &j.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("stop Job %s/%s, which makes what is not wanted any more: %w", j.Namespace, j.Name, err)
	}
	w.cfg.Metrics.wrote("jobs")
	return true, nil
}

func viewOf(j *batchv1.Job, r build.Result) *jobView {
	v := &jobView{name: j.Name, attempt: attemptOf(j.Name), created: j.CreationTimestamp.Time, message: r.Message, digest: r.Digest}
	v.stage, v.ended = stageOf(r.Step, signs(j) && !r.NotPushed), endOf(j)
	switch r.State {
	case build.Running:
		v.running = true
		if v.message == "" {
			v.message = running(r.Step, time.Since(v.created))
		}
	case build.Failed:
		v.reason = r.Reason
		if v.reason == "" {
			v.reason = build.ReasonExit
		}
	}
	return v
}

// naming has a failure to sign name the variables that do not exist.
func (j *jobView) naming(r *build.Request) *jobView {
	if j != nil && j.failed() && j.stage == stageSign {
		j.message = withUnset(r, j.message)
	}
	return j
}

// withUnset begins with the variables of sign that do not exist: a pod is told only what is left without them.
func withUnset(r *build.Request, message string) string {
	if r == nil || r.Sign == nil || len(r.Sign.Unset) == 0 {
		return message
	}
	return several("", r.Sign.Unset) + "; " + message
}

// endOf is when a Job has ended, the zero time while it runs.
func endOf(j *batchv1.Job) time.Time {
	if j.Status.CompletionTime != nil {
		return j.Status.CompletionTime.Time
	}
	for _, c := range j.Status.Conditions {
		if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// podIsLate is after how long a Job should have a pod that has a node.
const podIsLate = 20 * time.Second

// running says what a Job is at that has told of no trouble, so long after it was
// made.
func running(step string, since time.Duration) string {
	switch {
	case step == "" && since > podIsLate:
		return "there is no pod yet: `kubectl describe job` says what refuses it (a quota, Pod Security, an admission policy)"
	case step == "":
		return "waiting for its pod"
	}
	return "running: " + step
}

// signs reports whether a Job signs.
func signs(j *batchv1.Job) bool {
	for _, c := range j.Spec.Template.Spec.Containers {
		if len(c.Args) > 0 && c.Args[0] == "sign" {
			return true
		}
	}
	return false
}

func stageOf(step string, signs bool) string {
	switch {
	case step == "sign" || step == "publish" && signs:
		return stageSign
	case step == "publish":
		return stagePush
	}
	return stageBuild
}

// attemptOf reads it off a Job's name, NAME-KIND-HASH-ATTEMPT.
func attemptOf(name string) int32 {
	n, err := strconv.ParseInt(name[strings.LastIndexByte(name, '-')+1:], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

// jobOptions are the configured ones, with the image of our container.
func (w *Watcher) jobOptions(ctx context.Context) (build.Options, error) {
	o := w.cfg.Images.Options
	if o.OurImage != "" {
		return o, nil
	}
	namespace, name, _ := strings.Cut(w.cfg.Images.AgentDaemonSet, "/")
	d, err := w.cfg.Kube.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return o, fmt.Errorf("find kmmd's image in DaemonSet %s (or say --agent-image): %w", w.cfg.Images.AgentDaemonSet, err)
	}
	if len(d.Spec.Template.Spec.Containers) > 0 {
		o.OurImage = d.Spec.Template.Spec.Containers[0].Image
	}
	return o, nil
}

// errFormer is a Job of that name whose owner is gone, and which is on its way after it.
var errFormer = errors.New("there is a Job of that name of one that is gone: it has to go first")

// createJob makes a Job of that kind, for the Module unless there is another owner;
// one of this owner that is there already is as good.
func (w *Watcher) createJob(ctx context.Context, r *build.Request, kind build.Kind, attempt int32, owner *metav1.OwnerReference) (name string, err error) {
	o, err := w.jobOptions(ctx)
	if err != nil {
		return "", err
	}
	j := r.Job(kind, int(attempt), o)
	if owner != nil {
		j.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	out, err := w.cfg.Kube.BatchV1().Jobs(j.Namespace).Create(ctx, j, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		if err := w.ownJob(ctx, j); err != nil {
			return "", fmt.Errorf("create Job %s/%s: %w", j.Namespace, j.Name, err)
		}
		return j.Name, nil
	case err != nil:
		return "", fmt.Errorf("create Job %s/%s: %w", j.Namespace, j.Name, err)
	}
	w.cfg.Metrics.wrote("jobs")
	w.expect.wrote(jobWork, key(j.Namespace, j.Name), out.ResourceVersion)
	w.cfg.Log.Info("a Job for an image", "kind", string(kind), "module", key(r.Namespace, r.Name), "image", r.Image, "kernel", r.Kernel, "job", j.Name)
	return j.Name, nil
}

// ownJob gives nil when the Job that is there belongs to the owner of this one. One of a
// former owner is removed, if nobody else does, with its pod: what that pushes can not
// come after what another one does.
func (w *Watcher) ownJob(ctx context.Context, j *batchv1.Job) error {
	api := w.cfg.Kube.BatchV1().Jobs(j.Namespace)
	have, err := api.Get(ctx, j.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return errFormer // it has just gone
	case err != nil:
		return err
	}
	is, wanted := metav1.GetControllerOf(have), metav1.GetControllerOf(j)
	switch {
	case is != nil && is.UID == wanted.UID && have.DeletionTimestamp == nil:
		return nil
	case is != nil && (is.Kind != wanted.Kind || is.Name != wanted.Name),
		have.Labels[build.HashLabel] != j.Labels[build.HashLabel] || have.Labels[v1beta1.ModuleNameLabel] != j.Labels[v1beta1.ModuleNameLabel]:
		return errForeign
	case have.DeletionTimestamp != nil:
		return errFormer
	}
	policy := metav1.DeletePropagationForeground
	err = api.Delete(ctx, have.Name, metav1.DeleteOptions{PropagationPolicy: &policy, Preconditions: &metav1.Preconditions{UID: &have.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove the one of a former %s: %w", wanted.Kind, err)
	}
	w.cfg.Metrics.wrote("jobs")
	return errFormer
}
