// SPDX-License-Identifier: Apache-2.0

// Package build says whether the image of a Module for a kernel is made in the
// cluster, of what, and by which Job; and reads off a Job and its pods what
// became of it.
//
// It is pure: it asks no API server and no registry, and knows no time. What it
// has to be told (versions of Secrets and ConfigMaps, the pull secrets of a
// ServiceAccount) the caller puts into the Request.
package build

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// ErrIncomplete says that build or sign lack something without which no image
// can be made; the text names the field.
var ErrIncomplete = errors.New("not enough is said to make the image")

// ErrNotPushable says that an image is to be made under a name that nothing can
// be pushed to: one with a digest, or a directory of the node.
var ErrNotPushable = errors.New("nothing can be pushed under this name")

// Request is one image: of this Module, for this kernel. With neither Build nor
// Sign it is an image that somebody else made, and can only be checked.
type Request struct {
	Namespace, Name string // of the Module
	UID             types.UID

	Kernel      string // as uname -r says it
	Image       string // containerImage, expanded
	RegistryTLS v1beta1.TLSOptions

	// What the node will look for in the image.
	Modules       []string // first to load first; the last one is moduleName
	DirName       string
	FirmwarePath  string
	Parameters    []string // of the last module
	ForceVermagic bool     // it is loaded whatever its vermagic says

	Build *Build // nil: nothing is built
	Sign  *Sign  // nil: nothing is signed

	ServiceAccountName string
	// PushSecret is imageRepoSecret, of type kubernetes.io/dockerconfigjson. It
	// pushes, and pulls unsignedImage and what is only checked. The container that
	// builds never sees it.
	PushSecret string
	// PullSecrets are the imagePullSecrets of the ServiceAccount, to pull base
	// images; the caller fills them in. Those that are missing, or of another type
	// than kubernetes.io/dockerconfigjson, are passed over, as the kubelet does; so
	// is PushSecret.
	PullSecrets []string

	Selector    map[string]string // of nodes for the pod: build.selector, else the Module's
	Tolerations []corev1.Toleration

	// Rebuild is imageRebuildTriggerGeneration.
	Rebuild *int
	// Versions says which content of the ConfigMaps and Secrets counts, by
	// "configmap/NAME" and "secret/NAME": the resourceVersion, or any text that
	// changes with the content. The caller fills in those that Needs names; others
	// do not matter.
	Versions map[string]string
	// ID is in the names and labels of Jobs in the place of Hash, when somebody needs
	// Jobs of his own: 16 hexadecimal digits. "" is Hash.
	ID string
	// HostModules has the build see /lib/modules of its node in /host/lib/modules,
	// as the KMM operator's do. The caller sets it when the Dockerfile asks, see
	// WantsHostModules: a namespace has to allow privileged pods for it.
	HostModules bool
}

// Build is what is built: the container's and the mapping's build in one.
type Build struct {
	DockerfileConfigMap string
	// Args are those of the Module, then the automatic ones; each name once.
	Args                 []v1beta1.BuildArg
	Secrets              []string // each once
	BaseImageRegistryTLS v1beta1.TLSOptions
	KanikoTag            string // instead of that of kaniko's image; "" is none
}

// Sign is what is signed: the container's and the mapping's sign in one.
type Sign struct {
	KeySecret, CertSecret string
	Files                 []string // paths and globs, expanded
	// UnsignedImage is what is signed when nothing is built, expanded; else "".
	UnsignedImage            string
	UnsignedImageRegistryTLS v1beta1.TLSOptions
	// Unset tells of each variable in them that does not exist: it has expanded to nothing.
	Unset []string
}

// For is the image that is made for a kernel, and nil when the mapping that wins
// has neither build nor sign, or none matches.
//
// The error wraps ErrIncomplete or ErrNotPushable, or says what is wrong with a
// template or the Module.
func For(m *v1beta1.Module, release string) (*Request, error) {
	if m.Spec.ModuleLoader == nil {
		return nil, nil
	}
	r, k, err := plain(m, release)
	if errors.Is(err, spec.ErrNoMapping) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c := &m.Spec.ModuleLoader.Container
	build, sign := mergeBuild(c.Build, k.Build), mergeSign(c.Sign, k.Sign)
	if build == nil && sign == nil {
		return nil, nil
	}
	if build != nil {
		r.Build, err = buildOf(build, m, release)
		if len(build.Selector) > 0 {
			r.Selector = maps.Clone(build.Selector)
		}
	}
	if err == nil && sign != nil {
		r.Sign, err = signOf(sign, m, release, build != nil)
	}
	if err == nil {
		err = pushable(r.Image)
	}
	if err != nil {
		return nil, fmt.Errorf("make the image of Module %s/%s for kernel %s: %w", m.Namespace, m.Name, release, err)
	}
	return r, nil
}

// Plain is the image of any Module for a kernel, whoever makes it, to be
// checked. The error wraps spec.ErrNoMapping when the Module has no mapping, or
// no moduleLoader, for this kernel.
func Plain(m *v1beta1.Module, release string) (*Request, error) {
	r, _, err := plain(m, release)
	return r, err
}

func plain(m *v1beta1.Module, release string) (*Request, *v1beta1.KernelMapping, error) {
	if m.Spec.ModuleLoader == nil {
		return nil, nil, fmt.Errorf("match Module %s/%s: it has no moduleLoader: %w", m.Namespace, m.Name, spec.ErrNoMapping)
	}
	c, err := choose(m, release)
	if err != nil {
		return nil, nil, err
	}
	r := &Request{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID,
		Kernel: release, Image: c.Image,
		RegistryTLS: v1beta1.TLSOptions(c.RegistryTLS),
		Modules:     c.Order, DirName: c.DirName, FirmwarePath: c.FirmwarePath,
		Parameters: c.Parameters, ForceVermagic: c.Flags.IgnoreVermagic,
		ServiceAccountName: m.Spec.ModuleLoader.ServiceAccountName,
		Selector:           maps.Clone(m.Spec.Selector),
		Tolerations:        slices.Clone(m.Spec.Tolerations),
		Rebuild:            m.Spec.ImageRebuildTriggerGeneration,
	}
	if s := m.Spec.ImageRepoSecret; s != nil {
		r.PushSecret = s.Name
	}
	return r, &m.Spec.ModuleLoader.Container.KernelMappings[c.Mapping], nil
}

// choose reads the Module as its nodes do.
func choose(m *v1beta1.Module, release string) (*spec.Choice, error) {
	entry := v1beta1.NodeModule{Namespace: m.Namespace, Name: m.Name, ModuleLoader: *m.Spec.ModuleLoader}
	data, err := entry.Document()
	if err != nil {
		return nil, err
	}
	doc, err := spec.ParseJSON("Module "+m.Namespace+"/"+m.Name, data)
	if err != nil {
		return nil, err
	}
	return doc.For(spec.Release(release))
}

// Needs names the ConfigMaps and Secrets whose content ends up in the image:
// those whose Versions count. They are in order, each once.
func (r *Request) Needs() (configMaps, secrets []string) {
	if r.Build != nil {
		configMaps = []string{r.Build.DockerfileConfigMap}
		secrets = slices.Clone(r.Build.Secrets)
	}
	if r.Sign != nil {
		secrets = append(secrets, r.Sign.KeySecret, r.Sign.CertSecret)
	}
	slices.Sort(secrets)
	return configMaps, slices.Compact(secrets)
}
