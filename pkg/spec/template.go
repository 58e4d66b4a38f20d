// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/a8m/envsubst/parse"
)

// endless reports what the library may never come back from: "$_" or "${_" after
// a "${". It takes "_" for text, and what follows with it, the closing brace too
// (a8m/envsubst 1.4.3, lexVariable). A pattern that says so takes as long to
// compile as a document to be read.
func endless(template string) bool {
	_, rest, _ := strings.Cut(template, "${")
	for found := true; found; {
		_, rest, found = strings.Cut(rest, "$")
		if after, ok := strings.CutPrefix(strings.TrimPrefix(rest, "{"), "_"); ok && found {
			next, _ := utf8.DecodeRuneInString(after)
			if next != '_' && !unicode.IsLetter(next) && !unicode.Is(unicode.Nd, next) {
				return true
			}
		}
	}
	return false
}

// Expand substitutes $X, ${X}, ${X:-default}, ${X-default} and ${X:+other} in
// a template, with the variables of the release and the Module; "$$" is "$".
// The syntax and the library are the ones KMM uses. unset names each variable
// that is used without a default and does not exist: it expands to nothing.
// A missing "}" is an error.
func Expand(template string, r Release, name, namespace string) (out string, unset []string, err error) {
	if endless(template) {
		return "", nil, fmt.Errorf("expand %q: \"$_\" is no variable, and may not stand beside ${…}", template)
	}
	env := r.variables(name, namespace)
	out, err = parse.New("template", env, parse.Relaxed).Parse(template)
	if err != nil {
		return "", nil, fmt.Errorf("expand %q: %w", template, err)
	}
	strict := parse.New("template", env, parse.NoUnset)
	strict.Mode = parse.AllErrors
	if _, err := strict.Parse(template); err != nil {
		for _, line := range strings.Split(err.Error(), "\n") {
			if _, rest, ok := strings.Cut(line, "${"); ok {
				v, _, _ := strings.Cut(rest, "}")
				unset = append(unset, v)
			}
		}
	}
	return out, unset, nil
}
