// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"regexp/syntax"
	"strings"
)

// controlNames are the control characters which RE2 has an escape for that a
// person takes for a literal letter.
var controlNames = map[rune]string{'\a': `\a`, '\f': `\f`, '\t': `\t`, '\n': `\n`, '\r': `\r`, '\v': `\v`}

// lint finds what is allowed and most likely not meant.
func (m *Module) lint() findings {
	var f findings
	if m.Spec.ModuleLoader == nil {
		return f
	}
	c := &m.Spec.ModuleLoader.Container
	if c.InTreeModuleToRemove != "" {
		f.add(containerField+".inTreeModuleToRemove", "is deprecated: write inTreeModulesToRemove: [%s]", c.InTreeModuleToRemove)
	}
	catchAll := -1
	for i := range c.KernelMappings {
		k := &c.KernelMappings[i]
		at := fmt.Sprintf("%s.kernelMappings[%d]", containerField, i)
		if catchAll >= 0 {
			f.add(at, "is never reached: kernelMappings[%d] before it matches every kernel", catchAll)
		}
		lintPattern(at, k, &f)
		if k.Regexp != "" && isCatchAll(k.Regexp) && catchAll < 0 {
			catchAll = i
		}
		if k.InTreeModuleToRemove != "" {
			f.add(at+".inTreeModuleToRemove", "is deprecated: write inTreeModulesToRemove: [%s]", k.InTreeModuleToRemove)
		}
		m.lintTemplate(at+".containerImage", k.ContainerImage, &f)
		m.lintSign(at+".sign", k.Sign, &f)
	}
	m.lintTemplate(containerField+".containerImage", c.ContainerImage, &f)
	m.lintSign(containerField+".sign", c.Sign, &f)
	return f
}

func lintPattern(at string, k *KernelMapping, f *findings) {
	if strings.ContainsAny(k.Literal, `^$*\[]()|?`) {
		f.add(at+".literal", "%q is compared letter by letter; it looks like a regexp", k.Literal)
	}
	if strings.HasSuffix(k.Literal, "+") {
		f.add(at+".literal", `%q never matches: a trailing "+" of the release is trimmed before matching`, k.Literal)
	}
	tree, err := syntax.Parse(k.Regexp, syntax.Perl)
	if err != nil {
		return // an error, and reported as such
	}
	for _, r := range controlCharacters(tree) {
		name := controlNames[r]
		f.add(at+".regexp", `%s is the control character U+%04X here, which no kernel release has, so this part never matches; did you mean "\.%s"?`, name, r, name[1:])
	}
}

// controlCharacters are the literal control characters of a pattern.
func controlCharacters(re *syntax.Regexp) []rune {
	var out []rune
	if re.Op == syntax.OpLiteral {
		for _, r := range re.Rune {
			if controlNames[r] != "" {
				out = append(out, r)
			}
		}
	}
	for _, sub := range re.Sub {
		out = append(out, controlCharacters(sub)...)
	}
	return out
}

func isCatchAll(pattern string) bool {
	switch strings.TrimSuffix(strings.TrimPrefix(pattern, "^"), "$") {
	case ".*", ".+", "":
		return true
	}
	return false
}

func (m *Module) lintSign(at string, s *Sign, f *findings) {
	if s == nil {
		return
	}
	m.lintTemplate(at+".unsignedImage", s.UnsignedImage, f)
	for i, file := range s.FilesToSign {
		m.lintTemplate(fmt.Sprintf("%s.filesToSign[%d]", at, i), file, f)
	}
}

func (m *Module) lintTemplate(field, template string, f *findings) {
	_, unset, err := Expand(template, "1.2.3-4.generic", m.Metadata.Name, m.Metadata.Namespace)
	if err != nil {
		return
	}
	for _, v := range unset {
		f.add(field, "there is no variable ${%s}: it expands to nothing", v)
	}
}
