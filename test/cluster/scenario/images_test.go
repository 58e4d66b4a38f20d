// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/build"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/test/cluster/fleet"
)

// builder is a world whose Jobs the test plays: what their containers really do is
// tested elsewhere.
type builder struct{ *world }

func (b builder) dockerfile(name, text string) {
	b.t.Helper()
	b.applyYAML(fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: %s, name: %s}\ndata: {dockerfile: %q}\n", b.namespace, name, text))
}

// built is a Module with a build.
func (b builder) built(tag, dockerfile string, spec ...string) document {
	return document{
		name: "m", image: b.Registry.Host + "/modules:" + tag, spec: spec,
		container: []string{"build: {dockerfileConfigMap: {name: " + dockerfile + "}}"},
	}
}

// jobs of this world, the oldest first.
func (b builder) jobs() []batchv1.Job {
	b.t.Helper()
	list, err := b.kube.BatchV1().Jobs(b.namespace).List(b.t.Context(), metav1.ListOptions{})
	require.NoError(b.t, err)
	slices.SortFunc(list.Items, func(x, y batchv1.Job) int { return x.CreationTimestamp.Compare(y.CreationTimestamp.Time) })
	return list.Items
}

// waitPod waits until there are n Jobs, and gives the pod of the one that has no
// end.
func (b builder) waitPod(n int) *corev1.Pod {
	b.t.Helper()
	var out *corev1.Pod
	b.wait(fmt.Sprintf("there are %d Jobs, and one has a pod", n), func() error {
		if got := len(b.jobs()); got != n {
			return fmt.Errorf("there are %d", got)
		}
		list, err := b.kube.CoreV1().Pods(b.namespace).List(b.t.Context(), metav1.ListOptions{LabelSelector: build.HashLabel})
		if err != nil {
			return err
		}
		for i := range list.Items {
			if p := &list.Items[i]; p.DeletionTimestamp == nil && p.Spec.NodeName != "" && p.Status.Phase == corev1.PodPending {
				out = p
				return nil
			}
		}
		return fmt.Errorf("no pod")
	})
	return out
}

// end writes what a kubelet does when a pod's containers have ended: message is
// the last one's if digest is given, else that of the first, which has failed.
func (b builder) end(p *corev1.Pod, digest, message string) {
	b.t.Helper()
	state := func(code int32, text string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Message: text, FinishedAt: metav1.Now()}}
	}
	phase, code, text := corev1.PodSucceeded, int32(0), ""
	if digest == "" {
		phase, code, text = corev1.PodFailed, 1, message
	}
	status := corev1.PodStatus{Phase: phase}
	for _, c := range p.Spec.InitContainers {
		status.InitContainerStatuses = append(status.InitContainerStatuses, corev1.ContainerStatus{Name: c.Name, Image: c.Image, State: state(code, text)})
	}
	for _, c := range p.Spec.Containers {
		said := fmt.Sprintf(`{"image":"x","digest":%q}`, digest)
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, Image: c.Image, State: state(0, said)})
	}
	ctx, pods := context.WithoutCancel(b.t.Context()), b.kube.CoreV1().Pods(p.Namespace)
	require.NoError(b.t, retry.RetryOnConflict(retry.DefaultBackoff, func() error { // the Job's controller writes, too
		now, err := pods.Get(ctx, p.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		status.Conditions = now.Status.Conditions
		now.Status = status
		_, err = pods.UpdateStatus(ctx, now, metav1.UpdateOptions{})
		return err
	}))
}

// push is what the last container does: the image with modules of a version, under
// a tag.
func (b builder) push(tag, version string) (digest string) {
	b.t.Helper()
	ref := b.ImageAs(tag, version, "mod")
	digest, err := images.Lookup(b.t.Context(), images.Request{Ref: ref, Insecure: true})
	require.NoError(b.t, err)
	return digest
}

func (b builder) image(kernel string) v1beta1.ModuleImage {
	b.t.Helper()
	m, err := b.api.Modules(b.namespace).Get(b.t.Context(), "m", metav1.GetOptions{})
	require.NoError(b.t, err)
	for _, i := range m.Status.Images {
		if i.Kernel == kernel {
			return i
		}
	}
	return v1beta1.ModuleImage{}
}

func (b builder) waitImage(state string) v1beta1.ModuleImage {
	b.t.Helper()
	var out v1beta1.ModuleImage
	b.wait("the image is "+state, func() error {
		if out = b.image(fleet.Release); out.State != state {
			return fmt.Errorf("it is %+v", out)
		}
		return nil
	})
	return out
}

func (b builder) waitEvent(reason, text string) {
	b.t.Helper()
	b.world.waitEvent(b.namespace, "Module", "m", reason, text)
}

// TestBuild: a node waits for the image and leaves the registry alone; one Job
// makes it; the node loads what was made. Made again, what runs stays until then.
func TestBuild(t *testing.T) {
	b := builder{begin(t, "build")}
	b.player.Leave(build.HashLabel)
	b.dockerfile("df", "FROM one")
	a, c := b.node("a"), b.node("c")
	b.apply(b.built("${KERNEL_FULL_VERSION}", "df"))
	b.waitStatus(a, "m", "Building")
	b.waitStatus(c, "m", "Building")
	pod := b.waitPod(1)
	b.waitCondition("m", "Progressing", "True/Building", fleet.Release)
	b.waitEvent("BuildCreated", fleet.Release)
	asked := b.Registry.Requests()
	assert.Len(t, asked, 1, "only kmm-watcher has asked, once")
	assert.False(t, b.ready(a, "m"))

	digest := b.push(fleet.Release, "one")
	b.end(pod, digest, "")
	b.waitReady(a, "m", true)
	b.waitReady(c, "m", true)
	assert.Equal(t, "one", a.Runs("mod"))
	assert.Equal(t, digest, b.waitImage("Ready").Digest)
	b.waitCondition("m", "Ready", "True/AllNodes")
	b.waitCondition("m", "Progressing", "False/Complete")
	b.waitEvent("BuildSucceeded", digest)

	b.apply(b.built("${KERNEL_FULL_VERSION}", "df", "imageRebuildTriggerGeneration: 1"))
	pod = b.waitPod(2)
	assert.True(t, b.ready(a, "m"), "what runs stays")
	second := b.push(fleet.Release, "two")
	require.NotEqual(t, digest, second)
	b.end(pod, second, "")
	b.waitRuns(a, "mod", "two")
	b.waitReady(a, "m", true)
	b.wait("the generation is obeyed", func() error {
		m, err := b.api.Modules("build").Get(t.Context(), "m", metav1.GetOptions{})
		if err == nil && (m.Status.ImageRebuildTriggerGeneration == nil || *m.Status.ImageRebuildTriggerGeneration != 1) {
			return fmt.Errorf("%v", m.Status.ImageRebuildTriggerGeneration)
		}
		return err
	})

	b.kubectl("label", "configmap", "df", "-n", "build", "x=y")
	b.dockerfile("df", "FROM two") // nobody watches it; it is looked at now and then
	pod = b.waitPod(3)
	b.end(pod, b.push(fleet.Release, "three"), "")
	b.waitRuns(a, "mod", "three")

	late := b.node("late") // what is there is there for everybody
	b.waitReady(late, "m", true)
	assert.Len(t, b.jobs(), 3)
}

// TestBuildFails: the node keeps what it has, the Module says why, and a better
// Dockerfile is taken at once.
func TestBuildFails(t *testing.T) {
	b := builder{begin(t, "buildfails")}
	b.player.Leave(build.HashLabel)
	b.dockerfile("df", "FROM one")
	a := b.node("a")
	b.push("one", "one")
	b.apply(b.built("one", "df"))
	b.waitReady(a, "m", true)
	assert.Empty(t, b.jobs(), "what is in the registry is not built")

	b.apply(b.built("two", "missing"))
	b.waitCondition("m", "Degraded", "True/BuildFailed", "ConfigMap buildfails/missing is not there")
	assert.True(t, b.ready(a, "m"))

	b.apply(b.built("two", "df"))
	b.end(b.waitPod(1), "", "gcc: command not found\nmake: *** [all] Error 127")
	b.waitCondition("m", "Degraded", "True/BuildFailed", "make: *** [all] Error 127", "next attempt at")
	b.waitEvent("BuildFailed", "Error 127")
	assert.True(t, b.ready(a, "m"))
	assert.Equal(t, "one", a.Runs("mod"))
	assert.Len(t, b.jobs(), 1, "it is not tried again at once")

	b.dockerfile("better", "FROM gcc")
	b.apply(b.built("two", "better"))
	b.end(b.waitPod(2), b.push("two", "two"), "")
	b.waitRuns(a, "mod", "two")
	b.waitCondition("m", "Degraded", "False/NoFailures")
}

// TestBuildStopped: what is not wanted any more is stopped before anything else is
// begun.
func TestBuildStopped(t *testing.T) {
	b := builder{begin(t, "buildstop")}
	b.player.Leave(build.HashLabel)
	b.dockerfile("df", "FROM one")
	b.dockerfile("other", "FROM two")
	a := b.node("a")
	b.apply(b.built("one", "df"))
	first := b.waitPod(1)
	b.apply(b.built("one", "other"))
	b.wait("the first pod is asked to end", func() error {
		p, err := b.kube.CoreV1().Pods(b.namespace).Get(t.Context(), first.Name, metav1.GetOptions{})
		if err == nil && p.DeletionTimestamp == nil {
			return fmt.Errorf("it is not")
		}
		return err
	})
	b.settled()
	assert.Len(t, b.jobs(), 1, "the second one waits until the first can push nothing any more")
	now := int64(0)
	require.NoError(t, b.kube.CoreV1().Pods(b.namespace).Delete(t.Context(), first.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
	second := b.waitPod(1)
	assert.NotEqual(t, first.Labels[build.HashLabel], second.Labels[build.HashLabel])
	b.end(second, b.push("one", "one"), "")
	b.waitReady(a, "m", true)

	b.apply(b.built("two", "other"))
	third := b.waitPod(2)
	b.apply(document{name: "m", image: b.Registry.Host + "/modules:one"}) // nothing is built any more
	b.wait("its pod is asked to end", func() error {
		p, err := b.kube.CoreV1().Pods(b.namespace).Get(t.Context(), third.Name, metav1.GetOptions{})
		if err == nil && p.DeletionTimestamp == nil {
			return fmt.Errorf("it is not")
		}
		return err
	})
	require.NoError(t, b.kube.CoreV1().Pods(b.namespace).Delete(t.Context(), third.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
	b.waitReady(a, "m", true)
	b.wait("nothing is said of images any more", func() error {
		if i := b.image(fleet.Release); i != (v1beta1.ModuleImage{}) {
			return fmt.Errorf("%+v", i)
		}
		return nil
	})

	b.kubectl("delete", "module", "m", "-n", "buildstop")
	b.waitGone("m")
	b.wait("its Jobs go with it", func() error {
		if n := len(b.jobs()); n > 0 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
}

// TestBuildAndWatcherKilled: whenever it dies, its successor goes on where it was,
// and there is no second Job; a failure is tried again after a while.
func TestBuildAndWatcherKilled(t *testing.T) {
	t.Parallel()
	b := builder{private(t, "buildkilled")}
	b.player.Leave(build.HashLabel)
	b.dockerfile("df", "FROM one")
	first := newWatcher(t, b.cluster, "first", "--build-retry=3s")
	a := b.node("a")
	b.apply(b.built("one", "df"))
	pod := b.waitPod(1)
	first.Kill()
	b.end(pod, "", "no route to host") // while nobody looks
	second := newWatcher(t, b.cluster, "second", "--build-retry=3s")
	b.waitEvent("BuildFailed", "no route to host")
	pod = b.waitPod(2)
	second.Kill()
	b.end(pod, b.push("one", "one"), "")
	newWatcher(t, b.cluster, "third")
	b.waitReady(a, "m", true)
	assert.Len(t, b.jobs(), 2)
	image := b.waitImage("Ready")
	assert.Equal(t, int32(2), image.Attempts)

	// Somebody removes it from the registry: a node that comes new finds out.
	b.Registry.Forget()
	late := b.node("late")
	pod = b.waitPod(3)
	b.end(pod, b.push("one", "one"), "")
	b.waitReady(late, "m", true)
	assert.True(t, b.ready(a, "m"))
}

// TestAgentImage: without --agent-image, the Jobs' own containers are the image of
// the DaemonSet.
func TestAgentImage(t *testing.T) {
	t.Parallel()
	b := builder{private(t, "agentimage")}
	b.player.Leave(build.HashLabel)
	newWatcher(t, b.cluster, "one", "--agent-image=")
	b.dockerfile("df", "FROM one")
	b.node("a")
	b.apply(b.built("one", "df"))
	b.waitCondition("m", "Degraded", "True/BuildFailed", "--agent-image", b.Registry.Host+"/modules:one for kernel "+fleet.Release)
	b.applyYAML(`apiVersion: apps/v1
kind: DaemonSet
metadata: {namespace: kmm-system, name: kmmd}
spec:
  selector: {matchLabels: {app: kmmd}}
  template:
    metadata: {labels: {app: kmmd}}
    spec:
      nodeSelector: {nowhere: ""}
      containers: [{name: kmmd, image: "reg.example/kmmd:v9"}]
`)
	pod := b.waitPod(1)
	assert.Equal(t, "reg.example/kmmd:v9", pod.Spec.Containers[0].Image)
}
