// SPDX-License-Identifier: Apache-2.0

package build

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// running says what a pod is busy with, and what is in its way.
func running(pod *corev1.Pod) Result {
	r := Result{State: Running}
	if c := podCondition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse {
		r.Reason, r.Message = c.Reason, "no node for the pod: "+c.Message
		return r
	}
	if pod.Spec.NodeName == "" {
		return r
	}
	for _, s := range statuses(pod) {
		if t := s.State.Terminated; t != nil && t.ExitCode == 0 {
			continue
		}
		r.Step = s.Name
		if w := s.State.Waiting; w != nil && !patient[w.Reason] {
			r.Reason = w.Reason
			r.Message = obstacle(pod, s.Name, w)
		}
		break
	}
	// Volumes come before the sandbox, which comes before the first container. What
	// is wrong with one is told in an event only.
	c := podCondition(pod, corev1.PodReadyToStartContainers)
	if r.Reason == "" && c != nil && c.Status == corev1.ConditionFalse && pod.Status.StartTime != nil {
		if names := volumeSources(pod); len(names) > 0 {
			r.Reason = ReasonNotStarted
			r.Message = fmt.Sprintf("the pod has not started yet; it waits on node %s for its network and its volumes: do %s exist, with the keys they need?",
				pod.Spec.NodeName, strings.Join(names, ", "))
		}
	}
	return r
}

// patient are reasons of waiting that are no trouble.
var patient = map[string]bool{"": true, "PodInitializing": true, "ContainerCreating": true}

func obstacle(pod *corev1.Pod, step string, w *corev1.ContainerStateWaiting) string {
	switch w.Reason {
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
		return withLines(fmt.Sprintf("the image %s of %s can not be pulled on node %s", imageOf(pod, step), step, pod.Spec.NodeName), w.Message)
	}
	return withLines(fmt.Sprintf("%s can not be started on node %s", step, pod.Spec.NodeName), w.Message)
}

func imageOf(pod *corev1.Pod, step string) string {
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range containers {
			if c.Name == step {
				return c.Image
			}
		}
	}
	return ""
}

// volumeSources names the objects without which a pod does not start.
func volumeSources(pod *corev1.Pod) []string {
	var names []string
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.ConfigMap != nil && !optional(v.ConfigMap.Optional):
			names = append(names, "ConfigMap "+v.ConfigMap.Name+keys(v.ConfigMap.Items))
		case v.Secret != nil && !optional(v.Secret.Optional):
			names = append(names, "Secret "+v.Secret.SecretName+keys(v.Secret.Items))
		}
	}
	return names
}

func optional(b *bool) bool { return b != nil && *b }

func keys(items []corev1.KeyToPath) string {
	if len(items) == 0 {
		return ""
	}
	return " (" + items[0].Key + ")"
}

// step is the container that a pod is, or was, busy with.
func step(pod *corev1.Pod) string {
	for _, s := range statuses(pod) {
		if t := s.State.Terminated; t == nil || t.ExitCode != 0 {
			return s.Name
		}
	}
	return ""
}

// denied is what registries and builders say to somebody they do not know.
var denied = regexp.MustCompile(`(?i)\b(unauthorized|authentication required|access (to the resource is )?denied|denied: )`)

// hint is for the one thing that worked with the KMM operator and does not here.
func hint(step, text string) string {
	if step == stepBuild && denied.MatchString(text) {
		return " (base images are pulled with the imagePullSecrets of the ServiceAccount, not with imageRepoSecret)"
	}
	return ""
}

const (
	maxLines = 12
	maxText  = 1024 // of a condition's 32 KiB, and an event's 1 KiB: the caller cuts that
)

// color is what programs write to a terminal that is none.
var color = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

// Legible is what a program has printed without what only a terminal understands.
func Legible(text string) string {
	return strings.Map(printable, strings.ToValidUTF8(color.ReplaceAllString(text, ""), "?"))
}

// withLines adds the last lines of a text to a sentence, if there is one.
func withLines(what, text string) string {
	var lines []string
	for line := range strings.Lines(Legible(text)) {
		if line = strings.TrimRight(line, " \n"); line != "" {
			lines = append(lines, line)
		}
	}
	lines = lines[max(0, len(lines)-maxLines):]
	size := 0
	for i := len(lines) - 1; i >= 0; i-- {
		size += len(lines[i]) + 1
		if size > maxText && i < len(lines)-1 {
			lines = lines[i+1:]
			break
		}
	}
	said := last(strings.Join(lines, "\n"))
	switch {
	case what == "" || said == "":
		return what + said
	case len(lines) == 1:
		return what + ": " + said
	}
	return what + ":\n" + said
}

// last keeps the end of a text that is too long all the same.
func last(text string) string {
	if len(text) <= maxText {
		return text
	}
	return "…" + strings.ToValidUTF8(text[len(text)-maxText:], "")
}

func printable(r rune) rune {
	if r < ' ' && r != '\n' && r != '\t' {
		return -1
	}
	return r
}
