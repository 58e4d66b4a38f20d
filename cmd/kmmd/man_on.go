// SPDX-License-Identifier: Apache-2.0

//go:build man

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/kmm-node/kmmd/pkg/version"
)

// manCommands has the command that writes the manual pages of all others. Only in
// a binary that is built for that: what ships has no use for it.
func manCommands() []*cobra.Command {
	return []*cobra.Command{{
		Use: "man DIR", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // no date of the day
			root.InitDefaultCompletionCmd()
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "kmmd " + version.String(), Manual: "kmmd"}, args[0])
		},
	}}
}
