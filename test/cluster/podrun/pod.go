// SPDX-License-Identifier: Apache-2.0

package podrun

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pod is one that is run, once: restartPolicy is Never.
type pod struct {
	runner *Runner
	object *corev1.Pod // as it was when it was seen first
	dir    string

	// For Bundle: the file of its network namespace, and a filter as containerd's.
	network string
	strict  bool

	ctx    context.Context // until it is deleted
	end    context.CancelFunc
	active context.Context // while containers may run
	kill   context.CancelFunc
	start  metav1.Time

	mu      sync.Mutex // guards what follows
	states  map[string]corev1.ContainerState
	mounted bool // the volumes are
	overdue bool // it took longer than activeDeadlineSeconds
}

// How often it is tried again to prepare a pod, or to say how it is.
const again = 250 * time.Millisecond

func (r *Runner) newPod(object *corev1.Pod) *pod {
	p := &pod{
		runner: r, object: object, dir: filepath.Join(r.dir, string(object.UID)),
		start: metav1.Now(), states: map[string]corev1.ContainerState{},
	}
	p.ctx, p.end = context.WithCancel(r.ctx)
	p.active, p.kill = context.WithCancel(p.ctx)
	return p
}

// live is all that happens to a pod, until it is gone.
func (p *pod) live() {
	defer p.end()
	if !finished(p.object.Status.Phase) {
		defer p.watchDeadline().Stop()
		p.run()
		p.report(p.runner.ctx)
	}
	<-p.ctx.Done()
	if p.runner.ctx.Err() == nil {
		p.remove()
	}
	os.RemoveAll(p.dir)
}

// watchDeadline has the containers end when the pod takes too long.
func (p *pod) watchDeadline() *time.Timer {
	allowed := time.Duration(math.MaxInt64)
	if seconds := p.object.Spec.ActiveDeadlineSeconds; seconds != nil {
		allowed = time.Duration(*seconds) * time.Second
	}
	return time.AfterFunc(allowed, func() {
		p.mu.Lock()
		p.overdue = true
		p.mu.Unlock()
		p.kill()
	})
}

// run runs the containers, and returns when they have ended, it took too long, or
// it is deleted.
func (p *pod) run() {
	spec := p.object.Spec
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		p.set(c.Name, waiting("PodInitializing", ""))
	}
	// As the kubelet: what can not be mounted is in an event only.
	if !p.retry(p.makeVolumes, func(err error) { p.event("FailedMount", err.Error()) }) {
		return
	}
	p.mu.Lock()
	p.mounted = true
	p.mu.Unlock()
	for i := range spec.InitContainers {
		if !p.runContainer(&spec.InitContainers[i]) {
			return
		}
	}
	var containers sync.WaitGroup
	for i := range spec.Containers {
		containers.Go(func() { p.runContainer(&spec.Containers[i]) })
	}
	containers.Wait()
}

// retry does something until it works, and says what is in the way whenever that
// changes; false: the pod's time is over.
func (p *pod) retry(do func() error, say func(error)) bool {
	for said := ""; p.active.Err() == nil; p.pause() {
		err := do()
		if err == nil {
			return true
		}
		if said != err.Error() {
			said = err.Error()
			say(err)
			p.report(p.active)
		}
	}
	return false
}

func (p *pod) pause() {
	timer := time.NewTimer(again)
	defer timer.Stop()
	select {
	case <-p.runner.ctx.Done():
	case <-timer.C:
	}
}

// event tells what kubectl describe shows.
func (p *pod) event(reason, message string) {
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: p.object.Name + ".", Namespace: p.object.Namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: p.object.Namespace, Name: p.object.Name, UID: p.object.UID,
		},
		Type: corev1.EventTypeWarning, Reason: reason, Message: message, Count: 1,
		FirstTimestamp: now, LastTimestamp: now, Source: corev1.EventSource{Component: "kubelet", Host: p.object.Spec.NodeName},
	}
	// As the kubelet: an event that can not be written is lost.
	p.runner.client.CoreV1().Events(p.object.Namespace).Create(p.ctx, event, metav1.CreateOptions{}) //nolint:errcheck // see above
}

// remove lets the object of a deleted pod go; its finalizers may keep it.
func (p *pod) remove() {
	now := int64(0)
	for p.runner.ctx.Err() == nil {
		err := p.runner.client.CoreV1().Pods(p.object.Namespace).Delete(p.runner.ctx, p.object.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(p.object.UID)),
		})
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return
		}
		p.pause()
	}
}

func (p *pod) path(elements ...string) string {
	return filepath.Join(append([]string{p.dir}, elements...)...)
}

// finished phases are the last of a pod.
func finished(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }
