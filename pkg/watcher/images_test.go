// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"
	"unique"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
	"github.com/kmm-node/kmmd/pkg/build"
)

// storeOf is an informer that does not run: what is in its store is put there.
func storeOf(o runtime.Object, by cache.Indexers) cache.SharedIndexInformer {
	return cache.NewSharedIndexInformerWithOptions(nil, o, cache.SharedIndexInformerOptions{Indexers: by})
}

// idle is a Watcher with empty stores at which nobody works.
func idle(kube *fake.Clientset, lookup func(context.Context, ImageRequest) (string, error)) *Watcher {
	w := &Watcher{
		cfg:   Config{Kube: kube, Log: slog.New(slog.DiscardHandler), Images: ImageConfig{Retry: time.Minute, Lookup: lookup}},
		tally: newTally(), fanned: make(chan struct{}, 1), order: newOrder(),
	}
	w.cfg.Images.OurImage = "kmmd"
	w.queue = newQueues(w.order)
	w.wants.Store(&[]*want{})
	w.nodes, w.configs, w.modules = storeOf(&corev1.Node{}, nil), storeOf(&v1beta1.NodeModulesConfig{}, nil), storeOf(&v1beta1.Module{}, nil)
	w.pods = storeOf(&corev1.Pod{}, cache.Indexers{podsByNode: podNode})
	w.accounts, w.validations = noAccounts(), storeOf(&v1beta2.PreflightValidation{}, nil)
	w.classes = storeOf(&resourcev1.DeviceClass{}, nil)
	w.jobs = storeOf(&batchv1.Job{}, cache.Indexers{jobsByModule: moduleOfJob, jobsByOwner: ownerOfJob})
	w.jobPods = storeOf(&corev1.Pod{}, cache.Indexers{podsByJob: jobOfPod})
	return w
}

// fromDockerfile is a Module whose image is built from a ConfigMap.
func fromDockerfile(name string) *v1beta1.Module {
	return module(name, "1", func(m *v1beta1.Module) {
		m.UID, m.Generation = "u", 1
		m.Spec.ModuleLoader.Container.Build = &v1beta1.Build{DockerfileConfigMap: &corev1.LocalObjectReference{Name: "df"}}
	})
}

func dockerfile(text string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "df"}, Data: map[string]string{"dockerfile": text}}
}

// pushed is a Job that has ended well, and its pod.
func pushed(j *batchv1.Job, digest string) (*batchv1.Job, *corev1.Pod) {
	j = j.DeepCopy()
	j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: j.Namespace, Name: j.Name + "-x", OwnerReferences: []metav1.OwnerReference{
		*metav1.NewControllerRef(j, batchv1.SchemeGroupVersion.WithKind("Job")),
	}}}
	pod.Status.Phase = corev1.PodSucceeded
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "publish", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{Message: `{"digest":"` + digest + `"}`},
	}}}
	return j, pod
}

// TestOldImageIsNotTheNewOne: a Dockerfile is mended while the one before it is
// built, and its Job pushes before anybody has noticed.
func TestOldImageIsNotTheNewOne(t *testing.T) {
	kube, registry := fake.NewClientset(dockerfile("FROM old")), ""
	w := idle(kube, func(context.Context, ImageRequest) (string, error) { return registry, nil })
	defer w.queue.ShutDown()
	m := fromDockerfile("a")
	require.NoError(t, w.modules.GetStore().Add(m))
	require.NoError(t, w.nodes.GetStore().Add(labelled()))
	require.NoError(t, w.syncImages(t.Context(), "ns/a"))
	first := w.makings.of(m)[madeKernel]
	require.Equal(t, v1beta1.ImageBuilding, first.State)
	jobs, err := kube.BatchV1().Jobs("ns").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, jobs.Items, 1)

	_, err = kube.CoreV1().ConfigMaps("ns").Update(t.Context(), dockerfile("FROM new"), metav1.UpdateOptions{})
	require.NoError(t, err)
	w.versions.seen = nil // a while has passed
	registry = "sha256:old"
	jobs.Items[0].UID, jobs.Items[0].ResourceVersion = "job", "1"
	done, pod := pushed(&jobs.Items[0], registry)
	require.NoError(t, w.jobs.GetStore().Add(done))
	require.NoError(t, w.jobPods.GetStore().Add(pod))

	require.NoError(t, w.syncImages(t.Context(), "ns/a"))
	got := w.makings.of(m)[madeKernel]
	assert.NotEqual(t, first.Hash, got.Hash)
	assert.Equal(t, v1beta1.ImageBuilding, got.State)
	jobs, err = kube.BatchV1().Jobs("ns").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	assert.Len(t, jobs.Items, 2, "the new one is built")
}

// TestJobRefused: the API server takes no Job. A PreflightValidation says why it goes no
// further, and it is tried again, in a while, until the Job is taken.
func TestJobRefused(t *testing.T) {
	for _, push := range []bool{true, false} {
		t.Run(fmt.Sprint("push ", push), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kube, created, full := fake.NewClientset(dockerfile("FROM x")), 0, true
				kube.PrependReactor("create", "jobs", func(k8stesting.Action) (bool, runtime.Object, error) {
					created++
					return full, nil, errors.New("exceeded quota: jobs, limited: count/jobs.batch=0")
				})
				w := idle(kube, func(context.Context, ImageRequest) (string, error) { return "", nil })
				defer w.queue.ShutDown()
				require.NoError(t, w.modules.GetStore().Add(fromDockerfile("a")))
				p := &v1beta2.PreflightValidation{ObjectMeta: metav1.ObjectMeta{Name: "next", UID: "p"}}
				p.Spec.KernelVersion, p.Spec.PushBuiltImage = "6.9.0-1-amd64", push
				trials := map[string]trial{}
				look := func() trial {
					modules := w.validated()
					w.askImages(p, modules)
					_ = w.syncImages(t.Context(), "ns/a") // its error is in the image
					var errs []error
					trials, errs = w.tryAll(t.Context(), p, modules, []string{"ns/a"}, trials, time.Now())
					assert.Empty(t, errs)
					return trials["ns/a"]
				}
				first := look()
				assert.Equal(t, v1beta2.VerificationFailure, first.status)
				assert.Contains(t, first.reason, reasonJobRefused+": ")
				assert.Contains(t, first.reason, "exceeded quota")
				assert.False(t, first.final)
				assert.Positive(t, nextTrial(trials, time.Now()))
				assert.Equal(t, first, look(), "not yet time")
				assert.Equal(t, 1, created)
				time.Sleep(lookAgain) // of the test's clock
				again := look()
				assert.Equal(t, first.reason, again.reason)
				assert.Equal(t, first.since, again.since, "nothing has changed")
				assert.Equal(t, 2, created)
				full = false
				time.Sleep(lookAgain) // of the test's clock
				assert.Equal(t, v1beta2.VerificationInProgress, look().status)
				assert.Equal(t, 3, created)
			})
		})
	}
}

// TestUnsetVariablesOfSign: the pod that signs knows no templates. What is told of its failure names the variable that
// is not there, to somebody who waits for the image and to somebody who validates.
func TestUnsetVariablesOfSign(t *testing.T) {
	kube := fake.NewClientset(
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "key"}, Data: map[string][]byte{"key": []byte("k")}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cert"}, Data: map[string][]byte{"cert": []byte("c")}})
	w := idle(kube, func(context.Context, ImageRequest) (string, error) { return "", nil })
	defer w.queue.ShutDown()
	m := module("a", "1", func(m *v1beta1.Module) {
		m.UID = "u"
		m.Spec.ModuleLoader.Container.Sign = &v1beta1.Sign{
			KeySecret: &corev1.LocalObjectReference{Name: "key"}, CertSecret: &corev1.LocalObjectReference{Name: "cert"},
			UnsignedImage: "reg.example/u:1", FilesToSign: []string{"/opt/lib/modules/${KERNEL_FULL_VERSON}/*.ko"},
		}
	})
	require.NoError(t, w.modules.GetStore().Add(m))
	require.NoError(t, w.nodes.GetStore().Add(labelled()))
	p := &v1beta2.PreflightValidation{ObjectMeta: metav1.ObjectMeta{Name: "next", UID: "p"}, Spec: v1beta2.PreflightValidationSpec{KernelVersion: "6.9.0"}}
	validate := func() trial {
		trials, errs := w.tryAll(t.Context(), p, w.validated(), []string{"ns/a"}, map[string]trial{}, time.Now())
		require.Empty(t, errs)
		return trials["ns/a"]
	}
	require.NoError(t, w.syncImages(t.Context(), "ns/a"))
	require.Equal(t, v1beta1.ImageBuilding, w.makings.of(m)[madeKernel].State)
	require.Equal(t, build.Rehearse, validate().kind)
	jobs, err := kube.BatchV1().Jobs("ns").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, jobs.Items, 2)
	for kind, step := range map[string]string{"publish": "publish", "rehearse": "sign"} {
		at := slices.IndexFunc(jobs.Items, func(j batchv1.Job) bool { return j.Labels[build.KindLabel] == kind })
		require.NotEqual(t, -1, at)
		job := &jobs.Items[at]
		job.UID, job.ResourceVersion = types.UID(kind), "1"
		done, pod := broken(job, "")
		pod.Status.InitContainerStatuses = nil
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: step, State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: `"/opt/lib/modules//*.ko" matches nothing`},
		}}}
		if step == "sign" {
			pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses = pod.Status.ContainerStatuses, nil
		}
		require.NoError(t, w.jobs.GetStore().Add(done))
		require.NoError(t, w.jobPods.GetStore().Add(pod))
	}
	const want = "sign.filesToSign: there is no variable ${KERNEL_FULL_VERSON}: it expands to nothing; %s ended with exit code 1: \"/opt/lib/modules//*.ko\" matches nothing"
	require.NoError(t, w.syncImages(t.Context(), "ns/a"))
	i := w.makings.of(m)[madeKernel]
	assert.Equal(t, v1beta1.ImageFailed, i.State)
	assert.Equal(t, fmt.Sprintf(want, "publish"), i.Message)
	assert.Equal(t, "Error: "+fmt.Sprintf(want, "sign"), validate().reason)

	require.NoError(t, w.syncImages(t.Context(), "ns/a"))
	assert.Equal(t, i, w.makings.of(m)[madeKernel], "told once")
}

// TestStatusComesAfterImages: a look that changes nothing but what it was about has the
// status written, and one that had to leave an image as it was does not count.
func TestStatusComesAfterImages(t *testing.T) {
	w := idle(fake.NewClientset(dockerfile("FROM x")), func(context.Context, ImageRequest) (string, error) { return "sha256:a", nil })
	defer w.queue.ShutDown()
	require.NoError(t, w.nodes.GetStore().Add(labelled()))
	look := func(m *v1beta1.Module) (generation int64, status bool) {
		require.NoError(t, w.modules.GetStore().Add(m))
		require.NoError(t, w.syncImages(t.Context(), "ns/a"))
		for w.queue.cluster.Len() > 0 {
			item, _ := w.queue.cluster.Get()
			w.queue.Done(item)
			status = status || item == moduleWork+"ns/a"
		}
		return w.makings.finished(m), status
	}
	m := fromDockerfile("a")
	assert.Zero(t, w.makings.finished(m))
	generation, status := look(m)
	assert.Equal(t, int64(1), generation)
	assert.True(t, status)
	_, status = look(m)
	assert.False(t, status, "nothing is new")

	m = fromDockerfile("a")
	m.Generation, m.Spec.Tolerations = 2, []corev1.Toleration{{Key: "k"}}
	assert.Equal(t, int64(1), w.makings.finished(m))
	generation, status = look(m)
	assert.Equal(t, int64(2), generation)
	assert.True(t, status, "what was known of the images counts for it, too")

	m = fromDockerfile("a")
	m.Generation = 3
	have := w.makings.of(m)
	i := have[madeKernel]
	i.Job = "j-1"
	w.makings.set("ns/a", map[string]v1beta1.ModuleImage{madeKernel: i})
	w.expect.wrote(jobWork, "ns/j-1", "1")
	generation, _ = look(m)
	assert.Equal(t, int64(2), generation, "its Job has not been seen yet")

	m = module("a", "1", func(m *v1beta1.Module) { m.UID, m.Generation = "u", 4 })
	generation, status = look(m)
	assert.Equal(t, int64(4), generation, "there is nothing to be made")
	assert.True(t, status)
	other := m.DeepCopy()
	other.UID = "another"
	assert.Zero(t, w.makings.finished(other))
	w.makings.forget("ns/a")
	assert.Zero(t, w.makings.finished(m))
}

// TestReadyOnceNodesAreTold: between an image that has been made anew, under the same name, and the nodes that are told of it.
func TestReadyOnceNodesAreTold(t *testing.T) {
	kube := fake.NewClientset(dockerfile("FROM a"))
	w := idle(kube, func(context.Context, ImageRequest) (string, error) { return "sha256:a", nil })
	defer w.queue.ShutDown()
	m := fromDockerfile("a")
	require.NoError(t, w.modules.GetStore().Add(m))
	require.NoError(t, w.nodes.GetStore().Add(labelled(isReady)))
	require.NoError(t, w.syncImages(t.Context(), "ns/a"))
	tell := func() {
		w.makings.save("ns/a", w.makings.list(m))
		wants, changed := w.rebuild()
		w.takeStock(wants)
		w.publish(wants, changed, nil)
	}
	tell()
	e := (*w.wants.Load())[0].made[madeKernel]
	st := told(m, v1beta1.StateLoaded)
	st.revision = unique.Make(e.Revision)
	c := has([]*entry{e}, st)
	c.Name = "n"
	require.NoError(t, w.configs.GetStore().Add(c))
	tell()
	ready := func() metav1.ConditionStatus {
		m.Status = moduleStatus(m, w.reportOf(m), nil)
		return meta.FindStatusCondition(m.Status.Conditions, v1beta1.ConditionReady).Status
	}
	require.Equal(t, metav1.ConditionTrue, ready())

	_, err := kube.CoreV1().ConfigMaps("ns").Update(t.Context(), dockerfile("FROM b"), metav1.UpdateOptions{})
	require.NoError(t, err)
	w.versions.seen = nil // time passes
	require.NoError(t, w.syncImages(t.Context(), "ns/a"))
	require.Equal(t, metav1.ConditionFalse, ready(), "it is being made")
	jobs, err := kube.BatchV1().Jobs("ns").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	jobs.Items[0].UID, jobs.Items[0].ResourceVersion = "job", "1"
	done, pod := pushed(&jobs.Items[0], "sha256:b")
	require.NoError(t, w.jobs.GetStore().Add(done))
	require.NoError(t, w.jobPods.GetStore().Add(pod))
	require.NoError(t, w.syncImages(t.Context(), "ns/a"))
	require.Equal(t, "sha256:b", w.makings.of(m)[madeKernel].Digest)
	assert.Equal(t, metav1.ConditionFalse, ready(), "nobody has been told")
	tell()
	assert.Equal(t, metav1.ConditionFalse, ready(), "the node has the one before")
}

// TestReadyOverAStart: a Watcher that has just begun does not know which of the images are for nodes.
func TestReadyOverAStart(t *testing.T) {
	w := idle(fake.NewClientset(), nil)
	defer w.queue.ShutDown()
	m := fromDockerfile("a")
	m.Status.Images = []v1beta1.ModuleImage{
		{Kernel: madeKernel, Image: "reg.example/x:1", Digest: "sha256:a", State: v1beta1.ImageReady},
		{Kernel: "6.9", Image: "reg.example/x:1", State: v1beta1.ImageBuilding},
	}
	m.Status.Conditions = []metav1.Condition{{Type: v1beta1.ConditionReady, Status: metav1.ConditionTrue, ObservedGeneration: m.Generation}}
	r := report{counts: counts{selected: 1, desired: 1, available: 1, current: 1}}
	r.images = w.makings.list(m)
	r.needed = w.makings.needed("ns/a", r.images)
	s := moduleStatus(m, r, nil)
	assert.Equal(t, metav1.ConditionTrue, meta.FindStatusCondition(s.Conditions, v1beta1.ConditionReady).Status)
}

// TestJobOfAFormerModule of the same name is not taken for one of the new Module: it goes with its owner.
func TestJobOfAFormerModule(t *testing.T) {
	kube := fake.NewClientset(dockerfile("FROM a"))
	look := func(uid types.UID, refused ...error) v1beta1.ModuleImage {
		w := idle(kube, func(context.Context, ImageRequest) (string, error) { return "", nil })
		defer w.queue.ShutDown()
		m := fromDockerfile("a")
		m.UID = uid
		require.NoError(t, w.modules.GetStore().Add(m))
		require.NoError(t, w.nodes.GetStore().Add(labelled()))
		err := w.syncImages(t.Context(), "ns/a")
		if len(refused) == 0 {
			require.NoError(t, err)
		}
		for _, r := range refused {
			require.ErrorIs(t, err, r)
		}
		return w.makings.of(m)[madeKernel]
	}
	jobs := func() []batchv1.Job {
		list, err := kube.BatchV1().Jobs("ns").List(t.Context(), metav1.ListOptions{})
		require.NoError(t, err)
		return list.Items
	}
	require.Equal(t, v1beta1.ImageBuilding, look("former").State)
	require.Len(t, jobs(), 1)
	assert.Equal(t, v1beta1.ImageBuilding, look("former").State, "a Watcher that does not know of it yet")

	assert.Empty(t, look("new").State, "it waits")
	assert.Empty(t, jobs(), "and the Job of before goes")
	i := look("new")
	assert.Equal(t, v1beta1.ImageBuilding, i.State)
	require.Len(t, jobs(), 1)
	assert.Equal(t, types.UID("new"), metav1.GetControllerOf(&jobs()[0]).UID)

	stranger := jobs()[0]
	stranger.OwnerReferences, stranger.Labels, stranger.UID = nil, nil, "stranger"
	_, err := kube.BatchV1().Jobs("ns").Update(t.Context(), &stranger, metav1.UpdateOptions{})
	require.NoError(t, err)
	i = look("new", errForeign)
	assert.Equal(t, reasonJobRefused, i.Reason)
	assert.Contains(t, i.Message, "not this Module's")
	assert.Len(t, jobs(), 1)
}
