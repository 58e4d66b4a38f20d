// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Commands is the page of a program: its commands and their flags as --help shows
// them, and the variables of the environment that it reads. from is the directory
// of its source.
func Commands(root *cobra.Command, from string, environment []Constant) (string, error) {
	p := newPage(root.CommandPath(), from)
	if err := p.command(root); err != nil {
		return "", err
	}
	for _, cmd := range below(root) {
		p.heading(2, "%s", cmd.CommandPath())
		if err := p.command(cmd); err != nil {
			return "", err
		}
	}
	if len(environment) > 0 {
		p.heading(2, "Environment")
		p.paragraph(prose(environment[0].Group))
		p.constants("variable", environment)
	}
	return p.String(), nil
}

// below are the commands below one, each before its own.
func below(cmd *cobra.Command) []*cobra.Command {
	var out []*cobra.Command
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "completion" {
			out = append(append(out, c), below(c)...)
		}
	}
	return out
}

func (p *page) command(cmd *cobra.Command) error {
	if cmd.Short == "" {
		return fmt.Errorf("%s has no short description", cmd.CommandPath())
	}
	p.paragraph(sentence(cmd.Short))
	p.line("\n```text")
	for i, use := range strings.Split(cmd.Use, "\n") {
		if use = strings.TrimSpace(use); i == 0 && cmd.HasParent() {
			use = cmd.Parent().CommandPath() + " " + use
		}
		p.line("%s", use)
	}
	p.line("```")
	for _, text := range strings.Split(cmd.Long, "\n\n") {
		p.paragraph(named(text, cmd.Name(), cmd.Name()))
	}
	if cmd.Example != "" {
		p.line("\n```text\n%s\n```", cmd.Example)
	}
	for _, f := range []struct {
		title string
		set   *pflag.FlagSet
	}{
		{"", cmd.LocalNonPersistentFlags()},
		{"Also of the commands below it:", cmd.PersistentFlags()},
		{"", inherited(cmd)},
	} {
		rows, err := flagRows(cmd, f.set)
		if err != nil {
			return err
		}
		if len(rows) > 0 {
			p.paragraph(f.title)
			p.table([]string{"flag", "value", "default", ""}, rows)
		}
	}
	return nil
}

// inherited are the flags of the commands above, but those of the program: they
// are told once.
func inherited(cmd *cobra.Command) *pflag.FlagSet {
	out := pflag.NewFlagSet("", pflag.ContinueOnError)
	cmd.InheritedFlags().VisitAll(func(f *pflag.Flag) {
		if cmd.Root().PersistentFlags().Lookup(f.Name) == nil {
			out.AddFlag(f)
		}
	})
	return out
}

func flagRows(cmd *cobra.Command, set *pflag.FlagSet) ([][]string, error) {
	var rows [][]string
	var err error
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || f.Name == "version" && cmd.Version != "" {
			return
		}
		if f.Usage == "" {
			err = fmt.Errorf("%s: --%s has no description", cmd.CommandPath(), f.Name)
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		rows = append(rows, []string{code(name), valueOf(f), code(defaultOf(f)), prose(f.Usage)})
	})
	return rows, err
}

// valueOf is what stands behind a flag.
func valueOf(f *pflag.Flag) string {
	switch kind := f.Value.Type(); kind {
	case "bool":
		return ""
	case "stringArray":
		return "string"
	case "int":
		return "integer"
	default:
		return kind
	}
}

// defaultOf is "" where that goes without saying.
func defaultOf(f *pflag.Flag) string {
	if slices.Contains([]string{"false", "0s", "[]"}, f.DefValue) {
		return ""
	}
	if f.Value.Type() != "duration" {
		return f.DefValue
	}
	value := f.DefValue // 1h0m0s
	for _, rest := range []string{"m0s", "h0m"} {
		if short, ok := strings.CutSuffix(value, rest); ok {
			value = short + rest[:1]
		}
	}
	return value
}

// exits finds what a command's help says of its exit codes.
var exits = regexp.MustCompile(`(?s)Exit codes: (.*?)\.(?:\n|$)`)

// one is an exit code in that: "0 all well, 1 something is not, 2 usage".
var one = regexp.MustCompile(`(?s)(?:^|,\s+)([0-9]) (.*?)(?:$|,\s+[0-9] )`)

// exitsOf gives what each code means for a command, nil when its help says nothing
// of its own.
func exitsOf(cmd *cobra.Command) map[string]string {
	found := exits.FindStringSubmatch(cmd.Long)
	if found == nil {
		return nil
	}
	out := map[string]string{}
	for rest := found[1]; ; {
		m := one.FindStringSubmatchIndex(rest)
		if m == nil {
			return out
		}
		out[rest[m[2]:m[3]]] = strings.Join(strings.Fields(rest[m[4]:m[5]]), " ")
		rest = rest[m[5]:]
	}
}

// ExitCodes is docs/reference/exit-codes.md: the codes, and what they mean for each
// command that says so.
func ExitCodes(codes []Constant, root *cobra.Command) (string, error) {
	p := newPage("Exit codes", "pkg/exit and the commands' help")
	p.paragraph("Of kmmd and of kmm-watcher. After `SIGINT` or `SIGTERM` both finish the step they are at; `kmmd run` and `kmm-watcher` then end with 0, " +
		"a command that is not done with 1.")
	p.constants("code", codes)
	heads, rows := []string{"command"}, [][]string{}
	for _, c := range codes {
		heads = append(heads, code(c.Value))
	}
	for _, cmd := range append([]*cobra.Command{root}, below(root)...) {
		said := exitsOf(cmd)
		if said == nil {
			continue
		}
		row := []string{code(cmd.CommandPath())}
		for _, c := range codes {
			row = append(row, prose(said[c.Value]))
			delete(said, c.Value)
		}
		if len(said) > 0 {
			return "", fmt.Errorf("%s: its help has exit codes that pkg/exit has not: %v", cmd.CommandPath(), said)
		}
		rows = append(rows, row)
	}
	p.paragraph("For a command of kmmd they mean, in the words of its help:")
	p.table(heads, rows)
	return p.String(), nil
}
