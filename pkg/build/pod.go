// SPDX-License-Identifier: Apache-2.0

package build

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Names of containers: what a Job is busy with.
const (
	stepCredentials = "credentials"
	stepBuild       = "build"
	stepSign        = "sign"
	stepPublish     = "publish"
	stepCheck       = "check"
)

// Directories in containers. Each container mounts those that are its business.
const (
	workspaceDir = "/workspace"
	secretsDir   = "/run/secrets/" // + the Secret's name
	outDir       = "/out"          // only the builder writes here
	signedDir    = "/signed"       // and only we here: no Dockerfile has been near it
	keyDir       = "/run/keys/key"
	certDir      = "/run/keys/cert"
	pushDir      = "/run/push"
	loginsDir    = "/run/logins/" // + the number of the pull secret
	pullDir      = "/pull"

	builtLayout  = "oci:" + outDir + "/image"
	signedLayout = "oci:" + signedDir + "/image"

	terminationLog = "/dev/termination-log"
)

// Names of volumes.
const (
	dockerfileVolume  = "dockerfile"
	outVolume         = "out"
	signedVolume      = "signed"
	keyVolume         = "key"
	certVolume        = "cert"
	pushVolume        = "push"
	pullVolume        = "pull"
	tmpVolume         = "tmp"
	storageVolume     = "storage"
	hostModulesVolume = "host-modules"
)

// stopGrace is how many seconds a pod that is stopped has to end.
const stopGrace = 5

// ourUser is nobody in particular, and has no entry in any image's /etc/passwd.
const ourUser = 65532

// podder collects a pod: containers name the volumes that they mount, and each
// volume is there once.
type podder struct {
	r    *Request
	o    Options
	pull []string // pull secrets
	spec corev1.PodSpec
}

func (r *Request) pod(kind Kind, o Options) corev1.PodSpec {
	no, grace := false, int64(stopGrace)
	p := &podder{r: r, o: o, spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever,
		// What is stopped is not wanted any more, and what comes in its place waits for
		// its end. A shell that is process 1 does not hear of SIGTERM.
		TerminationGracePeriodSeconds: &grace,
		ServiceAccountName:            r.ServiceAccountName,
		// Nothing here talks to the API server, least of all a Dockerfile.
		AutomountServiceAccountToken: &no,
		EnableServiceLinks:           &no, // the namespace's Services are no part of a build
		HostUsers:                    o.HostUsers,
		NodeSelector:                 maps.Clone(r.Selector),
		Tolerations:                  slices.Clone(r.Tolerations),
	}}
	for _, name := range r.PullSecrets { // whatever the ServiceAccount says
		if name != r.PushSecret && !slices.Contains(p.pull, name) {
			p.pull = append(p.pull, name)
		}
	}
	if r.Build != nil && kind != Check {
		if len(p.pull) > 1 {
			p.init(p.credentials())
		}
		p.init(p.build())
	}
	switch kind {
	case Publish:
		p.main(p.publish())
	case Rehearse:
		if r.Sign != nil {
			p.init(p.sign())
		}
		p.main(p.check(kind))
	default:
		p.main(p.check(Check))
	}
	return p.spec
}

func (p *podder) init(c corev1.Container) { p.spec.InitContainers = append(p.spec.InitContainers, c) }

func (p *podder) main(c corev1.Container) { p.spec.Containers = append(p.spec.Containers, c) }

// mount has a container see a volume.
func (p *podder) mount(c *corev1.Container, volume, dir string, readOnly bool, source corev1.VolumeSource) {
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: dir, ReadOnly: readOnly})
	if !slices.ContainsFunc(p.spec.Volumes, func(v corev1.Volume) bool { return v.Name == volume }) {
		p.spec.Volumes = append(p.spec.Volumes, corev1.Volume{Name: volume, VolumeSource: source})
	}
}

// key mounts one key of a Secret as a file of this name.
func (p *podder) key(c *corev1.Container, volume, dir, secret, key, file string, optional bool) {
	s := &corev1.SecretVolumeSource{SecretName: secret, Items: []corev1.KeyToPath{{Key: key, Path: file}}}
	if optional {
		s.Optional = &optional
	}
	p.mount(c, volume, dir, true, corev1.VolumeSource{Secret: s})
}

func emptyDir() corev1.VolumeSource {
	return corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
}

// memoryDir never reaches the node's disk.
func memoryDir() corev1.VolumeSource {
	return corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}
}

// login mounts one of the pull secrets and gives its file. One that is missing
// or of another type leaves the directory empty.
func (p *podder) login(c *corev1.Container, i int) string {
	dir := fmt.Sprintf("%s%d", loginsDir, i)
	p.key(c, fmt.Sprintf("login-%d", i), dir, p.pull[i], corev1.DockerConfigJsonKey, corev1.DockerConfigJsonKey, true)
	return dir + "/" + corev1.DockerConfigJsonKey
}

// pullConfig mounts the credentials for base images in a container that builds:
// the file config.json in dir.
func (p *podder) pullConfig(c *corev1.Container, dir string) {
	switch len(p.pull) {
	case 0:
	case 1:
		p.key(c, pullVolume, dir, p.pull[0], corev1.DockerConfigJsonKey, "config.json", true)
	default:
		p.mount(c, pullVolume, dir, true, memoryDir()) // the container `credentials` writes it
	}
}
