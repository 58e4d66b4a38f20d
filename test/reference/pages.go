// SPDX-License-Identifier: Apache-2.0

package reference

// Pages are those that generate writes, by their paths below the root of the
// repository.
func Pages(root string) (map[string]string, error) {
	code, out := NewCode(root), map[string]string{}
	for path, make := range map[string]func() (string, error){
		"docs/reference/module.md":          code.Module,
		"docs/reference/cluster-objects.md": code.ClusterObjects,
		"docs/reference/names.md":           code.Names,
		"docs/reference/reasons.md":         code.Reasons,
	} {
		text, err := make()
		if err != nil {
			return nil, err
		}
		out[path] = text
	}
	return out, nil
}
