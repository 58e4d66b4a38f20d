// SPDX-License-Identifier: Apache-2.0

package build

import (
	"cmp"
	"fmt"
	"maps"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// Kind is what a Job is for.
type Kind string

const (
	// Publish makes the image (builds, signs, or both) and pushes it.
	Publish Kind = "publish"
	// Rehearse makes the image, pushes nothing, and checks what it holds.
	Rehearse Kind = "rehearse"
	// Check checks what an image of the registry holds.
	Check Kind = "check"
)

const (
	// HashLabel is on each Job for an image and its pod. Its value stands for all that
	// goes into the image.
	HashLabel = v1beta1.LabelPrefix + "image-job"
	// KindLabel is on each Job for an image and its pod: publish, rehearse or check.
	KindLabel = v1beta1.LabelPrefix + "image-job.kind"
	// KernelAnnotation is on each Job and its pod, with the kernel's release.
	KernelAnnotation = v1beta1.LabelPrefix + "kernel"
	// ImageAnnotation is on each Job and its pod, with containerImage as it is for that
	// kernel.
	ImageAnnotation = v1beta1.LabelPrefix + "image"

	managedByLabel = "app.kubernetes.io/managed-by"
	managedBy      = "kmm-watcher"

	maxName = 63 // the name becomes the value of a label
)

// Job is one attempt at the image. Its name, labels and pod depend on nothing
// but the arguments. It has one pod, tried once: whether and when there is
// another attempt is up to the caller.
//
// A Request with nothing to make can only be checked: its Job is of Kind Check,
// whatever was asked.
func (r *Request) Job(kind Kind, attempt int, o Options) *batchv1.Job {
	if r.Build == nil && r.Sign == nil {
		kind = Check
	}
	hash := cmp.Or(r.ID, r.Hash())
	labels := map[string]string{
		v1beta1.ModuleNameLabel: r.Name,
		HashLabel:               hash,
		KindLabel:               string(kind),
		managedByLabel:          managedBy,
	}
	annotations := map[string]string{KernelAnnotation: r.Kernel, ImageAnnotation: r.Image}
	one, none := int32(1), int32(0)
	deadline, keep := seconds(o.deadline()), int32(seconds(o.keep()))
	owner := metav1.ObjectMeta{Name: r.Name, UID: r.UID}
	j := &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: r.Namespace, Name: r.jobName(kind, hash, attempt),
			Labels: labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(&owner, v1beta1.GroupVersion.WithKind("Module"))},
		},
		Spec: batchv1.JobSpec{
			Parallelism: &one, Completions: &one, BackoffLimit: &none,
			ActiveDeadlineSeconds: &deadline, TTLSecondsAfterFinished: &keep,
		},
	}
	t := &j.Spec.Template
	t.Labels, t.Annotations = maps.Clone(labels), maps.Clone(annotations)
	t.Spec = r.pod(kind, o)
	// The kubelet ends the pod before the Job's controller would delete it, and
	// with it the last words of what took so long. It takes half a minute for that
	// when a program does not listen.
	podDeadline := max(deadline-max(deadline/20, min(40, deadline/2)), 1)
	t.Spec.ActiveDeadlineSeconds = &podDeadline
	return j
}

// jobName is a DNS label: my-kmod-publish-0123456789abcdef-0.
func (r *Request) jobName(kind Kind, hash string, attempt int) string {
	suffix := fmt.Sprintf("-%s-%s-%d", kind, hash, attempt)
	name := strings.ReplaceAll(r.Name, ".", "-")
	if room := maxName - len(suffix); len(name) > room {
		name = name[:room]
	}
	return strings.TrimRight(name, "-") + suffix
}

func seconds(d time.Duration) int64 { return max(int64(d/time.Second), 1) }
