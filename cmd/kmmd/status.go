// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/source/file"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// notHeard is what is said of a partial wish (spec.Node.Partial): there may be more of it.
const notHeard = "the cluster has not been heard yet: nothing is unloaded"

// tellNotHeard says so after the answer of a command; beside it, where the answer is JSON without a place for it.
func tellNotHeard(cmd *cobra.Command, o *options) error {
	w := cmd.OutOrStdout()
	if o.output == "json" {
		w = cmd.ErrOrStderr()
	}
	_, err := fmt.Fprintln(w, notHeard)
	return err
}

func statusCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "show what run has reported last",
		Long: `status shows what kmmd run has reported last. It looks at nothing itself.

Exit codes: 0 what was reported is as wanted, also when the cluster has not been heard
yet, 1 it is not (a document that can not be used is such, too), or nothing was reported
since this boot, 2 usage.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := readConfig(o.configFile)
			if err != nil {
				return err
			}
			host, err := kernel.Open(c.HostRoot)
			if err != nil {
				return err
			}
			status, err := file.ReadStatus(c.statusFile())
			if isNotExist(err) || err == nil && status.BootID != host.BootID() {
				return fmt.Errorf("kmmd has reported nothing since this boot (no %s): is it running?", c.statusFile())
			}
			if err != nil {
				return err
			}
			if err := printStatus(cmd.OutOrStdout(), o, status); err != nil {
				return err
			}
			return verdict(status, nil)
		},
	}
}

func printStatus(w io.Writer, o *options, s spec.Status) error {
	if o.output == "json" {
		return writeJSON(w, s)
	}
	out := &printer{w: w}
	out.line("kernel %s, %d Modules", s.KernelRelease, len(s.Modules))
	for i := range s.Modules {
		printModule(out, &s.Modules[i])
	}
	for i := range s.Leaving {
		out.line("")
		out.line("document gone, modules still there:")
		printModule(out, &s.Leaving[i])
	}
	for i := range s.Refused {
		out.line("")
		out.line("order not obeyed, what runs for it stays:")
		printModule(out, &s.Refused[i])
	}
	if s.Partial {
		out.line("")
		out.line(notHeard)
	}
	printStaged(out, s.Staged)
	for _, e := range s.Invalid {
		out.line("invalid: %s", e)
	}
	return out.err
}

// printStaged tells of kernels that do not run.
func printStaged(out *printer, staged []spec.StagedModule) {
	for i := range staged {
		s := &staged[i]
		if i == 0 || staged[i-1].Kernel != s.Kernel {
			out.line("")
			out.line("kernel %s, not running:", s.Kernel)
		}
		printStagedLine(out, "  ", s)
	}
}

func printStagedLine(out *printer, indent string, s *spec.StagedModule) {
	if s.Ready {
		out.line("%s%s: ready, %s", indent, s.Key(), s.Image)
		return
	}
	out.line("%s%s: not ready, %s: %s", indent, s.Key(), s.Reason, strings.ReplaceAll(s.Message, "\n", "\n  "+indent))
}

func printModule(out *printer, m *spec.ModuleStatus) {
	out.line("")
	state := string(m.State)
	if m.Reason != "" {
		state += ", " + string(m.Reason)
	}
	if m.RolledBack {
		state += ", rolled back"
	}
	out.line("%s: %s since %s", m.Key(), state, m.Since.Format(time.RFC3339))
	if m.Image != "" {
		out.line("  image    %s", m.Image)
	}
	if m.Digest != "" {
		out.line("  digest   %s", m.Digest)
	}
	for _, k := range m.Kernel {
		out.line("  module   %s", strings.TrimSpace(fmt.Sprintf("%s, build-id %s, refcnt %d %s", k.Name, k.BuildID, k.Refs, strings.Join(k.Parameters, " "))))
	}
	if m.Message != "" {
		for _, l := range strings.Split(m.Message, "\n") {
			out.line("  message  %s", l)
		}
	}
	if m.RetryAt != nil {
		out.line("  retry    %s", m.RetryAt.Format(time.RFC3339))
	}
	for _, w := range m.Warnings {
		out.line("  warning  %s", w)
	}
}
