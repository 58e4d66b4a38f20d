// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"maps"
	"reflect"
	"strings"
	"sync"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// entry is one NodeModule. Thousands of nodes have the same: it is made once and
// shared, so it must not be changed.
type entry struct {
	v1beta1.NodeModule
	hash string // of the content, without the revision

	once   sync.Once
	module *spec.Module // as the node reads it
	err    error

	mu      sync.Mutex              // guards choices
	choices map[string]*spec.Choice // by kernel release; nil is none
}

// maxChoices is for how many kernel releases an entry remembers what it means.
const maxChoices = 64

// key is "namespace/name", the name of a Module everywhere in this package.
func key(namespace, name string) string { return namespace + "/" + name }

func (e *entry) key() string { return key(e.Namespace, e.Name) }

func (e *entry) version() string { return e.ModuleLoader.Container.Version }

// nodeAnnotations are those of a Module that mean something on a node.
var nodeAnnotations = []string{spec.AnnotationAllowInUse, spec.AnnotationBeforeUnload}

// newEntry is what a node is given of a Module: how to load it, and none of what
// only the cluster does. A Module without moduleLoader gives nil.
func newEntry(m *v1beta1.Module, pullSecrets []string) *entry {
	if m.Spec.ModuleLoader == nil {
		return nil
	}
	e := &entry{NodeModule: v1beta1.NodeModule{
		Namespace: m.Namespace, Name: m.Name, PullSecrets: pullSecrets, ModuleLoader: *m.Spec.ModuleLoader.DeepCopy(),
	}}
	for _, name := range nodeAnnotations {
		if value, ok := m.Annotations[name]; ok {
			if e.Annotations == nil {
				e.Annotations = map[string]string{}
			}
			e.Annotations[name] = value
		}
	}
	e.ModuleLoader.ServiceAccountName = "" // its pull secrets are named
	c := &e.ModuleLoader.Container
	everywhere := c.Build != nil || c.Sign != nil
	c.Build, c.Sign = nil, nil
	for i := range c.KernelMappings {
		if k := &c.KernelMappings[i]; everywhere || k.Build != nil || k.Sign != nil {
			if e.Made == nil {
				e.Made = &v1beta1.MadeImages{}
			}
			e.Made.Mappings = append(e.Made.Mappings, int32(i))
		}
		c.KernelMappings[i].Build, c.KernelMappings[i].Sign = nil, nil
	}
	e.seal()
	return e
}

// seal makes the revision of an entry that is complete.
func (e *entry) seal() {
	e.hash = contentHash(&e.NodeModule)
	e.Revision = e.hash
}

// with is the entry for nodes that get an image which the cluster has made.
func (e *entry) with(image, digest string) *entry {
	out := &entry{NodeModule: *e.DeepCopy()}
	out.Made.Images = []v1beta1.MadeImage{{Image: image, Digest: digest}}
	out.seal()
	return out
}

// awaits reports whether a node with this kernel can load nothing of the entry,
// since the cluster has not made the image yet.
func (e *entry) awaits(release string) bool {
	if e.Made == nil {
		return false
	}
	c, ok := e.choice(release)
	return ok && c.Awaited
}

// contentHash stands for everything in the entry but the revision itself: two
// entries with the same hash are the same order.
func contentHash(m *v1beta1.NodeModule) string {
	c := *m
	c.Revision = ""
	return hashOf(&c)[:16]
}

// document is the entry as the node reads it.
func (e *entry) document() (*spec.Module, error) {
	e.once.Do(func() {
		data, err := e.Document()
		if err == nil {
			e.module, err = spec.ParseJSON("Module "+e.key(), data)
		}
		if err == nil {
			e.module.Made = spec.MadeBy(e.Made.Digests())
		}
		e.err = err
	})
	return e.module, e.err
}

// reloads reports whether a node with this kernel would unload and load modules
// when its entry changes from one to the other. In doubt it would.
func reloads(from, to *entry, release string) bool {
	if release == "" {
		return true
	}
	before, ok := from.choice(release)
	after, ok2 := to.choice(release)
	if !ok || !ok2 {
		return true
	}
	moves := after.PullPolicy == "Always" || after.PullPolicy == "" && strings.HasSuffix(after.Image, ":latest")
	if moves && after.Digest == "" {
		return true // the registry may have another image by now
	}
	b, a := *before, *after
	b.PullPolicy, a.PullPolicy = "", ""
	return !reflect.DeepEqual(b, a)
}

// choice is what the entry means on a kernel, without what makes no difference to
// the modules that run. It is shared, and must not be changed.
func (e *entry) choice(release string) (*spec.Choice, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, known := e.choices[release]
	if !known {
		if e.choices == nil || len(e.choices) >= maxChoices {
			e.choices = map[string]*spec.Choice{}
		}
		c = e.choose(release)
		e.choices[release] = c
	}
	return c, c != nil
}

func (e *entry) choose(release string) *spec.Choice {
	m, err := e.document()
	if err != nil {
		return nil
	}
	c, err := m.For(spec.Release(release))
	if err != nil {
		return nil
	}
	c.Mapping, c.MatchedBy, c.Warnings, c.RegistryTLS = 0, "", nil, spec.RegistryTLS{}
	c.AllowInUse, c.BeforeUnload = nil, nil
	return c
}

// fits reports whether the entry means something on a kernel.
func (e *entry) fits(release string) bool {
	_, ok := e.choice(release)
	return ok
}

// entries shares equal entries between the nodes that have them.
type entries struct {
	mu    sync.Mutex // guards known
	known map[string]*entry
}

// share returns the one entry with this content.
//
// It makes its hash anew: the revision is only what somebody wrote there.
func (s *entries) share(m *v1beta1.NodeModule) *entry {
	hash := contentHash(m)
	s.mu.Lock()
	defer s.mu.Unlock()
	id := hash + m.Revision
	if e := s.known[id]; e != nil {
		return e
	}
	e := &entry{NodeModule: *m, hash: hash}
	if s.known == nil {
		s.known = map[string]*entry{}
	}
	s.known[id] = e
	return e
}

// keep forgets all entries but those in use.
func (s *entries) keep(used map[*entry]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.known, func(_ string, e *entry) bool { return !used[e] })
}

// same reports whether two entries are the same order; nil is none.
func same(a, b *entry) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a == b || a.Revision == b.Revision && a.hash == b.hash
}
