// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/kmm-node/kmmd/test/reference/markdown"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/spec"
)

const repository = "../.."

// TestPages: what is in the repository is what the code says.
func TestPages(t *testing.T) {
	pages, err := Pages(repository)
	require.NoError(t, err)
	for path, text := range pages {
		Hold(t, repository, path, text, false)
	}
}

var fieldRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\| (honoured|ignored) \\| .{15,}\\|$")

// TestEachFieldOfAModule: each field that a cluster or a node knows is on the page,
// with what it means on a node, and some words.
func TestEachFieldOfAModule(t *testing.T) {
	page, err := NewCode(repository).Module()
	require.NoError(t, err)
	on, title := map[string]string{}, map[string]string{}
	for _, section := range strings.Split(page, "\n## ")[1:] {
		at, text, _ := strings.Cut(section, "\n")
		title[at] = at
		if _, same, ok := strings.Cut(text, "\nThe same at "); ok {
			same, _, _ = strings.Cut(same, ".\n")
			for place := range strings.SplitSeq(strings.ReplaceAll(same, "`", ""), ", ") {
				title[place] = at
			}
		}
		for _, row := range fieldRow.FindAllStringSubmatch(text, -1) {
			on[at+"."+row[1]] = row[3]
		}
	}
	for _, of := range []reflect.Type{reflect.TypeFor[v1beta1.ModuleSpec](), reflect.TypeFor[spec.ModuleSpec]()} {
		fields := fieldsBelow(of, "spec", title)
		assert.Greater(t, len(fields), 40)
		for _, field := range fields {
			assert.NotEmpty(t, on[field], "%s: %s is not on the page, or has no words", of, field)
		}
	}
	assert.Equal(t, "honoured", on["spec.moduleLoader.container.modprobe.moduleName"])
	assert.Equal(t, "ignored", on["spec.selector"])
}

// fieldsBelow gives each field of a type of ours and those below it, where the page
// has them: title has for each place the section that tells of it.
func fieldsBelow(of reflect.Type, at string, title map[string]string) []string {
	var out []string
	for _, f := range fieldsOf(of) {
		out = append(out, title[at]+"."+f.name)
		if in := inner(f.typ); in != nil && in != reflect.TypeFor[spec.LocalReference]() { // Kubernetes' LocalObjectReference
			out = append(out, fieldsBelow(in, join(title[at], f), title)...)
		}
	}
	return out
}

func TestOnNode(t *testing.T) {
	for path, want := range map[string]string{
		"spec.moduleLoader.container.kernelMappings[].literal":              "honoured",
		"spec.moduleLoader.container.kernelMappings[].build.selector":       "ignored",
		"spec.devicePlugin.container.image":                                 "ignored",
		"spec.moduleLoader.container.modprobe.rawArgs.unload":               "ignored",
		"spec.moduleLoader.container.modprobe.rawArgs.load":                 "honoured",
		"spec.moduleLoader.container.kernelMappings[].registryTLS.insecure": "honoured",
	} {
		got, err := onNode(path)
		require.NoError(t, err)
		assert.Equal(t, want, got, path)
	}
	for _, path := range []string{"spec.surprise", "spec.moduleLoader.container.version.major"} {
		_, err := onNode(path)
		assert.ErrorContains(t, err, "a node would refuse")
	}
}

// write writes a package and reads it.
func write(t *testing.T, text string) *Source {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "x"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x", "x.go"), []byte("package x\n"+text), 0o644))
	s, err := NewCode(dir).Package("x")
	require.NoError(t, err)
	return s
}

func TestSource(t *testing.T) {
	s := write(t, `
import "example.org/elsewhere"

// Kind is a kind.
//
// +marker
type Kind string

// Kinds of it.
const (
	// KindA is the first.
	KindA Kind = prefix + "a"
	KindB Kind = "b" // the second
	KindC Kind = "c"
)

// prefix stands alone.
const prefix, number = "x/", 3

const foreign = elsewhere.Value + 1

// T has fields.
type T struct {
	A string // of A
	// Of B,
	// in two lines.
	B elsewhere.Type
}

// Name makes a name.
func Name() string { return "" }
`)
	assert.Equal(t, []Constant{
		{"KindA", "Kind", "x/a", "KindA is the first.", "Kinds of it."},
		{"KindB", "Kind", "b", "the second", "Kinds of it."},
		{"KindC", "Kind", "c", "", "Kinds of it."},
		{"prefix", "", "x/", "prefix stands alone.", ""},
		{"number", "", "3", "prefix stands alone.", ""},
	}, s.Constants)
	assert.Equal(t, "Kind is a kind.", s.Doc("Kind"))
	assert.Equal(t, "of A", s.Doc("T.A"))
	assert.Equal(t, "Of B,\nin two lines.", s.Doc("T.B"))
	assert.Equal(t, "Name makes a name.", s.Doc("Name"))

	_, err := s.Choose("kinds", OfType("Kind"))
	assert.ErrorContains(t, err, "KindC of the kinds has no comment")
	_, err = s.Choose("sorts", OfType("Sort"))
	assert.ErrorContains(t, err, "there are no sorts")
	_, err = NewCode(t.TempDir()).Package("none")
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestWords(t *testing.T) {
	for _, tt := range []struct{ what, got, want string }{
		{"meaning", meaning(Constant{Name: "A", Doc: "A: it is over"}), "It is over."},
		{"meaning", meaning(Constant{Name: "A", Doc: "A is over."}), "Over."},
		{"meaning", meaning(Constant{Name: "A", Doc: "über <x> | *y*"}), "Über &lt;x> \\| \\*y\\*."},
		{"named", named("ModuleName as lsmod\nshows it", "ModuleName", "moduleName"), "`moduleName` as lsmod shows it"},
		{"named", named("Names of it", "Name", "name"), "Names of it"},
		{"prose", prose("`a|b*`  *c*"), "`a\\|b*` \\*c\\*"},
		{"anchor", markdown.Anchor("spec.kernelMappings[] `x_y` Ready, set"), "speckernelmappings-x_y-ready-set"},
		{"wrap", strings.Join(wrap("one two three\nfour", 9), "/"), "one two/three/four"},
		{"kind", kind(reflect.TypeFor[map[string]string]()), "map of strings"},
		{"kind", kind(reflect.TypeFor[[]*int32]()), "list of integers"},
	} {
		assert.Equal(t, tt.want, tt.got, tt.what)
	}
	p := &page{}
	p.table([]string{"a", "b", ""}, [][]string{{"1", "", "x"}, {"2", "", ""}})
	assert.Equal(t, "\n| a | |\n|---|---|\n| 1 | x |\n| 2 | |\n", p.String())
}

func TestConditions(t *testing.T) {
	n := func(i int64) *int64 { return &i }
	item := &Schema{MinLength: n(1), Enum: []any{"a", ""}}
	s := Schema{MinItems: n(2), MaxItems: n(3), Items: item, Pattern: "a|b", Minimum: n(4)}
	s.Rules = append(s.Rules, struct {
		Message string `yaml:"message"`
	}{"it has a <"})
	assert.Equal(t, []string{
		"2 to 3 entries.", "From 4 on.", "Matches `a\\|b`.", "Refused with *it has a &lt;*.", "Each: one of `a`, or empty.", "Each: at least 1 character.",
	}, s.conditions(false))
	assert.NotContains(t, strings.Join(s.conditions(true), ""), "Refused")
}

type configuration struct {
	Name  string `toml:"name"`
	Inner table  `toml:"inner"`
}

type table struct {
	List []string `toml:"list"`
	On   bool     `toml:"on"`
}

func TestTables(t *testing.T) {
	s := write(t, "type configuration struct {\n// What it is called.\nName string\nInner table\n}\n\n// All inside.\ntype table struct {\n// Some.\nList []string\n// Whether.\nOn bool\n}\n")
	list, err := Tables(s, configuration{"x", table{List: []string{"a", "b"}}})
	require.NoError(t, err)
	assert.Equal(t, []Table{
		{"", "", []Key{{"name", "string", "What it is called.", `"x"`}}},
		{"inner", "All inside.", []Key{{"list", "list of strings", "Some.", `["a", "b"]`}, {"on", "boolean", "Whether.", "false"}}},
	}, list)
	assert.Equal(t, "# Made of cmd/kmmd/config.go by make gen.\n# Head.\n\n# What it is called.\n#name = \"x\"\n\n# All inside.\n[inner]\n\n# Some.\n"+
		"#list = [\"a\", \"b\"]\n\n# Whether.\n#on = false\n", ConfigurationFile("Head.", list))
	_, err = Tables(write(t, "type configuration struct { Name string }"), configuration{})
	assert.ErrorContains(t, err, "Name has no comment")
}

func TestCommands(t *testing.T) {
	root := &cobra.Command{Use: "prog", Short: "do it"}
	run := func(*cobra.Command, []string) {}
	sub := &cobra.Command{
		Use: "sub [-x]\n  prog sub FILE", Short: "do part of it", Run: run,
		Long: "sub does <part> of it.\n\nExit codes: 0 done, also\nwhen late, 1 not done, 2 usage.\n",
	}
	sub.Flags().DurationP("wait", "w", 0, "how long")
	sub.Flags().Duration("limit", 90*60e9, "how long `at most`")
	root.PersistentFlags().StringArray("name", nil, "who")
	root.AddCommand(sub, &cobra.Command{Use: "secret", Hidden: true, Run: run})
	page, err := Commands(root, "x", nil)
	require.NoError(t, err)
	assert.Equal(t, "<!-- Made of x by make gen. DO NOT EDIT. -->\n# prog\n\nDo it.\n\n```text\nprog\n```\n\nAlso of the commands below it:\n\n"+
		"| flag | value | |\n|---|---|---|\n| `--name` | string | who |\n\n## prog sub\n\nDo part of it.\n\n```text\nprog sub [-x]\nprog sub FILE\n```\n\n"+
		"`sub` does &lt;part> of it.\n\nExit codes: 0 done, also when late, 1 not done, 2 usage.\n\n"+
		"| flag | value | default | |\n|---|---|---|---|\n| `--limit` | duration | `1h30m` | how long `at most` |\n| `-w, --wait` | duration | | how long |\n", page)
	assert.Equal(t, map[string]string{"0": "done, also when late", "1": "not done", "2": "usage"}, exitsOf(sub))
	_, err = ExitCodes([]Constant{{Value: "0"}, {Value: "1"}}, root)
	assert.ErrorContains(t, err, "exit codes that pkg/exit has not")
	sub.Short = ""
	_, err = Commands(root, "x", nil)
	assert.ErrorContains(t, err, "no short description")
}
