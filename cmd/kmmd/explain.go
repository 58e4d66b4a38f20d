// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/source/file"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// explanation is what explain says of one Module.
type explanation struct {
	Module   string       `json:"module"`
	File     string       `json:"file"`
	Kernel   string       `json:"kernel"`
	Mappings []spec.Tried `json:"mappings"`
	Choice   *spec.Choice `json:"choice,omitempty"`
	Error    string       `json:"error,omitempty"`
	Warnings []string     `json:"warnings,omitempty"`
	// Differs has what is otherwise than with the KMM operator, of a document that
	// was written for it.
	Differs []string `json:"differs,omitempty"`

	release spec.Release // with its "+"
	// Preflight is what the running kernel would say to the image's modules,
	// and what is in their way; empty when nothing is, or nobody asked.
	Preflight []string `json:"preflight,omitempty"`
	// Signatures has what the kernel will say to that of each module file,
	// Policy what it goes by; both only with --preflight.
	Signatures []string `json:"signatures,omitempty"`
	Policy     []string `json:"policy,omitempty"`
}

// fromCluster stands for the file of a Module that the cluster asks for.
const fromCluster = "cluster"

func explainCommand(o *options) *cobra.Command {
	var release string
	var preflight bool
	cmd := &cobra.Command{
		Use:   "explain [-f FILE|DIR] [--kernel RELEASE | --preflight]",
		Short: "tell which kernel mapping wins and why, the image, and warnings",
		Long: `explain reads documents, and the last order of the cluster where there is one,
and asks neither kernel nor registry. With --preflight it
pulls the images too, if they are not in the store, and tells what the running
kernel would say to their modules, and what is in the way of loading them: also
what it wants of signatures, who has signed each module, and what it will say.

Of documents that were written for the KMM operator, which have a selector or
other fields for a cluster, it also tells what is otherwise here, for this Module
and for all.

Exit codes: 0 each Module has a mapping for the kernel, 1 one has none or can
not be loaded, or the cluster has not been heard yet, 2 a document can not be used.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if preflight && release != "" {
				return usageError{errors.New("explain: --preflight is about the running kernel: leave out --kernel")}
			}
			return noArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return runExplain(cmd, o, release, preflight) },
	}
	o.documentsFlag(cmd)
	cmd.Flags().StringVar(&release, "kernel", "", "kernel release, as of uname -r (default the running one)")
	cmd.Flags().BoolVar(&preflight, "preflight", false, "look into the images, and ask the running kernel")
	return cmd
}

func runExplain(cmd *cobra.Command, o *options, kernelFlag string, preflight bool) error {
	c, err := readConfig(o.configFile)
	if err != nil {
		return err
	}
	on, err := release(c, kernelFlag)
	if err != nil {
		return err
	}
	path := o.documents
	if path == "" {
		path = c.ModulesDir
	}
	node, notes, err := (&file.Source{Path: path}).Read()
	if err != nil {
		return usageError{err}
	}
	joined, err := openCluster(c, o, nil, newLog())
	if err != nil {
		return err
	}
	node = wish(node, joined)
	all, ofAll, unmatched := explainAll(&node, on)
	if preflight {
		blocked, err := addPreflight(cmd, o, node, all)
		if err != nil {
			return err
		}
		unmatched = unmatched || blocked
	}
	if o.output == "json" {
		err = writeJSON(cmd.OutOrStdout(), all)
	} else {
		err = printExplanations(&printer{w: cmd.OutOrStdout()}, all, ofAll, notes)
	}
	if err == nil && node.Partial {
		err = tellNotHeard(cmd, o)
	}
	switch {
	case err != nil:
		return err
	case len(node.Invalid) > 0:
		return usageError{errors.Join(node.Invalid...)}
	case unmatched || node.Partial:
		return errNotAsWanted
	}
	return nil
}

// explainAll tells of each Module, and what differs for every one if any was
// written for the KMM operator. unmatched says that one can not be obeyed.
func explainAll(node *spec.Node, on spec.Release) (all []explanation, ofAll []string, unmatched bool) {
	for i := range node.Modules {
		m := &node.Modules[i]
		e := explain(m, on)
		if m.File != "" && m.ForCluster() {
			e.Differs, ofAll = m.Differences(), spec.DifferencesOfAll()
		}
		unmatched = unmatched || e.Error != ""
		all = append(all, e)
	}
	for i := range node.Refused {
		r := &node.Refused[i]
		unmatched = true
		all = append(all, explanation{Module: r.Key(), File: fromCluster, Kernel: on.Trimmed(), Mappings: []spec.Tried{}, Error: r.Message, release: on})
	}
	return all, ofAll, unmatched
}

// addPreflight plans for the documents and tells what that finds. blocked says
// that a Module can not be loaded.
func addPreflight(cmd *cobra.Command, o *options, desired spec.Node, all []explanation) (blocked bool, err error) {
	n, closeNode, err := openNode(o, nil, false, false)
	if err != nil {
		return false, err
	}
	defer closeNode()
	n.agent.SetDesired(desired)
	p, unresolved, err := n.agent.Plan(cmd.Context())
	if err != nil {
		return false, err
	}
	policy, signatures, err := n.agent.Signatures()
	if err != nil {
		return false, err
	}
	for i := range all {
		e := &all[i]
		e.Policy, e.Signatures = policy, signatures[e.Module]
		if b, ok := unresolved[e.Module]; ok && e.Error == "" {
			blocked = true
			e.Preflight = append(e.Preflight, b.Reason+": "+b.Message)
		}
		for _, t := range p.Transactions {
			if t.Owner != e.Module || t.Leaving {
				continue
			}
			for _, b := range t.Blocked {
				blocked = true
				e.Preflight = append(e.Preflight, b.Reason+": "+b.Message)
			}
			e.Preflight = append(e.Preflight, t.Notes...)
		}
	}
	return blocked, nil
}

func explain(m *spec.Module, release spec.Release) explanation {
	from := m.File
	if from == "" {
		from = fromCluster
	}
	e := explanation{Module: m.Key(), File: from, Kernel: release.Trimmed(), Mappings: m.Explain(release), Warnings: m.Warnings, release: release}
	if m.Spec.ModuleLoader == nil {
		e.Warnings = append(e.Warnings, "has no moduleLoader: nothing is loaded for it")
		return e
	}
	choice, err := m.For(release)
	if err != nil {
		e.Error = err.Error()
		return e
	}
	e.Choice = choice
	e.Warnings = append(e.Warnings, choice.Warnings...)
	return e
}

func printExplanations(out *printer, all []explanation, ofAll, notes []string) error {
	for i, e := range all {
		if i == 0 && len(e.Policy) > 0 {
			out.line("signatures on kernel %s", e.Kernel)
			printLines(out, "policy", e.Policy)
		}
		out.line("%s (%s) on kernel %s", e.Module, e.File, e.Kernel)
		for _, t := range e.Mappings {
			mark := map[bool]string{true: "wins", false: "no  "}[t.Matches]
			line := fmt.Sprintf("  %s  kernelMappings[%d] %s", mark, t.Mapping, t.What)
			if t.Note != "" {
				line += ": " + t.Note
			}
			out.line("%s", line)
		}
		if c := e.Choice; c != nil {
			out.line("  image      %s", imageOf(c))
			out.line("  directory  %s/lib/modules/{%s}", strings.TrimSuffix(c.DirName, "/"), strings.Join(e.release.Directories(), ","))
			out.line("  loads      %s", strings.Join(c.Order, ", then "))
			printList(out, "parameters", c.Parameters)
			printList(out, "removes", c.RemoveInTree)
			if c.FirmwarePath != "" {
				out.line("  firmware   %s", c.FirmwarePath)
			}
		}
		if e.Error != "" {
			out.line("  error      %s", e.Error)
		}
		for _, w := range e.Warnings {
			out.line("  warning    %s", w)
		}
		printLines(out, "differs", e.Differs)
		printLines(out, "signature", e.Signatures)
		printLines(out, "preflight", e.Preflight)
	}
	if len(ofAll) > 0 {
		out.line("otherwise than with the KMM operator, for every Module (docs/migration.md):")
		printLines(out, "differs", ofAll)
	}
	for _, n := range notes {
		out.line("%s", n)
	}
	return out.err
}

// imageOf says which image, and whether the cluster has made it where it does.
func imageOf(c *spec.Choice) string {
	switch {
	case c.Awaited:
		return c.Image + " (made by the cluster, not done yet)"
	case c.Digest != "":
		return c.Image + "@" + c.Digest + " (made by the cluster)"
	}
	return c.Image
}

func printLines(out *printer, title string, lines []string) {
	for _, l := range lines {
		out.line("  %-10s %s", title, strings.ReplaceAll(l, "\n", "\n             "))
	}
}

func printList(out *printer, title string, words []string) {
	if len(words) > 0 {
		out.line("  %-10s %s", title, strings.Join(words, " "))
	}
}
