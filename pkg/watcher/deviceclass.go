// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"fmt"

	resourcev1 "k8s.io/api/resource/v1"
	resourcev1ac "k8s.io/client-go/applyconfigurations/resource/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// DeviceClasses are those of a Module's DRA driver, to be applied on the
// server's side. They belong to the whole cluster and so can not be owned by a
// Module: its name and namespace are on them as labels, and ModuleOf finds it.
// Ask it before a DeviceClass that exists is changed: the name may be another
// Module's, or nobody's here.
func DeviceClasses(m *v1beta1.Module) ([]*resourcev1ac.DeviceClassApplyConfiguration, error) {
	if m.Spec.DRA == nil {
		return nil, nil
	}
	var all []*resourcev1ac.DeviceClassApplyConfiguration
	for _, c := range m.Spec.DRA.DeviceClasses {
		spec := &resourcev1ac.DeviceClassSpecApplyConfiguration{}
		if err := convert(resourcev1.DeviceClassSpec{Selectors: c.Selectors, Config: c.Config}, spec); err != nil {
			return nil, fmt.Errorf("make DeviceClass %s of %s/%s: %w", c.Name, m.Namespace, m.Name, err)
		}
		all = append(all, resourcev1ac.DeviceClass(c.Name).WithSpec(spec).WithLabels(map[string]string{
			v1beta1.ModuleNameLabel:      m.Name,
			v1beta1.ModuleNamespaceLabel: m.Namespace,
		}))
	}
	return all, nil
}
