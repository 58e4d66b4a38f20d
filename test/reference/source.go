// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// module is the path of the repository's Go module.
const module = "github.com/kmm-node/kmmd/"

// Code reads packages of the repository.
type Code struct {
	root string
	read map[string]*Source
}

// NewCode is for the repository whose root is this directory.
func NewCode(root string) *Code { return &Code{root: root, read: map[string]*Source{}} }

// Source is what the files of a package say, tests and generated files apart.
type Source struct {
	// Constants with a text or a number, in the order of the files and of their lines.
	Constants []Constant
	docs      map[string]string // of types and functions by name, of fields by Type.Field
	functions []string
	pkg       *types.Package
}

// Constant is one of a package.
type Constant struct {
	Name, Type string // Type is "" of an untyped one
	Value      string // a text without quotes
	Doc        string // its own comment
	Group      string // the comment of the declaration that it stands in
}

// Package reads the package in a directory, such as "pkg/spec". It is type-checked
// only as far as constants need that.
func (c *Code) Package(dir string) (*Source, error) {
	if s := c.read[dir]; s != nil {
		return s, nil
	}
	fset := token.NewFileSet()
	files, err := parse(fset, filepath.Join(c.root, dir))
	if err != nil {
		return nil, fmt.Errorf("read package %s: %w", dir, err)
	}
	info := &types.Info{Defs: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: c, IgnoreFuncBodies: true, Error: func(error) {}}
	s := &Source{docs: map[string]string{}}
	// What is wrong is what other modules declare, which are not read.
	s.pkg, _ = config.Check(module+dir, fset, files, info)
	for _, f := range files {
		for _, d := range f.Decls {
			s.declaration(d, info)
		}
	}
	c.read[dir] = s
	return s, nil
}

// Import implements types.Importer, for packages of the repository.
func (c *Code) Import(path string) (*types.Package, error) {
	dir, ours := strings.CutPrefix(path, module)
	if !ours {
		return nil, fmt.Errorf("import %s: it is not needed for constants", path)
	}
	s, err := c.Package(dir)
	if err != nil {
		return nil, err
	}
	return s.pkg, nil
}

func parse(fset *token.FileSet, dir string) ([]*ast.File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	for _, e := range entries {
		if skipped(e) {
			continue
		}
		f, err := parser.ParseFile(fset, filepath.Join(dir, e.Name()), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: %w", dir, fs.ErrNotExist)
	}
	return files, nil
}

func skipped(e fs.DirEntry) bool {
	return e.IsDir() || !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") || strings.HasPrefix(e.Name(), "zz_generated")
}

func (s *Source) declaration(d ast.Decl, info *types.Info) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			s.docs[d.Name.Name] = text(d.Doc)
			s.functions = append(s.functions, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				s.docs[spec.Name.Name] = cmp.Or(text(spec.Doc), text(d.Doc))
				s.fields(spec)
			case *ast.ValueSpec:
				if d.Tok == token.CONST {
					s.constants(d, spec, info)
				}
			}
		}
	}
}

func (s *Source) fields(spec *ast.TypeSpec) {
	of, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range of.Fields.List {
		for _, name := range f.Names {
			s.docs[spec.Name.Name+"."+name.Name] = cmp.Or(text(f.Doc), text(f.Comment))
		}
	}
}

func (s *Source) constants(d *ast.GenDecl, spec *ast.ValueSpec, info *types.Info) {
	for _, name := range spec.Names {
		object, ok := info.Defs[name].(*types.Const)
		if !ok {
			continue
		}
		c := Constant{Name: name.Name, Doc: cmp.Or(text(spec.Doc), text(spec.Comment)), Group: text(d.Doc)}
		if !d.Lparen.IsValid() { // it stands alone: what is above it is its own
			c.Doc, c.Group = cmp.Or(c.Group, c.Doc), ""
		}
		if named, ok := object.Type().(*types.Named); ok {
			c.Type = named.Obj().Name()
		}
		switch v := object.Val(); v.Kind() {
		case constant.String:
			c.Value = constant.StringVal(v)
		case constant.Int:
			c.Value = v.ExactString()
		default:
			continue
		}
		s.Constants = append(s.Constants, c)
	}
}

// Doc is the comment of a type or function, or, by Type.Field, of a field.
func (s *Source) Doc(name string) string { return s.docs[name] }

// text is a comment without its marks and without lines for tools.
func text(g *ast.CommentGroup) string {
	if g == nil {
		return ""
	}
	var lines []string
	for line := range strings.Lines(g.Text()) { // directives such as //nolint are left out by Text
		if !strings.HasPrefix(line, "+") {
			lines = append(lines, line)
		}
	}
	return strings.TrimSpace(strings.Join(lines, ""))
}
