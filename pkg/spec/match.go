// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// ErrNoMapping says that no kernel mapping of a Module matches the release.
var ErrNoMapping = errors.New("no kernel mapping matches")

// ErrAwaited says that the cluster has not made the image yet.
var ErrAwaited = errors.New("the image is not made yet")

// ErrNoImage says that a reference has neither a tag nor a digest, or is
// missing altogether.
var ErrNoImage = errors.New("image reference without tag or digest")

// Choice is what a Module means on one kernel: the mapping that won and every
// default filled in.
type Choice struct {
	Mapping     int    `json:"mapping"` // index in kernelMappings
	MatchedBy   string `json:"matchedBy"`
	Image       string `json:"image"`
	PullPolicy  string `json:"pullPolicy,omitempty"`
	RegistryTLS `json:"registryTLS"`
	// Digest is which one the cluster has made of Image; "" when it makes none, or
	// has Awaited set, since it is not done.
	Digest  string `json:"digest,omitempty"`
	Awaited bool   `json:"awaited,omitempty"`

	ModuleName   string   `json:"moduleName"`
	DirName      string   `json:"dirName"`
	FirmwarePath string   `json:"firmwarePath,omitempty"`
	Parameters   []string `json:"parameters,omitempty"`
	// Order is the modules to load, first to load first; the last one is
	// ModuleName. modulesLoadingOrder [A B C] gives [C B A].
	Order        []string `json:"order"`
	RemoveInTree []string `json:"removeInTree,omitempty"`
	Flags        Flags    `json:"flags"`
	AllowInUse   []string `json:"allowInUse,omitempty"`   // UseNetwork
	BeforeUnload []string `json:"beforeUnload,omitempty"` // ActionUnbind, ActionSRIOVReset
	Version      string   `json:"version,omitempty"`
	Warnings     []string `json:"warnings,omitempty"`
}

// Tried is one mapping and why it did or did not match.
type Tried struct {
	Mapping int    `json:"mapping"`
	What    string `json:"what"` // `literal "…"` or `regexp "…"`
	Matches bool   `json:"matches"`
	Note    string `json:"note,omitempty"`
}

func (k *KernelMapping) describe() string {
	if k.Literal != "" {
		return `literal "` + k.Literal + `"`
	}
	return `regexp "` + k.Regexp + `"`
}

func (k *KernelMapping) matches(release string) (bool, error) {
	if k.Literal != "" {
		return k.Literal == release, nil
	}
	re, err := regexp.Compile(k.Regexp)
	if err != nil {
		return false, fmt.Errorf("compile regexp %q: %w", k.Regexp, err)
	}
	return re.MatchString(release), nil
}

// Explain tries every mapping in list order, those after the winner too.
func (m *Module) Explain(r Release) []Tried {
	if m.Spec.ModuleLoader == nil {
		return nil
	}
	var out []Tried
	won := false
	for i := range m.Spec.ModuleLoader.Container.KernelMappings {
		k := &m.Spec.ModuleLoader.Container.KernelMappings[i]
		t := Tried{Mapping: i, What: k.describe()}
		ok, err := k.matches(r.Trimmed())
		switch {
		case err != nil:
			t.Note = err.Error()
		case ok && won:
			t.Note = "matches too, but an earlier mapping has won"
		case ok:
			t.Matches, won = true, true
		case k.Literal != "" && strings.TrimSuffix(k.Literal, "+") == r.Trimmed():
			t.Note = `a trailing "+" of the release is trimmed before matching: write the literal without it`
		}
		out = append(out, t)
	}
	return out
}

// For gives what the Module means on a kernel of this release. The error wraps
// ErrNoMapping when no mapping matches, ErrNoImage when the image that results
// has no tag or digest. A Module without moduleLoader has nothing for a node:
// ErrNoMapping too.
func (m *Module) For(r Release) (*Choice, error) {
	if m.Spec.ModuleLoader == nil {
		return nil, fmt.Errorf("match %s: it has no moduleLoader: %w", m.Key(), ErrNoMapping)
	}
	c := &m.Spec.ModuleLoader.Container
	for i := range c.KernelMappings {
		k := &c.KernelMappings[i]
		ok, err := k.matches(r.Trimmed())
		if err != nil {
			return nil, fmt.Errorf("match %s: %w", m.Key(), err)
		}
		if ok {
			return m.choose(i, r)
		}
	}
	var tried []string
	for i := range c.KernelMappings {
		tried = append(tried, c.KernelMappings[i].describe())
	}
	return nil, fmt.Errorf("match %s: kernel %s against %s: %w", m.Key(), r.Trimmed(), strings.Join(tried, ", "), ErrNoMapping)
}

func (m *Module) choose(i int, r Release) (*Choice, error) {
	c := &m.Spec.ModuleLoader.Container
	k := &c.KernelMappings[i]
	p := &c.Modprobe
	load, err := p.loadWords()
	if err != nil {
		return nil, fmt.Errorf("choose %s: %w", m.Key(), err)
	}
	out := &Choice{
		Mapping: i, MatchedBy: k.describe(), PullPolicy: c.ImagePullPolicy,
		ModuleName: canonical(load.name), DirName: load.dirName, FirmwarePath: p.FirmwarePath,
		Parameters: load.parameters, Flags: load.flags, Version: c.Version,
		RemoveInTree: removals(c, k),
		AllowInUse:   m.words(c.AllowInUse, AnnotationAllowInUse),
		BeforeUnload: m.words(c.BeforeUnload, AnnotationBeforeUnload),
	}
	for j := len(p.ModulesLoadingOrder) - 1; j >= 0; j-- {
		out.Order = append(out.Order, canonical(p.ModulesLoadingOrder[j]))
	}
	if len(out.Order) == 0 {
		out.Order = []string{out.ModuleName}
	}
	if tls := k.RegistryTLS; tls != nil {
		out.RegistryTLS = *tls
	} else if c.RegistryTLS != nil {
		out.RegistryTLS = *c.RegistryTLS
	}
	template := k.ContainerImage
	if template == "" {
		template = c.ContainerImage
	}
	image, unset, err := Expand(template, r, m.Metadata.Name, m.Metadata.Namespace)
	if err != nil {
		return nil, fmt.Errorf("choose %s: %w", m.Key(), err)
	}
	for _, v := range unset {
		out.Warnings = append(out.Warnings, fmt.Sprintf("containerImage %q: no such variable ${%s}: it expands to nothing", template, v))
	}
	if !hasTag(image) {
		return nil, fmt.Errorf("choose %s: image %q: %w", m.Key(), image, ErrNoImage)
	}
	out.Image = image
	if m.Made != nil && slices.Contains(m.Made.Mappings, i) {
		out.Digest = m.Made.Digests[image]
		out.Awaited = out.Digest == ""
	}
	return out, nil
}

// removals merges the two levels and the two spellings: a list of the mapping
// (an empty one too) replaces the container's, the singular the singular.
func removals(c *Container, k *KernelMapping) []string {
	one, list := c.InTreeModuleToRemove, c.InTreeModulesToRemove
	if k.InTreeModuleToRemove != "" {
		one = k.InTreeModuleToRemove
	}
	if k.InTreeModulesToRemove != nil {
		list = k.InTreeModulesToRemove
	}
	if one != "" {
		list = []string{one}
	}
	out := make([]string, 0, len(list))
	for _, name := range list {
		out = append(out, canonical(name))
	}
	return out
}

// canonical is the kernel's spelling of a module name.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// digestPart is what may follow the "@" of a reference; while it is a template, also a variable.
var digestPart = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(sha[0-9]+:[0-9A-Fa-f]*)?$|^[^/]*\$`)
})

// hasUser reports whether something like "user:password@" stands in a reference.
func hasUser(ref string) bool {
	at := strings.LastIndex(ref, "@")
	return at >= 0 && (strings.Contains(ref[:at], "@") || !digestPart().MatchString(ref[at+1:]))
}

// hasTag reports whether a reference has a tag or a digest after its last "/".
// The only image of a layout on the node, oci:/path, needs none.
func hasTag(ref string) bool {
	return strings.HasPrefix(ref, "oci:/") || strings.HasPrefix(ref, "oci-archive:/") ||
		strings.ContainsAny(ref[strings.LastIndex(ref, "/")+1:], ":@")
}
