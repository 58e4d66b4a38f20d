// SPDX-License-Identifier: Apache-2.0

package images

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// Glob names files of an image the way a shell does (busybox ash, "pathname
// expansion"): "*" is any run of characters, "?" one, "[a-z]" and "[!a-z]" one of
// some; none of them is a slash, nor the dot a name begins with. A backslash
// quotes what follows.
type Glob struct {
	pattern string
	parts   []string
}

// ParseGlob checks a pattern, which has to be an absolute path without "..".
func ParseGlob(pattern string) (Glob, error) {
	g := Glob{pattern: pattern}
	if !strings.HasPrefix(pattern, "/") {
		return g, fmt.Errorf("pattern %q is no absolute path: write it as /opt/lib/modules/…/*.ko", pattern)
	}
	if len(pattern) > maxPathLength {
		return g, fmt.Errorf("pattern %.80q… is longer than %d bytes", pattern, maxPathLength)
	}
	for part := range strings.SplitSeq(pattern, "/") {
		switch part {
		case "", ".":
		case "..":
			return g, fmt.Errorf("pattern %q has a .. in it", pattern)
		default:
			g.parts = append(g.parts, part)
		}
	}
	if len(g.parts) == 0 {
		return g, fmt.Errorf("pattern %q names no file", pattern)
	}
	return g, nil
}

// String is the pattern.
func (g Glob) String() string { return g.pattern }

// Match says whether the pattern stands for an absolute path, as it is written.
func (g Glob) Match(file string) bool {
	names := strings.Split(strings.Trim(path.Clean(file), "/"), "/")
	return slices.EqualFunc(g.parts, names, func(part, name string) bool {
		if want, ok := literal(part); ok {
			return want == name
		}
		return matchPart(part, name)
	})
}

// literal returns the name a part without wildcards stands for.
func literal(part string) (name string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(part); i++ {
		switch c := part[i]; {
		case c == '*' || c == '?' || c == '[':
			return "", false
		case c == '\\' && i+1 < len(part):
			i++
			b.WriteByte(part[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), true
}

// matchPart says whether one part of a pattern stands for name. path.Match has
// all but "[!…]" and the leading dot, and calls malformed what a shell takes as
// it is written.
func matchPart(part, name string) bool {
	if strings.HasPrefix(name, ".") && !strings.HasPrefix(strings.TrimPrefix(part, `\`), ".") {
		return false
	}
	ok, err := path.Match(forPathMatch(part), name)
	return err == nil && ok
}

// forPathMatch writes a shell's pattern the way path.Match wants it.
func forPathMatch(part string) string {
	var b strings.Builder
	for i := 0; i < len(part); i++ {
		switch c := part[i]; {
		case c == '\\' && i+1 == len(part):
			b.WriteString(`\\`)
		case c == '\\':
			b.WriteString(part[i : i+2])
			i++
		case c == '[':
			set, n := bracket(part[i:])
			b.WriteString(set)
			i += n - 1
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// classes are the sets of "[[:name:]]" in the C locale that file names have.
var classes = map[string]string{
	"alnum": "0-9A-Za-z", "alpha": "A-Za-z", "digit": "0-9", "lower": "a-z", "upper": "A-Z", "xdigit": "0-9A-Fa-f",
}

// bracket rewrites the bracket expression s begins with; n is how long it was. One
// without an end is the character itself. A "]" right behind the start is one of the
// set.
func bracket(s string) (set string, n int) {
	i := 1
	var b strings.Builder
	b.WriteByte('[')
	if i < len(s) && (s[i] == '!' || s[i] == '^') {
		b.WriteByte('^')
		i++
	}
	for first := true; i < len(s); first = false {
		if s[i] == ']' && !first {
			return b.String() + "]", i + 1
		}
		if name, rest, ok := strings.Cut(strings.TrimPrefix(s[i:], "[:"), ":]"); ok && s[i] == '[' && classes[name] != "" {
			b.WriteString(classes[name])
			i = len(s) - len(rest)
			continue
		}
		char, size := quoted(s[i:])
		b.WriteString(char)
		i += size
		if i+1 < len(s) && s[i] == '-' && s[i+1] != ']' {
			char, size = quoted(s[i+1:])
			b.WriteString("-" + char)
			i += 1 + size
		}
	}
	return `\[`, 1
}

// quoted is the character s begins with, quoted for path.Match, and its size in s.
func quoted(s string) (char string, size int) {
	skip := 0
	if s[0] == '\\' && len(s) > 1 {
		skip = 1
	}
	_, size = utf8.DecodeRuneInString(s[skip:])
	return `\` + s[skip:skip+size], skip + size
}
