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

// giveWay takes softdeps out of wants that are in the way of another want, and
// tells which, by owner: they are not loaded. One that was loaded already, for
// that Module alone, stays wanted if it is of an image, so that nobody loses
// what runs; the node's own is forgotten, and whoever has it removed can bring
// it back when that fails.
func giveWay(wants []Want, f *Facts) ([]Want, map[string]map[string]bool) {
	out, gave := slices.Clone(wants), map[string]map[string]bool{}
	for i := range out {
		w := &out[i]
		w.Files = slices.DeleteFunc(slices.Clone(w.Files), func(file File) bool {
			if !file.Optional || !slices.ContainsFunc(wants, func(other Want) bool { return other.Owner != w.Owner && inTheWay(&file, &other) }) {
				return false
			}
			e, ours := f.entry(file.Name)
			if _, runs := f.Loaded[file.Name]; runs && ours && !e.File.FromHost && slices.Equal(e.Owners, []string{w.Owner}) {
				return false
			}
			if gave[w.Owner] == nil {
				gave[w.Owner] = map[string]bool{}
			}
			gave[w.Owner][file.Name] = true
			return true
		})
	}
	return out, gave
}

// inTheWay tells whether a softdep is what another want has removed, or not as
// that has to have it.
func inTheWay(softdep *File, other *Want) bool {
	file := other.file(softdep.Name)
	if file == nil {
		return slices.Contains(other.Remove, softdep.Name)
	}
	return !file.Optional && !file.FromHost && !softdep.FromHost &&
		(file.BuildID != softdep.BuildID || !slices.Equal(file.Parameters, softdep.Parameters))
}

// conflicts finds wants that exclude each other; both sides are blocked, so
// that neither flaps. gaveWay are the softdeps that some go without.
func conflicts(wants []Want, gaveWay map[string]map[string]bool) map[string][]Block {
	out := map[string][]Block{}
	for i := range wants {
		for j := range wants {
			if i == j {
				continue
			}
			if msg := excludes(&wants[i], &wants[j], gaveWay[wants[j].Owner]); msg != "" {
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

// excludes says why a and b can not both be had; "" when they can. Where b
// gave way with a softdep, a module of a's image is none of those that b has
// removed.
func excludes(a, b *Want, gave map[string]bool) string {
	for i := range a.Files {
		fa := &a.Files[i]
		fb := b.file(fa.Name)
		switch {
		case slices.Contains(b.Remove, fa.Name) && fb == nil && !fa.Optional && (fa.FromHost || !gave[fa.Name]):
			return fmt.Sprintf("%s loads %s, which %s has removed", a.Owner, fa.Name, b.Owner)
		case fb == nil || a.Owner > b.Owner || fa.FromHost || fb.FromHost:
		case fa.Optional || fb.Optional:
			// The one that runs stays.
		case fa.BuildID != fb.BuildID:
			return fmt.Sprintf("%s and %s want different builds of %s (build-id %s and %s)", a.Owner, b.Owner, fa.Name, short(fa.BuildID), short(fb.BuildID))
		case !slices.Equal(fa.Parameters, fb.Parameters):
			return fmt.Sprintf("%s and %s want different parameters for %s (%q and %q)", a.Owner, b.Owner, fa.Name, strings.Join(fa.Parameters, " "), strings.Join(fb.Parameters, " "))
		}
	}
	return ""
}
