// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh." // of aufs; no meaning in an image
)

func isWhiteout(base string) bool { return strings.HasPrefix(base, whiteoutPrefix) }

// whiteout removes what e says the lower layers do not have any more. dirs are the
// directories of the layer.
func (m *merge) whiteout(e entry, dirs map[string]bool) error {
	base := path.Base(strings.TrimRight(e.name, "/"))
	if !isWhiteout(base) {
		return nil
	}
	parts, err := components(e.name)
	if err != nil {
		return err
	}
	gone := strings.TrimPrefix(base, whiteoutPrefix)
	if gone == "" || gone == "." || gone == ".." {
		return fmt.Errorf("%w: whiteout %q names a directory itself", ErrUnsafe, e.name)
	}
	if m.replaced(parts[:len(parts)-1], dirs) {
		return nil
	}
	stack, err := m.walk([]*node{m.root}, parts[:len(parts)-1], noLayer)
	if errors.Is(err, errMissing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("whiteout %q: %w", e.name, err)
	}
	dir := stack[len(stack)-1]
	switch {
	case base == whiteoutOpaque && dir.kind == kindDir:
		dir.children = map[string]*node{}
	case !strings.HasPrefix(base, whiteoutMeta):
		delete(dir.children, gone)
	}
	return nil
}

// seal notes what a whiteout says about layers that have not been read. It is
// called once the layer's own entries are there, and follows no symlink: the
// whiteout may have been about what the link has replaced.
func (m *merge) seal(e entry) {
	base := path.Base(strings.TrimRight(e.name, "/"))
	parts, err := components(e.name)
	if !isWhiteout(base) || err != nil {
		return
	}
	dir, way := m.root, []*node{m.root}
	for _, part := range parts[:len(parts)-1] {
		next := dir.children[part]
		m.astray = m.astray || next == nil && !dir.gone[part] && !sealed(way)
		if dir = next; dir == nil || dir.kind != kindDir {
			return
		}
		way = append(way, dir)
	}
	if base == whiteoutOpaque {
		dir.sealed = true
		return
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return
	}
	gone := strings.TrimPrefix(base, whiteoutPrefix)
	if n := dir.children[gone]; n != nil { // back, in the same layer
		n.explicit, n.sealed = true, true
		return
	}
	if dir.gone == nil {
		dir.gone = map[string]bool{}
	}
	dir.gone[gone] = true
}

// sealed says whether one of these directories, each in the one before, is
// sealed, and so all that is below it.
func sealed(stack []*node) bool {
	return slices.ContainsFunc(stack, func(n *node) bool { return n.sealed })
}

// settled says whether the child n of the directory stack ends with is what it
// is, whatever the layers have that were not read. All but an implied
// directory hides what is older.
func settled(stack []*node, n *node) bool {
	return n.kind != kindDir || n.explicit || sealed(stack)
}

// uncertain says whether older layers could change what a name that was merged stands for, all over the image: they may
// have a symlink, to anywhere, where there is an implied directory, or where a whiteout has found nothing. What is below
// it was meant for the place the link leads to.
func (m *merge) uncertain() bool { return m.astray || m.root.implied() }

// implied says whether a directory below n has no entry of its own, and nothing hides what is older.
func (n *node) implied() bool {
	if n.sealed {
		return false
	}
	for _, child := range n.children {
		if child.kind == kindDir && (!child.explicit || child.implied()) {
			return true
		}
	}
	return false
}

// replaced says whether the layer, whose directories are dirs, puts a directory in the
// place of a symlink on this way: then there is nothing below it to be taken away.
func (m *merge) replaced(parts []string, dirs map[string]bool) bool {
	n := m.root
	for i, part := range parts {
		if n = n.children[part]; n == nil {
			return false
		}
		if n.kind == kindSymlink {
			return dirs[strings.Join(parts[:i+1], "/")]
		}
	}
	return false
}
