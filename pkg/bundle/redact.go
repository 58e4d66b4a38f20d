// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"cmp"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// Redacted stands where a secret was.
const Redacted = "[REDACTED]"

// minSecret is how long a known secret has to be to be looked for everywhere: of
// shorter ones too much else would be taken for them.
const minSecret = 5

// Redactor takes secrets out of text: those it was told, wherever they stand,
// and what looks like one. It may be used by several goroutines once it has been
// told all. The zero value knows patterns only.
type Redactor struct{ known []string }

// Add makes secrets known, each line of one too. Of one shorter than five bytes
// only patterns can take care.
func (r *Redactor) Add(secrets ...string) {
	for _, s := range secrets {
		for _, line := range append(strings.Split(s, "\n"), s) {
			if line = strings.TrimSpace(line); len(line) >= minSecret && !strings.HasPrefix(line, "-----") {
				r.known = append(r.known, line)
			}
		}
	}
	// The longest first: one may be a part of another.
	slices.SortFunc(r.known, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	r.known = slices.Compact(r.known)
}

// rule is a pattern and what stays of it.
type rule struct {
	pattern *regexp.Regexp
	stays   string
}

// name is a word that says "what follows is secret", as a part of a key.
const name = `[\w.-]*(?:passw(?:or)?d|passphrase|secret|token|credential|api[_-]?key|private[_-]?key|access[_-]?key|authorization|cookie|bearer)[\w.-]*`

const (
	// header is one of HTTP whose value is secret, up to that.
	header = `\b(?:proxy-)?(?:authorization|cookie|set-cookie|x-[a-z-]*(?:auth|token|key)[a-z-]*)["']?\s*[:=]\s*`
	quoted = `(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*')`
)

// rules find what is secret by how it looks, in this order.
var rules = []rule{
	// Keys, also one whose end is missing.
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`), Redacted},
	// https://user:password@host; a password may have anything but blanks and quotes.
	{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s/:"'@]*(?::[^\s"']*)?@`), "${1}" + Redacted + "@"},
	// The kernel's netroot=iscsi:user:password@host.
	{regexp.MustCompile(`\b(iscsi:)[^\s@]*@`), "${1}" + Redacted + "@"},
	// Signed URLs: what follows the "?".
	{regexp.MustCompile(`(https?://[^\s"'?]*\?)[^\s"']+`), "${1}" + Redacted},
	// HTTP headers, to the end of the line.
	{regexp.MustCompile(`(?i)(` + header + `)` + quoted), "${1}" + `"` + Redacted + `"`},
	{regexp.MustCompile(`(?im)(` + header + `)[^\s"'].*$`), "${1}" + Redacted},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/._~-]{6,}=*`), "${1} " + Redacted},
	// JSON web tokens, tokens of AWS, GitHub and GitLab.
	{regexp.MustCompile(`\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*`), Redacted},
	{regexp.MustCompile(`\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}`), Redacted},
	// "auth": "…" of a docker configuration.
	{regexp.MustCompile(`(?i)(["'](?:auth|pass)["']\s*[:=]\s*)` + quoted), "${1}" + `"` + Redacted + `"`},
	// password=…, --token …, "secret": "…"
	{regexp.MustCompile(`(?i)(["']` + name + `["']\s*[:=]\s*)` + quoted), "${1}" + `"` + Redacted + `"`},
	{regexp.MustCompile(`(?i)(\b` + name + `\s*=\s*)(?:"[^"\n]*"?|'[^'\n]*'?|\[[^\]\n]*\]?|[^\s,;&"'}\]]+)`), "${1}" + Redacted},
	{regexp.MustCompile(`(?i)(--` + name + `\s+)[^\s-]\S*`), "${1}" + Redacted},
}

// Text is s without secrets.
func (r *Redactor) Text(s string) string {
	if r != nil {
		for _, known := range r.known {
			s = strings.ReplaceAll(s, known, Redacted)
		}
	}
	for _, rule := range rules {
		s = rule.pattern.ReplaceAllString(s, rule.stays)
	}
	return s
}

// JSON is a JSON document without secrets: what is secret by its place, and what
// Text finds in each of its texts, before they are quoted. What is no document,
// or cut, is a text.
func (r *Redactor) JSON(s string) string {
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	var doc any
	if d.Decode(&doc) != nil || d.More() {
		return r.Text(s)
	}
	var out strings.Builder
	e := json.NewEncoder(&out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if e.Encode(r.each(Scrub(doc))) != nil {
		return r.Text(s)
	}
	return out.String()
}

// each has Text of all texts in a document, and of the names of its fields.
func (r *Redactor) each(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			out[r.Text(key)] = r.each(value)
		}
		return out
	case []any:
		for i := range v {
			v[i] = r.each(v[i])
		}
	case string:
		return r.Text(v)
	}
	return v
}

// spoken are fields of a docker configuration that can not be decoded.
var spoken = regexp.MustCompile(`(?i)["'](?:auth|pass|` + name + `)["']\s*:\s*["']([^"'\n]*)`)

// SecretsIn gives the secrets of a text that ought to be a JSON document and is
// none.
func SecretsIn(text string) []string {
	var out []string
	for _, found := range spoken.FindAllStringSubmatch(text, -1) {
		out = append(out, decoded(found[1])...)
	}
	return out
}
