// SPDX-License-Identifier: Apache-2.0

package v1beta1

import (
	"encoding/json"
	"fmt"
)

// Document is the entry as the Module that a node reads, in JSON: what a file on
// the node would say.
func (m *NodeModule) Document() ([]byte, error) {
	type metadata struct {
		Namespace   string            `json:"namespace"`
		Name        string            `json:"name"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	var d struct {
		APIVersion string   `json:"apiVersion"`
		Kind       string   `json:"kind"`
		Metadata   metadata `json:"metadata"`
		Spec       struct {
			ModuleLoader ModuleLoaderSpec `json:"moduleLoader"`
		} `json:"spec"`
	}
	d.APIVersion, d.Kind = GroupVersion.String(), "Module"
	d.Metadata = metadata{m.Namespace, m.Name, m.Annotations}
	d.Spec.ModuleLoader = m.ModuleLoader
	data, err := json.Marshal(&d)
	if err != nil {
		return nil, fmt.Errorf("marshal Module %s/%s: %w", m.Namespace, m.Name, err)
	}
	return data, nil
}

// Digests gives the mappings whose image the cluster makes, and the digests of
// the images that are there. Both are nil when it makes none.
func (m *MadeImages) Digests() (mappings []int, digests map[string]string) {
	if m == nil {
		return nil, nil
	}
	for _, i := range m.Mappings {
		mappings = append(mappings, int(i))
	}
	digests = map[string]string{}
	for _, i := range m.Images {
		digests[i.Image] = i.Digest
	}
	return mappings, digests
}
