// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/confine"
)

// confineTo gives up what the command that was asked for does without, before anything is read but its name.
func confineTo(root *cobra.Command, args []string, log *slog.Logger) error {
	take := confine.Command
	if cmd, _, err := root.Find(args); err == nil && cmd.Name() == runName && cmd.Parent() == root {
		take = confine.Daemon
	}
	filtered, err := take()
	if err == nil && !filtered {
		log.Warn("this kernel, or who started us, lets us set no filter for system calls")
	}
	return err
}
