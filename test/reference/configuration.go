// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Table is a table of a TOML file: what a struct with toml tags says.
type Table struct {
	Name string // "" is the file itself
	Doc  string // the comment of the type
	Keys []Key
}

// Key is one of a table.
type Key struct {
	Name, Kind, Doc string
	Default         string // as TOML has it
}

// Tables are those of a configuration, whose default value is given: a struct
// of a package that source has read.
func Tables(source *Source, defaults any) ([]Table, error) {
	return tables(source, "", reflect.ValueOf(defaults))
}

func tables(source *Source, name string, v reflect.Value) ([]Table, error) {
	t := Table{Name: name, Doc: source.Doc(v.Type().Name())}
	var inner []Table
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		key, _, _ := strings.Cut(field.Tag.Get("toml"), ",")
		if key == "" {
			return nil, fmt.Errorf("%s.%s has no toml tag", v.Type(), field.Name)
		}
		if _, leaf := value.Interface().(encoding.TextMarshaler); !leaf && value.Kind() == reflect.Struct {
			more, err := tables(source, strings.TrimPrefix(name+"."+key, "."), value)
			if err != nil {
				return nil, err
			}
			inner = append(inner, more...)
			continue
		}
		k := Key{Name: key, Doc: source.Doc(v.Type().Name() + "." + field.Name)}
		if k.Doc == "" {
			return nil, fmt.Errorf("%s.%s has no comment: it is what users read of %s", v.Type(), field.Name, key)
		}
		var err error
		if k.Kind, k.Default, err = tomlValue(value); err != nil {
			return nil, fmt.Errorf("%s.%s: %w", v.Type(), field.Name, err)
		}
		t.Keys = append(t.Keys, k)
	}
	return append([]Table{t}, inner...), nil
}

// tomlValue gives the kind of a value in words, and the value as TOML has it.
func tomlValue(v reflect.Value) (kind, value string, err error) {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		b, err := m.MarshalText()
		return v.Type().Name(), strconv.Quote(string(b)), err
	}
	switch v.Kind() {
	case reflect.String:
		return "string", strconv.Quote(v.String()), nil
	case reflect.Bool:
		return "boolean", strconv.FormatBool(v.Bool()), nil
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.String {
			break
		}
		var words []string
		for i := range v.Len() {
			words = append(words, strconv.Quote(v.Index(i).String()))
		}
		return "list of strings", "[" + strings.Join(words, ", ") + "]", nil
	}
	return "", "", fmt.Errorf("%s: this kind of value has no form in the reference yet", v.Type())
}

// Configuration is docs/reference/configuration.md.
func Configuration(list []Table) string {
	p := newPage("kmmd.toml", "cmd/kmmd/config.go")
	p.paragraph("`/etc/kmmd/kmmd.toml`, or `--config FILE`. It is read when kmmd starts: after a change restart the unit, or the pods " +
		"(`kubectl -n kmm-system rollout restart daemonset/kmmd`; the chart does it by itself). Every key may be left out; an unknown key is an error. A duration is `30s`, `5m` or " +
		"`1h30m`, a size `512MiB` or `2GiB`; without a unit either is an error. What goes together with what: [configuration.md](../configuration.md).")
	for _, t := range list {
		if t.Name != "" {
			p.heading(2, "[%s]", t.Name)
			p.paragraph(prose(t.Doc))
		} else {
			p.heading(2, "Above the tables")
		}
		var rows [][]string
		for _, k := range t.Keys {
			rows = append(rows, []string{code(k.Name), k.Kind, code(k.Default), prose(k.Doc)})
		}
		p.table([]string{"key", "value", "default", ""}, rows)
	}
	return p.String()
}

// lineWidth is how long a line of a comment may be.
const lineWidth = 100

// ConfigurationFile is the configuration file that the packages install: each key
// with its default, commented out. head is what it begins with.
func ConfigurationFile(head string, list []Table) string {
	var out strings.Builder
	comment := func(text string) {
		for _, line := range wrap(strings.ReplaceAll(text, "`", ""), lineWidth-2) {
			fmt.Fprintf(&out, "# %s\n", line)
		}
	}
	comment("Made of cmd/kmmd/config.go by make gen.")
	comment(head)
	for _, t := range list {
		if t.Name != "" {
			out.WriteString("\n")
			comment(t.Doc)
			fmt.Fprintf(&out, "[%s]\n", t.Name)
		}
		for _, k := range t.Keys {
			out.WriteString("\n")
			comment(k.Doc)
			fmt.Fprintf(&out, "#%s = %s\n", k.Name, k.Default)
		}
	}
	return out.String()
}

// wrap breaks a text into lines of at most width characters, as far as its words
// let it.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
