// SPDX-License-Identifier: Apache-2.0

// Package docs has tests of what the pages say.
package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	page    = "troubleshooting.md"
	onNodes = "Reasons of a Module on a node"
)

// constants gives the texts of the constants in a directory that want takes.
func constants(t *testing.T, dir string, want func(name, kind string) bool) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	require.NoError(t, err)
	out := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			kind, _ := v.Type.(*ast.Ident)
			for i := range v.Values {
				text, ok := v.Values[i].(*ast.BasicLit)
				if !ok || text.Kind != token.STRING || !want(v.Names[i].Name, typeName(kind)) {
					continue
				}
				value, err := strconv.Unquote(text.Value)
				require.NoError(t, err)
				out[value] = true
			}
			return true
		})
	}
	require.NotEmpty(t, out, dir)
	return out
}

func typeName(i *ast.Ident) string {
	if i == nil {
		return ""
	}
	return i.Name
}

// entry is what the page says of a reason.
type entry struct{ section, cause, remedy string }

var (
	row  = regexp.MustCompile(`^\| (.+?) \| (.+?) \| (.+?) \|$`)
	word = regexp.MustCompile("`([A-Z][A-Za-z]+)`")
)

// entries reads the page: a heading with two paragraphs, or a row of a table.
func entries(t *testing.T) map[string][]entry {
	t.Helper()
	data, err := os.ReadFile(page)
	require.NoError(t, err)
	out := map[string][]entry{}
	section, reason := "", ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\n")
		if s, ok := strings.CutPrefix(line, "## "); ok {
			section, reason = s, ""
		}
		if s, ok := strings.CutPrefix(line, "### "); ok {
			reason = s
			out[reason] = append(out[reason], entry{section: section})
		}
		if s, ok := strings.CutPrefix(line, "**Cause.** "); ok && reason != "" {
			out[reason][len(out[reason])-1].cause = s
		}
		if s, ok := strings.CutPrefix(line, "**Remedy.** "); ok && reason != "" {
			out[reason][len(out[reason])-1].remedy = s
		}
		if cells := row.FindStringSubmatch(line); cells != nil {
			for _, name := range word.FindAllStringSubmatch(cells[1], -1) {
				out[name[1]] = append(out[name[1]], entry{section, cells[2], cells[3]})
			}
		}
	}
	return out
}

// TestEachReasonHasARemedy: what a status, a condition, an event or an image may
// give as a reason has its cause and remedy on the page.
func TestEachReasonHasARemedy(t *testing.T) {
	found := entries(t)
	nodes := constants(t, "pkg/spec", func(_, kind string) bool { return kind == "Reason" })
	isReason := regexp.MustCompile(`^[rR]eason[A-Z]`)
	others := constants(t, "pkg/watcher", func(name, _ string) bool { return isReason.MatchString(name) })
	maps.Copy(others, constants(t, "pkg/build", func(name, _ string) bool { return isReason.MatchString(name) }))
	for _, reason := range slices.Sorted(maps.Keys(nodes)) {
		assert.True(t, slices.ContainsFunc(found[reason], func(e entry) bool {
			return e.section == onNodes && len(e.cause) > 20 && len(e.remedy) > 20
		}), "docs/%s has no cause and remedy of %s among %q", page, reason, onNodes)
	}
	for _, reason := range slices.Sorted(maps.Keys(others)) {
		assert.True(t, slices.ContainsFunc(found[reason], func(e entry) bool {
			return e.section != onNodes && e.cause != "" && e.remedy != ""
		}), "docs/%s has no row with cause and remedy of %s, which pkg/watcher or pkg/build gives", page, reason)
	}
	for reason, list := range found {
		for _, e := range list {
			assert.False(t, e.section == onNodes && !nodes[reason], "docs/%s: there is no reason %s any more", page, reason)
		}
	}
}
