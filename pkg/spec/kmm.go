// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"slices"
	"strings"
)

// DifferencesOfAll are what is otherwise for every Module than with the KMM
// operator, for somebody who comes from there.
func DifferencesOfAll() []string {
	return []string{
		"no worker pod: kmmd makes the system calls itself, and pulls images into its own store. An image needs the files of its modules and nothing else",
		"a node that is cordoned, not ready or under pressure keeps its modules, labels and plugins; an untolerated NoExecute taint of yours still unloads",
		"what runs already is adopted when its build-id is that of the image's file, and not loaded again; another build is left alone unless inTreeModulesToRemove names it",
		"a load that fails brings back what ran before; what the kernel has refused is not tried again until document or image change",
	}
}

// ForCluster reports whether the document has a field that means something in a
// cluster only, as one has that was written for the KMM operator.
func (m *Module) ForCluster() bool {
	s := &m.Spec
	if s.Selector != nil || s.Tolerations != nil || s.DevicePlugin != nil || s.DRA != nil || s.ImageRepoSecret != nil {
		return true
	}
	if s.ModuleLoader == nil {
		return false
	}
	return s.ModuleLoader.ServiceAccountName != "" || len(s.ModuleLoader.Container.builds()) > 0 || len(s.ModuleLoader.Container.signs()) > 0
}

// Differences are what is otherwise for this Module than with the KMM operator,
// beside DifferencesOfAll: only what it makes use of is there.
func (m *Module) Differences() []string {
	var f findings
	if m.Spec.DevicePlugin != nil {
		f.add("spec.devicePlugin", "the DaemonSet is named %s-device-plugin%s, and a cordon does not take its pods off", m.Metadata.Name, m.hashed())
	}
	if m.Spec.DRA != nil {
		f.add("spec.dra", "the DaemonSet is named %s-dra%s, and a cordon does not take its pods off", m.Metadata.Name, m.hashed())
	}
	if m.Spec.ModuleLoader != nil {
		c := &m.Spec.ModuleLoader.Container
		if name := m.Spec.ModuleLoader.ServiceAccountName; name != "" {
			f.add("spec.moduleLoader.serviceAccountName", "no pod that loads runs under %s: its imagePullSecrets count, and Jobs that build and sign use it", name)
		}
		c.differences(&f)
		c.Modprobe.differences(&f)
		m.makingDiffers(&f)
	}
	out := make([]string, 0, len(f))
	for _, d := range f {
		out = append(out, d.field+": "+d.message)
	}
	return out
}

// hashed is what the name of a plugin's DaemonSet has behind it.
func (m *Module) hashed() string {
	if m.Spec.ModuleLoader == nil || m.Spec.ModuleLoader.Container.Version == "" {
		return ""
	}
	return "-HASH (of the version)"
}

func (c *Container) differences(f *findings) {
	var removed []string
	for i := range c.KernelMappings {
		removed = append(removed, removals(c, &c.KernelMappings[i])...)
	}
	slices.Sort(removed)
	if removed = slices.Compact(removed); len(removed) > 0 {
		f.add(containerField+".inTreeModulesToRemove", "%s: loaded again when the load fails. While the Module is there, modprobe and udev on the node do not load them", strings.Join(removed, ", "))
	}
	if c.ImagePullPolicy == "Never" {
		f.add(containerField+".imagePullPolicy", "Never: the image has to be in kmmd's store (kmmd image pull); what the container runtime has does not count")
	}
}

func (p *Modprobe) differences(f *findings) {
	const at = containerField + ".modprobe"
	if len(p.Parameters) > 0 {
		f.add(at+".parameters", "are checked by name and type before anything is removed; one that the module does not have is InvalidParameter, where the kernel would ignore it")
	}
	if p.FirmwarePath != "" {
		f.add(at+".firmwarePath", "kmmd sets firmware_class.path itself. A file on the host with other content is FirmwareConflict, and not written over, unless the Module's image had just that before")
	}
	for _, words := range []struct {
		field string
		args  *Args
	}{{at + ".args", p.Args}, {at + ".rawArgs", p.RawArgs}} {
		if words.args == nil {
			continue
		}
		what := "no modprobe runs: what is forced (-f, --force-vermagic, --force-modversion) is honoured"
		if p.RawArgs != nil {
			what += ", and so are -d DIR, the module and its parameters"
		}
		var idle []string
		for _, word := range slices.Concat(words.args.Load, words.args.Unload) {
			if harmless[word] && !slices.Contains(idle, word) {
				idle = append(idle, word)
			}
		}
		if len(idle) > 0 {
			what += fmt.Sprintf("; %s changes nothing", strings.Join(idle, " "))
		}
		f.add(words.field, "%s", what)
		if len(words.args.Unload) > 0 {
			f.add(words.field+".unload", "what kmmd has loaded for the Module is unloaded, whatever the words say")
		}
	}
}

// makingDiffers is about images that the cluster builds and signs.
func (m *Module) makingDiffers(f *findings) {
	loader := m.Spec.ModuleLoader
	builds, signs := loader.Container.builds(), loader.Container.signs()
	if len(builds) > 0 {
		account := loader.ServiceAccountName
		if account == "" {
			account = "default"
		}
		what := fmt.Sprintf("base images that need a login are pulled with the imagePullSecrets of the ServiceAccount %s", account)
		if s := m.Spec.ImageRepoSecret; s != nil {
			what += fmt.Sprintf(", not with imageRepoSecret %s, which RUN can not read", s.Name)
		}
		f.add("build", "%s", what)
	}
	if slices.ContainsFunc(builds, func(b *Build) bool { return b.KanikoParams != nil }) {
		f.add("build.kanikoParams", "tag picks a release of kaniko's living fork, which has other numbers than Google's")
	}
	if len(builds) > 0 && len(signs) > 0 {
		f.add("sign", "one Job builds, signs and pushes: the unsigned image is never in the registry, and unsignedImage does not count")
	}
}

func (c *Container) builds() []*Build {
	out := []*Build{c.Build}
	for i := range c.KernelMappings {
		out = append(out, c.KernelMappings[i].Build)
	}
	return slices.DeleteFunc(out, func(b *Build) bool { return b == nil })
}

func (c *Container) signs() []*Sign {
	out := []*Sign{c.Sign}
	for i := range c.KernelMappings {
		out = append(out, c.KernelMappings[i].Sign)
	}
	return slices.DeleteFunc(out, func(s *Sign) bool { return s == nil })
}
