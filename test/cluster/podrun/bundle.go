// SPDX-License-Identifier: Apache-2.0

package podrun

import (
	"errors"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Bundle makes what a runtime is given of one container of a pod, for whoever runs it without an API server: the bundle is
// DIR/CONTAINER. Volumes that are not of the host are what is in DIR/volumes/NAME; variables have to have values. network is the
// file of a network namespace, "" the one this process is in. The seccomp filter of RuntimeDefault is containerd's in that it
// forbids keyctl.
func Bundle(dir string, object *corev1.Pod, container string, image Image, network string) (bundle string, err error) {
	i := slices.IndexFunc(object.Spec.Containers, func(c corev1.Container) bool { return c.Name == container })
	if i < 0 {
		return "", errors.New("the pod has no container " + container)
	}
	p := &pod{runner: &Runner{}, object: object, dir: dir, network: network, strict: true}
	return filepath.Join(dir, container), p.prepare(&object.Spec.Containers[i], image)
}

// forNobody are what containerd's filter lacks, and the file's has (containerd, contrib/seccomp/seccomp_default.go).
var forNobody = []string{"add_key", "keyctl", "request_key"}

// restrict takes them out of a filter.
func (s *seccomp) restrict() {
	for i := range s.Syscalls {
		s.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(s.Syscalls[i].Names), func(n string) bool { return slices.Contains(forNobody, n) })
	}
	s.Syscalls = slices.DeleteFunc(s.Syscalls, func(r rule) bool { return len(r.Names) == 0 })
}
