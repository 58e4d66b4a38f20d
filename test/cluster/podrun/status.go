// SPDX-License-Identifier: Apache-2.0

package podrun

import (
	"context"
	"encoding/json"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func (p *pod) set(container string, state corev1.ContainerState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.states[container] = state
}

// report writes the status, until it is written or ctx ends.
func (p *pod) report(ctx context.Context) {
	for p.runner.ctx.Err() == nil && ctx.Err() == nil {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.object.UID}, "status": p.status()})
		if err != nil {
			panic(err) // there is nothing in it that can not be encoded
		}
		_, err = p.runner.client.CoreV1().Pods(p.object.Namespace).
			Patch(ctx, p.object.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return
		}
		p.pause()
	}
}

// status is what a kubelet writes (kubelet_pods.go, generateAPIPodStatus).
func (p *pod) status() corev1.PodStatus {
	p.mu.Lock()
	states, mounted, overdue := maps.Clone(p.states), p.mounted, p.overdue
	p.mu.Unlock()
	spec := p.object.Spec
	status := corev1.PodStatus{
		HostIP: loopback, HostIPs: []corev1.HostIP{{IP: loopback}},
		PodIP: loopback, PodIPs: []corev1.PodIP{{IP: loopback}}, StartTime: &p.start,
		InitContainerStatuses: statuses(spec.InitContainers, states),
		ContainerStatuses:     statuses(spec.Containers, states),
	}
	for i := range status.InitContainerStatuses {
		s := &status.InitContainerStatuses[i]
		s.Ready = s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
	}
	status.Phase = p.phase(states)
	if overdue {
		status.Reason, status.Message = "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
	}
	running := status.Phase == corev1.PodRunning
	status.Conditions = []corev1.PodCondition{
		condition(corev1.PodReadyToStartContainers, mounted && !finished(status.Phase)),
		condition(corev1.PodInitialized, p.initialized(states)),
		condition(corev1.ContainersReady, running),
		condition(corev1.PodReady, running),
	}
	return status
}

func (p *pod) initialized(states map[string]corev1.ContainerState) bool {
	for _, c := range p.object.Spec.InitContainers {
		if end := states[c.Name].Terminated; end == nil || end.ExitCode != 0 {
			return false
		}
	}
	return true
}

// phase is Failed for a pod that was deleted before its end, too.
func (p *pod) phase(states map[string]corev1.ContainerState) corev1.PodPhase {
	phase := corev1.PodSucceeded
	for _, c := range p.object.Spec.InitContainers {
		switch end := states[c.Name].Terminated; {
		case end != nil && end.ExitCode != 0, end == nil && p.active.Err() != nil:
			return corev1.PodFailed
		case end == nil:
			return corev1.PodPending
		}
	}
	for _, c := range p.object.Spec.Containers {
		switch state := states[c.Name]; {
		case state.Running != nil:
			return corev1.PodRunning
		case state.Terminated == nil && p.active.Err() == nil:
			return corev1.PodPending
		case state.Terminated == nil || state.Terminated.ExitCode != 0:
			phase = corev1.PodFailed
		}
	}
	return phase
}

func statuses(containers []corev1.Container, states map[string]corev1.ContainerState) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for _, c := range containers {
		state := states[c.Name]
		started := state.Running != nil
		out = append(out, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, State: state, Started: &started, Ready: started,
		})
	}
	return out
}

func condition(kind corev1.PodConditionType, value bool) corev1.PodCondition {
	c := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()}
	if value {
		c.Status = corev1.ConditionTrue
	}
	return c
}
