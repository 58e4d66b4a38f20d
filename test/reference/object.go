// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/test/reference/markdown"
)

// object writes the fields of an object of the cluster's API: a table for each Go
// type below the first one. The types give the order and the names, the schema what
// is said and checked.
type object struct {
	page   *page
	source *Source // of the package of the types
	// elsewhere has the link to where a type is told of, unless it is on this page.
	elsewhere map[reflect.Type]string
	// markHead is above a column of its own, in which mark gives what stands for a
	// field; nil is none.
	markHead string
	mark     func(path string) (string, error)

	level  int    // of headings; 0 is 2
	before string // in front of headings, so that no two on a page are the same

	paths map[reflect.Type][]string // where each type stands
	done  map[reflect.Type]bool
}

// field is one of a struct, with those of structs embedded in it.
type field struct {
	name, goName string
	typ          reflect.Type
}

func fieldsOf(t reflect.Type) []field {
	var out []field
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case name == "" && (f.Anonymous || options == "inline"):
			out = append(out, fieldsOf(f.Type)...)
		default:
			out = append(out, field{name, f.Name, f.Type})
		}
	}
	return out
}

// inner is the struct of our own that a type is made of: nil when there is none, as
// of a text, or of something of Kubernetes.
func inner(t reflect.Type) reflect.Type {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return inner(t.Elem())
	case reflect.Struct:
		if strings.HasPrefix(t.PkgPath(), module) {
			return t
		}
	}
	return nil
}

// kind is a type in words.
func kind(t reflect.Type) string {
	if t.PkgPath() != "" && !strings.HasPrefix(t.PkgPath(), module) {
		return foreign(t)
	}
	switch t.Kind() {
	case reflect.Pointer:
		return kind(t.Elem())
	case reflect.Slice:
		return "list of " + plural(kind(t.Elem()))
	case reflect.Map:
		return "map of " + plural(kind(t.Elem()))
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "integer"
	case reflect.String:
		return "string"
	case reflect.Struct:
		return "object"
	}
	return t.String()
}

// foreign is a type of Kubernetes: it is told of in Kubernetes' own reference.
func foreign(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.String:
		return "string"
	case t.Name() == "Time":
		return "time"
	case t.Name() == "IntOrString":
		return "integer or string"
	}
	group := path.Join(path.Base(path.Dir(t.PkgPath())), path.Base(t.PkgPath())) // core/v1
	return fmt.Sprintf("`%s` of %s", t.Name(), strings.Replace(group, "apis/v1", "meta/v1", 1))
}

func plural(s string) string {
	if strings.HasPrefix(s, "`") {
		return s
	}
	return s + "s"
}

// write tells of the type at a path, and of those below it.
func (o *object) write(at string, t reflect.Type, s *Schema) error {
	o.collect(at, t)
	return o.section(at, t, s)
}

// collect notes at which paths each type stands, the shortest first.
func (o *object) collect(at string, t reflect.Type) {
	if o.paths == nil {
		o.paths, o.done = map[reflect.Type][]string{}, map[reflect.Type]bool{}
	}
	type place struct {
		path string
		t    reflect.Type
	}
	for next := []place{{at, t}}; len(next) > 0; next = next[1:] {
		here := next[0]
		o.paths[here.t] = append(o.paths[here.t], here.path)
		if len(o.paths[here.t]) > 1 {
			continue
		}
		for _, f := range fieldsOf(here.t) {
			if in := inner(f.typ); in != nil && o.elsewhere[in] == "" {
				next = append(next, place{join(here.path, f), in})
			}
		}
	}
}

func join(at string, f field) string {
	at += "." + f.name
	if f.typ.Kind() == reflect.Slice {
		at += "[]"
	}
	return strings.TrimPrefix(at, ".")
}

func (o *object) section(at string, t reflect.Type, s *Schema) error {
	o.done[t] = true
	o.page.heading(max(o.level, 2), "%s", o.title(t))
	o.page.paragraph(meaning(Constant{Name: t.Name(), Doc: o.source.Doc(t.Name())}))
	if more := o.paths[t][1:]; len(more) > 0 {
		o.page.paragraph("The same at " + codes(more) + ".")
	}
	var rows [][]string
	var below []func() error
	for _, f := range fieldsOf(t) {
		fs := s.Properties[f.name]
		if fs == nil {
			return fmt.Errorf("%s.%s is not in the CustomResourceDefinition: make gen", at, f.name)
		}
		row, err := o.row(at, f, fs, slices.Contains(s.Required, f.name))
		if err != nil {
			return err
		}
		rows = append(rows, row)
		if in := inner(f.typ); in != nil && o.elsewhere[in] == "" && !o.done[in] {
			o.done[in] = true
			below = append(below, func() error { return o.section(join(at, f), in, elements(fs)) })
		}
	}
	o.page.table([]string{"field", "type", o.markHead, ""}, rows)
	if messages := s.messages(); len(messages) > 0 {
		o.page.paragraph("Beside what stands with each field, the API server refuses with:")
		o.page.paragraph("- " + strings.Join(messages, "\n- "))
	}
	for _, f := range below {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// title is where a type stands first.
func (o *object) title(t reflect.Type) string { return o.before + o.paths[t][0] }

// elements is the schema of an object's, or of a list's elements.
func elements(s *Schema) *Schema {
	if s.Items != nil {
		return s.Items
	}
	return s
}

func (o *object) row(at string, f field, s *Schema, required bool) ([]string, error) {
	in := inner(f.typ)
	if s.Description == "" {
		return nil, fmt.Errorf("%s.%s has no comment: it is what users read", at, f.name)
	}
	says := []string{named(s.Description, f.goName, f.name)}
	if required {
		says = append(says, "Required.")
	}
	if s.Default != nil {
		says = append(says, fmt.Sprintf("Default %s.", code(fmt.Sprint(s.Default))))
	}
	says = append(says, s.conditions(in != nil && f.typ.Kind() != reflect.Slice)...)
	what := kind(f.typ)
	if in != nil {
		link := o.elsewhere[in]
		if link == "" {
			link = "#" + markdown.Anchor(o.title(in))
		}
		what = fmt.Sprintf("[%s](%s)", what, link)
	}
	mark := ""
	if o.mark != nil {
		var err error
		if mark, err = o.mark(join(at, f)); err != nil {
			return nil, err
		}
	}
	return []string{code(f.name), what, mark, strings.TrimSpace(strings.Join(says, " "))}, nil
}
