// SPDX-License-Identifier: Apache-2.0

package play

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// play does with one pod what the kubelet would do next.
func (p *Player) play(ctx context.Context, key string) error {
	object, exists, err := p.pods.GetIndexer().GetByKey(key)
	if err != nil || !exists {
		return err
	}
	pod := object.(*corev1.Pod)
	p.mu.Lock()
	playing, ready := p.nodes[pod.Spec.NodeName], !p.notReady[key]
	for _, label := range p.left {
		if _, ok := pod.Labels[label]; ok {
			playing = false
		}
	}
	p.mu.Unlock()
	if !playing {
		return nil
	}
	if pod.DeletionTimestamp != nil {
		now := int64(0)
		err := p.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
		})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil // gone, or a new one of that name
		}
		return err
	}
	if pod.Status.Phase == corev1.PodRunning && isReady(pod) == ready {
		return nil
	}
	return p.patch(ctx, pod, running(pod, ready))
}

func (p *Player) patch(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return fmt.Errorf("patch pod: %w", err)
	}
	_, err = p.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// running is the status of a pod whose containers run.
func running(pod *corev1.Pod, ready bool) corev1.PodStatus {
	now := metav1.Now()
	status := corev1.PodStatus{
		Phase: corev1.PodRunning, HostIP: "127.0.0.1", PodIP: "127.0.0.1", StartTime: &now,
		PodIPs: []corev1.PodIP{{IP: "127.0.0.1"}},
	}
	condition := func(kind corev1.PodConditionType, value bool) {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: kind, Status: conditionStatus(value), LastTransitionTime: now})
	}
	condition(corev1.PodInitialized, true)
	condition(corev1.ContainersReady, ready)
	condition(corev1.PodReady, ready)
	for _, c := range pod.Spec.InitContainers {
		ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", FinishedAt: now}}
		status.InitContainerStatuses = append(status.InitContainerStatuses,
			corev1.ContainerStatus{Name: c.Name, Image: c.Image, Ready: true, State: ended})
	}
	for _, c := range pod.Spec.Containers {
		started := true
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: ready, Started: &started,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	return status
}

func conditionStatus(value bool) corev1.ConditionStatus {
	if value {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}
