// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Definition is a CustomResourceDefinition, as far as the reference tells of it.
type Definition struct {
	Spec struct {
		Group string `yaml:"group"`
		Scope string `yaml:"scope"`
		Names struct {
			Kind       string   `yaml:"kind"`
			Plural     string   `yaml:"plural"`
			ShortNames []string `yaml:"shortNames"`
		} `yaml:"names"`
		Versions []Version `yaml:"versions"`
	} `yaml:"spec"`
}

// Version is one of a CustomResourceDefinition.
type Version struct {
	Name               string `yaml:"name"`
	Storage            bool   `yaml:"storage"`
	DeprecationWarning string `yaml:"deprecationWarning"`
	Columns            []struct {
		Name     string `yaml:"name"`
		Priority int    `yaml:"priority"`
	} `yaml:"additionalPrinterColumns"`
	Schema struct {
		Root Schema `yaml:"openAPIV3Schema"`
	} `yaml:"schema"`
}

// Schema is what the API server checks of a field.
type Schema struct {
	Description string             `yaml:"description"`
	Default     any                `yaml:"default"`
	Enum        []any              `yaml:"enum"`
	MinLength   *int64             `yaml:"minLength"`
	MaxLength   *int64             `yaml:"maxLength"`
	MinItems    *int64             `yaml:"minItems"`
	MaxItems    *int64             `yaml:"maxItems"`
	Minimum     *int64             `yaml:"minimum"`
	Pattern     string             `yaml:"pattern"`
	Required    []string           `yaml:"required"`
	Properties  map[string]*Schema `yaml:"properties"`
	Items       *Schema            `yaml:"items"`
	Rules       []struct {
		Message string `yaml:"message"`
	} `yaml:"x-kubernetes-validations"`
}

// ReadDefinition reads one of deploy/crd.
func ReadDefinition(path string) (*Definition, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read definition: %w", err)
	}
	var d Definition
	if err := yaml.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("read definition %s: %w", path, err)
	}
	if len(d.Spec.Versions) == 0 {
		return nil, fmt.Errorf("read definition %s: it has no versions", path)
	}
	return &d, nil
}

// conditions are what a field has to fulfil, in words. The rules of an object are
// left out: they are told once, below its fields.
func (s *Schema) conditions(object bool) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if len(s.Enum) > 0 {
		say("One of %s.", oneOf(s.Enum))
	}
	between(say, "character", s.MinLength, s.MaxLength)
	between(say, "entry", s.MinItems, s.MaxItems)
	if s.Minimum != nil {
		say("From %d on.", *s.Minimum)
	}
	if s.Pattern != "" {
		say("Matches %s.", code(s.Pattern))
	}
	if messages := s.messages(); len(messages) > 0 && !object {
		say("Refused with *%s*.", strings.Join(messages, "*, *"))
	}
	if s.Items != nil {
		for _, c := range s.Items.conditions(len(s.Items.Properties) > 0) {
			say("Each: %s", strings.ToLower(c[:1])+c[1:])
		}
	}
	return out
}

// messages are what the API server says when a rule does not hold, each once.
func (s *Schema) messages() []string {
	var out []string
	for _, r := range s.Rules {
		if m := prose(r.Message); !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

func oneOf(values []any) string {
	var words []string
	empty := false
	for _, v := range values {
		if v == "" {
			empty = true
			continue
		}
		words = append(words, code(fmt.Sprint(v)))
	}
	out := strings.Join(words, ", ")
	if empty {
		out += ", or empty"
	}
	return out
}

func between(say func(string, ...any), what string, least, most *int64) {
	plural := map[string]string{"character": "characters", "entry": "entries"}[what]
	count := func(n int64) string {
		if n == 1 {
			return "1 " + what
		}
		return fmt.Sprintf("%d %s", n, plural)
	}
	switch {
	case least != nil && *least > 0 && most != nil:
		say("%d to %s.", *least, count(*most))
	case most != nil:
		say("At most %s.", count(*most))
	case least != nil && *least > 0:
		say("At least %s.", count(*least))
	}
}
