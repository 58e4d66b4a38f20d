// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"fmt"
	"slices"
	"strings"
)

// Choose gives the constants that want takes. One without a comment is an error,
// and so is none at all.
func (s *Source) Choose(what string, want func(Constant) bool) ([]Constant, error) {
	out, err := s.choose(what, want)
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("there are no %s any more: constants are found by their names and types", what)
	}
	return out, err
}

func (s *Source) choose(what string, want func(Constant) bool) ([]Constant, error) {
	var out []Constant
	for _, c := range s.Constants {
		if !want(c) {
			continue
		}
		if c.Doc == "" {
			return nil, fmt.Errorf("constant %s of the %s has no comment: it is what users read", c.Name, what)
		}
		out = append(out, c)
	}
	return out, nil
}

// OfType takes the constants of a type.
func OfType(name string) func(Constant) bool {
	return func(c Constant) bool { return c.Type == name }
}

// Group takes those whose declaration has a comment that begins so.
func Group(begins string) func(Constant) bool {
	return func(c Constant) bool { return strings.HasPrefix(c.Group, begins) }
}

// groups puts those together that have the same comment above their declaration.
func groups(list []Constant) [][]Constant {
	var out [][]Constant
	for _, c := range list {
		if i := slices.IndexFunc(out, func(g []Constant) bool { return g[0].Group == c.Group }); i >= 0 {
			out[i] = append(out[i], c)
		} else {
			out = append(out, []Constant{c})
		}
	}
	return out
}

// constants writes a table of them, with what they mean.
func (p *page) constants(head string, list []Constant) {
	rows := make([][]string, 0, len(list))
	for _, c := range list {
		rows = append(rows, []string{code(c.Value), meaning(c)})
	}
	p.table([]string{head, "meaning"}, rows)
}
