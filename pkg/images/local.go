// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-containerregistry/pkg/name"
)

// The references that name a file or directory of this machine. Anything else
// is looked for in a registry; an image there may be called "oci" too, but what
// follows its colon never begins with a slash.
const (
	schemeLayout  = "oci"         // oci:/path[:tag][@sha256:…]: a directory, OCI image-layout.md
	schemeArchive = "oci-archive" // oci-archive:/path.tar[:tag][@sha256:…]: the same in an uncompressed tar
)

// localRef is a reference to an image on this machine.
type localRef struct {
	scheme, path string
	tag, digest  string // either may be empty
}

var _ name.Reference = localRef{}

// localTag is the grammar of tags (OCI distribution-spec, "Pulling manifests").
var localTag = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
})

// parseLocal reads a reference to this machine; ok is false for any other, as
// for the registry oci:5000 and the image oci:v1. In the path's last element
// the first colon begins the tag.
func parseLocal(s string) (ref localRef, ok bool, err error) {
	scheme, rest, _ := strings.Cut(s, ":")
	port, _, deeper := strings.Cut(rest, "/")
	if scheme != schemeLayout && scheme != schemeArchive || !deeper || port != "" && strings.Trim(port, "0123456789") == "" {
		return localRef{}, false, nil
	}
	found := false
	ref.scheme = scheme
	rest, ref.digest, found = strings.Cut(rest, "@")
	if found && !isDigest(ref.digest) {
		return ref, true, fmt.Errorf("%w: %q: only sha256 digests are known", ErrInvalidRef, s)
	}
	ref.path = rest
	base := strings.LastIndex(rest, "/") + 1
	if i := strings.Index(rest[base:], ":"); i >= 0 {
		ref.path, ref.tag = rest[:base+i], rest[base+i+1:]
		if !localTag().MatchString(ref.tag) {
			return ref, true, fmt.Errorf("%w: %q: %q is no tag", ErrInvalidRef, s, ref.tag)
		}
	}
	switch {
	case !strings.HasPrefix(ref.path, "/"):
		err = fmt.Errorf("%w: %q: the path has to be absolute: %s:/DIRECTORY/…", ErrInvalidRef, s, scheme)
	case ref.path == "/" || path.Clean(ref.path) != ref.path:
		err = fmt.Errorf("%w: %q: write the path without \"..\", doubled and trailing slashes", ErrInvalidRef, s)
	case len(ref.path) > maxPathLength || !utf8.ValidString(ref.path) || strings.ContainsFunc(ref.path, unicode.IsControl):
		err = fmt.Errorf("%w: %.80q: the path is not printable, or too long", ErrInvalidRef, s)
	}
	return ref, true, err
}

// repository is what all images of the layout have in common.
func (r localRef) repository() string { return r.scheme + ":" + r.path }

// Name is the whole reference; it and the others make it a name.Reference.
func (r localRef) Name() string {
	s := r.repository()
	if r.tag != "" {
		s += ":" + r.tag
	}
	if r.digest != "" {
		s += "@" + r.digest
	}
	return s
}

// String is Name.
func (r localRef) String() string { return r.Name() }

// Identifier is the digest, or else the tag, or empty for the only image there.
func (r localRef) Identifier() string {
	if r.digest != "" {
		return r.digest
	}
	return r.tag
}

// Context is empty: there is no registry.
func (r localRef) Context() name.Repository { return name.Repository{} }

// Scope is empty: there are no tokens.
func (r localRef) Scope(string) string { return "" }

// openSource finds out where the image of q is, and opens it. The caller closes
// the source.
func (s *Store) openSource(ctx context.Context, q *query) (source, error) {
	if ref, ok := q.ref.(localRef); ok {
		return openLayout(ctx, ref)
	}
	c, err := dial(ctx, q, s.l, s.o)
	if err != nil {
		return nil, err
	}
	return c, nil
}
