// SPDX-License-Identifier: Apache-2.0

package build

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// mergeBuild joins the build of the container and that of the mapping as the KMM
// operator does: the mapping's Dockerfile replaces, its arguments replace by name
// or are added, its secrets are added. What the operator never takes from a
// mapping when there are both (TLS, selector, kaniko) is taken from it here when
// the container says nothing.
func mergeBuild(container, mapping *v1beta1.Build) *v1beta1.Build {
	if container == nil || mapping == nil {
		if container == nil {
			container = mapping
		}
		return container.DeepCopy()
	}
	b, m := container.DeepCopy(), mapping.DeepCopy()
	if m.DockerfileConfigMap != nil {
		b.DockerfileConfigMap = m.DockerfileConfigMap
	}
	b.BuildArgs = append(b.BuildArgs, m.BuildArgs...)
	b.Secrets = append(b.Secrets, m.Secrets...)
	if b.BaseImageRegistryTLS == (v1beta1.TLSOptions{}) {
		b.BaseImageRegistryTLS = m.BaseImageRegistryTLS
	}
	if len(b.Selector) == 0 {
		b.Selector = m.Selector
	}
	if b.KanikoParams == nil {
		b.KanikoParams = m.KanikoParams
	}
	return b
}

// mergeSign joins the sign of the container and that of the mapping as the KMM
// operator does: unsignedImage, key and certificate of the mapping replace, its
// files are added.
func mergeSign(container, mapping *v1beta1.Sign) *v1beta1.Sign {
	if container == nil || mapping == nil {
		if container == nil {
			container = mapping
		}
		return container.DeepCopy()
	}
	s, m := container.DeepCopy(), mapping.DeepCopy()
	if m.UnsignedImage != "" {
		s.UnsignedImage = m.UnsignedImage
	}
	if s.UnsignedImageRegistryTLS == (v1beta1.TLSOptions{}) {
		s.UnsignedImageRegistryTLS = m.UnsignedImageRegistryTLS
	}
	if m.KeySecret != nil {
		s.KeySecret = m.KeySecret
	}
	if m.CertSecret != nil {
		s.CertSecret = m.CertSecret
	}
	s.FilesToSign = append(s.FilesToSign, m.FilesToSign...)
	return s
}

func buildOf(b *v1beta1.Build, m *v1beta1.Module, release string) (*Build, error) {
	out := &Build{
		DockerfileConfigMap:  nameOf(b.DockerfileConfigMap),
		Args:                 overrideArgs(b.BuildArgs, automaticArgs(m, release)),
		BaseImageRegistryTLS: b.BaseImageRegistryTLS,
	}
	if out.DockerfileConfigMap == "" {
		return nil, fmt.Errorf("build.dockerfileConfigMap names no ConfigMap: %w", ErrIncomplete)
	}
	if b.KanikoParams != nil {
		out.KanikoTag = b.KanikoParams.Tag
	}
	for _, s := range b.Secrets {
		if s.Name != "" && !slices.Contains(out.Secrets, s.Name) {
			out.Secrets = append(out.Secrets, s.Name)
		}
	}
	return out, nil
}

// automaticArgs have the release without a trailing "+", but otherwise as it is:
// Dockerfiles written for the KMM operator find this under these names.
func automaticArgs(m *v1beta1.Module, release string) []v1beta1.BuildArg {
	trimmed := spec.Release(release).Trimmed()
	return []v1beta1.BuildArg{
		{Name: "KERNEL_VERSION", Value: trimmed},
		{Name: "KERNEL_FULL_VERSION", Value: trimmed},
		{Name: "MOD_NAME", Value: m.Name},
		{Name: "MOD_NAMESPACE", Value: m.Namespace},
	}
}

// overrideArgs has each name once, at its first place and with its last value.
func overrideArgs(args, automatic []v1beta1.BuildArg) []v1beta1.BuildArg {
	var out []v1beta1.BuildArg
	for _, a := range slices.Concat(args, automatic) {
		i := slices.IndexFunc(out, func(b v1beta1.BuildArg) bool { return b.Name == a.Name })
		if i < 0 {
			out = append(out, a)
			continue
		}
		out[i].Value = a.Value
	}
	return out
}

func signOf(s *v1beta1.Sign, m *v1beta1.Module, release string, built bool) (*Sign, error) {
	out := &Sign{KeySecret: nameOf(s.KeySecret), CertSecret: nameOf(s.CertSecret)}
	switch {
	case out.KeySecret == "":
		return nil, fmt.Errorf("sign.keySecret names no Secret: %w", ErrIncomplete)
	case out.CertSecret == "":
		return nil, fmt.Errorf("sign.certSecret names no Secret: %w", ErrIncomplete)
	}
	expand := func(field, template string) (string, error) {
		text, unset, err := spec.Expand(template, spec.Release(release), m.Name, m.Namespace)
		if err != nil {
			return "", fmt.Errorf("%s: %w", field, err)
		}
		for _, v := range unset {
			if told := fmt.Sprintf("%s: there is no variable ${%s}: it expands to nothing", field, v); !slices.Contains(out.Unset, told) {
				out.Unset = append(out.Unset, told)
			}
		}
		return text, nil
	}
	incomplete := func(what string) error {
		return fmt.Errorf("%s: %w", strings.Join(append(out.Unset, what), "; "), ErrIncomplete)
	}
	for _, template := range s.FilesToSign {
		file, err := expand("sign.filesToSign", template)
		if err != nil {
			return nil, err
		}
		if file != "" && !slices.Contains(out.Files, file) {
			out.Files = append(out.Files, file)
		}
	}
	if len(out.Files) == 0 {
		return nil, incomplete("sign.filesToSign names no file")
	}
	if built {
		return out, nil // what was built is signed, as the operator does, whatever unsignedImage says
	}
	image, err := expand("sign.unsignedImage", s.UnsignedImage)
	if err != nil {
		return nil, err
	}
	if image == "" {
		return nil, incomplete("sign.unsignedImage is empty, and there is no build")
	}
	out.UnsignedImage, out.UnsignedImageRegistryTLS = image, s.UnsignedImageRegistryTLS
	return out, nil
}

func nameOf(r *corev1.LocalObjectReference) string {
	if r == nil {
		return ""
	}
	return r.Name
}

func pushable(image string) error {
	if strings.Contains(image, "@") || strings.HasPrefix(image, "oci:") || strings.HasPrefix(image, "oci-archive:") {
		return fmt.Errorf("containerImage %s: %w: give it a tag", image, ErrNotPushable)
	}
	return nil
}

// hostModules is where builds see /lib/modules of their node, as the KMM
// operator's do.
const hostModules = "/host/lib/modules"

// WantsHostModules reports whether a Dockerfile makes use of the node's
// /lib/modules, so that its Request needs HostModules.
func WantsHostModules(dockerfile string) bool { return strings.Contains(dockerfile, hostModules) }
