// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"cmp"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"sync"
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

// rule is a pattern and what stays of it. Patterns take their time: a line that
// has none of the hints, in lower case, is not searched.
type rule struct {
	pattern *regexp.Regexp
	stays   string
	hints   []string
}

// named are hints that a pattern with name in it may fit.
var named = []string{"pass", "secret", "token", "credential", "key", "authorization", "cookie", "bearer"}

// name is a word that says "what follows is secret", as a part of a key.
const name = `[\w.-]*(?:passw(?:or)?d|passphrase|secret|token|credential|api[_-]?key|private[_-]?key|access[_-]?key|authorization|cookie|bearer)[\w.-]*`

const (
	// header is one of HTTP whose value is secret, up to that.
	header = `\b(?:proxy-)?(?:authorization|cookie|set-cookie|x-[a-z-]*(?:auth|token|key)[a-z-]*)["']?\s*[:=]\s*`
	quoted = `(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*')`
)

// keys finds private keys, also one whose end is missing.
var keys = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`)
})

// rules find what is secret by how it looks, in this order, in each line.
var rules = sync.OnceValue(func() []rule {
	return []rule{
		// https://user:password@host; a password may have anything but blanks and quotes.
		{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s/:"'@]*(?::[^\s"']*)?@`), "${1}" + Redacted + "@", []string{"://"}},
		// user:password@host/image, as nobody should write it.
		{regexp.MustCompile(`(^|[\s"'=])[\w.-]+:[^\s"'@/]+@([\w.-]+(?::\d+)?/)`), "${1}" + Redacted + "@${2}", []string{"@"}},
		// The kernel's netroot=iscsi:user:password@host.
		{regexp.MustCompile(`\b(iscsi:)[^\s@]*@`), "${1}" + Redacted + "@", []string{"iscsi:"}},
		// Signed URLs: what follows the "?".
		{regexp.MustCompile(`(https?://[^\s"'?]*\?)[^\s"']+`), "${1}" + Redacted, []string{"?"}},
		// HTTP headers, to the end of the line.
		{regexp.MustCompile(`(?i)(` + header + `)` + quoted), "${1}" + `"` + Redacted + `"`, []string{"authorization", "cookie", "x-"}},
		{regexp.MustCompile(`(?i)(` + header + `)[^\s"'].*$`), "${1}" + Redacted, []string{"authorization", "cookie", "x-"}},
		{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/._~-]{6,}=*`), "${1} " + Redacted, []string{"bearer", "basic"}},
		// JSON web tokens, tokens of AWS, GitHub and GitLab.
		{regexp.MustCompile(`\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*`), Redacted, []string{"eyj"}},
		{regexp.MustCompile(`\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}`), Redacted,
			[]string{"akia", "asia", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-"}},
		// "auth": "…" of a docker configuration.
		{regexp.MustCompile(`(?i)(["'](?:auth|pass)["']\s*[:=]\s*)` + quoted), "${1}" + `"` + Redacted + `"`, []string{"auth", "pass"}},
		// password=…, --token …, "secret": "…"
		{regexp.MustCompile(`(?i)(["']` + name + `["']\s*[:=]\s*)` + quoted), "${1}" + `"` + Redacted + `"`, named},
		{regexp.MustCompile(`(?i)(\b` + name + `\s*=\s*)(?:"[^"]*"?|'[^']*'?|\[[^\]]*\]?|[^\s,;&"'}\]]+)`), "${1}" + Redacted, named},
		{regexp.MustCompile(`(?i)(--` + name + `\s+)[^\s-]\S*`), "${1}" + Redacted, named},
	}
})

// Text is s without secrets.
func (r *Redactor) Text(s string) string {
	if r != nil {
		for _, known := range r.known {
			s = strings.ReplaceAll(s, known, Redacted)
		}
	}
	s = keys().ReplaceAllString(s, Redacted)
	var out strings.Builder
	for line := range strings.Lines(s) {
		text, end := line, ""
		if strings.HasSuffix(line, "\n") {
			text, end = line[:len(line)-1], "\n"
		}
		lower := strings.ToLower(text)
		for _, rule := range rules() {
			if slices.ContainsFunc(rule.hints, func(hint string) bool { return strings.Contains(lower, hint) }) {
				text = rule.pattern.ReplaceAllString(text, rule.stays)
			}
		}
		out.WriteString(text)
		out.WriteString(end)
	}
	return out.String()
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

// each has Text of all texts and numbers in a document, and of the names of its fields.
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
	case json.Number: // a password may be one
		if text := r.Text(v.String()); text != v.String() {
			return text
		}
	}
	return v
}

// spoken are fields of a docker configuration that can not be decoded.
var spoken = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)["'](?:auth|pass|` + name + `)["']\s*:\s*["']([^"'\n]*)`)
})

// SecretsIn gives the secrets of a text that ought to be a JSON document and is
// none.
func SecretsIn(text string) []string {
	var out []string
	for _, found := range spoken().FindAllStringSubmatch(text, -1) {
		out = append(out, decoded(found[1])...)
	}
	return out
}
