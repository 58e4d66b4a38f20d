// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"

	"github.com/kmm-node/kmmd/test/reference/markdown"
)

const repository = ".."

// content is a page as far as links go.
type content struct {
	links   []string
	anchors map[string]bool
}

// readPage reads the links of a page, and what it has to be linked to.
func readPage(source []byte) content {
	m := content{anchors: map[string]bool{}}
	document := goldmark.New(goldmark.WithExtensions(extension.Table)).Parser().Parse(text.NewReader(source))
	_ = ast.Walk(document, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // the function gives no error
		switch n := n.(type) {
		case *ast.Heading:
			if entering {
				m.heading(markdown.Anchor(words(n, source)))
			}
		case *ast.Link:
			if entering {
				m.links = append(m.links, string(n.Destination))
			}
		case *ast.Image:
			if entering {
				m.links = append(m.links, string(n.Destination))
			}
		}
		return ast.WalkContinue, nil
	})
	return m
}

// heading gives the second of one name a number, as GitHub does.
func (m content) heading(anchor string) {
	name := anchor
	for i := 1; m.anchors[name]; i++ {
		name = fmt.Sprintf("%s-%d", anchor, i)
	}
	m.anchors[name] = true
}

// words are a heading's, without its marks.
func words(n ast.Node, source []byte) string {
	var out strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if t, ok := n.(*ast.Text); ok && entering {
			out.Write(t.Value(source))
		}
		return ast.WalkContinue, nil
	})
	return out.String()
}

// files are those of the repository with one of the endings, by their paths from its
// root on; all without one. What git ignores is left out.
func files(t *testing.T, endings ...string) []string {
	t.Helper()
	var out []string
	require.NoError(t, filepath.WalkDir(repository, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && path != repository && (strings.HasPrefix(e.Name(), ".") || slices.Contains([]string{"bin", "dist"}, e.Name())):
			return fs.SkipDir
		case !e.Type().IsRegular() || len(endings) > 0 && !slices.Contains(endings, filepath.Ext(path)):
			return nil
		}
		name, err := filepath.Rel(repository, path)
		out = append(out, name)
		return err
	}))
	return out
}

// pages are all pages of the repository.
func pages(t *testing.T) map[string]content {
	t.Helper()
	out := map[string]content{}
	for _, name := range files(t, ".md") {
		source, err := os.ReadFile(filepath.Join(repository, name))
		require.NoError(t, err)
		out[name] = readPage(source)
	}
	require.Greater(t, len(out), 50)
	return out
}

// ourselves is how alerts and packages name our own pages.
var ourselves = regexp.MustCompile(`^https://github\.com/kmm-node/kmmd/(?:blob|tree)/main/`)

// target is the file or directory, and the anchor in it, that a link of a page leads
// to; ok is false when that is not in the repository.
func target(page, link string) (path, anchor string, ok bool) {
	if at := ourselves.FindString(link); at != "" {
		page, link = "README.md", link[len(at):]
	}
	u, err := url.Parse(link)
	if err != nil || u.Scheme != "" || u.Host != "" {
		return "", "", err != nil // what is no address leads nowhere
	}
	if u.Path == "" {
		return page, u.Fragment, true
	}
	return filepath.Join(filepath.Dir(page), u.Path), u.Fragment, true
}

// TestLinks: what a page links to is there, the heading too.
func TestLinks(t *testing.T) {
	all := pages(t)
	count := 0
	for name, page := range all {
		for _, link := range page.links {
			path, anchor, ok := target(name, link)
			if !ok {
				continue
			}
			count++
			if _, err := os.Stat(filepath.Join(repository, path)); !assert.NoError(t, err, "%s: (%s)", name, link) || anchor == "" {
				continue
			}
			to, isPage := all[path]
			assert.True(t, isPage && to.anchors[anchor], "%s: (%s): %s has no such heading", name, link, path)
		}
	}
	assert.Greater(t, count, 100)
}

// TestIndex: each page of docs/ has a line in docs/README.md; of many of a kind their
// directory has.
func TestIndex(t *testing.T) {
	const index = "docs/README.md"
	all := pages(t)
	require.Contains(t, slices.Collect(maps.Keys(all)), index)
	linked := map[string]bool{index: true}
	for _, link := range all[index].links {
		path, _, _ := target(index, link)
		linked[path] = true
	}
	for name := range all {
		if dir := filepath.Dir(name); dir == "docs/decisions" || dir == "docs/runbooks" {
			name = dir
		}
		assert.True(t, linked[name] || !strings.HasPrefix(name, "docs/"), "%s has no line for %s", index, name)
	}
}

// mention is a page that is named in a text.
var mention = regexp.MustCompile(`\bdocs/[A-Za-z0-9_/.-]*\.md\b`)

// TestMentions: pages that code, manifests and messages name are there.
func TestMentions(t *testing.T) {
	count := 0
	for _, name := range files(t) {
		if strings.Contains(name, "testdata/fuzz") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(repository, name))
		require.NoError(t, err)
		for _, page := range mention.FindAllString(string(data), -1) {
			count++
			assert.FileExists(t, filepath.Join(repository, page), name)
		}
	}
	assert.Greater(t, count, 40)
}

func TestReadPage(t *testing.T) {
	m := readPage([]byte("# A `b`: [c](x.md)\n\nText [one](y.md#z) and `[no](link)`, ![i](p.png) [ref]\n\n```\n[no](code)\n```\n\n" +
		"| a |\n|---|\n| [two](<a b.md>) |\n\n## Twice\n\n## Twice\n\n[ref]: https://x.example/\n"))
	assert.Equal(t, []string{"x.md", "y.md#z", "p.png", "https://x.example/", "a b.md"}, m.links)
	assert.Equal(t, map[string]bool{"a-b-c": true, "twice": true, "twice-1": true}, m.anchors)
	for _, tt := range []struct {
		page, link, path, anchor string
		ok                       bool
	}{
		{"x/a/b.md", "../c.md#d", "x/c.md", "d", true},
		{"x/a/b.md", "#d", "x/a/b.md", "d", true},
		{"x/a/b.md", "..", "x", "", true},
		{"x/a.md", "https://github.com/kmm-node/kmmd/blob/main/y/z.md", "y/z.md", "", true},
		{"x/a.md", "https://x.example/y", "", "", false},
		{"x/a.md", "mailto:x@x.example", "", "", false},
	} {
		path, anchor, ok := target(tt.page, tt.link)
		assert.Equal(t, []any{tt.path, tt.anchor, tt.ok}, []any{path, anchor, ok}, tt.link)
	}
}
