// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"maps"
	"slices"
)

// listKinds are the kinds of documents that hold Modules, and their apiVersion: what `kubectl get -o yaml` writes of
// several objects, and what an API server does.
var listKinds = map[string]string{"List": "v1", Kind + "List": APIVersion}

// listFields are those of a list, beside its items; metadata has nothing that counts.
var listFields = []string{"apiVersion", "kind", "metadata", "items"}

// takeApart puts the items of lists with Modules in the place of the lists. The errors are *Problem.
func takeApart(file string, docs []document) (all []document, errs []error) {
	for i := range docs {
		items, f, isList := docs[i].listed()
		if !isList {
			all = append(all, docs[i])
			continue
		}
		all, errs = append(all, items...), append(errs, docs[i].problems(file, f)...)
	}
	return all, errs
}

// listed are the documents in a list with Modules, and what is wrong with the list itself; isList is false for any
// other document.
func (d *document) listed() (docs []document, f findings, isList bool) {
	kind := listKind(d.kind())
	items, _ := d.values["items"].([]any)
	if kind == "" || !slices.ContainsFunc(items, func(item any) bool { return d.meansModule(kind, item) }) {
		return nil, nil, false
	}
	if d.kind() != kind {
		f.add("kind", "%q: did you mean %q?", d.kind(), kind)
	}
	if v := d.values["apiVersion"]; v != listKinds[kind] {
		f.add("apiVersion", "of a %s must be %q, is %s", kind, listKinds[kind], value(v))
	}
	for _, field := range slices.Sorted(maps.Keys(d.values)) {
		if !slices.Contains(listFields, field) {
			f.add(field, "unknown field")
		}
	}
	for i, item := range items {
		in := document{lines: d.lines, line: d.line, within: fmt.Sprintf("items[%d]", i)}
		values, ok := item.(map[string]any)
		if !ok {
			f.add(in.within, "must be a table of fields, is %s", value(item))
			continue
		}
		in.values = values
		if kind != "List" {
			in.typed()
		}
		docs = append(docs, in)
	}
	return docs, f, true
}

// meansModule tells whether an item of a list is a Module, or that misspelt.
func (d *document) meansModule(kind string, item any) bool {
	values, ok := item.(map[string]any)
	in := document{values: values}
	return ok && (in.kind() == "" && kind != "List" || in.kind() != "" && meansModule(in.kind()))
}

// typed gives an item of a ModuleList what it need not say itself.
func (d *document) typed() {
	for field, is := range map[string]string{"kind": Kind, "apiVersion": APIVersion} {
		if d.values[field] == nil {
			d.values[field] = is
		}
	}
}

// listKind is the kind of list that is meant, "" for what is none.
func listKind(kind string) string {
	for of, slips := range map[string]int{"List": 1, Kind + "List": 2} {
		if near(kind, of, slips) {
			return of
		}
	}
	return ""
}
