// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// near lists modules of the merged image, those first whose path is most like
// the pattern.
func (m *merge) near(g Glob) []string {
	var best []string
	var scores []int
	var down func(n *node, parts []string)
	down = func(n *node, parts []string) {
		for _, name := range sortedNames(n) {
			child, at := n.children[name], append(parts, name)
			if child.kind == kindDir {
				down(child, at)
			}
			if child.kind != kindFile || !isModuleName(name) {
				continue
			}
			score := g.likeness(at)
			i := len(scores)
			for i > 0 && scores[i-1] < score {
				i--
			}
			if i < maxNear {
				best, scores = slices.Insert(best, i, "/"+path.Join(at...)), slices.Insert(scores, i, score)
				best, scores = best[:min(len(best), maxNear)], scores[:min(len(scores), maxNear)]
			}
		}
	}
	down(m.root, nil)
	return best
}

// likeness counts the parts of a path that the glob has too, from the front, and
// the last one, which counts for most.
func (g Glob) likeness(parts []string) int {
	n := 0
	for i := range min(len(parts), len(g.parts)) {
		if !matchPart(g.parts[i], parts[i]) {
			break
		}
		n++
	}
	if matchPart(g.parts[len(g.parts)-1], parts[len(parts)-1]) {
		n += len(g.parts)
	}
	return n
}

func isModuleName(name string) bool {
	for _, suffix := range []string{".gz", ".xz", ".zst"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return strings.HasSuffix(name, ".ko")
}

// expansion is one Glob put against a merged image.
type expansion struct {
	m     *merge
	l     limits
	glob  Glob
	files map[string]File // by path
}

// expand goes on from the directory stack ends with; names has one for each of stack
// but the root.
func (x *expansion) expand(stack []*node, names, parts []string) error {
	top := stack[len(stack)-1]
	if len(parts) == 0 {
		return x.take(top, names)
	}
	if name, ok := literal(parts[0]); ok {
		return x.step(stack, names, name, parts[1:])
	}
	if top.kind != kindDir {
		return nil
	}
	x.m.loose = x.m.loose || !sealed(stack)
	for _, name := range sortedNames(top) {
		if !matchPart(parts[0], name) {
			continue
		}
		if err := x.step(stack, names, name, parts[1:]); err != nil {
			return err
		}
	}
	return nil
}

// step goes to the child called name, through symlinks. What is not there, or a link
// to nothing, is no match.
func (x *expansion) step(stack []*node, names []string, name string, rest []string) error {
	to, err := x.m.walk(stack, []string{name}, noLayer)
	if errors.Is(err, errMissing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pattern %q: %w", x.glob, err)
	}
	same := 1 // of the way: the root at least
	for same < min(len(stack), len(to)) && stack[same] == to[same] {
		same++
	}
	names = slices.Clone(names[:same-1])
	for i := same; i < len(to); i++ {
		names = append(names, nameOf(to[i-1], to[i], name))
	}
	return x.expand(to, names, rest)
}

// nameOf is what child is called in dir; likely is tried first.
func nameOf(dir, child *node, likely string) string {
	if dir.children[likely] == child {
		return likely
	}
	for name, n := range dir.children {
		if n == child {
			return name
		}
	}
	return ""
}

func (x *expansion) take(n *node, names []string) error {
	at := "/" + path.Join(names...)
	if n.kind == kindDir {
		return fmt.Errorf("%w: pattern %q stands for the directory %.200q: end it with what the names of the files have, such as *.ko",
			ErrNotFile, x.glob, at)
	}
	if err := checkName(names[len(names)-1], at); err != nil {
		return err
	}
	switch {
	case n.kind == kindBroken:
		return fmt.Errorf("%w: %s is a hard link to %q, which the image does not have", ErrUnsafe, at, n.target)
	case n.kind != kindFile:
		return fmt.Errorf("%w: pattern %q stands for %s, which is no regular file", ErrNotFile, x.glob, at)
	case n.twice:
		return fmt.Errorf("%w: one layer has %s twice", ErrUnsafe, at)
	case n.content.size > x.l.fileSize:
		return fmt.Errorf("%w: %s has %d bytes, more than %d", ErrLimit, at, n.content.size, x.l.fileSize)
	case len(x.files) >= x.l.files:
		return fmt.Errorf("%w: more than %d files for %q", ErrLimit, x.l.files, x.glob)
	}
	x.m.loose = x.m.loose || n.loose
	x.files[at] = File{Path: at, Size: n.content.size, content: n.content}
	return nil
}
