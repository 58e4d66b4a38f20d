// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/kmod"
)

func whyCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "why NAME",
		Short: "tell who holds a module and what hangs on it",
		Long: `why names the modules that use a module, the devices bound to its drivers, their
network interfaces and disks, and who has its device files open.

Exit codes: 0 nothing holds it and nothing hangs on it, 1 something does, or it
is not loaded, 2 usage.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("why: give the name of one module")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runWhy(cmd, o, kmod.Name(args[0])) },
	}
}

func runWhy(cmd *cobra.Command, o *options, name string) error {
	c, err := readConfig(o.configFile)
	if err != nil {
		return err
	}
	use, err := c.devices().Of(name)
	if errors.Is(err, devices.ErrNotLoaded) {
		return err
	}
	out := &printer{w: cmd.OutOrStdout()}
	if o.output == "json" {
		out.err = writeJSON(cmd.OutOrStdout(), use)
	} else {
		out.line("%s", use)
	}
	if err = errors.Join(err, out.err); err != nil {
		return fmt.Errorf("why: %w", err)
	}
	if use.Refs != 0 || len(use.Bound)+len(use.Interfaces)+len(use.Blocks)+len(use.Files) > 0 {
		return errNotAsWanted
	}
	return nil
}
