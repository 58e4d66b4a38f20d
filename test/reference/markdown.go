// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// page is a page of Markdown in the making.
type page struct{ strings.Builder }

// newPage begins a page; from is what it was made of.
func newPage(title, from string) *page {
	p := &page{}
	p.line("<!-- Made of %s by make gen. DO NOT EDIT. -->", from)
	p.line("# %s", title)
	return p
}

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// paragraph writes text of Markdown, behind an empty line; nothing for "".
func (p *page) paragraph(text string) {
	if text != "" {
		p.line("\n%s", text)
	}
}

// heading of a level from 2 on.
func (p *page) heading(level int, format string, args ...any) {
	p.line("\n%s %s", strings.Repeat("#", level), fmt.Sprintf(format, args...))
}

// table writes rows below their heads. A column in which nothing stands is left
// out.
func (p *page) table(heads []string, rows [][]string) {
	used := make([]bool, len(heads))
	for _, row := range rows {
		for i, cell := range row {
			used[i] = used[i] || cell != ""
		}
	}
	write := func(cells []string) {
		p.WriteString("|")
		for i, cell := range cells {
			if used[i] {
				p.WriteString(strings.TrimRight(" "+cell, " ") + " |")
			}
		}
		p.WriteString("\n")
	}
	p.WriteString("\n")
	write(heads)
	for _, is := range used {
		if is {
			p.WriteString("|---")
		}
	}
	p.WriteString("|\n")
	for _, row := range rows {
		write(row)
	}
}

// code is a text as it is, in a cell or a line.
func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(s, "|", `\|`) + "`"
}

func codes(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = code(s)
	}
	return strings.Join(out, ", ")
}

var special = strings.NewReplacer("<", "&lt;", "*", `\*`, "|", `\|`)

// prose is a comment as Markdown: one line, in which only what stands between
// backquotes is code.
func prose(s string) string {
	parts := strings.Split(strings.Join(strings.Fields(s), " "), "`")
	for i := range parts {
		if i%2 == 0 {
			parts[i] = special.Replace(parts[i])
		} else {
			parts[i] = strings.ReplaceAll(parts[i], "|", `\|`)
		}
	}
	return strings.Join(parts, "`")
}

// named is the comment of something whose users know it under another name than
// Go's, with which the comment begins.
func named(comment, goName, theirs string) string {
	rest, ok := strings.CutPrefix(comment, goName)
	if !ok || rest == "" || !strings.ContainsAny(rest[:1], " ,:'\n") {
		return prose(comment)
	}
	return code(theirs) + prose("x" + rest)[1:]
}

// meaning is the comment of a constant without the name that it begins with:
// "StateFailed: it is over." and "StateFailed is over." are "It is over." and "Over."
func meaning(c Constant) string {
	s := c.Doc
	if rest, ok := strings.CutPrefix(s, c.Name); ok {
		s = rest
		for _, words := range []string{":", " is ", " are "} {
			s = strings.TrimPrefix(s, words)
		}
	}
	s = strings.TrimSpace(s)
	if s == "" {
		return ""
	}
	return sentence(s)
}

// sentence begins with a capital letter and ends with a full stop.
func sentence(s string) string {
	first, size := utf8.DecodeRuneInString(s)
	s = prose(string(unicode.ToUpper(first)) + s[size:])
	if strings.HasSuffix(s, ".") {
		return s
	}
	return s + "."
}
