// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/spec"
)

// inOrder sorts wants by owner, but puts who brings a module before who takes
// the node's own of that name: that takes whatever runs, and would else load
// the one that the other has removed. In a circle the names decide.
func inOrder(wants []Want) []Want {
	wants = slices.Clone(wants)
	slices.SortFunc(wants, func(a, b Want) int { return strings.Compare(a.Owner, b.Owner) })
	bring := map[string][]string{}
	for i := range wants {
		for _, file := range wants[i].Files {
			if !file.FromHost {
				bring[file.Name] = append(bring[file.Name], wants[i].Owner)
			}
		}
	}
	var out []Want
	placed := map[string]bool{}
	for len(wants) > 0 {
		next := max(0, slices.IndexFunc(wants, func(w Want) bool {
			return !slices.ContainsFunc(w.Files, func(file File) bool {
				return file.FromHost && slices.ContainsFunc(bring[file.Name], func(o string) bool { return o != w.Owner && !placed[o] })
			})
		}))
		placed[wants[next].Owner] = true
		out = append(out, wants[next])
		wants = slices.Delete(wants, next, next+1)
	}
	return out
}

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
