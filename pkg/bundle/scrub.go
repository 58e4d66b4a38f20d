// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"regexp"
	"strings"
	"sync"
)

// keys are names of fields whose text is secret, compared without "-", "_", "."
// and case.
var (
	secretKey = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`passw(or)?d|passphrase|secret|token|credential|apikey|privatekey|accesskey|authorization|cookie|bearer|^auth$|^pass$`)
	})
	// whole are tables of which nothing but the names is told: headers for a
	// registry, the data of Secrets and ConfigMaps (a Dockerfile may have anything),
	// documents inside of annotations.
	whole = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(header|headers|stringdata|binarydata|data|kubectlkubernetesiolastappliedconfiguration)$`)
	})
	noLetters = strings.NewReplacer("-", "", "_", "", ".", "", "/", "")
	// flag is a word of a command line that the secret follows.
	flag = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?i)^--?[\w-]*(passw(or)?d|passphrase|secret|token|credential|key)$`)
	})
)

// Scrub gives a copy of a document, as a decoder of JSON, TOML or YAML makes it
// of maps, lists and scalars, without what is secret by its place: texts under a
// key that says so, values beside a name (environment, build arguments), headers
// of registries, data of Secrets and ConfigMaps. Names of Secrets stay. What is
// secret by its look is left to Redactor.Text.
func Scrub(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		_, named := v["name"]
		for key, value := range v {
			word := noLetters.Replace(strings.ToLower(key))
			secret := secretKey().MatchString(word) && !strings.HasSuffix(word, "name")
			switch _, list := value.([]any); {
			case whole().MatchString(word), list && secret && !strings.HasSuffix(word, "secrets"):
				out[key] = blank(value)
			case scalar(value) && (secret || named && word == "value"):
				out[key] = Redacted
			default:
				out[key] = Scrub(value)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = Scrub(v[i])
			if i > 0 {
				if word, ok := v[i-1].(string); ok && flag().MatchString(word) {
					out[i] = Redacted
				}
			}
		}
		return out
	}
	return v
}

// scalar reports whether v is a text or a number.
func scalar(v any) bool {
	switch v.(type) {
	case map[string]any, []any, bool, nil:
		return false
	}
	return true
}

// blank keeps the names of a table, and nothing else.
func blank(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			out[key] = blank(value)
		}
		return out
	case bool, nil:
		return v
	}
	return Redacted
}
