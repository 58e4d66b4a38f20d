// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/systemd"
)

// options are the flags that several commands share.
type options struct {
	configFile string
	output     string           // "" or "json"
	documents  string           // -f
	cluster    bool             // --cluster of run
	offline    bool             // --offline of plan and run --once
	manager    *systemd.Manager // of the daemon; nil when none waits for this process
}

func rootCommand() *cobra.Command {
	var o options
	root := &cobra.Command{
		Use:   "kmmd",
		Short: "put the right out-of-tree kernel modules into this node's kernel",
		Long: `kmmd loads out-of-tree kernel modules out of container images, in place of the
in-tree ones where asked, as Module documents say.

Exit codes: 0 all well, 1 something is not as wanted, 2 usage or invalid document.`,
		SilenceUsage: true, SilenceErrors: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q: see kmmd help", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if o.output != "" && o.output != "json" {
				return usageError{fmt.Errorf("-o %s: only json is known", o.output)}
			}
			return nil
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringVarP(&o.output, "output", "o", "", "output format: json, or a text for people")
	root.PersistentFlags().StringVar(&o.configFile, "config", "", "configuration file (default "+defaultConfigFile+" when it exists)")
	root.AddCommand(runCommand(&o), planCommand(&o), statusCommand(&o), explainCommand(&o), depsCommand(&o), whyCommand(&o), versionCommand(&o), imageCommand(&o), signCommand(&o), bundleCommand(&o))
	root.AddCommand(manCommands()...)
	return root
}

// documentsFlag adds -f to a command.
func (o *options) documentsFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.documents, "file", "f", "", "Module document, or directory of them (default modules_dir of the configuration)")
}

// noArgs refuses arguments with exit code 2.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}
