// SPDX-License-Identifier: Apache-2.0

package build

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// kanikoConfigDir is where kaniko's image has DOCKER_CONFIG point.
const kanikoConfigDir = "/kaniko/.docker"

// buildahScript gets the arguments of the build, and nothing else, as its own:
// no text of a Module becomes part of it. The timestamp makes layers that depend
// on nothing but their content.
const buildahScript = `set -eu
if [ -e /pull/config.json ]; then export REGISTRY_AUTH_FILE=/pull/config.json; fi
buildah --storage-driver vfs bud --isolation chroot --timestamp 0 --tag image --file /workspace/Dockerfile "$@" /workspace
exec buildah --storage-driver vfs push image oci:/out/image
`

// build is the container that runs the Dockerfile, whoever wrote it: it has the
// credentials to pull, and none to push nor to sign, because all that it mounts
// a Dockerfile can read.
func (p *podder) build() corev1.Container {
	b := p.r.Build
	c := corev1.Container{
		Name: stepBuild, Image: p.o.builderImage(), ImagePullPolicy: p.o.ImagePullPolicy,
		Resources:                p.o.buildResources(),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
	p.mount(&c, dockerfileVolume, workspaceDir, true, corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: b.DockerfileConfigMap},
		Items:                []corev1.KeyToPath{{Key: "dockerfile", Path: "Dockerfile"}},
	}})
	for i, name := range b.Secrets { // a Secret's name may be too long for a volume's
		p.mount(&c, fmt.Sprintf("secret-%d", i), secretsDir+name, true,
			corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}})
	}
	if p.r.HostModules {
		dir := corev1.HostPathDirectory
		p.mount(&c, hostModulesVolume, hostModules, true,
			corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/lib/modules", Type: &dir}})
	}
	p.mount(&c, outVolume, outDir, false, emptyDir())
	if p.o.builder() == Buildah {
		p.buildah(&c)
	} else {
		p.kaniko(&c)
	}
	return c
}

// kaniko unpacks base images over its own root, for which it has to be root
// there, and needs no more than the default capabilities.
func (p *podder) kaniko(c *corev1.Container) {
	b := p.r.Build
	if b.KanikoTag != "" {
		c.Image = withTag(c.Image, b.KanikoTag)
	}
	c.Args = []string{
		"--dockerfile=Dockerfile", "--context=dir://" + workspaceDir,
		"--no-push", "--oci-layout-path=/out/image", "--destination=" + asIs(p.r.Image),
		"--reproducible", // the same layers for the same content
		"--log-format=text",
		"--force", // it asks for a token of the API server to believe that it is in a pod
	}
	if b.BaseImageRegistryTLS.Insecure {
		c.Args = append(c.Args, "--insecure-pull")
	}
	if b.BaseImageRegistryTLS.InsecureSkipTLSVerify {
		c.Args = append(c.Args, "--skip-tls-verify-pull")
	}
	for _, a := range b.Args {
		c.Args = append(c.Args, "--build-arg", asIs(a.Name+"="+a.Value))
	}
	p.pullConfig(c, kanikoConfigDir)
	no := false
	s := rootIn()
	s.AllowPrivilegeEscalation = &no
	c.SecurityContext = s
}

// buildah mounts what a RUN step sees, for which it needs CAP_SYS_ADMIN, and
// that AppArmor's profile for containers, which forbids mounts, is off.
func (p *podder) buildah(c *corev1.Container) {
	b := p.r.Build
	c.Command = []string{"/bin/sh", "-c", buildahScript, "build"}
	if b.BaseImageRegistryTLS.Insecure || b.BaseImageRegistryTLS.InsecureSkipTLSVerify {
		c.Args = append(c.Args, "--tls-verify=false") // plain HTTP, and any certificate
	}
	for _, name := range b.Secrets {
		c.Args = append(c.Args, "--volume", secretsDir+name+":"+secretsDir+name+":ro")
	}
	if p.r.HostModules {
		c.Args = append(c.Args, "--volume", hostModules+":"+hostModules+":ro")
	}
	for _, a := range b.Args {
		c.Args = append(c.Args, "--build-arg", asIs(a.Name+"="+a.Value))
	}
	p.pullConfig(c, pullDir)
	p.mount(c, storageVolume, "/var/lib/containers", false, emptyDir())
	s := rootIn()
	s.Capabilities = &corev1.Capabilities{Add: []corev1.Capability{"SYS_ADMIN"}}
	s.AppArmorProfile = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	c.SecurityContext = s
}

func rootIn() *corev1.SecurityContext {
	root := int64(0)
	return &corev1.SecurityContext{
		RunAsUser:      &root,
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}

// asIs has the kubelet hand on a text unchanged: it expands $(VARIABLE), and $$
// to $, in arguments (k8s.io/kubernetes/third_party/forked/golang/expansion).
func asIs(text string) string {
	if strings.Contains(text, "$$") || strings.Contains(text, "$(") {
		return strings.ReplaceAll(text, "$", "$$")
	}
	return text
}

// withTag replaces tag and digest of a reference.
func withTag(image, tag string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndex(image, ":"); i > strings.LastIndex(image, "/") {
		image = image[:i]
	}
	return image + ":" + tag
}
