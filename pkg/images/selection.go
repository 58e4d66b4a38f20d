// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Where a tree has its two parts.
const (
	modulesPart  = "lib/modules"
	firmwarePart = "firmware"
)

// pick is one file to take: its path in the tree, and where its bytes are.
type pick struct {
	path    string
	content content
	loose   bool // an older layer could put something else there
}

// dropped is a symlink that was not followed, because it leads out of the image
// or to a directory that was not asked for. KMM's documented
// "host -> /lib/modules/<release>" is one.
type dropped struct {
	Path   string `json:"path"`
	Target string `json:"target"`
}

// part is what is below one directory of the image.
type part struct {
	picks  []pick
	loose  bool // an older layer could put another directory there
	sealed bool // no older layer has anything in it
	open   bool // a link in it leads to something an older layer may have
}

// selection is what a query takes out of an image.
type selection struct {
	release  string
	modules  part
	firmware part
	links    []dropped
	names    []string // of all modules in the directory, canonical
	bytes    int64
}

func (s *selection) picks() []pick { return slices.Concat(s.modules.picks, s.firmware.picks) }

// modulesDir is where the tree has the modules of s.
func (s *selection) modulesDir() string { return path.Join(modulesPart, s.release) }

// selector collects the files below one directory of the image.
type selector struct {
	m    *merge
	l    limits
	root *node // the directory asked for
	out  *selection
	part *part
}

// choose lists the files q may take out of what has been merged.
func (q *query) choose(m *merge, l limits) (*selection, error) {
	out := &selection{}
	loose := false // a name tried before may be in an older layer
	for _, release := range q.Releases {
		err := out.take(m, l, path.Join(q.dirName, "lib/modules", release), path.Join(modulesPart, release), &out.modules)
		if errors.Is(err, errMissing) {
			loose = loose || m.loose
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(out.modules.picks) == 0 {
			return nil, fmt.Errorf("%w: %s holds no file", ErrNoModules, path.Join(q.dirName, "lib/modules", release))
		}
		out.release = release
		out.modules.loose = out.modules.loose || loose
		break
	}
	if out.release == "" {
		return nil, fmt.Errorf("%w: there is no %s: %s", ErrNoModules,
			path.Join(q.dirName, "lib/modules", strings.Join(q.Releases, " or ")), m.releases(q.dirName))
	}
	if q.firmware == "" {
		return out, nil
	}
	err := out.take(m, l, q.firmware, firmwarePart, &out.firmware)
	if errors.Is(err, errMissing) {
		return nil, fmt.Errorf("%w: there is no directory %s: correct firmwarePath", ErrNoFirmware, q.firmware)
	}
	if err == nil && len(out.firmware.picks) == 0 {
		return nil, fmt.Errorf("%w: %s holds no file", ErrNoFirmware, q.firmware)
	}
	return out, err
}

// releases is for the error only: what the image has instead.
func (m *merge) releases(dirName string) string {
	stack, err := m.walk([]*node{m.root}, strings.Split(path.Join(dirName, "lib/modules"), "/"), noLayer)
	if err != nil || len(stack[len(stack)-1].children) == 0 {
		return "no kernel's modules are below " + path.Join(dirName, "lib/modules") + ": check dirName"
	}
	names := sortedNames(stack[len(stack)-1])
	if len(names) > 8 {
		names = append(names[:8], "…")
	}
	return fmt.Sprintf("the image is for %q", names)
}

// take adds the files below the directory from of the image to p, as to/…;
// errMissing when from is no directory of the image.
func (s *selection) take(m *merge, l limits, from, to string, p *part) error {
	m.loose = false
	stack, err := m.walk([]*node{m.root}, strings.Split(from, "/"), noLayer)
	if err != nil {
		return err
	}
	dir := stack[len(stack)-1]
	if dir.kind != kindDir {
		return errMissing
	}
	p.loose, p.sealed = m.loose, sealed(stack)
	return (&selector{m: m, l: l, root: dir, out: s, part: p}).dir(stack, []*node{dir}, to, false)
}

// dir takes the directory stack ends with. visiting are the directories this
// one was reached through, links included: a link back to one of them is a
// loop and left out. loose says that an older layer could change the way here.
func (s *selector) dir(stack, visiting []*node, to string, loose bool) error {
	d := stack[len(stack)-1]
	for _, base := range sortedNames(d) {
		n, at := d.children[base], path.Join(to, base)
		if err := checkName(base, at); err != nil {
			return err
		}
		if s.m.steps++; s.m.steps > stepsPerNode*s.m.limit {
			return fmt.Errorf("%w: too many symlinks to directories below %s", ErrLimit, to)
		}
		if n.twice {
			return fmt.Errorf("%w: one layer has %s twice", ErrUnsafe, at)
		}
		var err error
		switch n.kind {
		case kindDir:
			err = s.dir(append(slices.Clip(stack), n), append(slices.Clip(visiting), n), at, loose || !settled(stack, n))
		case kindFile:
			err = s.file(n, at, loose)
		case kindSymlink:
			err = s.symlink(stack, visiting, n, at, loose)
		case kindBroken:
			err = fmt.Errorf("%w: %s is a hard link to %q, which the image does not have", ErrUnsafe, at, n.target)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *selector) file(n *node, at string, loose bool) error {
	switch {
	case n.twice:
		return fmt.Errorf("%w: one layer has %s twice", ErrUnsafe, at)
	case n.content.size > s.l.fileSize:
		return fmt.Errorf("%w: %s has %d bytes, more than %d", ErrLimit, at, n.content.size, s.l.fileSize)
	case len(s.out.modules.picks)+len(s.out.firmware.picks) >= s.l.files:
		return fmt.Errorf("%w: more than %d files to take", ErrLimit, s.l.files)
	}
	s.out.bytes += n.content.size
	if s.out.bytes > s.l.selected {
		return fmt.Errorf("%w: the files to take have more than %d bytes", ErrLimit, s.l.selected)
	}
	s.part.picks = append(s.part.picks, pick{path: at, content: n.content, loose: loose || n.loose})
	return nil
}

// symlink takes what the link stands for if that is a file of the image, or a
// directory of the selection; firmware trees are full of both.
func (s *selector) symlink(stack, visiting []*node, n *node, at string, loose bool) error {
	if strings.HasPrefix(n.target, "/") {
		stack = stack[:1]
	}
	s.m.loose = false
	stack, err := s.m.walk(stack, strings.Split(n.target, "/"), noLayer)
	if errors.Is(err, ErrLimit) {
		return err
	}
	loose = loose || s.m.loose
	if err == nil {
		to := stack[len(stack)-1]
		inside := slices.Contains(stack, s.root) && !slices.Contains(visiting, to)
		switch {
		case to.kind == kindFile:
			return s.file(to, at, loose)
		case to.kind == kindDir && inside:
			return s.dir(stack, append(slices.Clip(visiting), to), at, loose)
		}
	}
	s.part.open = s.part.open || loose
	if loose && slices.Contains(s.m.stuck, s.root) {
		s.part.loose = true // an older layer may have what it leads to as a directory of the selection
	}
	s.out.links = append(s.out.links, dropped{Path: at, Target: n.target})
	return nil
}

// checkName refuses names that are legal in Linux but that nobody ships on
// purpose.
func checkName(base, at string) error {
	bad := func(r rune) bool { return unicode.IsControl(r) }
	if !utf8.ValidString(base) || strings.IndexFunc(base, bad) >= 0 {
		return fmt.Errorf("%w: name %q is not printable", ErrUnsafe, at)
	}
	if len(base) > maxNameLength || len(at) > maxPathLength {
		return fmt.Errorf("%w: name %.80q… is too long", ErrLimit, at)
	}
	return nil
}

func sortedNames(n *node) []string {
	names := make([]string, 0, len(n.children))
	for name := range n.children {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
