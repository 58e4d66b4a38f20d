// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// Secrets gives the texts and numbers that Scrub takes out of a document, and
// what is encoded in them: the password of a docker configuration's auth.
func Secrets(v any) []string {
	var out []string
	switch v := v.(type) {
	case map[string]any:
		scrubbed, _ := Scrub(v).(map[string]any) // a table is made of a table
		for key, value := range v {
			if scrubbed[key] == Redacted || whole().MatchString(noLetters.Replace(strings.ToLower(key))) {
				out = append(out, texts(value)...)
			} else {
				out = append(out, Secrets(value)...)
			}
		}
	case []any:
		scrubbed, _ := Scrub(v).([]any)
		for i := range v {
			if scrubbed[i] == Redacted {
				out = append(out, texts(v[i])...)
			} else {
				out = append(out, Secrets(v[i])...)
			}
		}
	}
	return out
}

// texts are all that is in a value.
func texts(v any) []string {
	var out []string
	switch v := v.(type) {
	case map[string]any:
		for _, value := range v {
			out = append(out, texts(value)...)
		}
	case []any:
		for _, value := range v {
			out = append(out, texts(value)...)
		}
	case bool, nil:
	default:
		out = append(out, decoded(fmt.Sprint(v))...)
	}
	return out
}

// decoded is a secret, and its password if it is base64 of "user:password",
// also after the "Basic" of a header.
func decoded(s string) []string {
	out := []string{s}
	word := s
	if _, after, ok := strings.Cut(s, " "); ok {
		word = after
		out = append(out, after)
	}
	plain, err := base64.StdEncoding.DecodeString(word)
	if err != nil {
		return out
	}
	if _, password, ok := strings.Cut(string(plain), ":"); ok {
		out = append(out, password)
	}
	return out
}
