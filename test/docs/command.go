// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"fmt"
	"regexp"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// Command is one command of a block: what a shell reads before it does something.
type Command struct {
	Page string
	Line int    // where it begins
	Text string // without the comment behind it
	Want string // what it prints, if Says
	Says bool   // the page has what it prints
}

// Commands are those of a block of shell commands; none of another.
func (b Block) Commands() ([]Command, error) {
	switch b.Language {
	case "sh":
		return b.parse(b.Text, b.Line)
	case "console":
		return b.dialogue()
	}
	return nil, nil
}

// prompt stands before each command of a dialogue.
const prompt = "$ "

// dialogue reads
//
//	$ COMMAND
//	WHAT IT PRINTS
func (b Block) dialogue() (all []Command, err error) {
	line := b.Line
	for text := range strings.Lines(b.Text) {
		command, ok := strings.CutPrefix(text, prompt)
		switch {
		case ok:
			parsed, err := b.parse(command, line)
			if err != nil {
				return nil, err
			}
			if len(parsed) != 1 {
				return nil, fmt.Errorf("%s:%d: %d commands behind one %q", b.Page, line, len(parsed), prompt)
			}
			parsed[0].Says = true
			all = append(all, parsed[0])
		case len(all) == 0:
			return nil, fmt.Errorf("%s:%d: the first line of a dialogue has to begin with %q", b.Page, line, prompt)
		default:
			all[len(all)-1].Want += text
		}
		line++
	}
	return all, nil
}

// parse takes shell commands, of which the first begins in a line of the page.
func (b Block) parse(text string, line int) ([]Command, error) {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX), syntax.KeepComments(true)).Parse(strings.NewReader(text), "")
	if err != nil {
		return nil, fmt.Errorf("%s:%d: %w", b.Page, line, err)
	}
	var all []Command
	for i, statement := range file.Stmts {
		end := len(text)
		if i+1 < len(file.Stmts) {
			end = int(file.Stmts[i+1].Pos().Offset())
		}
		start := statement.Pos()
		// What ends a here-document comes behind the end of the statement, and so does a
		// comment, which is left where it is.
		all = append(all, Command{Page: b.Page, Line: line + int(start.Line()) - 1, Text: strings.TrimSpace(text[start.Offset():end])})
	}
	return all, nil
}

// String tells where it stands, and what it is.
func (c Command) String() string { return fmt.Sprintf("%s:%d: %s", c.Page, c.Line, c.Text) }

// With is the command with other words for placeholders such as NODE.
func (c Command) With(placeholders map[string]string) Command {
	for name, value := range placeholders {
		c.Text = regexp.MustCompile(`\b`+regexp.QuoteMeta(name)+`\b`).ReplaceAllLiteralString(c.Text, value)
	}
	return c
}

// Calls are the programs that it runs, each with its arguments, as far as these are
// known before a shell has seen them. What kubectl runs in a pod counts, too.
func (c Command) Calls() ([][]string, error) {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(c.Text), "")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c, err)
	}
	var calls [][]string
	syntax.Walk(file, func(n syntax.Node) bool {
		call, ok := n.(*syntax.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		var args []string
		for _, word := range call.Args {
			args = append(args, literal(word.Parts, c.Text))
		}
		calls = append(calls, args)
		for i, arg := range args {
			if args[0] == "kubectl" && arg == "--" && i+1 < len(args) {
				calls = append(calls, args[i+1:])
			}
		}
		return true
	})
	return calls, nil
}

// literal is a word as the program gets it. What a shell would put into it stays as
// it is written.
func literal(parts []syntax.WordPart, source string) string {
	text := ""
	for _, part := range parts {
		switch part := part.(type) {
		case *syntax.Lit:
			text += strings.ReplaceAll(part.Value, `\`, "")
		case *syntax.SglQuoted:
			text += part.Value
		case *syntax.DblQuoted:
			text += literal(part.Parts, source)
		default:
			text += source[part.Pos().Offset():part.End().Offset()]
		}
	}
	return text
}
