// SPDX-License-Identifier: Apache-2.0

package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/build"
	"github.com/kmm-node/kmmd/test/cluster/lab"
)

// patience is for what a build may take, and the pauses before it is tried again.
const patience = 6 * time.Minute

func (w *world) wait(what string, check func() error) {
	w.t.Helper()
	lab.WaitFor(w.t, patience, what, check)
}

// jobs of this world, the oldest first.
func (w *world) jobs() []batchv1.Job {
	w.t.Helper()
	list, err := w.kube.BatchV1().Jobs(w.namespace).List(w.t.Context(), metav1.ListOptions{})
	require.NoError(w.t, err)
	slices.SortFunc(list.Items, func(x, y batchv1.Job) int { return x.CreationTimestamp.Compare(y.CreationTimestamp.Time) })
	return list.Items
}

// waitJob waits until there are n Jobs, and gives the last one.
func (w *world) waitJob(n int) *batchv1.Job {
	w.t.Helper()
	var all []batchv1.Job
	w.wait(fmt.Sprintf("there are %d Jobs", n), func() error {
		if all = w.jobs(); len(all) != n {
			return fmt.Errorf("there are %d", len(all))
		}
		return nil
	})
	return &all[n-1]
}

// pods of a Job: none until its controller has made one.
func (w *world) pods(job string) ([]corev1.Pod, error) {
	list, err := w.kube.CoreV1().Pods(w.namespace).List(w.t.Context(), metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name=" + job})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// failed is when the last container of a Job did. That is what kmm-watcher goes by;
// Kubernetes' controller says it of the Job some seconds later.
func (w *world) failed(j *batchv1.Job) time.Time {
	w.t.Helper()
	pods, err := w.pods(j.Name)
	require.NoError(w.t, err)
	var last time.Time
	for _, p := range pods {
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			if t := s.State.Terminated; t != nil && t.FinishedAt.After(last) {
				last = t.FinishedAt.Time
			}
		}
	}
	if last.IsZero() { // stopped
		return ended(j)
	}
	return last
}

// ended is when a Job did; zero, it has not.
func ended(j *batchv1.Job) time.Time {
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// assertPatient requires that nothing was tried again before its time: of the same
// content, one Job after the other, each after twice as long. What is wanted again
// after something else is another matter: that is made at once. What Jobs are called
// has the hash of the content before the attempt.
func (w *world) assertPatient() {
	w.t.Helper()
	var before batchv1.Job
	tried := map[string]int{}
	for _, j := range w.jobs() {
		hash := j.Labels[build.HashLabel]
		if n := tried[hash]; n > 0 && hash == before.Labels[build.HashLabel] {
			pause := retry << (n - 1)
			// Kubernetes' times are whole seconds.
			assert.GreaterOrEqual(w.t, j.CreationTimestamp.Sub(w.failed(&before)), pause-time.Second, "%s after %s", j.Name, before.Name)
		}
		tried[hash]++
		before = j
	}
}

// status of the image of a Module for the kernel.
func (w *world) status(module string) v1beta1.ModuleImage {
	w.t.Helper()
	m, err := w.api.Modules(w.namespace).Get(w.t.Context(), module, metav1.GetOptions{})
	require.NoError(w.t, err)
	for _, i := range m.Status.Images {
		if i.Kernel == release {
			return i
		}
	}
	return v1beta1.ModuleImage{}
}

// waitImage waits until the image REF of a Module is in a state.
func (w *world) waitImage(module, tag, state string) v1beta1.ModuleImage {
	w.t.Helper()
	var out v1beta1.ModuleImage
	w.wait(fmt.Sprintf("the image of %s is %s", module, state), func() error {
		if out = w.status(module); out.State != state || out.Image != w.image(tag) {
			text, err := json.Marshal(out)
			return errors.Join(fmt.Errorf("it is %s", text), err)
		}
		return nil
	})
	return out
}

// waitAttempts is waitImage for the state after so many attempts, or more: the next one
// does not wait for us.
func (w *world) waitAttempts(module, tag, state string, n int32) {
	w.t.Helper()
	w.wait(fmt.Sprintf("attempt %d at %s is %s", n, module, state), func() error {
		if i := w.status(module); i.State != state || i.Attempts < n || i.Image != w.image(tag) {
			return fmt.Errorf("it is %+v", i)
		}
		return nil
	})
}

// waitCondition waits until a condition of a Module, as it is now, is STATUS/REASON
// and says all these words.
func (w *world) waitCondition(module, kind, want string, words ...string) string {
	w.t.Helper()
	message := ""
	w.wait(fmt.Sprintf("%s of %s is %s", kind, module, want), func() error {
		m, err := w.api.Modules(w.namespace).Get(w.t.Context(), module, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(m.Status.Conditions, kind)
		if c == nil || c.ObservedGeneration != m.Generation || string(c.Status)+"/"+c.Reason != want {
			return fmt.Errorf("generation %d: %+v", m.Generation, m.Status.Conditions)
		}
		for _, text := range words {
			if !strings.Contains(c.Message, text) {
				return fmt.Errorf("it does not say %q: %s", text, c.Message)
			}
		}
		message = c.Message
		return nil
	})
	w.t.Logf("%s of %s: %s: %s", kind, module, want, message)
	return message
}

// waitEvent waits for an event of a Module.
func (w *world) waitEvent(module, reason, text string) {
	w.t.Helper()
	w.wait("event "+reason, func() error {
		events, err := w.kube.CoreV1().Events(w.namespace).List(w.t.Context(), metav1.ListOptions{
			FieldSelector: "involvedObject.kind=Module,involvedObject.name=" + module,
		})
		if err != nil {
			return err
		}
		var all []string
		for _, e := range events.Items {
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return nil
			}
			all = append(all, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("there are %q", all)
	})
}

// log is what a container of a Job's pod has written.
func (w *world) log(job, container string) string {
	w.t.Helper()
	return cluster.Kubectl(w.t, "logs", "-n", w.namespace, "-l", "batch.kubernetes.io/job-name="+job, "-c", container, "--tail=-1")
}
