// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime"

	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/version"
)

func versionCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print kmmd's version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.output == "json" {
				return writeJSON(cmd.OutOrStdout(), map[string]string{"version": version.String(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
			}
			out := &printer{w: cmd.OutOrStdout()}
			out.line("kmmd %s %s %s/%s", version.String(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return out.err
		},
	}
}
