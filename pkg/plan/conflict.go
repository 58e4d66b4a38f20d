// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/spec"
)

// conflicts finds wants that exclude each other; both sides are blocked, so
// that neither flaps.
func conflicts(wants []Want) map[string][]Block {
	out := map[string][]Block{}
	for i := range wants {
		for j := range wants {
			if i == j {
				continue
			}
			if msg := excludes(&wants[i], &wants[j]); msg != "" {
				for _, owner := range []string{wants[i].Owner, wants[j].Owner} {
					b := Block{string(spec.ReasonConflict), msg}
					if !slices.Contains(out[owner], b) {
						out[owner] = append(out[owner], b)
					}
				}
			}
		}
	}
	return out
}

// excludes says why a and b can not both be had; "" when they can.
func excludes(a, b *Want) string {
	for i := range a.Files {
		fa := &a.Files[i]
		fb := b.file(fa.Name)
		switch {
		case slices.Contains(b.Remove, fa.Name) && fb == nil && !fa.Optional:
			return fmt.Sprintf("%s loads %s, which %s has removed", a.Owner, fa.Name, b.Owner)
		case fb == nil || a.Owner > b.Owner || fa.FromHost || fb.FromHost:
		case fa.BuildID != fb.BuildID:
			return fmt.Sprintf("%s and %s want different builds of %s (build-id %s and %s)", a.Owner, b.Owner, fa.Name, short(fa.BuildID), short(fb.BuildID))
		case !slices.Equal(fa.Parameters, fb.Parameters):
			return fmt.Sprintf("%s and %s want different parameters for %s (%q and %q)", a.Owner, b.Owner, fa.Name, strings.Join(fa.Parameters, " "), strings.Join(fb.Parameters, " "))
		}
	}
	return ""
}
