// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"
)

// errMissing is a path the image does not have. Not for callers outside.
var errMissing = errors.New("not in the image")

// entry is what a layer says about one name.
type entry struct {
	name    string
	link    string // target of a symlink or hard link
	size    int64
	ordinal int // position in the tar stream
	kind    kind
}

type kind byte

const (
	kindDir      kind = iota
	kindFile          // has content
	kindSymlink       // has a target
	kindHardlink      // only in an entry: becomes what it is a link to
	kindOther         // device, fifo, …: hides what is below, and is never made
	kindBroken        // a hard link to nothing
)

// kindOf maps the type flags of archive/tar; ok is false for entries that are
// no file at all.
func kindOf(flag byte) (k kind, ok bool) {
	switch flag {
	case tar.TypeDir:
		return kindDir, true
	case tar.TypeReg, tar.TypeGNUSparse:
		return kindFile, true
	case tar.TypeSymlink:
		return kindSymlink, true
	case tar.TypeLink:
		return kindHardlink, true
	case tar.TypeXGlobalHeader:
		return 0, false
	}
	return kindOther, true
}

// content says where the bytes of a file are.
type content struct {
	layer, ordinal int
	size           int64
}

// node is one name of the merged image. Nothing of it is on disk.
type node struct {
	kind     kind
	layer    int  // the last layer that had it, or something below it
	twice    bool // that layer had it more than once
	explicit bool // directory: an entry of its own makes it one, whatever older layers have there
	sealed   bool // directory: nothing in it can come from layers older than the ones read
	loose    bool // hard link: what it is linked to was reached through a directory that is not explicit
	children map[string]*node
	gone     map[string]bool // names a layer has taken away from the older ones
	target   string          // symlink, broken
	content  content
}

// merge is the file tree of an image, built by applying its layers from the
// lowest up, as a container runtime would, but in memory: names out of an
// image never reach the file system this way.
//
// It may lack the oldest layers. Then loose is set by a walk whose result those
// could still change: it went through a directory that is not explicit, or
// found nothing where they may have something.
type merge struct {
	root  *node
	nodes int // made, at most limit
	steps int // walked, at most stepsPerNode for each allowed node
	limit int
	loose bool

	stuck  []*node // how far the last walk got that found nothing
	astray bool    // a whiteout was about something that only an older layer may have
}

// stepsPerNode bounds the time spent on long names and chains of symlinks.
const stepsPerNode = 64

func newMerge(limit int) *merge {
	return &merge{root: &node{children: map[string]*node{}}, limit: limit}
}

// apply puts one layer over the ones below. Whiteouts come first: they are
// about lower layers only, wherever in the stream they are (OCI image spec,
// layer.md, "Whiteouts").
func (m *merge) apply(layer int, entries []entry) error {
	dirs := map[string]bool{} // it has an entry for
	for _, e := range entries {
		if parts, err := components(e.name); err == nil && e.kind == kindDir {
			dirs[strings.Join(parts, "/")] = true
		}
	}
	for _, e := range entries {
		if err := m.whiteout(e, dirs); err != nil {
			return err
		}
	}
	var later []entry
	for _, e := range entries {
		parts, err := components(e.name)
		if err != nil {
			return err
		}
		if len(parts) == 0 || isWhiteout(parts[len(parts)-1]) {
			continue
		}
		done, err := m.add(layer, parts, e, false)
		if err != nil {
			return err
		}
		if !done {
			later = append(later, e)
		}
	}
	for _, e := range later { // hard links that come before what they link to
		parts, err := components(e.name)
		if err != nil {
			return err
		}
		if _, err := m.add(layer, parts, e, true); err != nil {
			return err
		}
	}
	for _, e := range entries {
		m.seal(e)
	}
	return nil
}

// add makes one entry. It returns false for a hard link whose target is not
// there yet; last makes it a broken one instead.
func (m *merge) add(layer int, parts []string, e entry, last bool) (bool, error) {
	n := &node{kind: e.kind, layer: layer, target: e.link}
	switch e.kind {
	case kindDir:
		n.children, n.explicit = map[string]*node{}, true
	case kindFile:
		n.content = content{layer: layer, ordinal: e.ordinal, size: e.size}
	case kindHardlink:
		m.loose = false
		to, err := m.hardlink(e)
		switch {
		case err == nil:
			n.loose = m.loose || to.loose
			n.kind, n.target, n.content, n.twice = to.kind, to.target, to.content, to.twice
		case !errors.Is(err, errMissing):
			return false, err
		case !last:
			return false, nil
		default:
			n.kind = kindBroken
		}
	}
	stack, err := m.walk([]*node{m.root}, parts[:len(parts)-1], layer)
	if err != nil {
		return false, fmt.Errorf("entry %q: %w", e.name, err)
	}
	return true, m.put(stack[len(stack)-1], parts[len(parts)-1], n, e.name)
}

// put makes n the child base of dir; a directory over a directory keeps what
// is in it.
func (m *merge) put(dir *node, base string, n *node, name string) error {
	if dir.kind != kindDir {
		return fmt.Errorf("%w: entry %q is below something that is no directory", ErrUnsafe, name)
	}
	old := dir.children[base]
	if old != nil && old.kind == kindDir && n.kind == kindDir {
		old.layer, old.explicit = n.layer, true
		return nil
	}
	if n.kind == kindDir { // what is replaced has hidden all that is older
		n.sealed = dir.gone[base] || old != nil && old.layer != n.layer
	}
	same := old != nil && old.kind == kindSymlink && n.kind == kindSymlink && old.target == n.target
	n.twice = n.twice || old != nil && old.layer == n.layer && !same
	dir.children[base] = n
	return m.count()
}

func (m *merge) count() error {
	m.nodes++
	if m.nodes > m.limit {
		return fmt.Errorf("%w: more than %d files and directories", ErrLimit, m.limit)
	}
	return nil
}

// hardlink returns what a hard link stands for. Its target is a path from the
// root of the image (kaniko writes it with a slash in front).
func (m *merge) hardlink(e entry) (*node, error) {
	parts, err := components(e.link)
	if err != nil {
		return nil, fmt.Errorf("hard link %q: %w", e.name, err)
	}
	if len(parts) == 0 {
		return nil, errMissing
	}
	stack, err := m.walk([]*node{m.root}, parts[:len(parts)-1], noLayer)
	if err != nil {
		return nil, err
	}
	to := stack[len(stack)-1].children[parts[len(parts)-1]]
	if to == nil || to.kind == kindDir {
		return nil, errMissing
	}
	return to, nil
}

// noLayer makes walk look only.
const noLayer = -1

// walk follows parts from the directory stack ends with, through symlinks, and
// returns the path of nodes it got to, which starts with the root: ".." and
// absolute links can not lead out of the image. With a layer, missing
// directories are made and the ones on the way marked as that layer's. It
// fails with errMissing, or ErrUnsafe for a loop.
func (m *merge) walk(stack []*node, parts []string, layer int) ([]*node, error) {
	stack = append([]*node(nil), stack...)
	m.stuck = nil
	hops := 0
	for len(parts) > 0 {
		if m.steps++; m.steps > stepsPerNode*m.limit {
			return nil, fmt.Errorf("%w: too many symlinks and directories in each other", ErrLimit)
		}
		part := parts[0]
		parts = parts[1:]
		top := stack[len(stack)-1]
		switch {
		case top.kind != kindDir && layer != noLayer:
			return nil, fmt.Errorf("%w: below something that is no directory", ErrUnsafe)
		case top.kind != kindDir:
			return nil, errMissing
		case part == "" || part == ".":
			continue
		case part == "..":
			stack = stack[:max(1, len(stack)-1)]
			continue
		}
		next, err := m.step(top, part, layer)
		if err != nil {
			m.loose, m.stuck = m.loose || !sealed(stack), stack
			return nil, err
		}
		m.loose = m.loose || !settled(stack, next)
		if next.kind != kindSymlink {
			stack = append(stack, next)
			continue
		}
		if hops++; hops > maxLinkHops {
			return nil, fmt.Errorf("%w: more than %d symlinks on one path", ErrUnsafe, maxLinkHops)
		}
		if next.twice {
			return nil, fmt.Errorf("%w: one layer has the symlink %q twice", ErrUnsafe, part)
		}
		if strings.HasPrefix(next.target, "/") {
			stack = stack[:1]
		}
		parts = append(strings.Split(next.target, "/"), parts...)
	}
	return stack, nil
}

// step returns the child called part. With a layer, it is made if it is missing,
// and a directory is marked as that layer's.
func (m *merge) step(dir *node, part string, layer int) (*node, error) {
	next := dir.children[part]
	switch {
	case next == nil && layer == noLayer:
		return nil, errMissing
	case next == nil:
		next = &node{layer: layer, children: map[string]*node{}, explicit: dir.gone[part], sealed: dir.gone[part]}
		dir.children[part] = next
		return next, m.count()
	case layer != noLayer && next.kind == kindDir:
		next.layer = layer
	}
	return next, nil
}

// components splits a name of a tar entry. Names are relative to the root of
// the image, with or without a slash in front; ".." has no business in one.
func components(name string) ([]string, error) {
	if len(name) > maxPathLength {
		return nil, fmt.Errorf("%w: a name of %d bytes", ErrLimit, len(name))
	}
	var out []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			return nil, fmt.Errorf("%w: name %q has a .. in it", ErrUnsafe, name)
		default:
			out = append(out, part)
		}
	}
	return out, nil
}
