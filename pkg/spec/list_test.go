// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: dockerfile}\ndata: {dockerfile: FROM scratch}\n"

// fromServer is goodYAML as an API server gives it.
var fromServer = strings.Replace(goodYAML, "  namespace: ns\n", `  namespace: ns
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {"apiVersion":"kmm.sigs.x-k8s.io/v1beta1","kind":"Module"}
  creationTimestamp: "2026-01-02T03:04:05Z"
  finalizers: [kmm.node.kubernetes.io/module-finalizer]
  generation: 1
  managedFields:
  - apiVersion: kmm.sigs.x-k8s.io/v1beta1
    fieldsType: FieldsV1
    fieldsV1: {'f:spec': {.: {}, 'f:moduleLoader': {.: {}}}}
    manager: kubectl
  resourceVersion: "42"
  uid: 5f0c9e52-0000-4000-8000-000000000001
`, 1) + "status:\n  conditions: [{type: Ready, status: \"True\"}]\n  moduleLoader: {desiredNumber: 1}\n"

// second is goodYAML under another name.
var second = strings.Replace(goodYAML, "name: good", "name: second", 1)

// listOf is what kubectl writes of several objects.
func listOf(head string, items ...string) string {
	for _, item := range items {
		head += "- " + strings.TrimSpace(strings.ReplaceAll(item, "\n", "\n  ")) + "\n"
	}
	return head
}

const (
	listHead       = "apiVersion: v1\nitems:\n"
	listTail       = "kind: List\nmetadata: {resourceVersion: \"\"}\n"
	moduleListHead = "apiVersion: kmm.sigs.x-k8s.io/v1beta1\nkind: ModuleList\nmetadata: {continue: \"\", resourceVersion: \"42\"}\nitems:\n"
)

// TestLists: the Modules of a list are what they are in documents of their own.
func TestLists(t *testing.T) {
	want, _, err := Parse("a.yaml", []byte(fromServer+"---\n"+second))
	require.NoError(t, err)
	require.Len(t, want, 2)
	untyped := func(item string) string {
		return strings.TrimPrefix(item, "apiVersion: kmm.sigs.x-k8s.io/v1beta1\nkind: Module\n")
	}
	for name, text := range map[string]string{
		"of kubectl":        listOf(listHead, fromServer, second) + listTail,
		"of the API server": listOf(moduleListHead, fromServer, second),
		"of a client":       listOf(moduleListHead, untyped(fromServer), untyped(second)),
		"one each":          listOf(listHead, fromServer) + listTail + "---\n" + listOf(moduleListHead, second),
		"and a document":    listOf(listHead, fromServer) + listTail + "---\n" + second,
	} {
		t.Run(name, func(t *testing.T) {
			got, ignored, err := Parse("a.yaml", []byte(text))
			require.NoError(t, err)
			assert.Empty(t, ignored)
			assert.Equal(t, want, got)
		})
	}
	t.Run("in JSON", func(t *testing.T) {
		text, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": want})
		require.NoError(t, err)
		got, ignored, err := Parse("a.yaml", text)
		require.NoError(t, err)
		assert.Empty(t, ignored)
		assert.Len(t, got, 2)
	})
	t.Run("in TOML", func(t *testing.T) {
		item := strings.NewReplacer("[[spec", "[[items.spec", "[spec", "[items.spec", "[metadata", "[items.metadata").Replace("[[items]]\n" + goodTOML)
		got, ignored, err := Parse("a.toml", []byte("apiVersion = \"v1\"\nkind = \"List\"\n"+item+strings.Replace(item, `"good"`, `"second"`, 1)))
		require.NoError(t, err)
		assert.Empty(t, ignored)
		require.Len(t, got, 2)
		alone, _, err := Parse("a.toml", []byte(goodTOML))
		require.NoError(t, err)
		assert.Equal(t, alone[0], got[0])
		assert.Equal(t, "ns/second", got[1].Key())
		_, _, err = Parse("a.toml", []byte("apiVersion = \"v1\"\nkind = \"List\"\n"+item+strings.Replace(item, `"^.+$"`, `"^(.+$"`, 1)+"paramters = 1\n"))
		require.ErrorIs(t, err, ErrInvalid)
		assert.Contains(t, err.Error(), "a.toml:43: items[1].spec.moduleLoader.container.kernelMappings[1].paramters: unknown field")
	})
}

// TestListWarnings have their place in the file.
func TestListWarnings(t *testing.T) {
	modules, _, err := Parse("a.yaml", []byte(listOf(listHead, goodYAML, strings.Replace(second, "literal: 6.1.0", "literal: 6.1.0+", 1))+listTail))
	require.NoError(t, err)
	require.Len(t, modules, 2)
	assert.Empty(t, modules[0].Warnings)
	require.Len(t, modules[1].Warnings, 1)
	assert.Contains(t, modules[1].Warnings[0], "a.yaml:38: items[1].spec.moduleLoader.container.kernelMappings[0].literal: ")
}

// TestListProblems: one item that is not understood, and no Module of the file is obeyed.
func TestListProblems(t *testing.T) {
	of := func(item string) string { return listOf(listHead, goodYAML, configMap, item) + listTail }
	for _, tt := range []struct{ name, text, want string }{
		{"unknown field", of(strings.Replace(second, "moduleName: dummy", "moduleName: dummy\n        paramters: [a]", 1)),
			`a.yaml:37: items[2].spec.moduleLoader.container.modprobe.paramters: unknown field; did you mean "parameters"?`},
		{"wrong type", of(strings.Replace(second, "[numdummies=2]", "numdummies=2", 1)), "a.yaml:37: items[2].spec.moduleLoader.container.modprobe.parameters: must be a list"},
		{"bad name", of(strings.Replace(second, "name: second", "name: Second", 1)), `a.yaml:30: items[2].metadata.name: "Second": lower-case letters`},
		{"misspelt item", of(strings.Replace(second, "kind: Module", "kind: module", 1)), `a.yaml:28: items[2].kind: "module": did you mean "Module"?`},
		{"item without kind", of(strings.Replace(second, "kind: Module\n", "", 1)), "a.yaml:27: items[2].kind: is missing"},
		{"item of another version", of(strings.Replace(second, "v1beta1", "v2", 1)), `a.yaml:27: items[2].apiVersion: "kmm.sigs.x-k8s.io/v2" is not understood`},
		{"item that is a word", of("x"), `a.yaml:27: items[2]: must be a table of fields, is the string "x"`},
		{"item that is nothing", of("null"), "a.yaml:27: items[2]: must be a table of fields, is empty"},
		{"list of another version", strings.Replace(of(second), "apiVersion: v1\n", "apiVersion: v2\n", 1), `a.yaml:1: apiVersion: of a List must be "v1", is the string "v2"`},
		{"list of no version", strings.Replace(of(second), "apiVersion: v1\n", "", 1), `a.yaml:1: apiVersion: of a List must be "v1", is empty`},
		{"ModuleList of the other version", listOf(strings.Replace(moduleListHead, APIVersion, "v1", 1), goodYAML),
			`a.yaml:1: apiVersion: of a ModuleList must be "kmm.sigs.x-k8s.io/v1beta1", is the string "v1"`},
		{"misspelt list", strings.Replace(of(second), "kind: List", "kind: list", 1), `a.yaml:47: kind: "list": did you mean "List"?`},
		{"misspelt ModuleList", listOf(strings.Replace(moduleListHead, "ModuleList", "Modulelist", 1), goodYAML), `a.yaml:2: kind: "Modulelist": did you mean "ModuleList"?`},
		{"field beside the items", of(second) + "item: {}\n", "a.yaml:49: item: unknown field"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			modules, _, err := Parse("a.yaml", []byte(tt.text))
			require.ErrorIs(t, err, ErrInvalid)
			assert.Empty(t, modules)
			assert.Contains(t, err.Error(), tt.want)
		})
	}
}

// TestListsOfOthers are left alone as any other document.
func TestListsOfOthers(t *testing.T) {
	const aList = "a.yaml:1: a List, not a Module: ignored"
	for _, tt := range []struct {
		name, text string
		modules    int
		ignored    []string
	}{
		{"others", listOf(listHead, configMap, configMap) + listTail, 0, []string{aList}},
		{"others beside a Module", listOf(listHead, configMap, goodYAML) + listTail, 1, []string{"a.yaml:3: a ConfigMap, not a Module: ignored"}},
		{"nothing", "apiVersion: v1\nitems: []\nkind: List\n", 0, []string{aList}},
		{"no items", "apiVersion: v1\nkind: List\n", 0, []string{aList}},
		{"items that are none", "apiVersion: v1\nkind: List\nitems: 5\n", 0, []string{aList}},
		{"items that are no objects", "apiVersion: v1\nkind: List\nitems: [a, 1, null, {}]\n", 0, []string{aList}},
		{"no Modules", strings.Replace(moduleListHead, "items:", "items: []", 1), 0, []string{"a.yaml:1: a ModuleList, not a Module: ignored"}},
		{"of another kind", listOf(strings.Replace(moduleListHead, "ModuleList", "ConfigMapList", 1), configMap), 0, []string{"a.yaml:1: a ConfigMapList, not a Module: ignored"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			modules, ignored, err := Parse("a.yaml", []byte(tt.text))
			require.NoError(t, err)
			assert.Len(t, modules, tt.modules)
			assert.Equal(t, tt.ignored, ignored)
		})
	}
}

// TestListBounds: a list is no way around the size that a document may have, nor one to keep somebody busy.
func TestListBounds(t *testing.T) {
	var items []string
	for n := range 3000 {
		items = append(items, strings.Replace(goodYAML, "name: good", fmt.Sprintf("name: m%d", n), 1))
	}
	text := listOf(listHead, items...) + listTail
	require.Greater(t, len(text), MaxDocumentSize)
	_, _, err := Parse("a.yaml", []byte(text))
	require.ErrorIs(t, err, ErrInvalid)
	assert.Contains(t, err.Error(), "more than the 1048576 a document may have")

	modules, _, err := Parse("a.yaml", []byte(listOf(listHead, items[:100]...)+listTail))
	require.NoError(t, err)
	assert.Len(t, modules, 100)

	long := "x: &a " + strings.Repeat("k", MaxDocumentSize/2) + "\n"
	others := strings.Repeat("- kind: *a\n", 2000)
	ends(t, "long kinds", func() {
		_, ignored, err := Parse("a.yaml", []byte("metadata:\n  "+long+listOf(listHead, goodYAML)+others+"kind: List\n"))
		assert.NoError(t, err)
		for _, note := range ignored {
			assert.Less(t, len(note), 200)
		}
	})
}
