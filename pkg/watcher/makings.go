// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"maps"
	"reflect"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// maxImages is how many images the status of a Module can have, as its schema says.
const maxImages = 512

// makings are the images that the cluster makes, by Module and kernel, and who
// asks for them beside the nodes. What a Module's status said is where a new
// Watcher begins: nodes are told of what is in it, and not of what is yet to be written.
type makings struct {
	mu      sync.Mutex // guards what follows
	images  map[string]map[string]v1beta1.ModuleImage
	saved   map[string]map[string]v1beta1.ModuleImage // as they were at the last write of the status
	asked   map[string]map[string]string              // by key and who asks: the kernel
	adopted map[string]bool                           // Modules whose status has been read
	come    map[string]map[string]bool                // by key: kernels that no node has
	looked  map[string]lookedAt                       // by key: what the images were decided upon for
}

// lookedAt is a Module as it was at a look.
type lookedAt struct {
	uid        types.UID
	generation int64
}

// of are the images of a Module by kernel; the caller may change the map.
func (s *makings) of(m *v1beta1.Module) map[string]v1beta1.ModuleImage {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopt(m)
	out := maps.Clone(s.images[key(m.Namespace, m.Name)])
	if out == nil {
		out = map[string]v1beta1.ModuleImage{}
	}
	return out
}

// told are those that nodes may be told of, by kernel; the caller does not change the map.
func (s *makings) told(m *v1beta1.Module) map[string]v1beta1.ModuleImage {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopt(m)
	return s.saved[key(m.Namespace, m.Name)]
}

// adopt reads the status of a Module, once.
func (s *makings) adopt(m *v1beta1.Module) {
	k := key(m.Namespace, m.Name)
	if s.adopted[k] {
		return
	}
	if s.adopted == nil {
		s.adopted = map[string]bool{}
	}
	s.adopted[k] = true
	put(&s.images, k, byKernel(m.Status.Images))
	put(&s.saved, k, byKernel(m.Status.Images))
}

// put has the images of a Module in one of the maps above.
func put(in *map[string]map[string]v1beta1.ModuleImage, k string, images map[string]v1beta1.ModuleImage) {
	if *in == nil {
		*in = map[string]map[string]v1beta1.ModuleImage{}
	}
	(*in)[k] = images
}

func byKernel(images []v1beta1.ModuleImage) map[string]v1beta1.ModuleImage {
	out := make(map[string]v1beta1.ModuleImage, len(images))
	for _, i := range images {
		out[i.Kernel] = i
	}
	return out
}

// list is of sorted by kernel; nil is none.
func (s *makings) list(m *v1beta1.Module) []v1beta1.ModuleImage {
	images := s.of(m)
	var out []v1beta1.ModuleImage
	for _, kernel := range slices.Sorted(maps.Keys(images)) {
		out = append(out, images[kernel])
	}
	return out
}

// set replaces the images of a Module, and reports whether anything is another one.
func (s *makings) set(k string, images map[string]v1beta1.ModuleImage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.images[k]
	put(&s.images, k, images)
	return !reflect.DeepEqual(old, images) && len(old)+len(images) > 0
}

// unsaved reports whether nodes wait for these images to be in the status.
func (s *makings) unsaved(k string, images []v1beta1.ModuleImage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !maps.EqualFunc(s.saved[k], byKernel(images), func(a, b v1beta1.ModuleImage) bool {
		return a.Image == b.Image && a.Digest == b.Digest
	})
}

// save notes that the status of a Module has these images, or as many as it can have.
func (s *makings) save(k string, images []v1beta1.ModuleImage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	put(&s.saved, k, byKernel(images))
}

// finish notes that all images of a Module have been decided upon, as it is now, and
// reports whether that is news.
func (s *makings) finish(m *v1beta1.Module) bool {
	k, now := key(m.Namespace, m.Name), lookedAt{m.UID, m.Generation}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looked == nil {
		s.looked = map[string]lookedAt{}
	}
	news := s.looked[k] != now
	s.looked[k] = now
	return news
}

// finished is the last Generation of a Module that all its images have been decided
// upon for; 0 is none.
func (s *makings) finished(m *v1beta1.Module) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.looked[key(m.Namespace, m.Name)]; l.uid == m.UID {
		return l.generation
	}
	return 0
}

// running notes which kernels nodes have.
func (s *makings) running(k string, demands map[string]*demand) {
	come := map[string]bool{}
	for kernel, d := range demands {
		if !d.nodes {
			come[kernel] = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.come == nil {
		s.come = map[string]map[string]bool{}
	}
	s.come[k] = come
}

// needed are those of some images that a node wants now: what becomes of those for
// kernels to come is said elsewhere.
func (s *makings) needed(k string, images []v1beta1.ModuleImage) []v1beta1.ModuleImage {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []v1beta1.ModuleImage
	for _, i := range images {
		if !s.come[k][i.Kernel] {
			out = append(out, i)
		}
	}
	return out
}

func (s *makings) forget(k string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.come, k)
	delete(s.images, k)
	delete(s.saved, k)
	delete(s.adopted, k)
	delete(s.looked, k)
}

// ask has the images of some Modules made for a kernel, nodes or none, until
// the same who asks for others, or for none. It returns the Modules for which that
// makes a difference.
func (s *makings) ask(who, kernel string, modules []string) (changed []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked == nil {
		s.asked = map[string]map[string]string{}
	}
	for k, by := range s.asked {
		if _, had := by[who]; had && (kernel == "" || !slices.Contains(modules, k)) {
			delete(by, who)
			changed = append(changed, k)
		}
		if len(by) == 0 {
			delete(s.asked, k)
		}
	}
	if kernel == "" {
		return changed
	}
	for _, k := range modules {
		if s.asked[k] == nil {
			s.asked[k] = map[string]string{}
		}
		if s.asked[k][who] != kernel {
			s.asked[k][who] = kernel
			changed = append(changed, k)
		}
	}
	return changed
}

// kernels that somebody other than a node asks for.
func (s *makings) kernels(k string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.asked[k]))
}
