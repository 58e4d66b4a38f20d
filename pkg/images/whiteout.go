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

// whiteout removes what e says the lower layers do not have any more.
func (m *merge) whiteout(e entry) error {
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
	dir := m.root
	for _, part := range parts[:len(parts)-1] {
		if dir = dir.children[part]; dir == nil || dir.kind != kindDir {
			return
		}
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
