// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hang is how long anything may take before it counts as endless.
const hang = 10 * time.Second

// ends runs f and fails when that does not end.
func ends(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(hang):
		require.Fail(t, "endless", "%q", what)
	}
}

// FuzzParse reads any bytes as documents. One that is accepted means the same
// when it is written as JSON, which is YAML, as TOML, and in a List with the others;
// and what it means for a kernel has an image that can be asked for.
func FuzzParse(f *testing.F) {
	f.Add("a.yaml", []byte(goodYAML))
	f.Add("a.toml", []byte(goodTOML))
	f.Add("a.yaml", []byte("a: &x [*x]\n"))
	for _, c := range []string{"\\x7f", "\\x80", "\\x85", "\\x9f", "\\u2028", "\\ufeff", "\\ufffe", "\\uffff", "\\U0010ffff"} { // some of them no YAML has but so
		f.Add("a.yaml", []byte(strings.Replace(goodYAML, "[numdummies=2]", `["a=x`+c+`y", "b= `+c+` "]`, 1)))
	}
	f.Add("a.toml", []byte(strings.Replace(goodTOML, "numdummies=2", "a=x\u0085y", 1)))
	f.Add("a.yaml", []byte(listOf(listHead, fromServer, configMap, second)+listTail))
	f.Fuzz(func(t *testing.T, file string, data []byte) {
		var modules []Module
		var err error
		ends(t, string(data), func() { modules, _, err = Parse(file, data) })
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			require.Empty(t, modules, "modules beside an error")
		}
		for i := range modules {
			m := &modules[i]
			if c, err := m.For("6.1.0-1-amd64"); err == nil {
				assert.True(t, hasTag(c.Image), "image %q", c.Image)
				assert.NotEmpty(t, c.Order)
				assert.Equal(t, c.ModuleName, c.Order[len(c.Order)-1])
			}
			again(t, m, "a.yaml", marshalYAML)
			again(t, m, "a.toml", marshalTOML)
		}
		inList(t, modules)
	})
}

// again writes a Module and reads it.
func again(t *testing.T, m *Module, file string, marshal func(any) ([]byte, error)) {
	t.Helper()
	plain := plainly(m)
	data, err := marshal(plain)
	require.NoError(t, err)
	if len(data) > MaxDocumentSize { // aliases make much of little
		return
	}
	modules, _, err := Parse(file, data)
	require.NoError(t, err, "%s", data)
	require.Len(t, modules, 1)
	assert.Equal(t, asText(t, plain), asText(t, modules[0]), "%s", data)
}

// inList writes Modules as kubectl does and reads them.
func inList(t *testing.T, modules []Module) {
	t.Helper()
	var items []Module
	for i := range modules {
		items = append(items, plainly(&modules[i]))
	}
	data, err := marshalYAML(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
	require.NoError(t, err)
	if len(items) == 0 || len(data) > MaxDocumentSize {
		return
	}
	got, ignored, err := Parse("a.yaml", data)
	require.NoError(t, err, "%s", data)
	assert.Empty(t, ignored)
	require.Len(t, got, len(items))
	for i := range items {
		assert.Equal(t, asText(t, items[i]), asText(t, got[i]), "%s", data)
	}
}

// plainly is a Module without what is only passed on: that may hold numbers and times that are written otherwise.
func plainly(m *Module) Module {
	return Module{APIVersion: m.APIVersion, Kind: m.Kind, Spec: ModuleSpec{ModuleLoader: m.Spec.ModuleLoader},
		Metadata: Metadata{Name: m.Metadata.Name, Namespace: m.Metadata.Namespace, Annotations: m.Metadata.Annotations}}
}

// asText is a Module as JSON has it, without what is only empty.
func asText(t *testing.T, m Module) string {
	t.Helper()
	data, err := json.Marshal(m)
	require.NoError(t, err)
	return string(data)
}

// marshalYAML gives JSON, and with an escape what may stand in a string there and nowhere in YAML (c-printable).
func marshalYAML(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	var out []byte
	for _, r := range string(data) {
		if 0x7f <= r && r < 0xa0 || r == 0xfffe || r == 0xffff {
			out = fmt.Appendf(out, `\u%04x`, r)
			continue
		}
		out = utf8.AppendRune(out, r)
	}
	return out, err
}

// marshalTOML goes by JSON, whose tags the fields have.
func marshalTOML(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var values map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&values); err != nil {
		return nil, err
	}
	return toml.Marshal(withoutNull(values))
}

// withoutNull leaves out what TOML has no word for.
func withoutNull(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if value == nil {
				delete(v, key)
			} else {
				v[key] = withoutNull(value)
			}
		}
	case []any:
		for i := range v {
			v[i] = withoutNull(v[i])
		}
	}
	return v
}

// FuzzExpand has any text for a template: there is an end, and what stands between
// the variables stays.
func FuzzExpand(f *testing.F) {
	for _, s := range []string{"reg/${MOD_NAMESPACE}/$MOD_NAME:${KERNEL_XYZ}-x", "a:${NOPE:-d}${NOPE-e}", "a:x$$y", "a:${KERNEL_X", "a:${NOPE:-$_}",
		"${A:-${B:-${C}}}", "${}", "$", "${KERNEL_X:+${MOD_NAME}}", "$1${2}", "${A=b}${A:=c}"} {
		f.Add(s, "6.5.0-1020.22~22.04-generic")
	}
	f.Fuzz(func(t *testing.T, template, release string) {
		ends(t, template, func() {
			out, unset, err := Expand(template, Release(release), "m", "ns")
			if err != nil {
				assert.Empty(t, out)
				return
			}
			if !strings.Contains(template, "$") {
				assert.Equal(t, template, out)
				assert.Empty(t, unset)
			}
			for _, v := range unset {
				assert.Contains(t, template, v)
			}
		})
	})
}

// FuzzExpandParts makes a template out of parts and knows what has to come.
func FuzzExpandParts(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, "6.1.0-56-cloud-amd64")
	f.Add([]byte{30, 70, 110, 41, 92, 13}, "6.1+")
	f.Fuzz(func(t *testing.T, code []byte, release string) {
		if len(code) > 40 {
			return
		}
		values := map[string]string{}
		for _, v := range Release(release).variables("m", "ns") {
			name, value, _ := strings.Cut(v, "=")
			values[name] = value
		}
		names := []string{"KERNEL_FULL_VERSION", "KERNEL_XYZ", "KERNEL_X", "KERNEL_Z", "MOD_NAME", "MOD_NAMESPACE", "NOPE", "KERNEL"}
		var template, want strings.Builder
		for _, b := range code {
			name := names[int(b)/8%len(names)]
			value, set := values[name]
			switch b % 8 {
			case 0:
				template.WriteString("$" + name + "/")
				want.WriteString(value + "/")
			case 1:
				template.WriteString("${" + name + "}")
				want.WriteString(value)
			case 2:
				template.WriteString("${" + name + ":-d.e}")
				if value == "" {
					value = "d.e"
				}
				want.WriteString(value)
			case 3:
				template.WriteString("${" + name + "-d}")
				if !set {
					value = "d"
				}
				want.WriteString(value)
			case 4:
				template.WriteString("${" + name + ":+alt}")
				if set { // also when empty, unlike a shell
					want.WriteString("alt")
				}
			case 5:
				template.WriteString("$$")
				want.WriteString("$")
			default:
				text := []string{"a", "reg.example:5000/", ":", "-", "@sha256:", "}", "x y", "{"}[int(b)/8%8]
				template.WriteString(text)
				want.WriteString(text)
			}
		}
		ends(t, template.String(), func() {
			out, _, err := Expand(template.String(), Release(release), "m", "ns")
			require.NoError(t, err, "%q", template.String())
			assert.Equal(t, want.String(), out, "%q", template.String())
		})
	})
}

// FuzzMapping compares the mapping that wins with the first that matches, and has
// all that is made of a release fit for a tag and for a directory.
func FuzzMapping(f *testing.F) {
	f.Add("6.1.0-56-cloud-amd64", "6.1.0-55-cloud-amd64", `^6\.1\..+$`, "fc37", "r/i:${KERNEL_FULL_VERSION}")
	f.Add("6.1.0+", "6.1.0", `^.+\fc37\.x86_64$`, ".+", "r/i:$KERNEL_XYZ")
	f.Add("6.5.0-1020.22~22.04-generic", "x", "(", "", "oci:/srv/${KERNEL_VERSION}")
	f.Fuzz(func(t *testing.T, release, literal, first, second, image string) {
		m := mapped(KernelMapping{Literal: literal, ContainerImage: "literal:1"}, KernelMapping{Regexp: first, ContainerImage: image},
			KernelMapping{Regexp: second, ContainerImage: "second:1"})
		if literal == "" || m.Spec.ModuleLoader.Container.KernelMappings[0].Regexp != "" {
			return // refused before
		}
		r := Release(release)
		for _, dir := range r.Directories() {
			assert.NotContains(t, dir[max(0, len(dir)-1):], "\n\x00")
		}
		assert.Regexp(t, `^[A-Za-z0-9._-]*$`, r.Normalized())
		trimmed := strings.TrimSuffix(release, "+")
		want := -1
		if literal == trimmed {
			want = 0
		}
		for i, pattern := range []string{first, second} {
			re, err := regexp.Compile(pattern)
			if err != nil {
				if want < 0 {
					want = -2
				}
				break
			}
			if want == -1 && re.MatchString(trimmed) {
				want = i + 1
			}
		}
		ends(t, image, func() {
			c, err := m.For(r)
			switch {
			case err != nil && want == -1:
				assert.ErrorIs(t, err, ErrNoMapping)
			case want < 0:
				assert.Error(t, err)
			case want != 1:
				require.NoError(t, err)
				assert.Equal(t, want, c.Mapping)
			case err == nil:
				assert.Equal(t, 1, c.Mapping)
				assert.True(t, hasTag(c.Image))
			}
			won := -1
			for _, tried := range m.Explain(r) {
				if tried.Matches {
					assert.Equal(t, -1, won, "one wins")
					won = tried.Mapping
				}
			}
			if want >= 0 {
				assert.Equal(t, want, won)
			}
		})
	})
}
