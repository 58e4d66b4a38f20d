// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/plan"
)

func planCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan [-f FILE|DIR] [--offline]",
		Short: "print the steps that run would take now, and take none",
		Long: `plan resolves the documents and observes the node as run does, and prints what
run would do. Nothing on the node changes; an image that is not in the store is
pulled into a scratch directory and thrown away. Each Module is planned as if it
were alone: run plans again after each.

Exit codes: 0 nothing to do or all can be done, 1 something can not be done, or the
cluster has not been heard yet, 2 a document can not be used.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runPlan(cmd, o) },
	}
	o.documentsFlag(cmd)
	cmd.Flags().BoolVar(&o.offline, "offline", false, "ask no registry: an image that is not in the store can not be planned with")
	return cmd
}

func runPlan(cmd *cobra.Command, o *options) error {
	n, closeNode, err := openNode(o, nil, false, false)
	if err != nil {
		return err
	}
	defer closeNode()
	desired, err := n.readDesired()
	if err != nil {
		return err
	}
	p, unresolved, err := n.agent.Plan(cmd.Context())
	if err != nil {
		return err
	}
	if o.output == "json" {
		err = writeJSON(cmd.OutOrStdout(), struct {
			plan.Plan
			Unresolved map[string]plan.Block `json:"unresolved,omitempty"`
			Partial    bool                  `json:"partial,omitempty"` // the cluster has not been heard yet
		}{p, unresolved, desired.Partial})
	} else {
		err = printPlan(cmd.OutOrStdout(), p, unresolved, desired.Partial)
	}
	if err != nil {
		return err
	}
	if len(desired.Invalid) > 0 {
		return usageError{errors.Join(desired.Invalid...)}
	}
	if desired.Partial || len(unresolved) > 0 || slices.ContainsFunc(p.Transactions, func(t plan.Transaction) bool { return len(t.Blocked) > 0 }) {
		return errNotAsWanted
	}
	return nil
}

func printPlan(w io.Writer, p plan.Plan, unresolved map[string]plan.Block, partial bool) error {
	out := &printer{w: w}
	for _, t := range p.Transactions {
		out.line("%s%s", t.Owner, map[bool]string{true: " (its document is gone)"}[t.Leaving])
		for _, b := range t.Blocked {
			out.line("  blocked, %s: %s", b.Reason, b.Message)
		}
		for _, note := range t.Notes {
			out.line("  note: %s", note)
		}
		if len(t.Blocked) > 0 {
			continue
		}
		for i, s := range t.Steps {
			out.line("  %d. %s", i+1, s)
		}
		if len(t.Steps) == 0 {
			out.line("  nothing to do")
		}
	}
	for _, owner := range slices.Sorted(maps.Keys(unresolved)) {
		out.line("%s", owner)
		out.line("  blocked, %s: %s", unresolved[owner].Reason, unresolved[owner].Message)
	}
	switch {
	case partial:
		out.line(notHeard)
	case len(p.Transactions)+len(unresolved) == 0:
		out.line("nothing is asked for")
	}
	return out.err
}

// printer keeps the first error of many writes.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, plainText(fmt.Sprintf(format, args...))+"\n")
	}
}

// plainText keeps what others wrote, such as a registry or a driver, from doing anything to a terminal.
func plainText(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, s)
}
