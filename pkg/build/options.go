// SPDX-License-Identifier: Apache-2.0

package build

import (
	"cmp"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// The builders. What they have in common: they read the Dockerfile, write an OCI
// layout, and push nothing.
const (
	// Kaniko builds as root with the default capabilities of a container, which
	// the Pod Security Standard "baseline" allows.
	Kaniko = "kaniko"
	// Buildah needs CAP_SYS_ADMIN and no AppArmor profile: "privileged".
	Buildah = "buildah"
)

// Images of the builders, unless others are given.
const (
	// KanikoImage is of the fork of kaniko that is looked after; Google's ended in June
	// 2025. The digest of the release's index (amd64 and arm64) is as others have
	// published it; no test here pulls it, so compare it before you rely on it.
	KanikoImage = "ghcr.io/osscontainertools/kaniko:v1.28.2@sha256:4ea0e7301e3f6806de15150e4982c73018351e28c1dca6947bd3b4afb5ae3c60"
	// BuildahImage is a release of buildah's own image.
	BuildahImage = "quay.io/buildah/stable:v1.43.2"
)

const (
	defaultDeadline = time.Hour
	defaultKeep     = 24 * time.Hour
)

// Options are how Jobs are made, the same for all Modules.
type Options struct {
	Builder      string // Kaniko or Buildah; "" is Kaniko
	BuilderImage string // "" is a known release of the builder
	// OurImage is the image of kmmd. It has to be given.
	OurImage        string
	ImagePullPolicy corev1.PullPolicy // of both images; "" is the cluster's default

	Deadline time.Duration // for the whole Job; 0 is an hour
	Keep     time.Duration // of a finished Job; 0 is a day

	// HostUsers false runs the pods in a user namespace, where a root that breaks
	// out is nobody on the node. nil leaves it to the cluster: kernels before 6.3
	// and containerd before 2.0 can not.
	HostUsers *bool
	// Resources are those of the container that builds. Without any it requests
	// what a small kernel module takes, and has no limit.
	Resources corev1.ResourceRequirements
}

// Check reports whether the Options can be used.
func (o *Options) Check() error {
	switch {
	case o.Builder != "" && o.Builder != Kaniko && o.Builder != Buildah:
		return fmt.Errorf("builder %q: there are %s and %s", o.Builder, Kaniko, Buildah)
	case o.OurImage == "":
		return fmt.Errorf("the image of kmmd is not given")
	case o.Deadline < 0 || o.Keep < 0:
		return fmt.Errorf("deadline %v, keep %v: less than nothing", o.Deadline, o.Keep)
	}
	return nil
}

func (o *Options) builder() string { return cmp.Or(o.Builder, Kaniko) }

func (o *Options) builderImage() string {
	if o.builder() == Buildah {
		return cmp.Or(o.BuilderImage, BuildahImage)
	}
	return cmp.Or(o.BuilderImage, KanikoImage)
}

func (o *Options) deadline() time.Duration { return cmp.Or(o.Deadline, defaultDeadline) }

func (o *Options) keep() time.Duration { return cmp.Or(o.Keep, defaultKeep) }

// buildResources: a base image with compiler and headers is some hundred MB, and
// is unpacked on the node's disk.
func (o *Options) buildResources() corev1.ResourceRequirements {
	if o.Resources.Limits != nil || o.Resources.Requests != nil || o.Resources.Claims != nil {
		return *o.Resources.DeepCopy()
	}
	return requests("500m", "512Mi", "2Gi")
}

func requests(cpu, memory, disk string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse(cpu),
		corev1.ResourceMemory:           resource.MustParse(memory),
		corev1.ResourceEphemeralStorage: resource.MustParse(disk),
	}}
}
