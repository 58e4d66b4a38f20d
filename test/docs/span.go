// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"slices"
	"strings"
)

// Command is a span that says a whole command: a program of programs, and what it
// is given. What has an ellipsis is none.
func (s Span) Command(programs ...string) (Command, bool) {
	program, _, more := strings.Cut(s.Text, " ")
	if !more || !slices.Contains(programs, program) || strings.Contains(s.Text, "…") || strings.Contains(s.Text, "...") {
		return Command{}, false
	}
	return Command{Page: s.Page, Line: s.Line, Text: s.Text}, true
}

// Call is a program with its arguments, and the command that runs it.
type Call struct {
	Command Command
	Args    []string
	Inline  bool // within a line of text, which may have only the beginning of a command
}

// Calls are all calls of a program, in blocks and in lines, whoever runs them.
func Calls(pages []*Page, program string) ([]Call, error) {
	var all []Call
	add := func(c Command, inline bool) error {
		calls, err := c.Calls()
		for _, args := range calls {
			if args[0] == program {
				all = append(all, Call{c, args, inline})
			}
		}
		return err
	}
	for _, p := range pages {
		for _, b := range p.Blocks {
			commands, err := b.Commands()
			if err != nil {
				return nil, err
			}
			for _, c := range commands {
				if err := add(c, false); err != nil {
					return nil, err
				}
			}
		}
		for _, s := range p.Spans {
			if c, ok := s.Command(program, "kubectl"); ok {
				if err := add(c, true); err != nil {
					return nil, err
				}
			}
		}
	}
	return all, nil
}
