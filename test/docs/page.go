// SPDX-License-Identifier: Apache-2.0

// Package docs reads the commands out of the pages of the repository, for the labs
// that run them. Each block of commands names its lab behind the language:
//
//	```sh node          commands, as they are typed
//	```console node     commands after "$ ", each with what it prints
//	```yaml node:/PATH  a file that the lab writes before it goes on
//
// labs.go has the labs. Tests only.
package docs

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
)

// Page is a Markdown file of the repository.
type Page struct {
	Path   string // from the root of the repository on
	Blocks []Block
	Spans  []Span
}

// Block is what stands between two fences, or is indented by four spaces.
type Block struct {
	Page     string
	Line     int    // of its first line, from 1 on
	Language string // empty: none is given
	Lab      string // that runs it, or gets the file
	File     string // where the lab writes it; empty for commands
	Text     string
}

// Span is code within a line.
type Span struct {
	Page string
	Line int
	Text string
}

// Read reads one page; path is from the root of the repository on, which root leads
// to.
func Read(root, path string) (*Page, error) {
	source, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return nil, fmt.Errorf("read page: %w", err)
	}
	p := &Page{Path: path}
	document := goldmark.New(goldmark.WithExtensions(extension.Table)).Parser().Parse(text.NewReader(source))
	err = ast.Walk(document, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if entering {
			p.add(source, n)
		}
		return ast.WalkContinue, nil
	})
	return p, err
}

func (p *Page) add(source []byte, n ast.Node) {
	switch n := n.(type) {
	case *ast.FencedCodeBlock:
		b := Block{Page: p.Path, Text: string(n.Lines().Value(source))}
		if n.Lines().Len() > 0 {
			b.Line = lineOf(source, n.Lines().At(0).Start)
		}
		if n.Info != nil {
			language, lab, _ := strings.Cut(string(n.Info.Value(source)), " ")
			b.Language = language
			b.Lab, b.File, _ = strings.Cut(lab, ":")
		}
		p.Blocks = append(p.Blocks, b)
	case *ast.CodeBlock:
		p.Blocks = append(p.Blocks, Block{Page: p.Path, Line: lineOf(source, n.Lines().At(0).Start), Text: string(n.Lines().Value(source))})
	case *ast.CodeSpan:
		s := Span{Page: p.Path}
		for child := n.FirstChild(); child != nil; child = child.NextSibling() {
			if t, ok := child.(*ast.Text); ok {
				if s.Line == 0 {
					s.Line = lineOf(source, t.Segment.Start)
				}
				s.Text += string(t.Segment.Value(source))
			}
		}
		s.Text = strings.Join(strings.Fields(s.Text), " ")
		p.Spans = append(p.Spans, s)
	}
}

func lineOf(source []byte, offset int) int { return 1 + bytes.Count(source[:offset], []byte("\n")) }

// All reads all pages, in the order of their paths. What is not of the repository
// is left out: hidden directories, and what `make` writes.
func All(root string) ([]*Page, error) {
	var pages []*Page
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if path != root && (strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"bin", "dist", "testdata"}, d.Name())) {
				return fs.SkipDir
			}
			return nil
		case filepath.Ext(path) != ".md":
			return nil
		}
		path, err = filepath.Rel(root, path)
		if err != nil {
			return err
		}
		p, err := Read(root, path)
		pages = append(pages, p)
		return err
	})
	return pages, err
}
