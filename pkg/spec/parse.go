// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"sort"
	"strings"

	"github.com/go-viper/mapstructure/v2"
)

// MaxDocumentSize bounds a document file, in bytes.
const MaxDocumentSize = 1 << 20

// document is one Module as parsed from either notation: its values, and the
// line on which each field path stands.
type document struct {
	values map[string]any
	lines  map[string]int // of the file's document
	line   int            // where that begins
	within string         // the item of a list that it is: items[2]
}

func (d *document) kind() string {
	kind, _ := d.values["kind"].(string)
	return kind
}

// path is that of a field, or of the document, in the file's document.
func (d *document) path(field string) string {
	if d.within == "" || field == "" {
		return d.within + field
	}
	return d.within + "." + field
}

// at is the line of the field, or of the nearest field around it that has one.
func (d *document) at(field string) int {
	for f := d.path(field); f != ""; {
		if line, ok := d.lines[f]; ok {
			return line
		}
		cut := strings.LastIndexAny(f, ".[")
		if cut < 0 {
			break
		}
		f = f[:cut]
	}
	return d.line
}

// Parse reads every Module of a file, .toml by its name, YAML otherwise (one
// or more documents). Items of a List or a ModuleList are documents too. Those of
// other kinds are left alone, and named in ignored; a misspelt Module is none of
// them, and a List without Modules is named as one. Every problem found is in the
// error, joined: *Problem with file, line and field; all wrap ErrInvalid. A file
// with any problem gives no Module at all: a half-understood file is not obeyed.
func Parse(file string, data []byte) (modules []Module, ignored []string, err error) {
	if len(data) > MaxDocumentSize {
		return nil, nil, &Problem{File: file, Message: fmt.Sprintf("has %d bytes, more than the %d a document may have", len(data), MaxDocumentSize)}
	}
	read := parseYAML
	if strings.EqualFold(filepath.Ext(file), ".toml") {
		read = parseTOML
	}
	docs, err := read(file, data)
	if err != nil {
		return nil, nil, err
	}
	docs, errs := takeApart(file, docs)
	for i := range docs {
		d := &docs[i]
		if kind := d.kind(); kind != "" && !meansModule(kind) {
			ignored = append(ignored, fmt.Sprintf("%s:%d: a %.63s, not a Module: ignored", file, d.at(""), kind))
			continue
		}
		m, problems := d.module(file)
		if len(problems) > 0 {
			errs = append(errs, problems...)
			continue
		}
		modules = append(modules, *m)
	}
	if len(errs) > 0 {
		return nil, ignored, errors.Join(errs...)
	}
	return modules, ignored, nil
}

// meansModule tells whether a kind is Module, or that misspelt: passed over, what runs
// for the document would be unloaded.
func meansModule(kind string) bool { return near(kind, Kind, 2) }

// ParseJSON reads one Module in JSON, such as one out of a cluster. origin
// stands for the file in messages. Errors are as of Parse.
func ParseJSON(origin string, data []byte) (*Module, error) {
	if len(data) > MaxDocumentSize {
		return nil, &Problem{File: origin, Message: fmt.Sprintf("has %d bytes, more than the %d a document may have", len(data), MaxDocumentSize)}
	}
	var d document
	if err := json.Unmarshal(data, &d.values); err != nil {
		return nil, &Problem{File: origin, Message: err.Error()}
	}
	m, problems := d.module(origin)
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	m.File = ""
	return m, nil
}

func (d *document) module(file string) (*Module, []error) {
	var m Module
	var meta mapstructure.Metadata
	dec, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result: &m, Metadata: &meta, TagName: "json",
		MatchName: func(key, field string) bool { return key == field },
	})
	if err != nil {
		return nil, []error{fmt.Errorf("decode %s: %w", file, err)}
	}
	var f findings
	if err := dec.Decode(d.values); err != nil {
		f = typeFindings(err)
	}
	sort.Strings(meta.Unused)
	for _, field := range meta.Unused {
		f.add(field, "unknown field%s", suggest(field))
	}
	switch m.Kind {
	case Kind:
	case "":
		f.add("kind", `is missing: a document here is a %q`, Kind)
	default:
		f.add("kind", "%q: did you mean %q?", m.Kind, Kind)
	}
	if m.Metadata.Namespace == "" {
		m.Metadata.Namespace = DefaultNamespace
	}
	if len(f) == 0 {
		f = m.validate()
	}
	if len(f) > 0 {
		return nil, d.problems(file, f)
	}
	m.File = file
	for _, w := range d.problems(file, m.lint()) {
		m.Warnings = append(m.Warnings, w.Error())
	}
	return &m, nil
}

// problems gives findings their place.
func (d *document) problems(file string, f findings) []error {
	var errs []error
	for _, p := range f {
		errs = append(errs, &Problem{File: file, Line: d.at(p.field), Field: d.path(p.field), Message: p.message})
	}
	return errs
}

// typeFindings turns the decoder's errors (a tree of joined ones) into
// findings in the user's words.
func typeFindings(err error) findings {
	var f findings
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, e := range joined.Unwrap() {
			f = append(f, typeFindings(e)...)
		}
		return f
	}
	var de *mapstructure.DecodeError
	if !errors.As(err, &de) {
		f.add("", "%v", err)
		return f
	}
	var ut *mapstructure.UnconvertibleTypeError
	if errors.As(err, &ut) {
		f.add(de.Name(), "must be %s, is %s", human(ut.Expected.Type()), value(ut.Value))
		return f
	}
	f.add(de.Name(), "%s", inTheirWords.Replace(de.Unwrap().Error()))
	return f
}

// inTheirWords are the decoder's remaining messages, without Go's types.
var inTheirWords = strings.NewReplacer(
	"source data must be an array or slice, got string", "must be a list, is a string",
	"source data must be an array or slice, got ", "must be a list, is a ",
	"expected a map or struct, got \"", "must be a table of fields, is a \"",
	"expected a map, got '", "must be a table of fields, is a '",
)

func human(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct, reflect.Pointer:
		return "a table of fields"
	}
	return t.String()
}

func value(v any) string {
	switch v.(type) {
	case nil:
		return "empty"
	case map[string]any:
		return "a table of fields"
	case []any:
		return "a list"
	case string:
		return fmt.Sprintf("the string %q", v)
	}
	return fmt.Sprintf("%v (put it in quotes if a string is meant)", v)
}

// suggest looks for the field that was probably meant, or where it belongs.
func suggest(field string) string {
	given := field[strings.LastIndexAny(field, ".")+1:]
	name := strings.ToLower(given)
	best, bestDistance := "", 3
	for _, of := range []struct {
		where string
		t     any
	}{
		{"the document", Module{}}, {"metadata", Metadata{}}, {"spec", ModuleSpec{}}, {"moduleLoader", ModuleLoader{}},
		{"container", Container{}}, {"modprobe", Modprobe{}}, {"kernelMappings[]", KernelMapping{}}, {"modprobe.args", Args{}},
		{"registryTLS", RegistryTLS{}}, {"build", Build{}}, {"sign", Sign{}},
	} {
		rt := reflect.TypeOf(of.t)
		for i := range rt.NumField() {
			tag, _, _ := strings.Cut(rt.Field(i).Tag.Get("json"), ",")
			if tag == "-" || tag == "" {
				continue
			}
			if tag == given {
				return fmt.Sprintf("; it is a field of %s: move it there", of.where)
			}
			if d := distance(name, strings.ToLower(tag)); d < bestDistance {
				best, bestDistance = tag, d
			}
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// near tells whether a word is another one but for its case and some slips.
func near(word, other string, slips int) bool {
	return len(word) <= 4*(len(other)+slips) && distance(strings.ToLower(word), strings.ToLower(other)) <= slips
}

// distance is the Levenshtein distance of two short words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
