// SPDX-License-Identifier: Apache-2.0

package build

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// ours is a container of kmmd's image, with all that the Pod Security Standard
// "restricted" asks for. Its root is read-only; /tmp is for large layers.
func (p *podder) ours(name string, args ...string) corev1.Container {
	no, yes, user := false, true, int64(ourUser)
	c := corev1.Container{
		Name: name, Image: p.o.OurImage, ImagePullPolicy: p.o.ImagePullPolicy, Args: args,
		Resources:                requests("50m", "64Mi", "256Mi"),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext: &corev1.SecurityContext{
			RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user,
			AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
			Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
	p.mount(&c, tmpVolume, "/tmp", false, emptyDir())
	return c
}

// credentials makes one file of several pull secrets, for the builder.
func (p *podder) credentials() corev1.Container {
	c := p.ours(stepCredentials, "image", "logins", "--to", pullDir+"/config.json")
	for i := range p.pull {
		c.Args = append(c.Args, p.login(&c, i))
	}
	p.mount(&c, pullVolume, pullDir, false, memoryDir())
	return c
}

// publish signs if asked, and pushes. Beside `sign` and `check`, which run no
// code of a Dockerfile either, it alone sees the key and the push credentials.
func (p *podder) publish() corev1.Container {
	c := p.ours(stepPublish, "image", "copy")
	if p.r.Sign != nil {
		c.Args = []string{"sign", "image"}
	}
	registry := p.source(&c)
	c.Args = append(c.Args, "--to", asIs(p.r.Image))
	c.Args = append(c.Args, tlsFlags("to", p.r.RegistryTLS)...)
	if p.r.Sign != nil {
		p.signWith(&c)
	}
	p.authFiles(&c, registry)
	c.Args = append(c.Args, "--result", terminationLog)
	return c
}

// sign signs for `check`, where nothing is pushed.
func (p *podder) sign() corev1.Container {
	c := p.ours(stepSign, "sign", "image")
	registry := p.source(&c)
	c.Args = append(c.Args, "--to", signedLayout)
	p.mount(&c, signedVolume, signedDir, false, emptyDir())
	p.signWith(&c)
	if registry {
		p.authFiles(&c, true)
	}
	c.Args = append(c.Args, "--result", terminationLog)
	return c
}

// source says what is signed or pushed, and reports whether it comes from a
// registry.
func (p *podder) source(c *corev1.Container) (registry bool) {
	if p.r.Build != nil {
		p.mount(c, outVolume, outDir, true, emptyDir())
		c.Args = append(c.Args, "--from", builtLayout)
		return false
	}
	c.Args = append(c.Args, "--from", asIs(p.r.Sign.UnsignedImage))
	c.Args = append(c.Args, tlsFlags("from", p.r.Sign.UnsignedImageRegistryTLS)...)
	return true
}

func (p *podder) signWith(c *corev1.Container) {
	s := p.r.Sign
	filesOf(c, s)
	c.Args = append(c.Args, "--key", keyDir+"/key", "--cert", certDir+"/cert")
	p.key(c, keyVolume, keyDir, s.KeySecret, "key", "key", false)
	p.key(c, certVolume, certDir, s.CertSecret, "cert", "cert", false)
}

func filesOf(c *corev1.Container, s *Sign) {
	for _, file := range s.Files {
		c.Args = append(c.Args, "--files", asIs(file))
	}
}

// authFiles gives a container what it logs in with: the push secret first, and
// to pull also those of the ServiceAccount.
func (p *podder) authFiles(c *corev1.Container, pulls bool) {
	if secret := p.r.PushSecret; secret != "" {
		p.key(c, pushVolume, pushDir, secret, corev1.DockerConfigJsonKey, corev1.DockerConfigJsonKey, false)
		c.Args = append(c.Args, "--authfile", pushDir+"/"+corev1.DockerConfigJsonKey)
	}
	if !pulls {
		return
	}
	for i := range p.pull {
		c.Args = append(c.Args, "--authfile", p.login(c, i))
	}
}

// check looks at what an image holds: the one that was just made, or the one of
// the registry.
func (p *podder) check(kind Kind) corev1.Container {
	c := p.ours(stepCheck, "image", "check")
	switch {
	case kind == Check:
		c.Args = append(c.Args, "--from", asIs(p.r.Image))
		c.Args = append(c.Args, tlsFlags("from", p.r.RegistryTLS)...)
	case p.r.Sign != nil:
		c.Args = append(c.Args, "--from", signedLayout)
		p.mount(&c, signedVolume, signedDir, true, emptyDir())
	default:
		c.Args = append(c.Args, "--from", builtLayout)
		p.mount(&c, outVolume, outDir, true, emptyDir())
	}
	c.Args = append(c.Args, "--kernel", asIs(p.r.Kernel))
	for _, m := range p.r.Modules {
		c.Args = append(c.Args, "--module", m)
	}
	for _, parameter := range p.r.Parameters {
		c.Args = append(c.Args, "--parameter", asIs(parameter))
	}
	if p.r.ForceVermagic {
		c.Args = append(c.Args, "--force-vermagic")
	}
	c.Args = append(c.Args, "--dir", asIs(p.r.DirName))
	if p.r.FirmwarePath != "" {
		c.Args = append(c.Args, "--firmware", asIs(p.r.FirmwarePath))
	}
	if p.r.Sign != nil {
		c.Args = append(c.Args, "--signed", "--cert", certDir+"/cert")
		filesOf(&c, p.r.Sign)
		p.key(&c, certVolume, certDir, p.r.Sign.CertSecret, "cert", "cert", false)
	}
	if kind == Check {
		p.authFiles(&c, true)
	}
	c.Args = append(c.Args, "--result", terminationLog)
	return c
}

// tlsFlags are --insecure-from, --skip-tls-verify-to and so on.
func tlsFlags(side string, t v1beta1.TLSOptions) []string {
	var flags []string
	if t.Insecure {
		flags = append(flags, "--insecure-"+side)
	}
	if t.InsecureSkipTLSVerify {
		flags = append(flags, "--skip-tls-verify-"+side)
	}
	return flags
}
